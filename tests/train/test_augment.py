"""Augmentation keeps geometry, truth and lattice."""

from __future__ import annotations

import pytest
import torch

from pointworld.geometry import voxel_indices, voxel_representatives
from pointworld.train import AugmentConfig
from pointworld.train.augment import augment, choose_points, square_symmetry, whole
from tests.train.synthetic import push

STEP = {"step_dt": 0.1, "voxel_size": 0.015}


def test_the_eight_symmetries_are_different_and_orthogonal() -> None:
    maps = [square_symmetry(i) for i in range(8)]
    for a in maps:
        assert torch.equal(a @ a.T, torch.eye(3))
    assert len({tuple(m.flatten().tolist()) for m in maps}) == 8


@pytest.mark.parametrize("index", range(8))
def test_a_thinned_cloud_stays_thinned(index: int) -> None:
    points = torch.randn(3000, 3, generator=torch.Generator().manual_seed(index)) * 0.1
    thinned = points[voxel_representatives(points, 0.015)]
    turned = thinned @ square_symmetry(index).T
    assert len(voxel_indices(turned, 0.015).unique(dim=0)) == len(thinned)


@pytest.mark.parametrize("seed", range(6))
def test_points_robot_and_truth_move_together(seed: int) -> None:
    sample = push(seed)
    config = AugmentConfig(position_noise=0.0, full_share=1.0)
    drawn = augment(sample, config, torch.Generator().manual_seed(seed), **STEP)
    plain = whole(sample, step_dt=0.1)
    later = drawn.scene.points + drawn.displacements
    expected = plain.scene.points + plain.displacements
    for step in (0, 5, 10):
        ours = torch.cdist(later[step], drawn.robot.positions[step])
        theirs = torch.cdist(expected[step], plain.robot.positions[step])
        assert (ours - theirs).abs().max() < 1e-4
    assert torch.equal(drawn.scene.points[:, 2], plain.scene.points[:, 2])
    towards = (drawn.scene.normals * drawn.scene.points).sum(-1)
    assert towards.isfinite().all()


def test_a_crop_keeps_the_points_nearest_to_the_path() -> None:
    sample = push(0)
    config = AugmentConfig(min_points=100, max_points=100, full_share=0.0)
    chosen = choose_points(sample, config, torch.Generator().manual_seed(0))
    assert len(chosen) == 100
    left_out = torch.ones(len(sample.points), dtype=torch.bool)
    left_out[chosen] = False
    assert sample.reach[chosen].max() <= sample.reach[left_out].min()


def test_the_same_generator_draws_the_same_sample() -> None:
    draws = [
        augment(push(3), AugmentConfig(), torch.Generator().manual_seed(9), **STEP)
        for _ in range(2)
    ]
    assert torch.equal(draws[0].scene.points, draws[1].scene.points)
    assert torch.equal(draws[0].robot.positions, draws[1].robot.positions)
