"""Surface normals of depth images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pointworld.geometry.camera import unproject, unproject_pixels

#: Pixels (rows, columns), each (n,), or None for all of the image.
Pixels = tuple[np.ndarray, np.ndarray]


def depth_normals(
    depth: np.ndarray,
    valid: np.ndarray,
    K: np.ndarray,
    *,
    max_jump: float = 0.05,
    at: Pixels | None = None,
) -> np.ndarray:
    """Normals of a depth image by cross products of neighbouring points, towards the camera.

    Each tangent is the central difference where both neighbours are usable, else the one-sided one; a neighbour is
    usable when it is valid and its depth differs by less than `max_jump` of the pixel's depth.

    Args:
        depth: (height, width) [m].
        valid: (height, width) bool.
        K: (3, 3) [px].
        at: pixels that are wanted; the same numbers as for the whole image, and quicker where they are few.

    Returns:
        (height, width, 3), or (n, 3) of `at`: float32 unit normals in camera axes; zero where unknown.
    """
    known = np.where(valid, depth, 0.0)
    points = unproject(known, K) if at is None else unproject_pixels(known, K, *at)
    steps = _Steps(points, known, valid, K, max_jump, at)
    tangent_u, ok_u = _tangent(steps, axis=1)
    tangent_v, ok_v = _tangent(steps, axis=0)
    normals = np.cross(tangent_v, tangent_u)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    usable = ok_u & ok_v & (length[..., 0] > 1e-12)
    normals = np.where(usable[..., None], normals / np.maximum(length, 1e-12), 0.0)
    facing = (normals * points).sum(-1, keepdims=True) > 0
    return np.where(facing, -normals, normals).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Steps:
    """Ways from pixels to their neighbours. points: (..., 3) of the pixels. depth, valid: (height, width)."""

    points: np.ndarray
    depth: np.ndarray
    valid: np.ndarray
    K: np.ndarray
    max_jump: float
    at: Pixels | None

    def to(self, axis: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Vectors to the neighbours `step` rows (axis 0) or columns (axis 1) on, and whether these are usable."""
        moved, ok = self._neighbours(axis, step)
        near = self.max_jump * np.maximum(self.points[..., 2], 1e-6)
        ok &= np.abs(moved[..., 2] - self.points[..., 2]) < near
        return moved - self.points, ok

    def _neighbours(self, axis: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        if self.at is None:
            moved = np.roll(self.points, -step, axis=axis)
            ok = np.roll(self.valid, -step, axis=axis) & self.valid
            border: list[slice | int] = [slice(None), slice(None)]
            border[axis] = -1 if step > 0 else 0
            ok[tuple(border)] = False
            return moved, ok
        places = list(self.at)
        places[axis] = places[axis] + step
        inside = (places[axis] >= 0) & (places[axis] < self.depth.shape[axis])
        places[axis] = np.clip(places[axis], 0, self.depth.shape[axis] - 1)
        moved = unproject_pixels(self.depth, self.K, *places)
        return moved, inside & self.valid[tuple(places)] & self.valid[self.at]


def _tangent(steps: _Steps, *, axis: int) -> tuple[np.ndarray, np.ndarray]:
    ahead, ahead_ok = steps.to(axis, 1)
    behind, behind_ok = steps.to(axis, -1)
    total = np.where(ahead_ok[..., None], ahead, 0.0) - np.where(behind_ok[..., None], behind, 0.0)
    return total, ahead_ok | behind_ok
