"""Random Gaussians for file tests, and byte-level helpers."""

from __future__ import annotations

import numpy as np

from splat.io.arrays import SH_COUNTS, SplatArrays


def random_arrays(seed: int, count: int, degree: int) -> SplatArrays:
    """Gaussians of a desk-sized scene; quaternions of any length, opacities from clear to solid."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return SplatArrays(
        means=normal(count, 3),
        quats_wxyz=normal(count, 4) + np.float32(1e-3),
        log_scales=(normal(count, 3) - 5).clip(-9.5, 5).astype(np.float32),
        opacity_logits=3 * normal(count),
        sh=0.3 * normal(count, SH_COUNTS[degree], 3),
    )


def rotation_error(a: np.ndarray, b: np.ndarray) -> float:
    """Largest angle between rotations (N, 4) [rad]; the sign of a quaternion does not matter."""
    if len(a) == 0:
        return 0.0
    a = a.astype(np.float64) / np.linalg.norm(a.astype(np.float64), axis=1, keepdims=True)
    b = b.astype(np.float64) / np.linalg.norm(b.astype(np.float64), axis=1, keepdims=True)
    chord = np.minimum(np.linalg.norm(a - b, axis=1), np.linalg.norm(a + b, axis=1))
    return float(4 * np.arcsin(np.clip(chord / 2, 0, 1)).max())


def color_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference, zero for empty arrays."""
    return float(np.abs(a.astype(np.float64) - b).max(initial=0.0))
