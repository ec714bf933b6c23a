"""A cloth that a goal chooses: it hardly stands out of its table, so its colours tell which points are its own."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from pointworld.geometry.clusters import LINK
from pointworld.plan.tasks.shades import Shades
from pointworld.types import ScenePoints

#: A choice of which less than this share stands out of the table may be a cloth.
FLAT = 0.15
#: Fewer points show no cloth. Clicks mean what hangs together around them, so alike in colour [RGB] and so near [m].
_LEAST, _ALIKE, _REACH = 12, 0.12, 0.20
#: Least share of what was chosen that a cloth must be.
_SHARE = 0.3
#: So often a cloth is told from the table; in the end at most this share of the table around may look like it, and at
#: least this share of it must look like itself.
_PASSES, _TAKEN, _KEPT = 4, 0.03, 0.9
#: The table around a cloth: from and to this far from it [m].
_AROUND = (0.02, 0.25)
#: Fine points within this of the cloth's are its own [m].
_NEAR = 0.012


def find_cloth(
    chosen: np.ndarray, scene: ScenePoints, fine: ScenePoints
) -> tuple[np.ndarray, Shades] | None:
    """What a choice of points on a table means, if that is a cloth.

    Args:
        chosen: (points,) bool, of the scene: some of the cloth's (clicks), or most of it and some of the table (a box).
        scene, fine: the same place, coarse and fine.

    Returns:
        (samples, 3) the cloth, as a flat sheet, and its colours; None where the table around looks the same.
    """
    points, colors = scene.points.double().numpy(), scene.colors.double().numpy()
    height = float(np.median(points[chosen, 2]))
    flat = np.abs(points[:, 2] - height) < _AROUND[0]
    cloth = _purged(chosen & flat, points, colors, flat)
    if cloth is None:
        # Clicks on a part of it.
        cloth = _purged(_grown(chosen & flat, points, colors, flat), points, colors, flat)
    if cloth is None:
        return None
    shades = Shades(points[cloth], points, colors)
    dense = fine.points.double().numpy()
    mine = shades.find(dense, fine.colors.double().numpy())
    mine &= cKDTree(points[cloth]).query(dense)[0] < _NEAR
    surface = dense[mine]
    if len(surface) < _LEAST:
        return None
    surface[:, 2] = np.median(surface[:, 2])
    return surface, shades


def _purged(
    cloth: np.ndarray, points: np.ndarray, colors: np.ndarray, flat: np.ndarray
) -> np.ndarray | None:
    """(points,) the cloth among points that may show some of its table; None where there is nothing to tell them by."""
    wanted = cloth.sum()
    for _ in range(_PASSES):
        if cloth.sum() < max(_SHARE * wanted, _LEAST):
            return None
        # What was chosen of the table is outvoted by the table around; then the colours are those of the cloth alone.
        found = Shades(points[cloth], points, colors).find(points, colors) & flat
        around = _around(points, points[cloth]) & flat
        alike = found[cloth].mean()
        cloth = _largest(cloth & found, points)
    if not around.any() or found[around].mean() > _TAKEN or alike < _KEPT:
        return None
    return cloth


def _around(points: np.ndarray, cloth: np.ndarray) -> np.ndarray:
    """(points,) whether they are beside the cloth (samples, 3)."""
    away = cKDTree(cloth).query(points)[0]
    return np.asarray((away > _AROUND[0]) & (away < _AROUND[1]))


def _grown(
    seeds: np.ndarray, points: np.ndarray, colors: np.ndarray, flat: np.ndarray
) -> np.ndarray:
    """(points,) the seeds and what hangs together with them and looks like them."""
    if not seeds.any():
        return seeds
    like = cKDTree(colors[seeds]).query(colors)[0] < _ALIKE
    near = cKDTree(points[seeds]).query(points)[0] < _REACH
    able = seeds | (like & near & flat)
    pieces = _pieces(points[able])
    kept = np.isin(pieces, pieces[seeds[able]])
    grown = np.zeros(len(points), dtype=bool)
    grown[np.flatnonzero(able)[kept]] = True
    return grown


def _largest(chosen: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(points,) the largest piece of those chosen that hangs together."""
    pieces = _pieces(points[chosen])
    kept = np.zeros(len(points), dtype=bool)
    if len(pieces):
        kept[np.flatnonzero(chosen)[pieces == np.bincount(pieces).argmax()]] = True
    return kept


def _pieces(points: np.ndarray) -> np.ndarray:
    """(points,) number of the piece that each belongs to."""
    pairs = cKDTree(points).query_pairs(LINK, output_type="ndarray") if len(points) else []
    rows, columns = np.asarray(pairs, dtype=np.int64).reshape(-1, 2).T
    links = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(points),) * 2)
    return np.asarray(connected_components(links, directed=False)[1])
