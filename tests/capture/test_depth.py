"""Depth cleaning and registration against plain loops and known surfaces."""

from __future__ import annotations

import numpy as np
import pytest

from pointworld.capture import clean_depth, register_depth
from pointworld.geometry import make_transform
from tests.capture.synthetic import intrinsics, look_at, render


def test_invalid_and_out_of_range_depth_is_dropped() -> None:
    depth = np.full((20, 30), 1.0, np.float32)
    depth[3, 3], depth[4, 4], depth[5, 5], depth[6, 6] = 0.05, 50.0, np.nan, np.inf
    valid = np.ones_like(depth, dtype=bool)
    valid[8, 8] = False
    kept = clean_depth(depth, valid, intrinsics())
    expected = valid.copy()
    for i in (3, 4, 5, 6):
        expected[i, i] = False
    np.testing.assert_array_equal(kept, expected)


def test_flying_pixels_between_two_surfaces_are_dropped() -> None:
    depth = np.full((40, 60), 2.0, np.float32)
    depth[:, :30] = 1.0
    depth[:, 30] = np.linspace(1.2, 1.8, 40)
    flying = np.zeros_like(depth, dtype=bool)
    flying[:, 30] = True
    kept = clean_depth(depth, np.ones_like(flying), intrinsics())
    assert kept[flying].mean() < 0.1
    assert kept[~flying].mean() > 0.99


def test_a_steep_plane_is_kept_whole() -> None:
    """Planes one metre away, tilted about the vertical, wherever the ray meets them at less than 75 degrees."""
    K = intrinsics()
    ray = (np.arange(160) + 0.5 - K[0, 2]) / K[0, 0]
    for tilt in np.deg2rad([0.0, 40.0, 60.0, 75.0]):
        along = np.cos(tilt) + np.sin(tilt) * ray
        incidence = np.arccos(np.clip(along / np.hypot(1, ray), -1, 1))
        seen = (along > 0) & (incidence < np.deg2rad(75))
        row = np.where(seen, 1.0 / np.where(seen, along, 1.0), 0.0)
        depth = np.repeat(row[None], 120, 0).astype(np.float32)
        kept = clean_depth(depth, depth > 0, K, max_depth=20.0)
        inner = np.flatnonzero(seen)[1:-1]
        assert len(inner) > 40 and kept[1:-1, inner].all(), tilt


def _register_by_loop(
    depth: np.ndarray,
    valid: np.ndarray,
    K_depth: np.ndarray,
    K: np.ndarray,
    T: np.ndarray,
    size: tuple[int, int],
) -> np.ndarray:
    """Every depth pixel's square over the colour pixels whose centres it covers, one pixel at a time."""
    out = np.full(size, np.inf)
    for v in range(depth.shape[0]):
        for u in range(depth.shape[1]):
            if not valid[v, u]:
                continue
            z = float(depth[v, u])
            p = T @ [
                (u + 0.5 - K_depth[0, 2]) / K_depth[0, 0] * z,
                (v + 0.5 - K_depth[1, 2]) / K_depth[1, 1] * z,
                z,
                1,
            ]
            if p[2] <= 0:
                continue
            cu, cv = K[0, 0] * p[0] / p[2] + K[0, 2], K[1, 1] * p[1] / p[2] + K[1, 2]
            hu = max(0.5 * K[0, 0] / K_depth[0, 0] * z / p[2], 0.5)
            hv = max(0.5 * K[1, 1] / K_depth[1, 1] * z / p[2], 0.5)
            for y in range(size[0]):
                for x in range(size[1]):
                    if cu - hu <= x + 0.5 < cu + hu and cv - hv <= y + 0.5 < cv + hv:
                        out[y, x] = min(out[y, x], p[2])
    return np.where(np.isfinite(out), out, 0)


@pytest.mark.parametrize("zoom", [0.6, 1.0, 1.7])
def test_registration_equals_a_loop(rng: np.random.Generator, zoom: float) -> None:
    depth = rng.uniform(0.5, 2.0, (12, 16)).astype(np.float32)
    valid = rng.random((12, 16)) > 0.2
    K_depth = np.array([[15.0, 0, 8.2], [0, 15.5, 5.9], [0, 0, 1]])
    K = np.array([[15.0 * zoom, 0, 9.0], [0, 15.0 * zoom, 7.0], [0, 0, 1]])
    T = make_transform(
        look_at(np.zeros(3), np.array([0.05, 0.02, 1.0]))[:3, :3], np.array([0.05, -0.02, 0.1])
    )
    T[:3, :3] = np.linalg.qr(np.eye(3) + 0.05 * rng.normal(size=(3, 3)))[0]
    T[:3, :3] *= np.sign(np.diag(T[:3, :3]))[None]
    size = (14, 18)
    ours, seen = register_depth(
        depth, valid, K_depth=K_depth, K_color=K, T_color_depth=T, size=size
    )
    expected = _register_by_loop(depth, valid, K_depth, K, T, size)
    np.testing.assert_array_equal(seen, expected > 0)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_registration_into_a_finer_camera_leaves_no_holes() -> None:
    T_world_depth = look_at(np.array([0.0, -0.8, 0.5]), np.zeros(3))
    _, depth = render(intrinsics(), T_world_depth, (120, 160))
    K = np.diag([1.8, 1.8, 1]) @ intrinsics()
    T = np.eye(4)
    T[0, 3] = -0.02
    registered, seen = register_depth(
        depth, depth > 0, K_depth=intrinsics(), K_color=K, T_color_depth=T, size=(216, 288)
    )
    T_depth_color = np.eye(4)
    T_depth_color[0, 3] = 0.02
    _, true = render(K, T_world_depth @ T_depth_color, (216, 288))
    assert seen[:, 16:-16].mean() > 0.95
    error = np.abs(registered - true)[seen]
    assert np.median(error) < 0.002 and np.percentile(error, 95) < 0.02
