"""Pinhole cameras: pixel centres at integer + 0.5, OpenCV axes (x right, y down, z forward)."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

A = TypeVar("A", np.ndarray, torch.Tensor)


def pixel_grid(height: int, width: int) -> np.ndarray:
    """Pixel centres (height, width, 2) as (u, v) float64 [px]."""
    v, u = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    return np.stack([u, v], -1)


def unproject(depth: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Camera-frame points (height, width, 3) float64 [m] of a depth image (height, width) [m].

    Pixels of unknown depth (0 or NaN) give points that the caller must mask.
    """
    return _at_depth(pixel_grid(*depth.shape), depth, K)


def unproject_pixels(
    depth: np.ndarray, K: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """As `unproject`, for some pixels (n,) of the image only: (n, 3)."""
    return _at_depth(np.stack([columns + 0.5, rows + 0.5], -1), depth[rows, columns], K)


def _at_depth(uv: np.ndarray, depth: np.ndarray, K: np.ndarray) -> np.ndarray:
    z = depth.astype(np.float64)
    y = (uv[..., 1] - K[1, 2]) / K[1, 1]
    x = (uv[..., 0] - K[0, 2] - K[0, 1] * y) / K[0, 0]
    return np.stack([x * z, y * z, z], -1)


def project(points_cam: A, K: A) -> tuple[A, A]:
    """Project camera-frame points (..., 3) [m] to pixels.

    Returns:
        uv: (..., 2) [px]; meaningless where z <= 0, never NaN for finite points.
        z: (...,) [m].
    """
    z = points_cam[..., 2]
    if isinstance(points_cam, torch.Tensor):
        safe = torch.where(z.abs() < 1e-9, torch.full_like(z, 1e-9), z)
        x, y = points_cam[..., 0] / safe, points_cam[..., 1] / safe
        return torch.stack([K[0, 0] * x + K[0, 1] * y + K[0, 2], K[1, 1] * y + K[1, 2]], -1), z
    safe = np.where(np.abs(z) < 1e-9, 1e-9, z)
    x, y = points_cam[..., 0] / safe, points_cam[..., 1] / safe
    return np.stack([K[0, 0] * x + K[0, 1] * y + K[0, 2], K[1, 1] * y + K[1, 2]], -1), z


def scale_intrinsics(K: np.ndarray, sx: float, sy: float) -> np.ndarray:
    """K of the image resized by (sx, sy); exact because pixel centres are at + 0.5."""
    return np.diag([sx, sy, 1.0]) @ K


def crop_intrinsics(K: np.ndarray, x0: float, y0: float) -> np.ndarray:
    """K of the image whose first kept pixel is (x0, y0)."""
    cropped = np.array(K, dtype=np.float64)
    cropped[0, 2] -= x0
    cropped[1, 2] -= y0
    return cropped


def opengl_to_opencv(T_world_cam: np.ndarray) -> np.ndarray:
    """Turn a camera pose with OpenGL axes (x right, y up, z backward) into OpenCV axes."""
    return T_world_cam @ np.diag([1.0, -1.0, -1.0, 1.0])
