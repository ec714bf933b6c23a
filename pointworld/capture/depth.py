"""Depth images: units, cleaning, and registration of a separate depth sensor to colour."""

from __future__ import annotations

import numpy as np

from pointworld.errors import InputError
from pointworld.geometry import project, transform_points, unproject

MIN_MEDIAN_DEPTH = 0.02
MAX_MEDIAN_DEPTH = 20.0


def clean_depth(
    depth: np.ndarray,
    valid: np.ndarray,
    K: np.ndarray,
    *,
    min_depth: float = 0.1,
    max_depth: float = 10.0,
    edge_jump: float = 0.04,
    edge_support: int = 3,
) -> np.ndarray:
    """Which pixels to trust: finite, in range, and not flying between two surfaces.

    A flying pixel mixes the two sides of a depth edge, so few of its eight neighbours lie on its own surface.
    A neighbour supports a pixel when it is valid and its depth differs by less than the jump allowed for that
    depth, widened for surfaces seen at a slant: up to 80 degrees a plane is kept whole.

    Args:
        depth: (height, width) [m].
        valid: (height, width) bool, True = use.
        K: (3, 3) [px].
        min_depth, max_depth: range kept [m].
        edge_jump: allowed jump to a neighbour as a share of the depth.
        edge_support: neighbours, of eight, that must support a pixel.

    Returns:
        (height, width) bool; always a subset of `valid`.
    """
    kept = valid & np.isfinite(depth) & (depth >= min_depth) & (depth <= max_depth)
    z = np.where(kept, depth, 0.0).astype(np.float32)
    # A plane tilted by 80 degrees changes by z tan(80 deg) / f per pixel.
    slant = np.tan(np.deg2rad(80.0)) / min(float(K[0, 0]), float(K[1, 1]))
    allowed = np.float32(max(edge_jump, slant)) * z
    support = np.zeros(depth.shape, dtype=np.int8)
    padded_z, padded_ok = np.pad(z, 1), np.pad(kept, 1)
    height, width = depth.shape
    for dv in (0, 1, 2):
        for du in (0, 1, 2):
            if (dv, du) == (1, 1):
                continue
            window = (slice(dv, dv + height), slice(du, du + width))
            support += padded_ok[window] & (np.abs(padded_z[window] - z) < allowed)
    return kept & (support >= edge_support)


def register_depth(
    depth: np.ndarray,
    valid: np.ndarray,
    *,
    K_depth: np.ndarray,
    K_color: np.ndarray,
    T_color_depth: np.ndarray,
    size: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Move the image of a separate depth sensor into the colour camera, nearest surface first.

    Every depth pixel is a small square facing the sensor; it is drawn over the colour pixels whose centres it
    covers (so a finer colour image has no holes between depth pixels), and the nearest depth wins.

    Args:
        depth: (height, width) of the depth sensor [m].
        valid: (height, width) bool.
        K_depth, K_color: (3, 3) [px].
        T_color_depth: (4, 4) depth camera to colour camera [m].
        size: (height, width) of the colour image.

    Returns:
        depth: (height, width) float32 in the colour camera [m], 0 where unknown. valid: bool.
    """
    height, width = size
    points = unproject(np.where(valid, depth, 0.0), K_depth)[valid]
    uv, z = project(transform_points(T_color_depth, points), K_color)
    source_z = points[:, 2]
    ahead = z > 1e-6
    uv, z, source_z = uv[ahead], z[ahead], source_z[ahead]
    # Half the edge of a depth pixel's square, seen in colour pixels; never below half a pixel.
    half_u = np.maximum(0.5 * K_color[0, 0] / K_depth[0, 0] * source_z / z, 0.5)
    half_v = np.maximum(0.5 * K_color[1, 1] / K_depth[1, 1] * source_z / z, 0.5)
    first_u = np.ceil(uv[:, 0] - half_u - 0.5).astype(np.int64)
    first_v = np.ceil(uv[:, 1] - half_v - 0.5).astype(np.int64)
    nearest = np.full(height * width, np.inf, dtype=np.float32)
    steps_u = int(np.ceil(2 * half_u.max(initial=0.5)))
    steps_v = int(np.ceil(2 * half_v.max(initial=0.5)))
    for step_v in range(min(steps_v, height)):
        row = first_v + step_v
        row_ok = (row >= 0) & (row < height) & (row + 0.5 < uv[:, 1] + half_v)
        for step_u in range(min(steps_u, width)):
            column = first_u + step_u
            ok = row_ok & (column >= 0) & (column < width) & (column + 0.5 < uv[:, 0] + half_u)
            np.minimum.at(nearest, row[ok] * width + column[ok], z[ok].astype(np.float32))
    registered = nearest.reshape(height, width)
    seen = np.isfinite(registered)
    return np.where(seen, registered, 0).astype(np.float32), seen


def check_depth_unit(depth: np.ndarray, valid: np.ndarray, owner: str) -> None:
    """Raise InputError when the median depth says that the unit is not what the file claims.

    Args:
        depth: (height, width) [m]. valid: (height, width) bool. owner: file or frame, for the message.
    """
    if not valid.any():
        return
    median = float(np.median(depth[valid]))
    if median > MAX_MEDIAN_DEPTH:
        guess = median / 1000
        raise InputError(
            f"{owner}: the median depth is {median:.4g} m, expected {MIN_MEDIAN_DEPTH} to "
            f"{MAX_MEDIAN_DEPTH:g} m: the depth is in the wrong unit. If its values are millimetres, give a "
            f"scale of 0.001 metres per unit (the median would be {guess:.3g} m)."
        )
    if median < MIN_MEDIAN_DEPTH:
        raise InputError(
            f"{owner}: the median depth is {median:.3g} m, expected {MIN_MEDIAN_DEPTH} to "
            f"{MAX_MEDIAN_DEPTH:g} m: the depth is in the wrong unit. If its values are metres already, give a "
            f"scale of 1 (the median would be {median * 1000:.3g} m)."
        )
