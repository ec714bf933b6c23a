"""Looking up later depth where a point of the first image should be."""

from __future__ import annotations

import numpy as np

from pointworld.data import ClipView


def inverse_depth_at(
    view: ClipView, uv: np.ndarray, body: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Depth at pixels uv, bilinear in 1/z (exact on planes), and where all four neighbours show `body`."""
    h, w = view.depth.shape
    x, y = uv[:, 0] - 0.5, uv[:, 1] - 0.5
    c, r = np.floor(x).astype(int), np.floor(y).astype(int)
    ok = (c >= 0) & (r >= 0) & (c < w - 1) & (r < h - 1)
    c, r = np.where(ok, c, 0), np.where(ok, r, 0)
    fx, fy = x - c, y - r
    inverse = np.zeros(len(uv))
    values = []
    for dr, dc, weight in (
        (0, 0, (1 - fx) * (1 - fy)),
        (0, 1, fx * (1 - fy)),
        (1, 0, (1 - fx) * fy),
        (1, 1, fx * fy),
    ):
        z = view.depth[r + dr, c + dc].astype(np.float64)
        ok &= (view.segmentation[r + dr, c + dc].astype(int) - 1 == body) & (z > 0)
        values.append(1 / np.maximum(z, 1e-6))
        inverse += weight * values[-1]
    # Neighbours on another face of the body (depth jump) interpolate across an edge: the 2x2 block must be planar.
    planar = np.abs(values[0] + values[3] - values[1] - values[2]) < 2e-4
    return 1 / np.maximum(inverse, 1e-6), ok & planar
