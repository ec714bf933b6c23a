"""What a model sees of a robot: the links it was trained on, or the gripper of a robot that lacks them."""

from __future__ import annotations

import pytest
import torch

from pointworld.model.robot_surface import seen_surface
from pointworld.robot import RobotModel


@pytest.fixture(scope="module")
def robot() -> RobotModel:
    return RobotModel.load("fr3")


def test_known_links_are_taken_and_lacking_ones_named(robot: RobotModel) -> None:
    def sampled(links: tuple[str, ...] | str, *, seed: int) -> torch.Tensor:
        return robot.sample_surface(50, links=links, seed=seed).points

    hand = robot.gripper_links[:1]
    surface, absent = seen_surface(robot, hand, 50, released=False, seed=1)
    assert absent == () and torch.equal(surface.points, sampled(hand, seed=1))
    assert set(surface.link_index.tolist()) == {robot.link_names.index(hand[0])}
    surface, absent = seen_surface(robot, "gripper", 50, released=False, seed=2)
    assert absent == () and torch.equal(surface.points, sampled("gripper", seed=2))
    for released in (False, True):
        links = (*hand, "robotiq_b", "robotiq_a")
        surface, absent = seen_surface(robot, links, 50, released=released, seed=3)
        assert absent == ("robotiq_a", "robotiq_b")
        assert torch.equal(surface.points, sampled("gripper", seed=3))


def test_the_released_rule_draws_its_own_points(robot: RobotModel) -> None:
    surface, absent = seen_surface(robot, "gripper", 50, released=True, seed=3)
    assert absent == () and torch.equal(surface.points, robot.sample_surface_released(50).points)
