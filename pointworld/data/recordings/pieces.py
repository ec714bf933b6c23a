"""A scene taken apart: what it stands on, and the things that may move as one."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from pointworld.geometry import fit_plane_ransac

#: Neighbouring points belong together up to this distance [m]: the diagonal of a voxel of 1.5 cm.
LINK = 0.0225
#: A plane leans at most this much from the horizontal to be what things stand on (cosine).
LEVEL = 0.97
#: Points this near to the supporting plane belong to it [m].
PLANE_BAND = 0.007
#: Two surfaces that meet in a groove sharper than this (sine of the turn) are two things.
GROOVE = 0.35
#: Smaller things than this many points are left to their neighbourhood.
MIN_POINTS = 6


def supporting_plane(
    points: np.ndarray, normals: np.ndarray, *, seed: int
) -> tuple[np.ndarray, float] | None:
    """The largest level plane, normal (3,) upwards . p = offset [m]; None where there is no level surface.

    Args:
        points: in a frame whose z points up [m]. normals: (points, 3).
    """
    level = np.abs(normals[:, 2]) > LEVEL
    if level.sum() < 50:
        return None
    normal, offset, _ = fit_plane_ransac(points[level], seed=seed, threshold=PLANE_BAND)
    if abs(normal[2]) < LEVEL:
        return None
    up = float(np.sign(normal[2]))
    return normal * up, offset * up


def above_plane(points: np.ndarray, plane: tuple[np.ndarray, float] | None) -> np.ndarray:
    """Which points (..., 3) stand higher than the plane's own points; all where there is no plane."""
    if plane is None:
        return np.ones(points.shape[:-1], bool)
    return np.asarray(points @ plane[0] - plane[1] > PLANE_BAND)


def split_into_pieces(
    points: np.ndarray, normals: np.ndarray, plane: tuple[np.ndarray, float] | None
) -> np.ndarray:
    """Label (points,) of every point: 0 for the support and for crumbs, 1, 2, ... for things.

    Points above the supporting plane that are neighbours belong together unless their surfaces meet in a groove, as
    those of two touching things do.
    """
    labels = np.zeros(len(points), np.int64)
    above = np.flatnonzero(above_plane(points, plane))
    if not len(above):
        return labels
    place, facing = points[above], normals[above]
    pairs = cKDTree(place).query_pairs(LINK, output_type="ndarray")
    offset = place[pairs[:, 1]] - place[pairs[:, 0]]
    bend = ((facing[pairs[:, 1]] - facing[pairs[:, 0]]) * offset).sum(-1)
    bend /= np.maximum(np.linalg.norm(offset, axis=-1), 1e-9)
    joined = pairs[bend > -GROOVE]
    graph = coo_matrix((np.ones(len(joined)), joined.T), shape=(len(above), len(above)))
    _, component = connected_components(graph, directed=False)
    sizes = np.bincount(component)
    number = np.zeros(len(sizes), np.int64)
    large = np.flatnonzero(sizes >= MIN_POINTS)
    number[large] = np.arange(1, len(large) + 1)
    labels[above] = number[component]
    return labels


def spread_to_pixels(
    labels: np.ndarray,
    points: np.ndarray,
    pixels: np.ndarray,
    plane: tuple[np.ndarray, float] | None,
    *,
    radius: float = LINK,
) -> np.ndarray:
    """Piece of every pixel's place (..., 3): that of the nearest point of a piece; 0 on the plane, -1 far from all."""
    spread = np.where(above_plane(pixels, plane), -1, 0)
    owned = labels > 0
    if owned.any():
        up = spread < 0
        distance, nearest = cKDTree(points[owned]).query(pixels[up], distance_upper_bound=radius)
        found = np.isfinite(distance)
        spread[up] = np.where(found, labels[owned][np.where(found, nearest, 0)], -1)
    return spread
