"""Training augmentations, one by one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from pointworld.data.released.augment import (
    crop_spheres,
    random_colors,
    random_pose,
    scale_and_mirror,
    turn,
)
from pointworld.data.released.cloud import Cloud


def make_cloud(rng: np.random.Generator, points: int = 2000, extent: float = 1.0) -> Cloud:
    """Scene points spread over a square, the robot in its middle; the scene moves 1 cm per step along x."""
    start = rng.uniform(-extent, extent, (points, 3)) * [1, 1, 0.1]
    steps = np.arange(11)[:, None, None] * np.array([0.01, 0, 0])
    normals = rng.normal(size=(points, 3))
    return Cloud(
        positions=(start + steps).astype(np.float32),
        colors=rng.integers(0, 256, (points, 3)).astype(np.float32),
        normals=(normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32),
        supervised=np.ones((11, points), bool),
        bodies=np.zeros(points, np.int64),
        robot=rng.uniform(-0.05, 0.05, (11, 30, 3)).astype(np.float32),
        robot_normals=np.tile(np.float32([0, 0, 1]), (11, 30, 1)),
        to_base=np.eye(4),
    )


def robot_distance(cloud: Cloud, points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - cloud.robot[0], axis=-1).min(1)


def test_spheres_are_cut_far_from_the_robot(rng: np.random.Generator) -> None:
    cloud = make_cloud(rng)
    one = crop_spheres(cloud, limit=10_000)
    three = crop_spheres(cloud, limit=10)
    kept = {tuple(p) for p in one.positions[0]}
    removed = np.array([p for p in cloud.positions[0] if tuple(p) not in kept])
    assert 10 < len(removed) < 1000 and len(three.positions[0]) < len(one.positions[0])
    distance = robot_distance(cloud, cloud.positions[0])
    candidates = np.argsort(-distance)[:10]
    # The removed points are one of the ten possible balls, and the fullest of them.
    balls = []
    for i in candidates:
        radius = min(max(distance[i] - 0.25, 0.10), 0.80)
        balls.append(np.linalg.norm(cloud.positions[0] - cloud.positions[0][i], axis=1) < radius)
    assert len(removed) == max(b.sum() for b in balls)
    assert any(np.array_equal(cloud.positions[0][b], removed) for b in balls)
    assert robot_distance(cloud, removed).min() > 0.2
    assert one.supervised.shape == one.positions.shape[:2] and len(one.colors) == len(one.normals)


def test_a_sphere_never_takes_everything(rng: np.random.Generator) -> None:
    cloud = make_cloud(rng, extent=0.02)
    far = replace(cloud, robot=cloud.robot + np.float32([2, 0, 0]))
    assert len(crop_spheres(far, 1).positions[0]) == 2000


def test_turn_keeps_the_middle_of_the_scene(rng: np.random.Generator) -> None:
    cloud = make_cloud(rng)
    turned = turn(cloud, math.pi / 2)
    points = cloud.positions[0].astype(float)
    middle = (points.min(0) + points.max(0)) / 2
    offset = points - middle
    want = middle + np.stack([-offset[:, 1], offset[:, 0], offset[:, 2]], 1)
    np.testing.assert_allclose(turned.positions[0], want, atol=1e-6)
    normals = cloud.normals
    want = np.stack([-normals[:, 1], normals[:, 0], normals[:, 2]], 1)
    np.testing.assert_allclose(turned.normals, want, atol=1e-6)


def test_scale_and_mirror(rng: np.random.Generator) -> None:
    cloud = make_cloud(rng)
    moved = scale_and_mirror(cloud, 1.1, (True, False))
    np.testing.assert_allclose(moved.robot, cloud.robot * [-1.1, 1.1, 1.1], rtol=1e-5)
    np.testing.assert_allclose(moved.normals, cloud.normals * [-1, 1, 1], atol=1e-6)
    back = moved.positions @ moved.to_base[:3, :3].T + moved.to_base[:3, 3]
    np.testing.assert_allclose(back, cloud.positions, atol=1e-6)


def test_random_pose_in_its_bounds(rng: np.random.Generator) -> None:
    cloud = make_cloud(rng, points=50)
    flips, scales = [], []
    for _ in range(60):
        linear = np.linalg.inv(random_pose(cloud, rng).to_base)[:3, :3]
        scales.append(np.cbrt(abs(np.linalg.det(linear))))
        flips.append(np.linalg.det(linear) < 0)
    assert 0.9 <= min(scales) < 0.93 and 1.07 < max(scales) <= 1.1
    assert 15 < sum(flips) < 45


def test_colors_stay_colors_and_change_little(rng: np.random.Generator) -> None:
    cloud = make_cloud(rng)
    changes = []
    for _ in range(30):
        colors = random_colors(cloud, rng).colors
        assert colors.min() >= 0 and colors.max() <= 255 and (colors == np.floor(colors)).all()
        changes.append(np.abs(colors - cloud.colors).mean())
    assert 2 < np.median(changes) < 12 and min(changes) < max(changes)


@pytest.mark.parametrize(("span", "stretched"), [(40, False), (100, True)])
def test_contrast_skips_narrow_ranges(span: int, stretched: bool) -> None:
    """With generators whose first draw is below 0.2 and whose others are above 0.95 only contrast happens."""
    seed = next(
        s
        for s in range(20000)
        if (d := np.random.default_rng(s).random(3))[0] < 0.2 and d[1] >= 0.95 and d[2] >= 0.95
    )
    cloud = make_cloud(np.random.default_rng(0), points=300)
    colors = np.linspace(100, 100 + span, 300)[:, None].repeat(3, 1).astype(np.float32)
    got = random_colors(replace(cloud, colors=colors), np.random.default_rng(seed)).colors
    want = 0.8 * colors + 0.2 * (colors - 100) * 255 / span if stretched else colors
    np.testing.assert_allclose(got, np.floor(want), atol=1.01)
    assert stretched == (got.min() < 90)
