"""What would the frames agree on if the calibration were wrong in a known way?

A sample of pixels of a sample of frame pairs is re-projected under a hypothesis (another focal length, other poses,
another depth scale, colour moved against depth). Its cost combines how far depths and colours disagree, so a
hypothesis that fits clearly better than the calibration as given names the likely mistake.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import ndimage

from pointworld.capture.depth import clean_depth
from pointworld.geometry import invert
from pointworld.types import Capture, RGBDFrame

# Below these, disagreement says nothing: a thousandth of the depth, two grey levels.
GEOMETRIC_FLOOR = 1e-3
PHOTOMETRIC_FLOOR = 2.0
GEOMETRIC_CAP = 0.2
PHOTOMETRIC_CAP = 60.0
# Colours are compared where depths agree this well; elsewhere something else is in the way.
SAME_SURFACE = 0.05


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """A change of the calibration.

    focal: factor on both focal lengths. depth_scale: factor on the depth.
    poses: maps the stack of camera poses (frames, 4, 4) to others.
    color_offset: (3,) translation depth camera to colour camera [m]. color_focal: factor on the focal
    length of the colour image alone.
    """

    focal: float = 1.0
    depth_scale: float = 1.0
    poses: Callable[[np.ndarray], np.ndarray] | None = None
    color_offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    color_focal: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """How badly a hypothesis fits.

    geometric: median over pairs of the median |z - depth| / depth, capped. photometric: geometric
    mean over pairs of the mean grey difference 0-255, capped. overlap: share of samples that meet a valid pixel.
    """

    geometric: float
    photometric: float
    overlap: float

    @property
    def log_photometric(self) -> float:
        """Logarithm of the colour disagreement with its noise floor."""
        return float(np.log(self.photometric + PHOTOMETRIC_FLOOR))

    @property
    def total(self) -> float:
        """Sum of logarithms of both disagreements, each with its noise floor; lower is better.

        Depth errors of real sensors are systematic, colours are not: the geometric term has half weight.
        """
        geometric = float(np.log(self.geometric + GEOMETRIC_FLOOR))
        return 0.5 * geometric + self.log_photometric


@dataclass(frozen=True, kw_only=True, eq=False)
class PairSamples:
    """Pixels of the first frame of each pair, and the images to look them up in.

    first, second: (pairs,) frame indices. uv: (pairs, samples, 2) [px]. depth: (pairs, samples) [m].
    K: (frames, 3, 3). Ts_world_cam: (frames, 4, 4). gray, depths: (frames, height, width), padded to the
    largest image; depth 0 where unknown. sizes: (frames, 2) as (width, height).
    """

    first: np.ndarray
    second: np.ndarray
    uv: np.ndarray
    depth: np.ndarray
    K: np.ndarray
    Ts_world_cam: np.ndarray
    gray: np.ndarray = field(repr=False)
    depths: np.ndarray = field(repr=False)
    sizes: np.ndarray

    def thinned(self, step: int) -> PairSamples:
        """The same pairs with every `step`-th sample."""
        return replace(self, uv=self.uv[:, ::step], depth=self.depth[:, ::step])

    def cost(self, hypothesis: Hypothesis) -> Cost:
        """Re-project all samples under a hypothesis."""
        h = hypothesis
        T = self.Ts_world_cam if h.poses is None else h.poses(self.Ts_world_cam)
        K_first, K_second = self._K(self.first, h.focal), self._K(self.second, h.focal)
        points = _unproject(self.uv, self.depth * h.depth_scale, K_first)
        moved = _move(invert(T[self.second]) @ T[self.first], points)
        uv = _project(moved, K_second)
        z = moved[..., 2]
        inside = (z > 1e-6) & self._inside(self.second, uv)
        cell = np.where(inside[..., None], uv, 0.0).astype(np.int64)
        met_depth = self.depths[self.second[:, None], cell[..., 1], cell[..., 0]] * h.depth_scale
        met = inside & (met_depth > 0)
        relative = np.abs(z - met_depth) / np.where(met, met_depth, 1.0)
        shade, same = self._shades(h, points, moved, met & (relative < SAME_SURFACE))
        return Cost(
            geometric=float(np.median(_per_pair(relative, met, GEOMETRIC_CAP, np.median))),
            photometric=float(
                np.exp(np.log(_per_pair(shade, same, PHOTOMETRIC_CAP, np.mean)).mean())
            ),
            overlap=float(met.mean()),
        )

    def _shades(
        self, h: Hypothesis, points: np.ndarray, moved: np.ndarray, same: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Grey differences (pairs, samples) without the pair's exposure change, and where they count."""
        offset = np.array(h.color_offset)
        K_first = self._K(self.first, h.focal * h.color_focal)
        K_second = self._K(self.second, h.focal * h.color_focal)
        uv_first, uv_second = _project(points + offset, K_first), _project(moved + offset, K_second)
        same = same & self._inside(self.first, uv_first) & self._inside(self.second, uv_second)
        one = _bilinear(self.gray, self.first, uv_first, same)
        other = _bilinear(self.gray, self.second, uv_second, same)
        difference = np.where(same, one - other, np.nan)
        exposure = np.zeros(len(difference))
        for pair in np.flatnonzero(same.any(1)):
            exposure[pair] = np.nanmedian(difference[pair])
        return np.minimum(np.abs(difference - exposure[:, None]), PHOTOMETRIC_CAP), same

    def _K(self, frames: np.ndarray, focal: float) -> np.ndarray:
        K = self.K[frames].copy()
        K[:, 0, :2] *= focal
        K[:, 1, 1] *= focal
        return K[:, None]

    def _inside(self, frames: np.ndarray, uv: np.ndarray) -> np.ndarray:
        size = self.sizes[frames][:, None]
        return ((uv >= 0) & (uv < size)).all(-1)


def sample_pairs(
    capture: Capture,
    *,
    seed: int = 0,
    max_pairs: int = 16,
    samples: int = 16_000,
    motion: float = 0.1,
) -> PairSamples | None:
    """Choose pairs that see the scene from clearly different places, and pixels of their first frames.

    Args:
        motion: wanted change of view between the frames of a pair (rotation angle [rad] plus translation
            over depth); the capture's frames are paired at the smallest gap whose median reaches it.
        samples: of all pairs together.

    Returns:
        None when the capture has fewer than two frames with depth.
    """
    rng = np.random.default_rng(seed)
    usable = [frame for frame in capture.frames if frame.valid.any()]
    if len(usable) < 2:
        return None
    gap = _gap(usable, motion)
    pairs = _spread(len(usable), gap, max_pairs)
    wanted = sorted({index for pair in pairs for index in pair})
    place = {index: position for position, index in enumerate(wanted)}
    frames = [usable[index] for index in wanted]
    cleaned = [_clean(frame) for frame in frames]
    first = np.array([place[i] for i, _ in pairs])
    second = np.array([place[j] for _, j in pairs])
    samples = samples // len(pairs)
    uv = np.empty((len(first), samples, 2))
    depth = np.empty((len(first), samples))
    for pair, index in enumerate(first):
        row, column = np.nonzero(cleaned[index])
        chosen = rng.integers(0, len(row), samples)
        uv[pair] = np.stack([column[chosen], row[chosen]], -1) + 0.5
        depth[pair] = cleaned[index][row[chosen], column[chosen]]
    return PairSamples(
        first=first,
        second=second,
        uv=uv,
        depth=depth,
        K=np.stack([frame.K for frame in frames]),
        Ts_world_cam=np.stack([frame.T_world_cam for frame in frames]),
        gray=_pad([_gray(frame) for frame in frames]),
        depths=_pad(cleaned),
        sizes=np.array([[frame.width, frame.height] for frame in frames]),
    )


def _spread(frames: int, gap: int, most: int) -> list[tuple[int, int]]:
    """At most `most` pairs (i, i + gap), evenly spread over the capture."""
    starts = np.unique(np.linspace(0, frames - gap - 1, most).round().astype(int))
    return [(int(start), int(start) + gap) for start in starts]


def _gap(frames: list[RGBDFrame], motion: float) -> int:
    longest = min(len(frames) - 1, 16)
    for gap in range(1, longest):
        if np.median([_motion(a, b) for a, b in zip(frames, frames[gap:], strict=False)]) >= motion:
            return gap
    return longest


def _motion(first: RGBDFrame, second: RGBDFrame) -> float:
    T = invert(second.T_world_cam) @ first.T_world_cam
    angle = np.arccos(np.clip((np.trace(T[:3, :3]) - 1) / 2, -1, 1))
    depth = float(np.median(first.depth[first.valid]))
    return float(angle + np.linalg.norm(T[:3, 3]) / max(depth, 1e-6))


def _clean(frame: RGBDFrame) -> np.ndarray:
    """Depth without flying pixels, 0 where unknown; whatever its unit, so no range is cut."""
    kept = clean_depth(frame.depth, frame.valid, frame.K, min_depth=0.0, max_depth=np.inf)
    if not kept.any():
        kept = frame.valid
    return np.where(kept, frame.depth, 0).astype(np.float64)


def _gray(frame: RGBDFrame) -> np.ndarray:
    return ndimage.gaussian_filter(frame.rgb.astype(np.float32).mean(-1), 1.0)


def _pad(images: list[np.ndarray]) -> np.ndarray:
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    stack = np.zeros((len(images), height, width), dtype=np.float32)
    for target, image in zip(stack, images, strict=True):
        target[: image.shape[0], : image.shape[1]] = image
    return stack


def _unproject(uv: np.ndarray, z: np.ndarray, K: np.ndarray) -> np.ndarray:
    y = (uv[..., 1] - K[..., 1, 2]) / K[..., 1, 1]
    x = (uv[..., 0] - K[..., 0, 2] - K[..., 0, 1] * y) / K[..., 0, 0]
    return np.stack([x * z, y * z, z], -1)


def _project(points: np.ndarray, K: np.ndarray) -> np.ndarray:
    z = np.where(np.abs(points[..., 2]) < 1e-9, 1e-9, points[..., 2])
    x, y = points[..., 0] / z, points[..., 1] / z
    u = K[..., 0, 0] * x + K[..., 0, 1] * y + K[..., 0, 2]
    return np.stack([u, K[..., 1, 1] * y + K[..., 1, 2]], -1)


def _move(T: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ T[:, :3, :3].swapaxes(-1, -2) + T[:, None, :3, 3]


def _bilinear(
    images: np.ndarray, index: np.ndarray, uv: np.ndarray, where: np.ndarray
) -> np.ndarray:
    """Values (pairs, samples) of images[index] at uv, clamped at the border; 0 where not asked for."""
    height, width = images.shape[1:]
    x = np.clip(np.where(where, uv[..., 0], 0.5) - 0.5, 0, width - 1)
    y = np.clip(np.where(where, uv[..., 1], 0.5) - 0.5, 0, height - 1)
    x0, y0 = np.minimum(x.astype(np.int64), width - 2), np.minimum(y.astype(np.int64), height - 2)
    fx, fy = x - x0, y - y0
    pair = index[:, None]
    top = images[pair, y0, x0] * (1 - fx) + images[pair, y0, x0 + 1] * fx
    bottom = images[pair, y0 + 1, x0] * (1 - fx) + images[pair, y0 + 1, x0 + 1] * fx
    return np.where(where, top * (1 - fy) + bottom * fy, 0.0)


def _per_pair(
    values: np.ndarray, counted: np.ndarray, worst: float, reduce: Callable[..., np.floating]
) -> np.ndarray:
    """A statistic of each pair, between 1e-6 and `worst`; pairs that hardly overlap count as the worst."""
    enough = counted.sum(1) >= 0.02 * values.shape[1]
    found = [
        float(reduce(row[mask])) if ok else worst
        for row, mask, ok in zip(values, counted, enough, strict=True)
    ]
    return np.clip(found, 1e-6, worst)
