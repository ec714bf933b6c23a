"""What real depth cameras do to the clean images of a clip: noise, holes, calibration errors, lost views."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from pointworld.data.clip import Clip, ClipView
from pointworld.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SensorConfig:
    """How far the images of a clip are from perfect ones. All zero, with every camera kept, changes nothing."""

    depth_noise: float = 0.0015
    """Standard deviation of depth at 1 m; it grows with the square of the distance [m]."""
    noise_scale: float = 3.0
    """Pixels over which noise is correlated, as stereo matching windows correlate it."""
    edge_holes: float = 0.5
    """Share of the pixels beside a depth jump that are lost."""
    edge_jump: float = 0.02
    """A jump in depth between neighbours that counts as an edge [m]."""
    speckle_holes: float = 0.01
    """Share of all other pixels that are lost."""
    position_error: float = 0.01
    """Largest error of a camera's calibrated position [m]."""
    angle_error: float = math.radians(1.0)
    """Largest error of a camera's calibrated direction [rad]."""
    min_cameras: int = 1
    """Fewest cameras kept, where the clip has as many."""
    max_cameras: int = 3
    """Most cameras kept."""
    partial_view: float = 0.2
    """Probability that a camera loses a strip of up to half of its image at one side."""

    def __post_init__(self) -> None:
        shares = (self.edge_holes, self.speckle_holes, self.partial_view)
        sizes = (self.depth_noise, self.noise_scale, self.position_error, self.angle_error)
        if not all(0 <= share <= 1 for share in shares):
            raise InputError(f"shares of lost pixels {shares}, expected values from 0 to 1")
        if not all(0 <= size < 100 for size in sizes) or self.edge_jump <= 0:
            raise InputError(
                f"depth noise, its scale and calibration errors {sizes}, edge_jump {self.edge_jump}: "
                "expected finite values that are not negative, and a positive edge_jump"
            )
        if not 1 <= self.min_cameras <= self.max_cameras:
            raise InputError(
                f"cameras kept {self.min_cameras}..{self.max_cameras}, expected 1 <= min <= max"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Observation:
    """A clip as noisy cameras saw it. views: index of each of its cameras in the clean clip."""

    clip: Clip
    views: tuple[int, ...]


def observe(clip: Clip, config: SensorConfig, seed: int) -> Observation:
    """Degraded images and calibration of `clip`; the same for the same clip, configuration and seed.

    Pixels stay where they are: pixel (r, c) of a noisy image shows what it shows in the clean one, so the truth is
    still known exactly. Lost pixels have depth 0 and segmentation as before.
    """
    rng = np.random.default_rng([seed, clip.seed, clip.index])
    most = min(config.max_cameras, len(clip.views))
    count = int(rng.integers(min(config.min_cameras, most), most + 1))
    kept = tuple(sorted(int(i) for i in rng.choice(len(clip.views), count, replace=False)))
    views = tuple(_degrade(clip.views[i], config, rng) for i in kept)
    return Observation(clip=replace(clip, views=views), views=kept)


def _degrade(view: ClipView, config: SensorConfig, rng: np.random.Generator) -> ClipView:
    seen = view.depth > 0
    depth = view.depth + config.depth_noise * view.depth**2 * _smooth_noise(
        view.depth.shape, config.noise_scale, rng
    )
    beside = _beside_jump(view.depth, config.edge_jump)
    chance = np.where(beside, config.edge_holes, config.speckle_holes)
    lost = rng.random(view.depth.shape) < chance
    if rng.random() < config.partial_view:
        lost |= _strip(view.depth.shape, rng)
    depth = np.where(seen & ~lost, np.maximum(depth, 1e-3), 0.0).astype(np.float32)
    T = _calibration_error(config, rng)
    # The error turns about the camera, so that its position is off by position_error at most.
    return replace(view, depth=depth, T_world_cam=view.T_world_cam @ T)


def _smooth_noise(shape: tuple[int, ...], scale: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of unit standard deviation, correlated over `scale` pixels."""
    from scipy.ndimage import gaussian_filter

    noise = rng.standard_normal(shape)
    if scale > 0:
        noise = gaussian_filter(noise, scale / 2, mode="wrap")
    return np.asarray(noise / max(float(noise.std()), 1e-12))


def _beside_jump(depth: np.ndarray, jump: float) -> np.ndarray:
    """Pixels with a neighbour whose depth differs by more than `jump` [m]."""
    beside = np.zeros(depth.shape, bool)
    for axis in (0, 1):
        edge = np.abs(np.diff(depth, axis=axis)) > jump
        before, after = [slice(None)] * 2, [slice(None)] * 2
        before[axis], after[axis] = slice(0, -1), slice(1, None)
        beside[tuple(before)] |= edge
        beside[tuple(after)] |= edge
    return beside


def _strip(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A strip at one side of the image."""
    lost = np.zeros(shape, bool)
    axis = int(rng.integers(2))
    width = int(rng.uniform(0.1, 0.5) * shape[axis])
    chosen: list[slice] = [slice(None), slice(None)]
    chosen[axis] = slice(0, width) if rng.random() < 0.5 else slice(shape[axis] - width, None)
    lost[tuple(chosen)] = True
    return lost


def _calibration_error(config: SensorConfig, rng: np.random.Generator) -> np.ndarray:
    """A random small rigid motion (4, 4), never beyond the configured errors."""
    axis, shift = rng.standard_normal(3), rng.standard_normal(3)
    axis /= np.linalg.norm(axis)
    angle = config.angle_error * rng.uniform(-1, 1)
    K = np.cross(np.eye(3), axis)
    T = np.eye(4)
    T[:3, :3] = np.eye(3) + np.sin(angle) * K + (1 - np.cos(angle)) * K @ K
    T[:3, 3] = config.position_error * rng.uniform() * shift / np.linalg.norm(shift)
    return T
