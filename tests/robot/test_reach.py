"""Inverse kinematics: what is found is checked with forward kinematics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pointworld.errors import InputError
from pointworld.robot import RobotModel, solve_ik, straight_path


@pytest.fixture(scope="module")
def fr3() -> RobotModel:
    return RobotModel.load("fr3")


@pytest.mark.parametrize("seed", range(8))
def test_poses_of_random_configurations_are_found_again(fr3: RobotModel, seed: int) -> None:
    rng = np.random.default_rng(seed)
    near = np.clip(fr3.home + rng.uniform(-0.5, 0.5, len(fr3.home)), fr3.lower, fr3.upper)
    target = fr3.tool_pose(torch.from_numpy(near)).double().numpy()
    q = solve_ik(fr3, target, fr3.home)
    assert (q >= fr3.lower).all() and (q <= fr3.upper).all()
    found = fr3.tool_pose(torch.from_numpy(q)).double().numpy()
    assert np.abs(found - target).max() < 2e-3


@pytest.mark.parametrize(
    ("start", "stop"),
    [([0.4, 0.0, 0.05], [0.6, 0.0, 0.05]), ([0.5, -0.15, 0.08], [0.5, 0.15, 0.08])],
)
def test_a_straight_path_is_straight_and_points_down(
    fr3: RobotModel, start: list[float], stop: list[float]
) -> None:
    path = straight_path(fr3, np.array(start), np.array(stop), steps=11, gripper_width=0.0)
    T = fr3.tool_pose(torch.from_numpy(path)).double().numpy()
    np.testing.assert_allclose(T[:, :3, 3], np.linspace(start, stop, 11), atol=2e-3)
    np.testing.assert_allclose(T[:, :3, 2], np.broadcast_to([0, 0, -1.0], (11, 3)), atol=1e-2)
    heading = np.array(stop) - np.array(start)
    assert np.abs(T[:, :3, 1] @ heading).max() < 5e-3
    assert np.abs(np.diff(path, axis=0)).max() < 0.2
    assert fr3.gripper_width(torch.from_numpy(path)).abs().max() < 1e-4


@pytest.mark.rejects_input
def test_out_of_reach_is_said(fr3: RobotModel) -> None:
    with pytest.raises(InputError, match="cannot reach"):
        straight_path(
            fr3, np.array([1.5, 0, 0.1]), np.array([1.6, 0, 0.1]), steps=3, gripper_width=0
        )
