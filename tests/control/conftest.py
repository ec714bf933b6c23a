"""One FR3 with its limits and body, shared by the tests of control."""

from __future__ import annotations

import numpy as np
import pytest

from pointworld.control.body import ArmBody
from pointworld.control.limits import JointLimits, read_joint_limits
from pointworld.control.types import RobotMode, RobotState
from pointworld.robot import RobotModel

HOME = np.array([0.0, -0.4, 0.0, -2.2, 0.0, 1.9, 0.785])


@pytest.fixture(scope="session")
def fr3() -> RobotModel:
    return RobotModel.load("fr3")


@pytest.fixture(scope="session")
def fr3_limits(fr3: RobotModel) -> JointLimits:
    return read_joint_limits(fr3.source, fr3.joint_names[:7])


@pytest.fixture(scope="session")
def fr3_body(fr3: RobotModel) -> ArmBody:
    return ArmBody.of(fr3)


def measured(
    q: np.ndarray = HOME, *, time: float = 0.0, sequence: int = 1, width: float | None = 0.08
) -> RobotState:
    """A healthy arm standing at q."""
    return RobotState(
        time=time,
        sequence=sequence,
        mode=RobotMode.READY,
        joint_positions=q,
        joint_velocities=np.zeros_like(q),
        gripper_width=width,
    )
