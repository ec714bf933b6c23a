"""Where a known surface is among the points that are seen now: anywhere on a table, or along the way of a joint."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from pointworld.geometry import transform_points

#: Points searched for a match around a surface's last place [m]; it moves less between two looks.
_SEARCH = 0.05
#: Points this near to a surface lie on it [m].
_ON = 0.008
#: Places at which a thing that was lost is looked for.
_PLACES = 12
#: Where a jointed thing is looked for, in parts of its way to the goal, how finely, and how far a point counts [m].
_WAY, _STEPS, _FINE, _FAR = (-0.15, 1.25), 57, 11, 0.008
#: What is seen this far from a jointed thing at its start is not it, nor is later what is this near to that [m].
_OFF, _SAME = 0.006, 0.008
#: Points this near to what stood there before anything moved are not the thing's [m].
_BACKGROUND = 0.012


def register(
    surface: np.ndarray,
    T: np.ndarray,
    points: np.ndarray,
    *,
    iterations: int = 20,
) -> np.ndarray:
    """Move a known surface onto the points seen of it: iterated closest points, about the vertical only.

    Args:
        surface: (samples, 3) of the whole thing. T: (4, 4) where it was. points: (seen, 3) of anything: they may
            show a part of it, and other things nearby.

    Returns:
        (4, 4) where it is now; `T` when fewer than five points are near it.
    """
    here = transform_points(T, surface)
    distance, _ = cKDTree(here).query(points)
    seen = points[distance < _SEARCH]
    if len(seen) < 5:
        return T
    radius = _SEARCH
    for _ in range(iterations):
        distance, match = cKDTree(transform_points(T, surface)).query(seen)
        near = distance < radius
        if near.sum() < 5:
            return T
        step = _align(transform_points(T, surface)[match[near]], seen[near])
        # It stands on the table, and goes on standing on it.
        step[2, 3] = 0.0
        T = step @ T
        radius = max(0.7 * radius, 0.02)
    return T


def register_pushed(
    surface: np.ndarray, T: np.ndarray, points: np.ndarray, way: np.ndarray
) -> tuple[np.ndarray, int]:
    """As `register`, of what may have been left where it was, or pushed along by a hand that went `way` (2,) [m].

    Returns:
        (4, 4) the one of the two that more of the points lie on, and how many do.
    """
    guesses = [T]
    if np.linalg.norm(way) > _ON:
        guesses.append(T.copy())
        guesses[1][:2, 3] += way
    found = [register(surface, guess, points) for guess in guesses]
    counts = [
        int((cKDTree(transform_points(g, surface)).query(points)[0] < _ON).sum()) for g in found
    ]
    best = int(np.argmax(counts))
    return found[best], counts[best]


def find_again(surface: np.ndarray, T: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, int]:
    """As `register`, of what may lie anywhere among the points, for example because it rolled away.

    Returns:
        (4, 4) where most of the points lie on it, and how many do.
    """
    centre = transform_points(T, surface).mean(0)
    best, most = T, 0
    for place in points[:: max(1, len(points) // _PLACES)]:
        guess = T.copy()
        guess[:2, 3] += place[:2] - centre[:2]
        found = register(surface, guess, points)
        count = int((cKDTree(transform_points(found, surface)).query(points)[0] < _ON).sum())
        if count > most:
            best, most = found, count
    return best, most


def _align(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(4, 4) least-squares turn about the vertical and move from `source` to `target` (points, 3)."""
    a, b = source.mean(0), target.mean(0)
    T = np.eye(4)
    p, q = source[:, :2] - a[:2], target[:, :2] - b[:2]
    angle = np.arctan2((p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum(), (p * q).sum())
    T[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    T[:3, 3] = b - T[:3, :3] @ a
    return T


class Background:
    """What stood there at the first look and is no target: later it tells nothing about where a target is."""

    def __init__(self) -> None:
        self._tree: cKDTree | None = None

    def without(self, points: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Those of the points (points, 3) that were not there at first. Args: targets: (samples, 3) then [m]."""
        if self._tree is None:
            start = cKDTree(targets).query(points)[0]
            self._tree = cKDTree(points[start > 2 * _BACKGROUND])
        if not self._tree.n:
            return points
        return np.asarray(points[self._tree.query(points)[0] > _BACKGROUND])


class JointTracker:
    """Follows a jointed thing: it can be nowhere but on its way to the goal, or a little beyond its ends.

    The screw through start and goal is the way of a hinge or a slide.
    """

    def __init__(self, surface: np.ndarray, motion: np.ndarray) -> None:
        """Args: surface: (samples, 3) of the thing at its start, closer together than what is to be told [m].
        motion: (4, 4) that carries it to its goal.
        """
        self._tree, self._place = cKDTree(surface), screw(motion)
        self._share = 0.0
        self._fixed: cKDTree | None = None

    def find(self, points: np.ndarray) -> np.ndarray:
        """(4, 4) motion from its start to where it is now.

        Args:
            points: (points, 3) that are seen [m], without the background: a door is hard to tell from the front that
                it closes. The first time it stands where it starts.
        """
        if self._fixed is None:
            # It is where it starts: what is seen beside it now is what it stands in, which looks like it from in front.
            self._fixed = cKDTree(points[self._tree.query(points)[0] > _OFF])
        if self._fixed.n:
            points = points[self._fixed.query(points)[0] > _SAME]
        if len(points) >= 5:
            wide = np.linspace(*_WAY, _STEPS)
            first = self._best(wide, points)
            step = wide[1] - wide[0]
            self._share = self._best(first + np.linspace(-step, step, _FINE), points)
        return self._place(self._share)

    def _best(self, shares: np.ndarray, points: np.ndarray) -> float:
        back = (transform_points(np.linalg.inv(self._place(share)), points) for share in shares)
        far = np.stack([self._tree.query(p, distance_upper_bound=_FAR)[0] for p in back])
        cost = np.square(np.minimum(far, _FAR)).sum(1)
        # Where nothing that is seen lies on it anywhere, it is where it was.
        return float(shares[cost.argmin()]) if np.ptp(cost) else self._share


def screw(T: np.ndarray) -> Callable[[float], np.ndarray]:
    """Parts of a rigid motion (4, 4) on its screw: 0 gives no motion, 1 gives `T`."""
    turn = Rotation.from_matrix(T[:3, :3]).as_rotvec()
    angle = float(np.linalg.norm(turn))
    if angle < 1e-6:

        def slide(share: float) -> np.ndarray:
            moved = np.eye(4)
            moved[:3, 3] = share * T[:3, 3]
            return moved

        return slide
    axis = turn / angle
    along = float(T[:3, 3] @ axis)
    about = np.linalg.lstsq(np.eye(3) - T[:3, :3], T[:3, 3] - along * axis, rcond=None)[0]

    def twist(share: float) -> np.ndarray:
        moved = np.eye(4)
        moved[:3, :3] = Rotation.from_rotvec(share * turn).as_matrix()
        moved[:3, 3] = about - moved[:3, :3] @ about + share * along * axis
        return moved

    return twist
