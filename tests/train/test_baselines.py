"""Baselines on a hand whose motion is known."""

from __future__ import annotations

import torch

from pointworld.geometry import make_transform
from pointworld.train import HandMotion, no_motion, object_carry, rigid_carry
from tests.train.synthetic import _box_surface

STEPS = 11


def moving_hand(speed: float = 0.01) -> HandMotion:
    """A 4 cm cube that starts at the origin, moves along x and turns about z while it goes."""
    surface, normals = _box_surface(
        torch.tensor([0.04, 0.04, 0.04]), 3000, torch.Generator().manual_seed(0)
    )
    angle = 0.02 * torch.arange(STEPS)
    R = torch.eye(3).repeat(STEPS, 1, 1)
    R[:, 0, 0] = R[:, 1, 1] = angle.cos()
    R[:, 1, 0], R[:, 0, 1] = angle.sin(), -angle.sin()
    t = torch.zeros(STEPS, 3)
    t[:, 0] = speed * torch.arange(STEPS)
    pose = make_transform(R, t)
    return HandMotion(
        surface=surface @ R.transpose(-1, -2) + t[:, None],
        normals=normals @ R.transpose(-1, -2),
        pose=pose,
    )


def test_gap_is_the_distance_and_zero_inside() -> None:
    hand = moving_hand()
    points = torch.tensor([[0.05, 0.0, 0.0], [0.015, 0.0, 0.0], [0.0, 0.0, -0.08]])
    gap = hand.gap(points, 0)
    assert abs(gap[0] - 0.03) < 2e-3
    assert gap[1] == 0
    assert abs(gap[2] - 0.06) < 2e-3
    assert hand.gap(torch.tensor([[0.5, 0.0, 0.0]]), 0).isinf().all()


def test_a_point_on_the_hand_follows_it_rigidly_and_a_far_one_stays() -> None:
    hand = moving_hand()
    points = torch.tensor([[0.021, 0.0, 0.0], [0.0, 0.5, 0.0]])
    moved = rigid_carry(points, hand, radius=0.005)
    expected = (hand.pose[10] @ torch.cat([points[0], torch.ones(1)]))[:3] - points[0]
    assert (moved[10, 0] - expected).norm() < 1e-5
    assert moved[:, 1].abs().max() == 0
    assert not no_motion(points, STEPS).any()


def test_a_point_ahead_starts_to_move_when_it_is_reached() -> None:
    moved = rigid_carry(torch.tensor([[0.07, 0.0, 0.0]]), moving_hand(), radius=0.005)[:, 0]
    still = moved[:, 0] < 1e-6
    assert still[:5].all() and not still[6:].any()


def test_the_whole_touched_object_moves_and_no_other() -> None:
    hand = moving_hand()
    near = torch.tensor([[0.03, 0.0, 0.0], [0.09, 0.02, 0.0]])
    other = torch.tensor([[0.0, 0.3, 0.0]])
    points, bodies = torch.cat([near, other]), torch.tensor([4, 4, 7])
    moved = object_carry(points, bodies, (4, 7), hand, dense_points=points, dense_bodies=bodies)
    assert (moved[10, :2].norm(dim=-1) > 0.05).all()
    gap_before, gap_after = near[1] - near[0], (near + moved[10, :2])[1] - (near + moved[10, :2])[0]
    assert abs(gap_before.norm() - gap_after.norm()) < 1e-5
    assert not moved[:, 2].any()
