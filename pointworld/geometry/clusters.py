"""Points of a scene grouped by what hangs together: everything that stands apart on its supporting surfaces."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

#: Cluster id of points on a supporting surface.
SUPPORT = -1
#: Points nearer than this hang together [m]; neighbours across a face of the 1.5 cm lattice are at most this far.
LINK = 0.024
#: Horizontal faces of at least this area are supporting surfaces [m²].
SUPPORT_AREA = 0.05
#: What lies less than this above a supporting surface belongs to it [m].
SUPPORT_BAND = 0.008
#: Steepest normal of a horizontal face (its z), and the largest step between neighbours on it [m].
LEVEL, LEVEL_STEP = 0.9, 0.006
#: Cells in which the area of a face is counted [m].
_CELL = 0.015


def point_clusters(points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
    """Cluster of every point: connected once the large level faces (table, shelf, floor) are taken away.

    Objects that touch are one cluster. What hangs together does not depend on the order of the points, nor on points
    far from it; only the numbering does.

    Args:
        points, normals: (points, 3) [m], unit, z up.

    Returns:
        (points,) int64, `SUPPORT` for points on supporting surfaces, else 0, 1, ....
    """
    place = points.detach().cpu().numpy().astype(np.float64)
    ids = np.full(len(place), SUPPORT, dtype=np.int64)
    if len(place):
        free = np.flatnonzero(~_on_support(place, normals.detach().cpu().numpy()[:, 2] > LEVEL))
        ids[free] = _components(place[free], _pairs(place[free]))
    return torch.from_numpy(ids).to(points.device)


def _pairs(place: np.ndarray) -> np.ndarray:
    found: np.ndarray = cKDTree(place).query_pairs(LINK, output_type="ndarray")
    return found


def _components(place: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(place),) * 2)
    found: np.ndarray = connected_components(links, directed=False)[1]
    return found


def _on_support(place: np.ndarray, level: np.ndarray) -> np.ndarray:
    """(points,) bool: on a large level face, or hardly above it."""
    rows = np.flatnonzero(level)
    on = np.zeros(len(place), dtype=bool)
    if not len(rows):
        return on
    faces = place[rows]
    pairs = _pairs(faces)
    pairs = pairs[np.abs(faces[pairs[:, 0], 2] - faces[pairs[:, 1], 2]) < LEVEL_STEP]
    face = _components(faces, pairs)
    cells = np.unique(np.column_stack([face, np.floor(faces[:, :2] / _CELL)]), axis=0)
    large = np.bincount(cells[:, 0].astype(np.int64)) * _CELL**2 >= SUPPORT_AREA
    support = faces[large[face]]
    if len(support):
        on[rows[large[face]]] = True
        apart, nearest = cKDTree(support[:, :2]).query(place[:, :2], distance_upper_bound=LINK)
        near = np.flatnonzero(np.isfinite(apart))
        above = place[near, 2] - support[nearest[near], 2]
        on[near[above < SUPPORT_BAND]] = True
    return on
