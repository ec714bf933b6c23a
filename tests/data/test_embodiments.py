"""Other arms and grippers in the same generator: links where forward kinematics puts them, grasps that hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pointworld.data import ClipGenerator, TabletopConfig, clip_to_sample
from pointworld.data.robot_tree import robot_tree
from pointworld.robot import RobotModel
from tests.data.conftest import SEED

ROBOTS = ("panda_robotiq", "ur5e_robotiq")


@pytest.fixture(scope="module", params=ROBOTS)
def arm(request: pytest.FixtureRequest) -> tuple[RobotModel, ClipGenerator]:
    pytest.importorskip("mujoco")
    robot = RobotModel.load(request.param)
    config = TabletopConfig(shapes="all", height=90, width=160)
    return robot, ClipGenerator.create(robot_tree(robot), request.param, config, "auto")


def test_links_are_where_forward_kinematics_puts_them(
    arm: tuple[RobotModel, ClipGenerator],
) -> None:
    """The five mimic joints of the gripper included: what is seen is what robot flow is made of."""
    robot, generator = arm
    for index in range(3):
        clip = generator.make(SEED, index)
        fk = robot.forward_kinematics(torch.from_numpy(clip.joint_positions)).numpy()
        simulated = clip.body_transforms()
        for name in set(clip.body_names) & set(robot.link_names):
            a = fk[:, robot.link_names.index(name)]
            b = simulated[:, clip.body_names.index(name)]
            assert np.abs(a[:, :3, 3] - b[:, :3, 3]).max() < 1e-3, name
            assert np.abs(a[:, :3, :3] - b[:, :3, :3]).max() < 1e-2, name
        q = torch.from_numpy(clip.joint_positions[:, -1])
        assert robot.gripper is not None
        np.testing.assert_allclose(clip.gripper_width, robot.gripper.width(q).numpy(), atol=1e-6)


def test_samples_hold_no_robot_and_follow_the_bodies(
    arm: tuple[RobotModel, ClipGenerator],
) -> None:
    robot, generator = arm
    clip = generator.make(SEED, 1)
    sample = clip_to_sample(clip, robot)
    kinds = np.array(clip.body_kinds)[sample.body_ids.numpy()]
    assert (kinds == "robot").mean() < 0.004 and len(sample.scene) > 300
    assert clip.robot == robot.name and sample.robot.num_steps == 11


def test_grasps_lift(arm: tuple[RobotModel, ClipGenerator]) -> None:
    robot, _ = arm
    config = TabletopConfig(height=36, width=64, family_weights=(0, 0, 1, 0, 0, 0))
    generator = ClipGenerator.create(robot_tree(robot), robot.name, config, "rays")
    lifts = []
    for index in range(5, 14):
        episode = generator.draw(3, index).episode
        heights = episode.body_poses[:, episode.index.objects[0], 2]
        lifts.append(heights[-1] - heights[0])
    assert np.mean(np.array(lifts) > 0.03) > 0.3
