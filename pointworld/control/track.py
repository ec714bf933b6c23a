"""Where an arm was a moment ago: a picture shows it where it was when it was taken."""

from __future__ import annotations

from collections import deque

import numpy as np

#: Measurements are kept this long [s].
_KEPT = 2.0


class Track:
    """The joints of an arm over the last two seconds."""

    def __init__(self) -> None:
        self._known: deque[tuple[float, np.ndarray]] = deque()

    def add(self, time: float, joints: np.ndarray) -> None:
        """A measurement (joints,) of a time [s]; one that is not newer than the last is passed over."""
        if self._known and time <= self._known[-1][0]:
            return
        self._known.append((time, np.array(joints)))
        while self._known[0][0] < time - _KEPT:
            self._known.popleft()

    def at(self, time: float) -> np.ndarray:
        """(joints,) at a time [s]: between two measurements on the straight line, else at the nearer end.

        Raises:
            ValueError: nothing was measured yet.
        """
        if not self._known:
            raise ValueError("nothing was measured yet")
        times = np.array([t for t, _ in self._known])
        places = np.stack([joints for _, joints in self._known])
        return np.array([np.interp(time, times, column) for column in places.T])
