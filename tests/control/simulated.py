"""One simulated scene with an FR3 and cameras, for every test that only needs some arm or picture of it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from pointworld.control.backends.mujoco_arm import MujocoArm, MujocoCamera, MujocoCameras
from pointworld.control.clock import Clock
from pointworld.data.robot_tree import robot_tree
from pointworld.data.tabletop import CameraSpec
from pointworld.plan.tasks import Task, make_task
from pointworld.robot import RobotModel

#: Of the small pictures [px].
HEIGHT, WIDTH = 36, 64


@lru_cache(maxsize=1)
def scene() -> Task:
    """A box on a table; the hand is above it. Skips the test where there is no MuJoCo."""
    pytest.importorskip("mujoco", reason="mujoco is not installed")
    return make_task("tissue_box", 1, robot_tree(RobotModel.load("fr3")))


def simulated_arm(clock: Clock) -> MujocoArm:
    """The arm of the scene, not connected yet."""
    task = scene()
    return MujocoArm(task.model, task.tree, clock, data=task.restart())


def simulated_cameras(clock: Clock) -> tuple[MujocoCamera, ...]:
    """Its cameras, with small pictures, not connected yet."""
    from pointworld.data.render import RayRenderer

    task, arm = scene(), simulated_arm(clock)
    arm.connect()
    small = np.diag([WIDTH / task.image[1], HEIGHT / task.image[0], 1.0])
    specs = [CameraSpec(K=small @ c.K, T_world_cam=c.T_world_cam) for c in task.cameras]
    return MujocoCameras(arm, specs, RayRenderer(HEIGHT, WIDTH)).cameras()
