"""Where a Gaussian scene is looked at from to make a mesh of it, and what is seen there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from pointworld.capture import clean_depth
from pointworld.errors import InputError
from pointworld.geometry import invert, transform_points
from pointworld.types import Capture, RGBDFrame
from splat.raster import Rasterizer, get_rasterizer
from splat.types import GaussianScene

#: Pixels that the Gaussians cover less than this show no surface.
MIN_ALPHA = 0.5
#: Pixels that they cover less than this see past everything.
EMPTY_ALPHA = 0.05
#: Depth is measured near a pixel when it is within this share of the image's width; a Gaussian is where a surface was
#: measured when it lies within this share of the distance.
REACH, MEASURED = 0.0125, 0.015
#: Field of view of orbit cameras, along the image's width [rad].
ORBIT_FOV = math.radians(60)


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """A pinhole camera. K: (3, 3) [px]. T_world_cam: (4, 4), OpenCV axes [m]. width, height: [px]."""

    K: np.ndarray
    T_world_cam: np.ndarray
    width: int
    height: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What a view sees.

    depth: (height, width) float32 [m], 0 = not known. rgb: (height, width, 3) float32, 0-1. empty: (height, width)
    bool, True where the view sees past everything.
    """

    view: View
    depth: np.ndarray
    rgb: np.ndarray
    empty: np.ndarray


def capture_views(capture: Capture) -> list[View]:
    """The cameras of a capture's frames."""
    return [
        View(K=f.K, T_world_cam=f.T_world_cam, width=f.width, height=f.height)
        for f in capture.frames
    ]


def only_measured(seen: Sequence[Seen], frames: Sequence[RGBDFrame]) -> list[Seen]:
    """The same without depth where the frame that a view belongs to measured none near by: a fit only guesses there."""
    kept = []
    for one, frame in zip(seen, frames, strict=True):
        height, width = one.depth.shape
        rows = (np.arange(height) * frame.height) // height
        columns = (np.arange(width) * frame.width) // width
        near = distance_transform_edt(~frame.valid) <= REACH * frame.width
        depth = np.where(near[np.ix_(rows, columns)], one.depth, 0).astype(np.float32)
        kept.append(replace(one, depth=depth))
    return kept


def near_measured(
    scene: GaussianScene, views: Sequence[View], frames: Sequence[RGBDFrame]
) -> torch.Tensor:
    """(N,) bool: Gaussians whose centre lies where one of the frames measured a surface, seen from its view."""
    means = scene.means.detach().double().cpu().numpy()
    found = np.zeros(len(means), bool)
    for view, frame in zip(views, frames, strict=True):
        local = transform_points(invert(view.T_world_cam), means)
        z = np.maximum(local[:, 2], 1e-6)
        u, v = (local[:, i] / z * view.K[i, i] + view.K[i, 2] for i in (0, 1))
        inside = (local[:, 2] > 0) & (u >= 0) & (u < view.width) & (v >= 0) & (v < view.height)
        u = np.where(inside, u * frame.width / view.width, 0).astype(int)
        v = np.where(inside, v * frame.height / view.height, 0).astype(int)
        gap = np.abs(frame.depth[v, u] - z)
        found |= inside & frame.valid[v, u] & (gap < MEASURED * z)
    return torch.from_numpy(found)


def orbit_views(scene: GaussianScene, *, count: int = 24, size: int = 320) -> list[View]:
    """Cameras above and around the scene (z up), in two rings, that see most of it.

    Args:
        scene: Gaussians.
        count: cameras. size: width of their images [px]; the height is three quarters of it.

    Raises:
        InputError: the scene has no visible Gaussian.
    """
    solid = scene.means[scene.opacities > MIN_ALPHA].double().cpu().numpy()
    if len(solid) == 0:
        raise InputError(
            f"no Gaussian of the scene has an opacity above {MIN_ALPHA}: there is no surface"
        )
    center = np.median(solid, axis=0)
    radius = float(np.quantile(np.linalg.norm(solid - center, axis=1), 0.95))
    distance = max(radius, 1e-3) / math.sin(ORBIT_FOV * 0.75 / 2)
    focal = 0.5 * size / math.tan(ORBIT_FOV / 2)
    height = 3 * size // 4
    K = np.array([[focal, 0, size / 2], [0, focal, height / 2], [0, 0, 1.0]])
    views = []
    for i in range(count):
        elevation = math.radians(30 if i % 2 else 60)
        angle = 2 * math.pi * i / count
        flat = math.cos(elevation)
        away = np.array([flat * math.cos(angle), flat * math.sin(angle), math.sin(elevation)])
        T = _look_at(center + distance * away, center)
        views.append(View(K=K, T_world_cam=T, width=size, height=height))
    return views


def _look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """T_world_cam (OpenCV axes) of a camera at `eye` that looks at `target`, image upright for z up."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    T = np.eye(4)
    T[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    T[:3, 3] = eye
    return T


def look(
    scene: GaussianScene,
    views: Sequence[View],
    *,
    supersample: int = 2,
    rasterizer: Rasterizer | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[Seen]:
    """Render colour and expected depth of every view; flying pixels at depth edges are left out.

    A rasteriser widens Gaussians by about half a pixel, and on slanted surfaces the nearer ones then hide the
    farther ones: depth comes out short by millimetres where pixels are as large as Gaussians. Finer pixels help.

    Args:
        scene: Gaussians.
        views: cameras.
        supersample: pixels rendered per pixel of a view, along each axis.
        rasterizer: what renders; by default the best for the scene's device.
        advance: called with 1 after every view, for a progress bar.
    """
    render = rasterizer or get_rasterizer("auto", device=scene.means.device)
    if supersample < 1:
        raise InputError(f"supersample is {supersample}, expected 1 or more")
    scene = scene.detach()
    return [_look_from(scene, _finer(view, supersample), render, advance) for view in views]


def _finer(view: View, times: int) -> View:
    K = np.asarray(view.K, dtype=np.float64) * [[times], [times], [1]]
    return View(
        K=K, T_world_cam=view.T_world_cam, width=view.width * times, height=view.height * times
    )


def _look_from(
    scene: GaussianScene,
    view: View,
    render: Rasterizer,
    advance: Callable[[int], None] | None,
) -> Seen:
    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(values, dtype=scene.means.dtype, device=scene.means.device)

    T = tensor(view.T_world_cam)
    with torch.no_grad():
        out = render(
            scene.means,
            scene.quats_wxyz,
            scene.scales,
            scene.opacities,
            scene.colors_from(T[:3, 3]),
            tensor(invert(view.T_world_cam))[None],
            tensor(view.K)[None],
            view.width,
            view.height,
            render_mode="RGB+ED",
        )
    image = out.colors[0].float().cpu().numpy()
    alpha = out.alphas[0, ..., 0].float().cpu().numpy()
    depth = image[..., 3]
    kept = clean_depth(depth, alpha > MIN_ALPHA, view.K, min_depth=0.02, edge_jump=0.02)
    rgb = image[..., :3] / np.maximum(alpha, MIN_ALPHA)[..., None]
    if advance is not None:
        advance(1)
    return Seen(
        view=view,
        depth=np.where(kept, depth, 0).astype(np.float32),
        rgb=np.ascontiguousarray(np.clip(rgb, 0, 1), dtype=np.float32),
        empty=alpha < EMPTY_ALPHA,
    )
