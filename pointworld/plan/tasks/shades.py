"""Which points show a cloth: too thin to stand out of its table, it is told by its colours."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

#: Points this near to the cloth as it is known show it; those this far from it, and no higher over it, the table [m].
_ON, _OFF, _HIGH = 0.006, (0.02, 0.25), 0.02
#: Colours kept of each, and how many of the nearest of them vote.
_KEPT, _VOTES = 600, 7


class Shades:
    """Colours of a cloth and of what it lies on, from the first look at it."""

    def __init__(self, surface: np.ndarray, points: np.ndarray, colors: np.ndarray) -> None:
        """Args: surface: (samples, 3) of the cloth. points, colors: (points, 3) of the scene, colours in [0, 1]."""
        distance = cKDTree(surface).query(points)[0]
        flat = np.abs(points[:, 2] - float(surface[:, 2].mean())) < _HIGH
        cloth = colors[distance < _ON]
        table = colors[(distance > _OFF[0]) & (distance < _OFF[1]) & flat]
        kept = [part[:: max(len(part) // _KEPT, 1)] for part in (cloth, table)]
        self._is_cloth = np.repeat([True, False], [len(part) for part in kept])
        self._height = float(surface[:, 2].max())
        self._tree = cKDTree(np.concatenate(kept)) if len(self._is_cloth) >= _VOTES else None

    def find(self, points: np.ndarray, colors: np.ndarray) -> np.ndarray:
        """(points,) whether a point has the cloth's colours rather than the table's, at about the cloth's height."""
        low = points[:, 2] < self._height + _HIGH
        if self._tree is None:
            return low
        votes = self._is_cloth[self._tree.query(colors, k=_VOTES)[1]].sum(-1)
        return np.asarray(low & (2 * votes > _VOTES))
