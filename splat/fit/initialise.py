"""Gaussians from depth images: one flat one per voxel, as large as the voxel and the pixel it was seen through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from pointworld.errors import InputError
from pointworld.geometry import (
    depth_normals,
    invert,
    rotate_vectors,
    transform_points,
    unproject,
)
from splat.fit.views import FitView
from splat.sh import colors_to_sh
from splat.types import GaussianScene

Tensor = torch.Tensor

#: Opacity of a new Gaussian, and of one whose depth is a guess.
OPACITY, GUESSED_OPACITY = 0.7, 0.3
#: Standard deviation of a new Gaussian along its surface as a part of its voxel's edge, and across it beside along it.
SPREAD, FLATNESS = 0.5, 0.3
#: Depth pixels that are used, for each Gaussian.
POINTS_EACH = 30
#: Pixels without depth that get a Gaussian at the nearest known depth: one in this many, each way.
GUESS_STRIDE = 4

#: A camera looks through a point when it sees something farther away by this share of the distance.
FREE_SPACE = 0.04
#: A point is in free space when more than this share of the cameras that see it or through it look through it.
FREE_SHARE = 0.34
#: Cameras that are asked.
CARVING_VIEWS = 16


def scene_from_depth(views: Sequence[FitView], *, count: int, seed: int) -> GaussianScene:
    """About `count` Gaussians on the surfaces that the depth images show: one per voxel, at the mean of its points and
    with their mean colour, flat along their mean normal.

    Raises:
        InputError: no valid depth.
    """
    rng = np.random.default_rng(seed)
    share = POINTS_EACH * count / max(sum(int(v.valid.sum()) for v in views), 1)
    parts = [_points_of(view, share, rng) for view in views]
    points = _Points(*(np.concatenate(rows) for rows in zip(*parts, strict=True)))
    if not points.known.any():
        raise InputError("no frame has valid depth; the fit starts from depth")
    points = points.at(~in_free_space(points.place, views[:: max(1, len(views) // CARVING_VIEWS)]))
    # What was measured comes first in its voxel, and guesses are not mixed in.
    points = points.at(np.argsort(~points.known, kind="stable"))
    size = _voxel_size(points.place, count)
    first, voxel = np.unique(_voxels(points.place, size), return_index=True, return_inverse=True)[
        1:
    ]
    chosen, mean = points.at(first), _means(points, first, voxel)
    radius = np.maximum(chosen.pixel, SPREAD * size)
    scales = np.repeat(radius[:, None], 3, 1)
    scales[:, 2] *= np.where(np.linalg.norm(mean.normal, axis=1) > 0.5, FLATNESS, 1.0)
    opacity = np.where(chosen.known, OPACITY, GUESSED_OPACITY)
    return GaussianScene(
        means=torch.from_numpy(mean.place).float(),
        quats_wxyz=torch.from_numpy(_quats_with_z(mean.normal)).float(),
        log_scales=torch.from_numpy(np.log(scales)).float(),
        opacity_logits=torch.from_numpy(np.log(opacity / (1 - opacity))).float(),
        sh=colors_to_sh(torch.from_numpy(mean.color).float()),
    )


class _Points(NamedTuple):
    """place: (n, 3) in the world [m]. color: (n, 3). normal: (n, 3), zero where unknown. pixel: (n,) size of the pixel
    [m]. known: (n,) whether depth was measured there."""

    place: np.ndarray
    color: np.ndarray
    normal: np.ndarray
    pixel: np.ndarray
    known: np.ndarray

    def at(self, index: np.ndarray) -> _Points:
        return _Points(*(column[index] for column in self))


def _means(points: _Points, first: np.ndarray, voxel: np.ndarray) -> _Points:
    """Of every voxel, over its points that are known as its first one is."""
    same = points.known == points.known[first][voxel]
    count = np.bincount(voxel[same], minlength=len(first))[:, None]

    def mean(values: np.ndarray) -> np.ndarray:
        columns = [
            np.bincount(voxel[same], weights=column[same], minlength=len(first))
            for column in values.T
        ]
        return np.stack(columns, 1) / count

    return points.at(first)._replace(
        place=mean(points.place), color=mean(points.color), normal=mean(points.normal)
    )


def _quats_with_z(normals: np.ndarray) -> np.ndarray:
    """(n, 4) rotations that take the z axis to these directions (n, 3), of any length; none where zero."""
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    unit = np.where(length > 1e-9, normals / np.maximum(length, 1e-9), [0.0, 0.0, 1.0])
    # A Gaussian looks the same from behind, and half a turn about an axis across z has no shortest way.
    unit = np.where(unit[:, 2:] < 0, -unit, unit)
    return np.column_stack([1 + unit[:, 2], -unit[:, 1], unit[:, 0], np.zeros(len(unit))])


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


def _points_of(view: FitView, share: float, rng: np.random.Generator) -> _Points:
    """World points of one view: this share of its valid pixels, and a coarse grid where depth is unknown."""
    valid = view.valid.numpy()
    depth = view.depth.numpy()
    K = view.K.numpy().astype(np.float64)
    chosen = valid & (rng.random(valid.shape) < share)
    rows = [(chosen, depth, depth_normals(depth, valid, K), True)]
    if valid.any() and not valid.all():
        nearest = distance_transform_edt(~valid, return_distances=False, return_indices=True)
        coarse = np.zeros_like(valid)
        coarse[::GUESS_STRIDE, ::GUESS_STRIDE] = True
        guessed = ~valid & view.shows_scene.numpy() & coarse
        rows.append((guessed, depth[tuple(nearest)], np.zeros((*depth.shape, 3)), False))
    T_world_cam = invert(view.viewmat.numpy().astype(np.float64))
    parts = []
    for mask, values, normals, known in rows:
        seen = unproject(values, K)[mask]
        stride = 1.0 if known else 0.5 * GUESS_STRIDE
        parts.append(
            _Points(
                place=transform_points(T_world_cam, seen),
                color=view.rgb.numpy()[mask],
                normal=rotate_vectors(T_world_cam, normals[mask].astype(np.float64)),
                pixel=stride * seen[:, 2] / K[0, 0],
                known=np.full(len(seen), known),
            )
        )
    return _Points(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _voxels(points: np.ndarray, size: float) -> np.ndarray:
    """(n,) one number per voxel."""
    keys = np.floor(points / size).astype(np.int64)
    keys -= keys.min(0)
    spans = keys.max(0) + 1
    return np.asarray((keys[:, 0] * spans[1] + keys[:, 1]) * spans[2] + keys[:, 2])


def _voxel_size(points: np.ndarray, count: int) -> float:
    """Voxel edge [m] that leaves about `count` of the points; found by halving an interval of sizes."""
    low, high = 1e-4, max(1e-3, float(np.ptp(points, axis=0).max()))
    # A part of the points brackets the size, all of them settle it.
    for sample, rounds in ((points[:: max(1, len(points) // 200_000)], 16), (points, 6)):
        if sample is points:
            low, high = high / 1.05, high * 1.6
        for _ in range(rounds):
            middle = (low * high) ** 0.5
            if len(np.unique(_voxels(sample, middle))) > count:
                low = middle
            else:
                high = middle
    return high
