"""Pinhole geometry: pixel centres at + 0.5, resizing, cropping, axes."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pointworld.geometry import (
    crop_intrinsics,
    depth_normals,
    opengl_to_opencv,
    pixel_grid,
    project,
    scale_intrinsics,
    unproject,
    unproject_pixels,
)

K = np.array([[210.0, 0.0, 31.2], [0.0, 190.0, 24.9], [0.0, 0.0, 1.0]])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), skew=st.floats(-3, 3))
def test_unproject_then_project_is_the_pixel_centre(seed: int, skew: float) -> None:
    depth = np.random.default_rng(seed).uniform(0.2, 3.0, size=(48, 64))
    skewed = K.copy()
    skewed[0, 1] = skew
    uv, z = project(unproject(depth, skewed), skewed)
    np.testing.assert_allclose(uv, pixel_grid(48, 64), atol=1e-9)
    np.testing.assert_allclose(z, depth)
    uv_torch, _ = project(torch.from_numpy(unproject(depth, skewed)), torch.from_numpy(skewed))
    np.testing.assert_allclose(uv_torch.numpy(), uv, atol=1e-12)


def test_first_pixel_centre_is_half() -> None:
    assert pixel_grid(2, 3)[0, 0].tolist() == [0.5, 0.5]
    assert pixel_grid(2, 3)[1, 2].tolist() == [2.5, 1.5]


def test_scaled_and_cropped_images_see_the_same_rays() -> None:
    point = np.array([[0.1, -0.05, 1.2]])
    uv, _ = project(point, K)
    np.testing.assert_allclose(project(point, scale_intrinsics(K, 0.5, 0.25))[0], uv * [0.5, 0.25])
    np.testing.assert_allclose(project(point, crop_intrinsics(K, 10, 4))[0], uv - [10, 4])


def test_opengl_camera_looks_along_minus_z() -> None:
    T_world_cam = opengl_to_opencv(np.eye(4))
    ahead = T_world_cam @ np.array([0, 0, 1.0, 1])
    assert ahead.tolist() == [0, 0, -1, 1]
    down = T_world_cam[:3, :3] @ np.array([0, 1.0, 0])
    assert down.tolist() == [0, -1, 0]


def test_normals_of_a_slanted_plane_face_the_camera() -> None:
    normal = np.array([0.3, -0.2, -1.0])
    normal /= np.linalg.norm(normal)
    rays = unproject(np.ones((48, 64)), K)
    depth = ((normal @ [0, 0, 1.0]) / (rays @ normal)).astype(np.float32)
    valid = np.ones_like(depth, dtype=bool)
    valid[10, 10] = False
    normals = depth_normals(depth, valid, K)
    assert not normals[10, 10].any()
    assert np.abs(normals[valid] - normal).max() < 1e-3


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), skew=st.floats(-3, 3))
def test_normals_and_points_of_some_pixels_are_those_of_the_image(seed: int, skew: float) -> None:
    """To the last bit, at the border and beside holes too."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.95, 1.0, size=(12, 16)).astype(np.float32)
    valid = rng.random(depth.shape) > 0.2
    skewed = K.copy()
    skewed[0, 1] = skew
    row, column = rng.integers(0, 12, 60), rng.integers(0, 16, 60)
    whole = depth_normals(depth, valid, skewed)
    some = depth_normals(depth, valid, skewed, at=(row, column))
    assert np.array_equal(some, whole[row, column])
    points = unproject_pixels(depth, skewed, row, column)
    assert np.array_equal(points, unproject(depth, skewed)[row, column])


def test_normals_do_not_bridge_a_depth_edge() -> None:
    depth = np.full((20, 20), 1.0, np.float32)
    depth[:, 10:] = 1.6
    normals = depth_normals(depth, depth > 0, K)
    np.testing.assert_allclose(normals, np.broadcast_to([0, 0, -1.0], normals.shape), atol=1e-5)
