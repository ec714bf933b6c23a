"""Things that a hand pushes about a table, found again in every look: also where the hand hides them meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.spatial import cKDTree

from pointworld.geometry import transform_points
from pointworld.plan.tasks.register import find_again, register_pushed

#: Points this near to a thing are its own [m].
NEAR = 0.012
#: What is thinner than this is a cloth: part of its table for whoever looks for things that stand on it [m].
THIN = 0.012
#: A hand this little above a target may push it [m]; a target with so many points on it is seen for sure.
_OVER, _SURE = 0.02, 5
#: A hand this far above a target hides nothing: what is not seen then has gone somewhere else [m].
_HIGH = 0.04


class Follower:
    """Where several things are, from look to look: each is fitted to what is seen near where it was or was pushed to.

    moves: (4, 4) of every thing from its start to where it is.
    """

    def __init__(
        self,
        surfaces: Sequence[np.ndarray],
        *,
        rigid: Sequence[bool],
        depth: float = 0.0,
    ) -> None:
        """Args:
        surfaces: (samples, 3) of every thing at its start [m]. rigid: it may roll away; soft things do not.
        depth: length of a tool in the hand, below the fingertips [m].
        """
        self._surfaces, self._rigid, self._depth = surfaces, rigid, depth
        self.moves = [np.eye(4) for _ in surfaces]
        self._hand: np.ndarray | None = None
        self._swept = [np.zeros(2) for _ in surfaces]

    def update(
        self,
        seen: Sequence[np.ndarray],
        tool: np.ndarray,
        known: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        """Find everything again.

        Args:
            seen: (points, 3) for every thing that may show it [m]. tool: (3,) the hand now [m]. known: (4, 4) motions
                of those that need not be looked for.
        """
        way = np.zeros(2) if self._hand is None else tool[:2] - self._hand
        self._hand = tool[:2]
        here = [transform_points(T, s) for T, s in zip(self.moves, self._surfaces, strict=True)]
        bottom = float(tool[2]) - self._depth
        for i, points in enumerate(seen):
            if known is not None and i in known:
                self.moves[i] = known[i]
                continue
            others = [h for k, h in enumerate(here) if k != i]
            mine = _not_of(points, here[i], others)
            self._find(i, mine, way, bottom=bottom, top=float(here[i][:, 2].max()))
            # The next one must not claim what this one has just been found to be, nor leave its old place free.
            here[i] = transform_points(self.moves[i], self._surfaces[i])

    def _find(
        self, i: int, points: np.ndarray, way: np.ndarray, *, bottom: float, top: float
    ) -> None:
        """Args: way: (2,) that the hand went since the last look. bottom: height of hand or tool, top: of the thing."""
        if bottom < top + _OVER:
            self._swept[i] += way
        surface = self._surfaces[i]
        self.moves[i], count = register_pushed(surface, self.moves[i], points, self._swept[i])
        if count < _SURE and self._rigid[i] and bottom > top + _HIGH:
            again = find_again(surface, self.moves[i], points)
            if again[1] >= _SURE:
                self.moves[i], count = again
        if count >= _SURE:
            # What was seen again needs no guess of where it went while it was hidden.
            self._swept[i] = np.zeros(2)


def _not_of(points: np.ndarray, mine: np.ndarray, others: Sequence[np.ndarray]) -> np.ndarray:
    """Points (points, 3) without those that lie on another thing, and nearer to it than to this one.

    Args:
        mine, others: (samples, 3) where each was last, or is [m].
    """
    if not others or not len(points):
        return points
    away = cKDTree(np.concatenate(others)).query(points)[0]
    return np.asarray(points[(away > NEAR) | (away > cKDTree(mine).query(points)[0])])
