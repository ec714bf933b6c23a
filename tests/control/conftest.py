"""One FR3 with its limits and body, shared by the tests of control."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pointworld.control.body import ArmBody
from pointworld.control.limits import JointLimits, read_joint_limits
from pointworld.control.types import RobotMode, RobotState
from pointworld.robot import RobotModel
from tests.control.pauses import run_despite_pauses

HOME = np.array([0.0, -0.4, 0.0, -2.2, 0.0, 1.9, 0.785])


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Tests of this folder bear a machine that pauses."""
    here = Path(__file__).parent in item.path.parents
    return run_despite_pauses(item, nextitem) if here else None


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


def depth_of_arm(
    robot: RobotModel, joints: np.ndarray, K: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Pose (4, 4) of a camera beside an arm, and what depth (height, width) it sees [m]; a wall is at 2 m."""
    from pointworld.data.render import camera_rays, cast_rays, embree_scene
    from pointworld.data.tabletop import CameraSpec, look_at

    T = look_at(np.array([1.3, 0.7, 0.9]), np.array([0.3, 0.0, 0.35]))
    origins, directions, scale = camera_rays(CameraSpec(K=K, T_world_cam=T), *shape)
    scene = embree_scene(np.asarray(robot.posed_mesh(joints).triangles))
    face, far = cast_rays(scene, origins, directions)
    return T, np.where(face >= 0, far * scale, 2.0).reshape(shape).astype(np.float32)
