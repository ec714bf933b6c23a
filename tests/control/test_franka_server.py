"""The Franka driver against a server of libfranka's protocol, in an environment of its own.

POINTWORLD_FRANKY names a Python with franky-control and franky-sim (`pip install franky-control franky-sim`).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pointworld.control.body import ArmBody
from pointworld.control.client import RemoteRobot
from pointworld.control.clock import SystemClock
from pointworld.control.limits import JointLimits
from pointworld.control.loop import ControlLoop, LoopConfig
from pointworld.control.safety import SafetyConfig, SafetyFilter
from pointworld.control.serve import ServerProcess, start_server
from pointworld.control.types import Chunk, Reason, RobotMode, SafetyMode
from tests.control.test_server import eventually

PYTHON = os.environ.get("POINTWORLD_FRANKY", "")
HOST = "127.0.0.1"

pytestmark = pytest.mark.skipif(
    not PYTHON, reason="POINTWORLD_FRANKY does not name a Python with franky-control and franky-sim"
)


class Box:
    """A simulated control box and our robot server on it."""

    def __init__(self) -> None:
        program = Path(PYTHON).with_name("franky-sim")
        self.box = subprocess.Popen(
            [str(program), "-s", "mujoco", "--hostname", HOST],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(_listening, 60)
        options = {"host": HOST, "realtime": False, "gripper": False}
        self.server: ServerProcess = start_server("franka", options, python=PYTHON)
        self.robot = RemoteRobot(self.server.address, self.server.token, SystemClock())
        self.robot.connect()

    def close(self) -> None:
        self.robot.disconnect()
        self.server.close()
        self.box.kill()
        self.box.wait()


def _listening() -> bool:
    with socket.socket() as sock:
        sock.settimeout(0.5)
        return sock.connect_ex((HOST, 1337)) == 0


@pytest.fixture
def box() -> Iterator[Box]:
    scene = Box()
    yield scene
    scene.close()


def _start(
    box: Box, limits: JointLimits, body: ArmBody | None
) -> tuple[ControlLoop, threading.Event]:
    # The simulated box may run slower than real time: the arm may lag behind its targets.
    config = SafetyConfig(period=0.02, watchdog=0.5, state_age=0.4, tracking=0.3, ramp=0.5)
    safety = SafetyFilter(limits, config, body=body)
    loop = ControlLoop(box.robot, safety, SystemClock(), config=LoopConfig(planner_timeout=60.0))
    over = threading.Event()
    loop.arm()
    threading.Thread(target=loop.run, args=(over.is_set,), daemon=True).start()
    return loop, over


def _chunk(q: np.ndarray, size: float, seconds: float) -> Chunk:
    path = np.repeat(q[None], 11, 0)
    path[:, 0] += size * (1 - np.cos(np.linspace(0, np.pi, 11))) / 2
    return Chunk(
        sequence=1, start_time=time.monotonic(), joint_positions=path, step_dt=seconds / 10
    )


def test_a_chunk_moves_the_arm_and_a_frozen_box_stops_the_run(
    box: Box, fr3_limits: JointLimits
) -> None:
    info, start = box.robot.info, box.robot.get_state()
    assert info.arm_joints == fr3_limits.names and info.versions["franky-control"]
    assert start.mode is RobotMode.READY and not start.errors
    loop, over = _start(box, fr3_limits, None)
    q = start.joint_positions
    loop.submit(_chunk(q, 0.1, 9.0))
    eventually(lambda: box.robot.get_state().joint_positions[0] > q[0] + 0.05, 40)
    assert loop.status().mode is SafetyMode.ARMED, loop.status().message
    assert not box.robot.get_state().errors
    os.kill(box.box.pid, signal.SIGSTOP)
    try:
        taken = eventually(lambda: loop.status().mode is SafetyMode.FAULT, 5)
        assert taken < 1.0
        assert loop.status().reason in (Reason.STATE_STALE, Reason.ROBOT_ERROR, Reason.ROBOT_LINK)
    finally:
        os.kill(box.box.pid, signal.SIGCONT)
    over.set()


def test_a_stop_in_motion_comes_to_rest_and_recovers(box: Box, fr3_limits: JointLimits) -> None:
    loop, over = _start(box, fr3_limits, None)
    q = box.robot.get_state().joint_positions
    loop.submit(_chunk(q, 0.1, 9.0))
    eventually(lambda: box.robot.get_state().joint_positions[0] > q[0] + 0.02, 40)
    loop.stop()
    eventually(lambda: box.robot.get_state().mode is RobotMode.STOPPED, 10)
    # The box simulates with its own inertia and its own pace.
    eventually(lambda: bool(np.abs(box.robot.get_state().joint_velocities).max() < 5e-3), 15)
    here = box.robot.get_state().joint_positions
    time.sleep(0.5)
    assert np.abs(box.robot.get_state().joint_positions - here).max() < 5e-3
    loop.recover(acknowledged=True)
    eventually(lambda: box.robot.get_state().mode in (RobotMode.READY, RobotMode.MOVING), 10)
    over.set()
