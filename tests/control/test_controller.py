"""Three processes: this one plans, the controller checks, the robot server moves. Any of them may die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pointworld.control.client import RemoteRobot
from pointworld.control.clock import SystemClock
from pointworld.control.recording import read_recording
from pointworld.control.remote import ControllerProcess, RemoteController, start_controller
from pointworld.control.safety import SafetyConfig
from pointworld.control.serve import ServerProcess, start_server
from pointworld.control.types import Chunk, ControlError, Reason, RobotMode, SafetyMode
from tests.control.conftest import HOME
from tests.control.test_server import NAMES, SLACK, eventually

CONFIG = SafetyConfig(ramp=0.0, period=0.02, watchdog=0.5, state_age=0.4)


class Three:
    """The processes, armed and moving."""

    def __init__(self, folder: Path) -> None:
        options = {"joints": list(NAMES), "home": HOME.tolist(), "max_width": 0.08}
        self.server: ServerProcess = start_server("fake", options)
        self.controller: ControllerProcess = start_controller(
            self.server.address,
            self.server.token,
            safety=CONFIG,
            check_space=False,
            record=folder / "run",
        )
        self.planner = RemoteController(self.controller.port, self.controller.token)

    def move(self, sequence: int = 1) -> None:
        """Arm and send a slow chunk of four seconds."""
        self.planner.arm()
        path = np.repeat(HOME[None], 9, 0)
        path[:, 0] += np.linspace(0, 0.4, 9)
        now = time.monotonic()
        self.planner.submit(
            Chunk(sequence=sequence, start_time=now, joint_positions=path, step_dt=0.5)
        )
        eventually(lambda: self.planner.status().arrays["joint_positions"][0] > 0.01)

    def look(self) -> RemoteRobot:
        """A second client of the robot server, once the controller is gone."""
        robot = RemoteRobot(self.server.address, self.server.token, SystemClock())

        def connected() -> bool:
            try:
                robot.connect()
            except ControlError:
                return False
            return True

        eventually(connected)
        return robot

    def close(self) -> None:
        self.planner.close()
        self.controller.close()
        self.server.close()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Three]:
    scene = Three(tmp_path)
    yield scene
    scene.close()


def test_a_planner_in_another_process_moves_the_arm_and_is_missed(
    three: Three, tmp_path: Path
) -> None:
    with pytest.raises(ControlError) as caught:
        three.planner.recover(acknowledged=True)
    assert caught.value.reason is Reason.NOT_ARMED
    with pytest.raises(ControlError):
        RemoteController(three.controller.port, "not the token of this one", timeout=0.5)
    three.move()
    # As a killed planner does: its socket closes without a word.
    three.planner.close()
    three.planner = RemoteController(three.controller.port, three.controller.token)
    status = three.planner.status().fields
    assert (status["mode"], status["reason"]) == (SafetyMode.FAULT.value, "planner_link")
    time.sleep(status["stop_time"])
    here = three.planner.status().arrays["joint_positions"]
    time.sleep(0.1)
    assert np.array_equal(three.planner.status().arrays["joint_positions"], here)
    with pytest.raises(ControlError):
        three.planner.arm()
    three.planner.recover(acknowledged=True)
    eventually(lambda: three.planner.status().fields["mode"] == SafetyMode.DISARMED.value)
    three.controller.close()
    read = read_recording(tmp_path / "run")
    assert read.complete
    assert "planner_link" in [event["reason"] for event in read.events]


def test_the_controller_is_killed(three: Three, tmp_path: Path) -> None:
    three.move()
    begun = time.monotonic()
    three.controller.process.kill()
    robot = three.look()
    state = robot.get_state()
    assert state.mode is RobotMode.STOPPED and time.monotonic() - begun < 1.0 + 2 * SLACK
    assert any("robot_link" in e or "command_timeout" in e for e in state.errors)
    time.sleep(0.1)
    assert np.array_equal(robot.get_state().joint_positions, state.joint_positions)
    robot.disconnect()
    with pytest.raises(ControlError) as caught:
        three.planner.status()
    assert caught.value.reason is Reason.PLANNER_LINK
    assert not read_recording(tmp_path / "run").complete


@pytest.mark.slow
def test_the_controller_freezes_and_wakes(three: Three) -> None:
    three.move()
    os.kill(three.controller.process.pid, signal.SIGSTOP)
    time.sleep(0.8)
    os.kill(three.controller.process.pid, signal.SIGCONT)
    eventually(lambda: three.planner.status().fields["mode"] == SafetyMode.FAULT.value)
    reason = three.planner.status().fields["reason"]
    assert reason in ("watchdog", "robot_error", "state_stale", "robot_link")


@pytest.mark.slow
def test_the_robot_server_is_killed(three: Three) -> None:
    three.move()
    three.server.process.kill()
    eventually(lambda: three.planner.status().fields["mode"] == SafetyMode.FAULT.value)
    assert three.planner.status().fields["reason"] in ("robot_link", "state_stale")


@pytest.mark.slow
@pytest.mark.rejects_input
def test_a_controller_without_a_robot_says_so() -> None:
    with pytest.raises(ControlError, match="did not start"):
        start_controller(("127.0.0.1", 9), "a token that nobody asked for")
