"""Which of the seen points belong to the tool in the hand: its shape is learned while the hand is in free air."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from pointworld.geometry import invert, transform_points

#: A tool reaches this far up between the fingers, and the box around it is this much larger than it [m].
_INSIDE, _ROOM = 0.03, 0.012
#: A tool is learned only while nothing else is this near to the box around it [m].
_ALONE = 0.03
#: Nothing is learned further below the highest place of the hand so far than this: things may stand there [m].
_LOWER = 0.03
#: Points this near to a known one say nothing new, and points this near to the known shape belong to it [m].
_KNOWN, _NEAR = 0.006, 0.012


class HeldView:
    """Finds the points of a tool that the hand holds fast, whatever it touches.

    At first, and whenever the hand is as high again, the points in the box around the tool are remembered in the hand's
    frame, if nothing else is near. Later what lies near a remembered point, carried along by the hand, belongs to it.
    """

    def __init__(self, length: float, half_width: float) -> None:
        """Args: length: of the tool below the fingertips, half_width: farthest from the tool axis [m]."""
        self._lower = np.array([-half_width, -half_width, -_INSIDE]) - _ROOM
        self._upper = np.array([half_width, half_width, length]) + _ROOM
        self._shape = np.zeros((0, 3))
        self._height = -np.inf

    def find(self, points: np.ndarray, T_base_tool: np.ndarray) -> np.ndarray:
        """Which of the points belong to the tool.

        Args:
            points: (points, 3) of what does not support anything, in the base frame [m]. T_base_tool: (4, 4) now;
                its z axis points out of the hand.

        Returns:
            (points,) bool.
        """
        local = transform_points(invert(T_base_tool), points)
        if T_base_tool[2, 3] > self._height - _LOWER:
            self._learn(local)
            self._height = max(self._height, float(T_base_tool[2, 3]))
        if len(self._shape) == 0 or len(points) == 0:
            return np.zeros(len(points), dtype=bool)
        return np.asarray(cKDTree(self._shape).query(local)[0] < _NEAR)

    def _learn(self, local: np.ndarray) -> None:
        away = np.maximum(self._lower - local, local - self._upper).max(-1)
        inside = away <= 0
        if ((away > 0) & (away < _ALONE)).any() or not inside.any():
            return
        found = local[inside]
        if len(self._shape):
            found = found[cKDTree(self._shape).query(found)[0] > _KNOWN]
        self._shape = np.concatenate([self._shape, found])
