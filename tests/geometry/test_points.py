"""Voxels, rigid fits and planes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pointworld.geometry import (
    fit_plane_ransac,
    fit_rigid,
    lexicographic_order,
    transform_points,
    voxel_indices,
    voxel_representatives,
)
from tests.geometry.test_se3 import random_transform


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.sampled_from([0.015, 0.1, 0.7]))
def test_one_representative_per_voxel_whatever_the_order(seed: int, size: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(200, 3, generator=generator) * 0.3
    chosen = points[voxel_representatives(points, size)]
    cells = voxel_indices(points, size).unique(dim=0)
    assert torch.equal(voxel_indices(chosen, size), cells)
    shuffled = points[torch.randperm(200, generator=generator)]
    assert torch.equal(shuffled[voxel_representatives(shuffled, size)], chosen)


def test_representative_is_nearest_to_the_voxel_centre() -> None:
    points = torch.tensor(
        [[0.01, 0.01, 0.01], [0.05, 0.05, 0.06], [0.09, 0.0, 0.0], [-0.01, 0.0, 0.0]]
    )
    assert voxel_representatives(points, 0.1).tolist() == [3, 1]


def test_no_points_no_representatives() -> None:
    assert voxel_representatives(torch.zeros(0, 3), 0.1).shape == (0,)


def test_lexicographic_order_matches_numpy(rng: np.random.Generator) -> None:
    keys = rng.integers(0, 4, size=(3, 500))
    order = lexicographic_order(*[torch.from_numpy(k) for k in keys])
    np.testing.assert_array_equal(order.numpy(), np.lexsort(keys[::-1]))


@pytest.mark.parametrize("shape", [(), (2,), (3, 1, 2)])
@pytest.mark.parametrize("angle", [1e-7, 0.5, 3.1])
def test_rigid_fit_recovers_the_motion(shape: tuple[int, ...], angle: float) -> None:
    T = random_transform(shape, 11, angle)
    source = torch.randn(
        *shape, 12, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    target = transform_points(T, source)
    assert (fit_rigid(source, target) - T).abs().max() < 1e-10
    weights = torch.ones(*shape, 12, dtype=torch.float64)
    weights[..., 6:] = 0
    target[..., 6:, :] += 1.0
    assert (fit_rigid(source, target, weights) - T).abs().max() < 1e-10


def test_rigid_fit_of_a_plane_is_a_rotation_and_of_a_line_only_moves() -> None:
    T = random_transform((), 2, 1.0)
    flat = torch.randn(9, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    flat[:, 2] = 0
    assert (fit_rigid(flat, transform_points(T, flat)) - T).abs().max() < 1e-10
    line = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None] * torch.tensor([1.0, 2, 3])
    fitted = fit_rigid(line, line + 0.25)
    assert torch.equal(fitted[:3, :3], torch.eye(3, dtype=torch.float64))
    assert (fitted[:3, 3] - 0.25).abs().max() < 1e-12


def test_mirrored_points_do_not_give_a_reflection() -> None:
    source = torch.randn(10, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fitted = fit_rigid(source, source * torch.tensor([-1.0, 1, 1]))
    assert torch.det(fitted[:3, :3]) == pytest.approx(1.0)


def test_dominant_plane_is_found_among_clutter(rng: np.random.Generator) -> None:
    plane = np.column_stack([rng.uniform(-1, 1, (3000, 2)), rng.normal(0.4, 0.002, 3000)])
    clutter = rng.uniform(-1, 1, (1500, 3))
    normal, offset, inliers = fit_plane_ransac(np.vstack([plane, clutter]), seed=0)
    assert abs(normal[2]) > 0.9999
    assert abs(offset * np.sign(normal[2]) - 0.4) < 1e-3
    assert inliers[:3000].mean() > 0.99
