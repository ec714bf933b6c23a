"""Plane fitting."""

from __future__ import annotations

import numpy as np


def fit_plane_ransac(
    points: np.ndarray, *, seed: int, threshold: float = 0.01, iterations: int = 500
) -> tuple[np.ndarray, float, np.ndarray]:
    """Dominant plane n . p = offset of a point cloud, refined by least squares on its inliers.

    Args:
        points: (points, 3) [m]; at least three, not all collinear.
        seed: of the sampling.
        threshold: inlier distance [m].

    Returns:
        normal: (3,) unit, sign arbitrary. offset: [m]. inliers: (points,) bool.
    """
    rng = np.random.default_rng(seed)
    probe = (
        points if len(points) <= 20_000 else points[rng.choice(len(points), 20_000, replace=False)]
    )
    triples = probe[rng.integers(0, len(probe), size=(iterations, 3))]
    normals = np.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
    lengths = np.linalg.norm(normals, axis=1)
    keep = lengths > 1e-12
    normals = normals[keep] / lengths[keep, None]
    offsets = (normals * triples[keep, 0]).sum(1)
    counts = [
        int((np.abs(probe @ n - d) < threshold).sum())
        for n, d in zip(normals, offsets, strict=True)
    ]
    best = int(np.argmax(counts))
    normal, offset = normals[best], float(offsets[best])
    for _ in range(3):
        inliers = np.abs(points @ normal - offset) < threshold
        centre = points[inliers].mean(0)
        _, _, Vt = np.linalg.svd(points[inliers] - centre, full_matrices=False)
        normal = Vt[2] if Vt[2] @ normal >= 0 else -Vt[2]
        offset = float(normal @ centre)
    return normal, offset, np.abs(points @ normal - offset) < threshold
