"""The robot and its planning body, shared by the planning tests."""

from __future__ import annotations

import pytest
import torch

from pointworld.plan.actions import Body
from pointworld.robot import RobotModel


@pytest.fixture(scope="session")
def robot() -> RobotModel:
    return RobotModel.load("fr3")


@pytest.fixture(scope="session")
def body(robot: RobotModel) -> Body:
    return Body.of(robot, step_dt=0.1, num_steps=11, surface=64)


@pytest.fixture(scope="session")
def home(robot: RobotModel) -> torch.Tensor:
    return torch.from_numpy(robot.home)
