"""Image features of points, against loops over single points in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pointworld.encoders import RGBEncoder
from pointworld.errors import InputError
from pointworld.geometry import invert, transform_points, unproject
from pointworld.scene import View, encode_views, lookup, point_features, sample_features
from pointworld.types import RGBDFrame
from tests.scene import loop_reference
from tests.scene.world import frames, look_at, table_and_box


def random_views(rng: np.random.Generator, count: int = 3) -> list[View]:
    """Cameras of 320x180 round a wavy surface with holes; random feature grids of 11x20."""
    views = []
    for i in range(count):
        T = look_at([0.4 * (i - 1), -0.3 + 0.2 * i, 1.0], [0.02 * i, 0.0, 0.0], up=(0.0, 1.0, 0.0))
        K = np.array([[260.0 + 7 * i, 0.3, 161.2], [0.0, 255.0, 88.4], [0.0, 0.0, 1.0]])
        depth = (0.8 + 0.4 * rng.random((180, 320)).cumsum(1) / 160).astype(np.float32)
        valid = rng.random((180, 320)) > 0.15
        rgb = rng.integers(0, 256, (180, 320, 3), dtype=np.uint8)
        features = torch.from_numpy(rng.standard_normal((7, 11, 20)).astype(np.float32))
        views.append(
            View(rgb, np.where(valid, depth, 0).astype(np.float32), valid, K, T, features=features)
        )
    return views


def points_near(
    rng: np.random.Generator, views: list[View], T_world_base: np.ndarray, spread: float
) -> np.ndarray:
    """Points of all views pushed along their rays by up to `spread` [m], and some anywhere, also behind cameras."""
    clouds = []
    for view in views:
        depth = view.depth + spread * rng.uniform(-1, 1, view.depth.shape) * view.valid
        cam = unproject(depth, view.K)[view.valid]
        clouds.append(
            transform_points(view.T_world_cam, cam[rng.choice(len(cam), 250, replace=False)])
        )
        edge = unproject(view.depth, view.K)[174:179:2, 20::40].reshape(-1, 3)
        clouds.append(transform_points(view.T_world_cam, edge))
    clouds.append(rng.uniform(-3, 3, (100, 3)))
    # A fraction of a pixel to the side: points at exact pixel centres would sit on the borders of the rules.
    jittered = np.concatenate(clouds)
    jittered += rng.normal(0, 5e-4, jittered.shape)
    return transform_points(invert(T_world_base), jittered)


def T_cam_base(views: list[View], T_world_base: np.ndarray) -> list[np.ndarray]:
    return [np.linalg.inv(view.T_world_cam) @ T_world_base for view in views]


@pytest.fixture
def base() -> np.ndarray:
    return look_at([0.3, -0.2, 0.5], [1.0, 1.0, 0.1])


def test_centered_equals_the_loop(rng: np.random.Generator, base: np.ndarray) -> None:
    views = random_views(rng)
    points = points_near(rng, views, base, 0.02)
    got, count = sample_features(torch.from_numpy(points), views, stride=16, T_world_base=base)
    want, want_count = loop_reference.centered(
        points,
        T_cam_base(views, base),
        [view.K for view in views],
        [view.depth for view in views],
        [view.features.numpy() for view in views if view.features is not None],
        16,
    )
    assert np.array_equal(count.numpy(), want_count)
    assert len(set(want_count.tolist())) >= 3
    assert np.abs(got.numpy() - want).max() < 1e-4


def test_released_equals_the_loop(rng: np.random.Generator, base: np.ndarray) -> None:
    views = random_views(rng)
    points = points_near(rng, views, base, 0.006)
    got, count = sample_features(
        torch.from_numpy(points),
        views,
        stride=16,
        T_world_base=base,
        sampling="released",
        depth_threshold=0.02,
    )
    to_integers = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    want, want_count = loop_reference.released(
        points,
        T_cam_base(views, base),
        [view.K - to_integers for view in views],
        [view.depth for view in views],
        [view.features.numpy() for view in views if view.features is not None],
        0.02,
    )
    assert np.array_equal(count.numpy(), want_count)
    assert len(set(want_count.tolist())) >= 3
    assert np.abs(got.numpy() - want).max() < 1e-4


def test_conventions_differ(rng: np.random.Generator, base: np.ndarray) -> None:
    views = random_views(rng)
    points = torch.from_numpy(points_near(rng, views, base, 0.002))
    ours, _ = sample_features(points, views, stride=16, T_world_base=base)
    released, _ = sample_features(points, views, stride=16, T_world_base=base, sampling="released")
    assert (ours - released).abs().max() > 0.1


def test_lookup_at_cell_centres(rng: np.random.Generator) -> None:
    grid = torch.from_numpy(rng.standard_normal((5, 4, 6)))
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
    cells = torch.stack([columns, rows], -1).reshape(-1, 2).double()
    assert torch.allclose(lookup(grid, cells), grid.flatten(1).T, atol=1e-12)
    assert lookup(grid[:, :1, :1], torch.zeros(2, 2, dtype=torch.float64)).shape == (2, 5)


def test_own_pixels_give_their_own_colour() -> None:
    """Every pixel of a frame, as a point, gets exactly its colour back through the rgb encoder."""
    frame = frames(table_and_box())[0]
    points = transform_points(frame.T_world_cam, unproject(frame.depth, frame.K)[frame.valid])
    small = point_features(
        torch.from_numpy(points), [at_size(frame)], RGBEncoder(), T_world_base=np.eye(4)
    )
    assert (small[1] == 1).all()
    want = torch.from_numpy(frame.rgb[frame.valid]).float() / 255
    assert (small[0] - want).abs().max() < 0.02


def at_size(frame: RGBDFrame) -> RGBDFrame:
    """The same frame pasted into 320x180, so that the encoder sees it unscaled."""
    rgb = np.zeros((180, 320, 3), dtype=np.uint8)
    depth = np.zeros((180, 320), dtype=np.float32)
    rgb[: frame.height, : frame.width], depth[: frame.height, : frame.width] = (
        frame.rgb,
        frame.depth,
    )
    return RGBDFrame(
        rgb=rgb, depth=depth, valid=depth > 0, K=frame.K, T_world_cam=frame.T_world_cam
    )


def test_hidden_points_are_not_seen() -> None:
    """A point inside the box is seen by nobody: zero features, zero views."""
    views = encode_views(frames(table_and_box()), RGBEncoder(), "centered")
    points = torch.tensor([[0.55, 0.05, 0.064], [0.2, -0.2, 0.004], [5.0, 5.0, 5.0]])
    features, count = sample_features(points, views, stride=1, T_world_base=np.eye(4))
    assert count.tolist()[0] == 0
    assert count.tolist()[1] > 0
    assert count.tolist()[2] == 0
    assert (features[0] == 0).all()


@pytest.mark.rejects_input
def test_refuses(rng: np.random.Generator) -> None:
    views = random_views(rng)
    with pytest.raises(InputError, match="sampling 'nearest' is unknown"):
        sample_features(
            torch.zeros(1, 3), views, stride=16, T_world_base=np.eye(4), sampling="nearest"
        )  # type: ignore[arg-type]
    views[1].features = None
    with pytest.raises(InputError, match="each with its feature map"):
        sample_features(torch.zeros(1, 3), views, stride=16, T_world_base=np.eye(4))
