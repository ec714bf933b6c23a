"""Image features of scene points: project into every view, check visibility, look up bilinearly, average.

Two conventions. "centered" is ours: pixel centres at integer + 0.5 everywhere. "released" reproduces the sampling of
the published PointWorld models, whose depth lookup and token lookup disagree by half a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F

from pointworld.encoders import ImageEncoder, frame_to_tensor
from pointworld.errors import InputError
from pointworld.geometry import invert, project, transform_points
from pointworld.scene.views import View, released_intrinsics, view_of
from pointworld.types import RGBDFrame

Sampling = Literal["centered", "released"]

CENTERED_TOLERANCE = 0.01
"""Largest difference to the measured depth of a visible point: 1 cm, or this fraction of the depth beyond 1 m."""

RELEASED_DEPTH_THRESHOLD = 0.003
"""The released models' depth_threshold [m]: visible from 1.5 mm in front of the measured depth to 3 mm behind it."""


def check_sampling(sampling: str) -> None:
    """Raise InputError unless `sampling` is a known convention."""
    if sampling not in get_args(Sampling):
        raise InputError(
            f"sampling '{sampling}' is unknown, expected one of {', '.join(get_args(Sampling))}"
        )


def encode_views(
    frames: Sequence[RGBDFrame], encoder: ImageEncoder, sampling: Sampling
) -> list[View]:
    """Resample every frame for the encoder and encode it; frames of one size share a batch.

    Returns:
        One `View` per frame, with `features` (channels, rows, columns).
    """
    views = [view_of(frame, sampling) for frame in frames]
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index, view in enumerate(views):
        by_size.setdefault(view.rgb.shape, []).append(index)
    for members in by_size.values():
        maps = encoder.encode(torch.stack([frame_to_tensor(views[i].rgb) for i in members]))
        for row, index in enumerate(members):
            views[index].features = maps[row]
    return views


def point_features(
    points: torch.Tensor,
    frames: Sequence[RGBDFrame],
    encoder: ImageEncoder,
    *,
    T_world_base: np.ndarray,
    sampling: Sampling = "centered",
    depth_threshold: float = RELEASED_DEPTH_THRESHOLD,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode the frames and sample the features of `points`.

    Args:
        points: (points, 3) in the base frame [m].
        T_world_base: (4, 4) base to world.
        depth_threshold: of the "released" convention [m].

    Returns:
        features: (points, channels) float32, averaged over the views that see the point, zero where none does.
        view_count: (points,) int64.
    """
    check_sampling(sampling)
    views = encode_views(frames, encoder, sampling)
    return sample_features(
        points,
        views,
        stride=encoder.stride,
        T_world_base=T_world_base,
        sampling=sampling,
        depth_threshold=depth_threshold,
    )


def sample_features(
    points: torch.Tensor,
    views: Sequence[View],
    *,
    stride: int,
    T_world_base: np.ndarray,
    sampling: Sampling = "centered",
    depth_threshold: float = RELEASED_DEPTH_THRESHOLD,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Average the features of the views that see each point; arguments and results as in `point_features`."""
    check_sampling(sampling)
    maps = [view.features for view in views if view.features is not None]
    if len(maps) != len(views) or not views:
        raise InputError("sample_features needs at least one view, each with its feature map")
    total = torch.zeros(
        points.shape[0], maps[0].shape[0], dtype=torch.float32, device=points.device
    )
    count = torch.zeros(points.shape[0], dtype=torch.int64, device=points.device)
    for view, feature_map in zip(views, maps, strict=True):
        T_cam_base = invert(view.T_world_cam) @ T_world_base
        if sampling == "centered":
            cells, seen = _centered_cells(points, view, T_cam_base, stride, feature_map)
        else:
            depth = torch.tensor(view.depth, device=points.device)
            cells, seen = released_cells(
                points.float(),
                depth,
                torch.from_numpy(released_intrinsics(view.K)).float().to(points.device),
                torch.from_numpy(T_cam_base).float().to(points.device),
                grid=(int(feature_map.shape[1]), int(feature_map.shape[2])),
                stride=stride,
                depth_threshold=depth_threshold,
            )
        index = seen.nonzero()[:, 0]
        total[index] += lookup(feature_map.to(points.device), cells[index])
        count += seen
    return total / count.clamp_min(1)[:, None], count


def lookup(feature_map: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Bilinear interpolation of a grid (channels, rows, columns) at cells (points, 2) as (column, row) -> (points, C).

    Cell centres are at integers; coordinates must lie in [0, columns - 1] x [0, rows - 1].
    """
    rows, columns = feature_map.shape[-2:]
    extent = torch.tensor(
        [max(columns - 1, 1), max(rows - 1, 1)], dtype=cells.dtype, device=cells.device
    )
    normalized = (2.0 * cells / extent - 1.0).to(feature_map.dtype)
    sampled = F.grid_sample(
        feature_map[None], normalized[None, None], mode="bilinear", align_corners=True
    )
    return sampled[0, :, 0].T


def _centered_cells(
    points: torch.Tensor, view: View, T_cam_base: np.ndarray, stride: int, feature_map: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Grid coordinates (points, 2) and visibility (points,) of our own convention.

    A point is seen when it projects into the image and differs by at most 1 cm, or 1 % of its depth, from the valid
    depth of the very pixel it falls into. Outside the outermost cell centres the nearest one counts.
    """
    cam = transform_points(torch.from_numpy(T_cam_base).to(points.device), points.double())
    uv, z = project(cam, torch.from_numpy(view.K).to(points.device))
    depth = torch.from_numpy(np.where(view.valid, view.depth, 0.0)).to(points.device)
    height, width = depth.shape
    inside = (
        (z > 1e-6) & (uv[:, 0] >= 0) & (uv[:, 0] < width) & (uv[:, 1] >= 0) & (uv[:, 1] < height)
    )
    column = uv[:, 0].nan_to_num().clamp(0, width - 1).long()
    row = uv[:, 1].nan_to_num().clamp(0, height - 1).long()
    measured = depth[row, column]
    tolerance = CENTERED_TOLERANCE * z.clamp_min(1.0)
    seen = inside & (measured > 0) & ((z - measured).abs() <= tolerance)
    scale = torch.tensor(view.image_scale, dtype=uv.dtype, device=uv.device)
    limit = torch.tensor(
        [feature_map.shape[-1] - 1, feature_map.shape[-2] - 1], dtype=uv.dtype, device=uv.device
    )
    cells = uv * scale / stride - 0.5
    return torch.minimum(cells.clamp_min(0.0), limit), seen


def released_cells(
    points: torch.Tensor,
    depth: torch.Tensor,
    K: torch.Tensor,
    T_cam_base: torch.Tensor,
    *,
    grid: tuple[int, int],
    stride: int = 16,
    depth_threshold: float = RELEASED_DEPTH_THRESHOLD,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Grid coordinates and visibility exactly as the published models were trained, quirks included.

    Depth is interpolated bilinearly with pixel centres at integers and zeros outside the image, so unknown depth (0)
    bleeds into its neighbours; a point is visible from half a threshold in front of it to a threshold behind it. The
    grid is looked up with pixel edges at integers, half a pixel away. Rows below the last whole cell do not count.

    Args:
        points: (points, 3) [m]; the arithmetic is done in their dtype (float32 as released).
        depth: (height, width) [m], 0 = unknown.
        K: (3, 3) as released, pixel centres at integers [px].
        T_cam_base: (4, 4) from the points' frame to the camera.
        grid: rows and columns of the feature grid.

    Returns:
        cells: (points, 2) as (column, row). counted: (points,) bool.

    Source: PointWorld release, scene encoder; see docs/features.md.
    """
    height, width = depth.shape
    pixel = transform_points(T_cam_base, points) @ K.T
    z = pixel[:, 2]
    projectable = torch.isfinite(pixel).all(-1) & (z.abs() > 1e-6)
    safe = torch.where(projectable, z, torch.ones_like(z))
    u, v = pixel[:, 0] / safe, pixel[:, 1] / safe
    inside = projectable & (u >= 0) & (u < width) & (v >= 0) & (v < height) & (z > 0)
    u, v = torch.where(inside, u, torch.zeros_like(u)), torch.where(inside, v, torch.zeros_like(v))
    normalized = torch.stack([2.0 * u / (width - 1) - 1.0, 2.0 * v / (height - 1) - 1.0], -1)
    sampled = F.grid_sample(
        depth.to(points.dtype)[None, None],
        normalized[None, None],
        mode="bilinear",
        padding_mode="zeros",
        align_corners=True,
    )[0, 0, 0]
    visible = inside & (z >= sampled - 0.5 * depth_threshold) & (z <= sampled + depth_threshold)
    rows, columns = grid
    counted = visible & (v < rows * stride) & (u < columns * stride)
    column = (u.clamp(0, columns * stride - 1) / stride - 0.5).clamp(0, columns - 1)
    row = (v.clamp(0, rows * stride - 1) / stride - 0.5).clamp(0, rows - 1)
    return torch.stack([column, row], -1), counted
