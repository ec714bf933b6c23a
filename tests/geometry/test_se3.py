"""Axioms of rigid transforms and quaternions, in float64, over batch shapes and near-identity samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pointworld.geometry import (
    invert,
    make_transform,
    matrix_to_quat_wxyz,
    quat_wxyz_to_matrix,
    rotate_vectors,
    transform_points,
)

BATCH_SHAPES = [(), (2,), (3, 1, 2)]


def random_transform(shape: tuple[int, ...], seed: int, angle: float) -> torch.Tensor:
    """Rotations of about `angle` rad round random axes, with random translations."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.randn(*shape, 3, generator=generator, dtype=torch.float64)
    axis = axis / axis.norm(dim=-1, keepdim=True)
    half = torch.full((*shape, 1), angle / 2, dtype=torch.float64)
    quat = torch.cat([half.cos(), half.sin() * axis], -1)
    return make_transform(
        quat_wxyz_to_matrix(quat), torch.randn(*shape, 3, generator=generator, dtype=torch.float64)
    )


@pytest.mark.parametrize("shape", BATCH_SHAPES)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31), angle=st.sampled_from([1e-9, 1e-4, 0.7, 2.0, np.pi - 1e-9, np.pi])
)
def test_inverse_composes_to_identity(shape: tuple[int, ...], seed: int, angle: float) -> None:
    T = random_transform(shape, seed, angle)
    eye = torch.eye(4, dtype=torch.float64).expand_as(T)
    assert (T @ invert(T) - eye).abs().max() < 1e-12
    assert (invert(T) @ T - eye).abs().max() < 1e-12


@pytest.mark.parametrize("shape", BATCH_SHAPES)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31), angle=st.sampled_from([1e-9, 1e-4, 0.7, 2.0, np.pi - 1e-9, np.pi])
)
def test_quaternion_round_trip(shape: tuple[int, ...], seed: int, angle: float) -> None:
    R = random_transform(shape, seed, angle)[..., :3, :3]
    quat = matrix_to_quat_wxyz(R)
    assert (quat.norm(dim=-1) - 1).abs().max() < 1e-12
    assert (quat[..., 0] >= 0).all()
    assert (quat_wxyz_to_matrix(quat) - R).abs().max() < 1e-12


def test_known_quaternion_is_wxyz() -> None:
    quarter_turn_z = np.array([np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)])
    expected = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(quat_wxyz_to_matrix(quarter_turn_z), expected, atol=1e-15)
    np.testing.assert_allclose(matrix_to_quat_wxyz(expected), quarter_turn_z, atol=1e-15)


@pytest.mark.parametrize("shape", BATCH_SHAPES)
def test_numpy_and_torch_agree(shape: tuple[int, ...]) -> None:
    T = random_transform(shape, 3, 1.3)
    points = torch.randn(
        *shape, 7, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64
    )
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], -1)
    expected = (T @ homogeneous.transpose(-1, -2)).transpose(-1, -2)[..., :3]
    assert (transform_points(T, points) - expected).abs().max() < 1e-12
    np.testing.assert_allclose(transform_points(T.numpy(), points.numpy()), expected, atol=1e-12)
    difference = rotate_vectors(T, points) - (expected - T[..., None, :3, 3])
    assert difference.abs().max() < 1e-12
