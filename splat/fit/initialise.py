"""Gaussians from depth images: one per voxel, as large as the voxel and the pixel it was seen through."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from pointworld.errors import InputError
from pointworld.geometry import invert, transform_points, unproject
from splat.fit.views import FitView
from splat.sh import colors_to_sh
from splat.types import GaussianScene

Tensor = torch.Tensor

#: Opacity of a new Gaussian, and of one whose depth is a guess.
OPACITY, GUESSED_OPACITY = 0.7, 0.3
#: Standard deviation of a new Gaussian as a part of its voxel's edge.
SPREAD = 0.5
#: Pixels without depth that get a Gaussian at the nearest known depth: one in this many, each way.
GUESS_STRIDE = 4

#: A camera looks through a point when it sees something farther away by this share of the distance.
FREE_SPACE = 0.04
#: A point is in free space when more than this share of the cameras that see it or through it look through it.
FREE_SHARE = 0.34
#: Cameras that are asked.
CARVING_VIEWS = 16


def scene_from_depth(
    views: Sequence[FitView], color_views: Sequence[Tensor], *, count: int, seed: int
) -> GaussianScene:
    """About `count` isotropic Gaussians on the surfaces that the depth images show.

    Args:
        color_views: per view the (4, 4) T_color_world, scaled by the focal correction (see `splat.fit.cameras`), by
            which points find their colour.

    Raises:
        InputError: no valid depth.
    """
    parts = [_points_of(view, color) for view, color in zip(views, color_views, strict=True)]
    points, colors, pixel, known = (np.concatenate(rows) for rows in zip(*parts, strict=True))
    if not known.any():
        raise InputError("no frame has valid depth; the fit starts from depth")
    kept = ~in_free_space(points, views[:: max(1, len(views) // CARVING_VIEWS)])
    points, colors, pixel, known = points[kept], colors[kept], pixel[kept], known[kept]
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(np.flatnonzero(known)), np.flatnonzero(~known)])
    points, colors, pixel, known = points[order], colors[order], pixel[order], known[order]
    size = _voxel_size(points, count)
    chosen = _first_per_voxel(points, size)
    radius = np.maximum(pixel[chosen], SPREAD * size)
    n = len(chosen)
    opacity = np.where(known[chosen], OPACITY, GUESSED_OPACITY)
    quats = torch.zeros(n, 4)
    quats[:, 0] = 1
    return GaussianScene(
        means=torch.from_numpy(points[chosen]).float(),
        quats_wxyz=quats,
        log_scales=torch.from_numpy(np.log(radius)).float()[:, None].repeat(1, 3),
        opacity_logits=torch.from_numpy(np.log(opacity / (1 - opacity))).float(),
        sh=colors_to_sh(torch.from_numpy(colors[chosen]).float()),
    )


def in_free_space(points: np.ndarray, views: Sequence[FitView]) -> np.ndarray:
    """Which points (n, 3) hang where cameras look through: depth noise at edges, and wrong guesses."""
    through, seen = np.zeros(len(points), np.int32), np.zeros(len(points), np.int32)
    for view in views:
        pose, K = view.viewmat.numpy(), view.K.numpy()
        local = points.astype(np.float32) @ pose[:3, :3].T + pose[:3, 3]
        z = np.maximum(local[:, 2], 1e-6)
        u = (K[0, 0] * local[:, 0] / z + K[0, 2]).astype(np.int32)
        v = (K[1, 1] * local[:, 1] / z + K[1, 2]).astype(np.int32)
        inside = (local[:, 2] > 0.05) & (u >= 0) & (u < view.width) & (v >= 0) & (v < view.height)
        u, v = np.where(inside, u, 0), np.where(inside, v, 0)
        inside &= view.valid.numpy()[v, u]
        behind = view.depth.numpy()[v, u] - z
        through += inside & (behind > FREE_SPACE * z)
        seen += inside & (behind > -FREE_SPACE * z)
    return through > FREE_SHARE * np.maximum(seen, 1)


def _points_of(view: FitView, color: Tensor) -> tuple[np.ndarray, ...]:
    """World points, colours, pixel size [m] and whether depth was measured, of one view."""
    valid = view.valid.numpy()
    depth = view.depth.numpy()
    rows = [(valid, depth, True)]
    if valid.any() and not valid.all():
        nearest = distance_transform_edt(~valid, return_distances=False, return_indices=True)
        filled = depth[tuple(nearest)]
        guessed = ~valid & view.shows_scene.numpy()
        coarse = np.zeros_like(guessed)
        coarse[::GUESS_STRIDE, ::GUESS_STRIDE] = True
        rows.append((guessed & coarse, filled, False))
    K = view.K.numpy().astype(np.float64)
    T_world_cam = invert(view.viewmat.numpy().astype(np.float64))
    parts = []
    for mask, values, known in rows:
        seen = unproject(values, K)[mask]
        stride = 1.0 if known else 0.5 * GUESS_STRIDE
        world = transform_points(T_world_cam, seen)
        rgb, inside = _colors_at(view, color.numpy().astype(np.float64), world)
        parts.append(
            (
                world[inside],
                rgb[inside],
                (stride * seen[:, 2] / K[0, 0])[inside],
                np.full(int(inside.sum()), known),
            )
        )
    return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))


def _colors_at(
    view: FitView, color: np.ndarray, world: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Colours (n, 3) where the colour camera sees the points, and which it sees."""
    local = world @ color[:3, :3].T + color[:3, 3]
    K = view.K.numpy()
    z = np.where(local[:, 2] > 1e-6, local[:, 2], 1.0)
    u = (K[0, 0] * local[:, 0] / z + K[0, 2]).astype(int)
    v = (K[1, 1] * local[:, 1] / z + K[1, 2]).astype(int)
    inside = (local[:, 2] > 1e-6) & (u >= 0) & (u < view.width) & (v >= 0) & (v < view.height)
    rgb = view.rgb.numpy()[np.where(inside, v, 0), np.where(inside, u, 0)]
    return rgb, inside


def _first_per_voxel(points: np.ndarray, size: float) -> np.ndarray:
    keys = np.floor(points / size).astype(np.int64)
    keys -= keys.min(0)
    spans = keys.max(0) + 1
    flat = (keys[:, 0] * spans[1] + keys[:, 1]) * spans[2] + keys[:, 2]
    _, first = np.unique(flat, return_index=True)
    return np.sort(first)


def _voxel_size(points: np.ndarray, count: int) -> float:
    """Voxel edge [m] that leaves about `count` of the points; found by halving an interval of sizes."""
    low, high = 1e-4, max(1e-3, float(np.ptp(points, axis=0).max()))
    # A part of the points brackets the size, all of them settle it.
    for sample, rounds in ((points[:: max(1, len(points) // 200_000)], 16), (points, 6)):
        if sample is points:
            low, high = high / 1.05, high * 1.6
        for _ in range(rounds):
            middle = (low * high) ** 0.5
            if len(_first_per_voxel(sample, middle)) > count:
                low = middle
            else:
                high = middle
    return high
