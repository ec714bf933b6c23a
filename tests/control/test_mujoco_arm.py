"""A whole simulated arm under the loop, with the checks of space on, seen by its cameras."""

from __future__ import annotations

import time

import numpy as np
import pytest

from pointworld.control.body import ArmBody, Space
from pointworld.control.clock import ManualClock, SystemClock
from pointworld.control.frames import FrameWatch
from pointworld.control.limits import JointLimits
from pointworld.control.loop import ControlLoop
from pointworld.control.protocols import Camera, Robot
from pointworld.control.safety import SafetyConfig, SafetyFilter
from pointworld.control.types import Chunk, ControlError, Reason, RobotMode, SafetyMode
from pointworld.robot import RobotModel

pytest.importorskip("mujoco")

from pointworld.control.backends.mujoco_arm import MujocoArm, MujocoCameras
from pointworld.data.generate import ClipGenerator, Drawn
from pointworld.data.render import RayRenderer
from pointworld.data.robot_tree import RobotTree, robot_tree
from pointworld.data.tabletop import FAMILIES, CameraSpec, TabletopConfig

DT = 0.02


@pytest.fixture(scope="module")
def tree(fr3: RobotModel) -> RobotTree:
    return robot_tree(fr3)


@pytest.fixture(scope="module")
def drawn(tree: RobotTree) -> Drawn:
    weights = tuple(1.0 if family == "push" else 0.0 for family in FAMILIES)
    config = TabletopConfig(family_weights=weights)
    return ClipGenerator.create(tree, "fr3", config, "rays").draw(5, 0)


def test_a_plan_moves_the_simulated_arm(
    drawn: Drawn, tree: RobotTree, fr3_limits: JointLimits, fr3_body: ArmBody
) -> None:
    clock = ManualClock(7.0)
    arm = MujocoArm(drawn.model, tree, clock, period=DT)
    assert isinstance(arm, Robot)
    arm.connect()
    config = SafetyConfig(ramp=0.2, period=DT, space=Space(table=drawn.scene.table_height))
    safety = SafetyFilter(fr3_limits, config, body=fr3_body, max_width=arm.info.max_width)
    loop = ControlLoop(arm, safety, clock)
    loop.arm()
    start = arm.get_state().joint_positions
    path = np.repeat(start[None], 11, 0)
    path[:, 0] += 0.2 * np.linspace(0, 1, 11)
    widths = np.linspace(0.08, 0.04, 11)
    loop.submit(
        Chunk(
            sequence=1,
            start_time=clock.now(),
            joint_positions=path,
            step_dt=0.1,
            gripper_width=widths,
        )
    )
    lag = 0.0
    for _ in range(50):
        clock.time += DT
        loop.tick()
        state, status = arm.get_state(), loop.status()
        assert status.commanded is not None
        lag = max(lag, float(np.abs(state.joint_positions - status.commanded).max()))
    for _ in range(25):
        clock.time += DT
        loop.tick()
    end = arm.get_state()
    assert loop.status().mode is SafetyMode.ARMED, loop.status().message
    assert end.joint_positions[0] - start[0] == pytest.approx(0.2, abs=0.05)
    assert end.gripper_width == pytest.approx(0.045, abs=0.01)
    assert lag < 0.02, "the servos follow"
    loop.stop()
    for _ in range(40):
        clock.time += DT
        loop.tick()
    assert arm.get_state().mode is RobotMode.STOPPED
    still = arm.get_state().joint_positions
    clock.time += 0.2
    assert np.allclose(arm.get_state().joint_positions, still, atol=1e-4)
    loop.recover(acknowledged=True)
    clock.time += DT
    loop.tick()
    loop.arm()


def test_the_cameras_see_the_scene_now(drawn: Drawn, tree: RobotTree) -> None:
    clock = ManualClock(7.0)
    arm = MujocoArm(drawn.model, tree, clock)
    arm.connect()
    small = drawn.views[0].rgb.shape[1] / 64
    specs = [
        CameraSpec(K=np.diag([1 / small, 1 / small, 1]) @ c.K, T_world_cam=c.T_world_cam)
        for c in drawn.cameras
    ]
    group = MujocoCameras(arm, specs, RayRenderer(36, 64))
    camera = group.cameras()[0]
    assert isinstance(camera, Camera)
    with pytest.raises(ControlError) as caught:
        camera.read()
    assert caught.value.reason is Reason.CAMERA_STALE
    camera.connect()
    watch, previous = FrameWatch(), -1
    for _ in range(5):
        clock.time += 0.1
        frame = camera.read_latest()
        assert frame.time == clock.now() and frame.sequence > previous
        previous = frame.sequence
        watch, reason, message = watch.check(frame, clock.now())
        assert reason is Reason.NONE, message


def test_a_look_in_real_time_renders_once_and_shows_one_moment(
    drawn: Drawn, tree: RobotTree
) -> None:
    """Time goes on between the cameras of a look; they share its moment, and the next look is a new one."""
    arm = MujocoArm(drawn.model, tree, SystemClock())
    arm.connect()
    group = MujocoCameras(arm, drawn.cameras, RayRenderer(36, 64))
    cameras = group.cameras()
    assert len(cameras) > 1
    for camera in cameras:
        camera.connect()
    previous = -np.inf
    for number in range(1, 4):
        frames = [camera.read_latest(30.0) for camera in cameras]
        assert {frame.sequence for frame in frames} == {number}
        assert len({frame.time for frame in frames}) == 1 and frames[0].time > previous
        previous = frames[0].time
    first = cameras[0].read_latest(30.0)
    time.sleep(0.02)
    assert cameras[1].read_latest(0.01).time > first.time, "older than asked for"


def test_a_pause_of_the_machine_is_left_out(drawn: Drawn, tree: RobotTree) -> None:
    clock = ManualClock(0.0)
    arm = MujocoArm(drawn.model, tree, clock)
    arm.connect()
    clock.time = 3600.0
    arm.get_state()
    assert arm.data.time < 2.0
    clock.time += 0.1
    arm.get_state()
    assert arm.data.time == pytest.approx(0.1, abs=0.01)
