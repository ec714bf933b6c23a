"""Surface normals of depth images."""

from __future__ import annotations

import numpy as np

from pointworld.geometry.camera import unproject


def depth_normals(
    depth: np.ndarray, valid: np.ndarray, K: np.ndarray, *, max_jump: float = 0.05
) -> np.ndarray:
    """Normals of a depth image by cross products of neighbouring points, towards the camera.

    Each tangent is the central difference where both neighbours are usable, else the one-sided one; a neighbour is
    usable when it is valid and its depth differs by less than `max_jump` of the pixel's depth.

    Args:
        depth: (height, width) [m].
        valid: (height, width) bool.
        K: (3, 3) [px].

    Returns:
        (height, width, 3) float32 unit normals in camera axes; zero where unknown.
    """
    points = unproject(np.where(valid, depth, 0.0), K)
    tangent_u, ok_u = _tangent(points, valid, max_jump, axis=1)
    tangent_v, ok_v = _tangent(points, valid, max_jump, axis=0)
    normals = np.cross(tangent_v, tangent_u)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    usable = ok_u & ok_v & (length[..., 0] > 1e-12)
    normals = np.where(usable[..., None], normals / np.maximum(length, 1e-12), 0.0)
    facing = (normals * points).sum(-1, keepdims=True) > 0
    return np.where(facing, -normals, normals).astype(np.float32)


def _tangent(
    points: np.ndarray, valid: np.ndarray, max_jump: float, *, axis: int
) -> tuple[np.ndarray, np.ndarray]:
    ahead, ahead_ok = _neighbour_step(points, valid, max_jump, axis=axis, step=1)
    behind, behind_ok = _neighbour_step(points, valid, max_jump, axis=axis, step=-1)
    total = np.where(ahead_ok[..., None], ahead, 0.0) - np.where(behind_ok[..., None], behind, 0.0)
    return total, ahead_ok | behind_ok


def _neighbour_step(
    points: np.ndarray, valid: np.ndarray, max_jump: float, *, axis: int, step: int
) -> tuple[np.ndarray, np.ndarray]:
    moved = np.roll(points, -step, axis=axis)
    ok = np.roll(valid, -step, axis=axis) & valid
    border: list[slice | int] = [slice(None), slice(None)]
    border[axis] = -1 if step > 0 else 0
    ok[tuple(border)] = False
    ok &= np.abs(moved[..., 2] - points[..., 2]) < max_jump * np.maximum(points[..., 2], 1e-6)
    return moved - points, ok
