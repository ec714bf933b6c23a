"""Rigid transforms and quaternions, batched, for NumPy arrays and torch tensors alike."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

A = TypeVar("A", np.ndarray, torch.Tensor)


def make_transform(R: A, t: A) -> A:
    """Stack rotation (..., 3, 3) and translation (..., 3) [m] into (..., 4, 4)."""
    shape = (*R.shape[:-2], 4, 4)
    if isinstance(R, torch.Tensor):
        T = torch.zeros(shape, dtype=R.dtype, device=R.device)
    else:
        T = np.zeros(shape, dtype=R.dtype)
    T[..., :3, :3] = R
    T[..., :3, 3] = t
    T[..., 3, 3] = 1.0
    return T


def invert(T: A) -> A:
    """Inverse of a rigid transform (..., 4, 4), without a matrix inversion."""
    R_inv = T[..., :3, :3].swapaxes(-1, -2)
    return make_transform(R_inv, -(R_inv @ T[..., :3, 3:])[..., 0])


def rotate_vectors(T: A, vectors: A) -> A:
    """Rotate vectors (..., n, 3) by the rotation part of T (..., 3, 3) or (..., 4, 4)."""
    return vectors @ T[..., :3, :3].swapaxes(-1, -2)


def transform_points(T: A, points: A) -> A:
    """Apply T (..., 4, 4) to points (..., n, 3)."""
    return rotate_vectors(T, points) + T[..., None, :3, 3]


def quat_wxyz_to_matrix(quat_wxyz: A) -> A:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4) in w, x, y, z order; normalised first."""
    if isinstance(quat_wxyz, torch.Tensor):
        q = quat_wxyz / quat_wxyz.norm(dim=-1, keepdim=True)
        w, x, y, z = q.unbind(-1)
        rows = _matrix_rows(w, x, y, z)
        return torch.stack([torch.stack(list(row), -1) for row in rows], -2)
    q = quat_wxyz / np.linalg.norm(quat_wxyz, axis=-1, keepdims=True)
    w, x, y, z = (q[..., i] for i in range(4))
    rows = _matrix_rows(w, x, y, z)
    return np.stack([np.stack(list(row), -1) for row in rows], -2)


def _matrix_rows(w: A, x: A, y: A, z: A) -> list[tuple[A, A, A]]:
    return [
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]


def matrix_to_quat_wxyz(R: A) -> A:
    """Unit quaternions (..., 4), w >= 0, of rotation matrices (..., 3, 3).

    Of the four closed forms the one with the largest denominator is taken per element, so that no
    rotation angle loses precision.
    """
    if isinstance(R, torch.Tensor):
        return _quat_candidates_torch(R)
    flat = torch.from_numpy(np.ascontiguousarray(R, dtype=np.float64))
    return _quat_candidates_torch(flat).numpy().astype(R.dtype)


def _quat_candidates_torch(R: torch.Tensor) -> torch.Tensor:
    m = [[R[..., i, j] for j in range(3)] for i in range(3)]
    trace = m[0][0] + m[1][1] + m[2][2]
    four_squares = torch.stack(
        [1 + trace, 1 + 2 * m[0][0] - trace, 1 + 2 * m[1][1] - trace, 1 + 2 * m[2][2] - trace], -1
    )
    a, b, c = m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]
    d, e, f = m[1][0] + m[0][1], m[0][2] + m[2][0], m[2][1] + m[1][2]
    s = four_squares
    candidates = torch.stack(
        [
            torch.stack([s[..., 0], a, b, c], -1),
            torch.stack([a, s[..., 1], d, e], -1),
            torch.stack([b, d, s[..., 2], f], -1),
            torch.stack([c, e, f, s[..., 3]], -1),
        ],
        -2,
    )
    best = four_squares.argmax(-1)[..., None, None].expand(*R.shape[:-2], 1, 4)
    q = candidates.gather(-2, best)[..., 0, :]
    q = q / q.norm(dim=-1, keepdim=True)
    return torch.where(q[..., :1] < 0, -q, q)
