"""Both sampling conventions written as loops over single points in Python floats (float64): slow and plain."""

from __future__ import annotations

import math

import numpy as np

Point = tuple[float, float, float]


def _to_camera(T: np.ndarray, p: np.ndarray) -> Point:
    x, y, z = (
        sum(float(T[r, c]) * float(p[c]) for c in range(3)) + float(T[r, 3]) for r in range(3)
    )
    return x, y, z


def _pixel(K: np.ndarray, cam: Point) -> tuple[float, float]:
    x, y, z = cam
    u = (float(K[0, 0]) * x + float(K[0, 1]) * y) / z + float(K[0, 2])
    v = float(K[1, 1]) * y / z + float(K[1, 2])
    return u, v


def _bilinear(grid: np.ndarray, x: float, y: float) -> np.ndarray:
    """Grid (rows, columns, ...) at column x, row y; zero outside."""
    total = np.zeros(grid.shape[2:])
    x0, y0 = math.floor(x), math.floor(y)
    for column in (x0, x0 + 1):
        for row in (y0, y0 + 1):
            if 0 <= column < grid.shape[1] and 0 <= row < grid.shape[0]:
                weight = (1 - abs(x - column)) * (1 - abs(y - row))
                total = total + weight * grid[row, column].astype(float)
    return total


def _clamp(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


def centered(
    points: np.ndarray,
    T_cam_base: list[np.ndarray],
    K: list[np.ndarray],
    depth: list[np.ndarray],
    maps: list[np.ndarray],
    stride: int,
    image_scale: tuple[float, float] = (1.0, 1.0),
) -> tuple[np.ndarray, np.ndarray]:
    """Depth of the pixel the point falls into, within max(1 cm, 1 %); cell centres at (j + 0.5) * stride."""
    features, counts = [], []
    for p in points:
        total, count = np.zeros(maps[0].shape[0]), 0
        for T, k, d, m in zip(T_cam_base, K, depth, maps, strict=True):
            cam = _to_camera(T, p)
            if cam[2] <= 1e-6:
                continue
            u, v = _pixel(k, cam)
            if not (0 <= u < d.shape[1] and 0 <= v < d.shape[0]):
                continue
            measured = float(d[math.floor(v), math.floor(u)])
            if measured <= 0 or abs(cam[2] - measured) > max(0.01, 0.01 * cam[2]):
                continue
            x = _clamp(u * image_scale[0] / stride - 0.5, 0.0, m.shape[2] - 1.0)
            y = _clamp(v * image_scale[1] / stride - 0.5, 0.0, m.shape[1] - 1.0)
            total, count = total + _bilinear(m.transpose(1, 2, 0), x, y), count + 1
        features.append(total / max(count, 1))
        counts.append(count)
    return np.array(features), np.array(counts)


def released(
    points: np.ndarray,
    T_cam_base: list[np.ndarray],
    K: list[np.ndarray],
    depth: list[np.ndarray],
    maps: list[np.ndarray],
    threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The published models' rules for 180x320 images and an 11x20 grid; K with pixel centres at integers."""
    features, counts = [], []
    for p in points:
        total, count = np.zeros(maps[0].shape[0]), 0
        for T, k, d, m in zip(T_cam_base, K, depth, maps, strict=True):
            cam = _to_camera(T, p)
            if cam[2] <= 1e-6:
                continue
            u, v = _pixel(k, cam)
            if not (0 <= u < 320 and 0 <= v < 180):
                continue
            measured = float(_bilinear(d, u, v))
            if not measured - 0.5 * threshold <= cam[2] <= measured + threshold:
                continue
            if v >= 176:
                continue
            x = _clamp(min(u, 319.0) / 16 - 0.5, 0.0, 19.0)
            y = _clamp(min(v, 175.0) / 16 - 0.5, 0.0, 10.0)
            total, count = total + _bilinear(m.transpose(1, 2, 0), x, y), count + 1
        features.append(total / max(count, 1))
        counts.append(count)
    return np.array(features), np.array(counts)
