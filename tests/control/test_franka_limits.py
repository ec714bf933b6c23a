"""A simulated Franka box that enforces the real one's limits: what it refuses, how we stop, how its log is read.

POINTWORLD_FRANKA_SIM names a Python with franka-sim, franky-control and (without its needs) franky-sim; see
benchmarks/franka_push.py. Without it only the reading of logs is tested.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pointworld.control.client import RemoteRobot
from pointworld.control.clock import SystemClock
from pointworld.control.limits import JointLimits
from pointworld.control.loop import ControlLoop, LoopConfig
from pointworld.control.rig_open import RigConfig
from pointworld.control.rig_runs import RigRun
from pointworld.control.safety import SafetyConfig, SafetyFilter
from pointworld.control.serve import ServerProcess, start_server
from pointworld.control.task_runs import RunConfig
from pointworld.control.types import Chunk, ControlError, Reason, RobotMode, SafetyMode
from pointworld.errors import InputError
from tests.control.conftest import HOME
from tests.control.test_server import command, eventually

PYTHON = os.environ.get("POINTWORLD_FRANKA_SIM", "")
BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "franka_push.py"
with_box = pytest.mark.skipif(
    not PYTHON, reason="POINTWORLD_FRANKA_SIM does not name a Python with franka-sim"
)

LOG = """\
2026-11-21 14:45:03,135 WARNING franka_sim.mujoco_franka_sim: simulation running at 0.30x real time
2026-11-21 14:45:20,000 INFO franka_sim.robot_state: last error was joint_reflex
2026-11-21 14:45:30,000 WARNING franka_sim.franka_sim_server: 12 consecutive lost command cycles: holding
2026-11-21 14:45:31,000 WARNING franka_sim.franka_sim_server: 20 consecutive lost command cycles: holding
"""
REFLEX = "2026-11-21 14:45:37,406 ERROR franka_sim.franka_sim_server: joint_velocity_violation: dq joint 4 = 2.84\n"
TORQUE = "2026-11-21 14:45:37,406 ERROR x: tau_J_range_violation: joint 4 -- aborting\n"
LOSS = (
    "2026-11-21 14:45:37,406 ERROR x: communication_constraints_violation -- aborting the motion\n"
)


@pytest.fixture(scope="module")
def push() -> ModuleType:
    spec = importlib.util.spec_from_file_location("franka_push", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _episode(
    push: ModuleType, log: Path, text: str, outcome: str, reason: str
) -> dict[str, object]:
    log.write_text(text, encoding="utf-8")
    box = push.read_log(log)
    result = {"outcome": outcome, "reason": reason}
    return {"seed": 3, "result": result, "box": box, "cause": push.cause(result, box)}


def test_every_fault_has_its_cause_and_none_is_left_out(push: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "box.log"
    episodes = [
        _episode(push, log, LOG, "success", ""),
        _episode(push, log, LOG + LOSS, "fault", "robot_error: Reflex"),
        _episode(push, log, LOG + LOSS + REFLEX, "fault", "robot_error: Reflex"),
        _episode(push, log, REFLEX, "fault", "control_command_success_rate: 0.99"),
        _episode(push, log, TORQUE, "fault", "control_command_success_rate: 1"),
        _episode(push, log, LOG, "fault", "state_stale: the arm's state is 0.5 s old"),
        _episode(push, log, LOG, "fault", "table: the target was refused"),
        _episode(push, log, LOG, "missed", ""),
    ]
    assert [e["cause"] for e in episodes] == [
        "",
        "communication: communication_constraints_violation",
        "slow box: joint_velocity_violation at 0.30 of real time",
        "communication: joint_velocity_violation after lost cycles, 0.99 of them arrived",
        "reflex: tau_J_range_violation",
        "communication: state_stale: the arm's state is 0.5 s old",
        "ours: table: the target was refused",
        "",
    ]
    summary = push.summarise(episodes)
    assert (summary["episodes"], summary["successes"]) == (8, 1)
    assert (summary["reflexes_of_ours"], summary["communication_losses"]) == (1, 3)
    assert (summary["faults_of_a_slow_box"], summary["ours"]) == (1, 1)
    assert summary["slowest_box"] == 0.3
    assert summary["longest_loss"] == 20 and sum(summary["faults"].values()) == 6
    shown = push.table(summary, episodes)
    assert shown.count("\n| 3 |") == 7 and "1 of 8" in shown


def test_a_slow_box_is_asked_for_less(push: ModuleType) -> None:
    """At half of real time, what we send at 0.3 is for it 0.6: so half as much, and twice the steps."""
    run = RigRun(
        run=RunConfig(task="tissue_box", dynamics="none", max_steps=400),
        rig=RigConfig(robot="franka-sim", host="127.0.0.1", speed=0.3),
        arm=True,
        tool_speed=0.1,
    )
    slow = push.at_rate(run, 0.5)
    assert (slow.rig.speed, slow.tool_speed, slow.run.max_steps) == (0.15, 0.05, 800)
    assert push.at_rate(run, 1.0).rig == run.rig


def test_processes_with_a_clock_go_before_the_planner(push: ModuleType) -> None:
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    with push.served_first(), subprocess.Popen(["sleep", "30"]) as child:
        try:
            first = max(mine - push.FIRST, -20)
            if os.geteuid() == 0:
                eventually(lambda: os.getpriority(os.PRIO_PROCESS, child.pid) == first)
                eventually(lambda: os.sched_getscheduler(child.pid) == os.SCHED_RR)
            assert os.getpriority(os.PRIO_PROCESS, 0) == mine
        finally:
            child.kill()


@pytest.mark.rejects_input
def test_an_environment_without_the_box_is_refused(push: ModuleType, tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="franka-sim"),
        push.control_box(tmp_path / "bin" / "python", tmp_path / "log"),
    ):
        pass


class Limited:
    """The box with its limits, and our robot server on it."""

    def __init__(self, push: ModuleType, folder: Path, **options: Any) -> None:
        self.log = folder / "box.log"
        self._stack = ExitStack()
        self._stack.enter_context(push.control_box(Path(PYTHON), self.log))
        options = {"host": "127.0.0.1", "realtime": False, "gripper": False, **options}
        self.server: ServerProcess = start_server("franka", options, python=PYTHON)
        self._stack.callback(self.server.close)
        self.robot = RemoteRobot(self.server.address, self.server.token, SystemClock())
        self.robot.connect()
        self._stack.callback(self.robot.disconnect)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def limited(push: ModuleType, tmp_path: Path) -> Iterator[Limited]:
    scene = Limited(push, tmp_path)
    yield scene
    scene.close()


@with_box
def test_a_filtered_path_raises_no_reflex(
    push: ModuleType, limited: Limited, fr3_limits: JointLimits
) -> None:
    # Slow: the box may run at a fraction of real time.
    config = SafetyConfig(
        period=0.02, watchdog=0.5, state_age=0.4, tracking=0.3, velocity=0.1, acceleration=0.1
    )
    loop = ControlLoop(
        limited.robot,
        SafetyFilter(fr3_limits, config, body=None),
        SystemClock(),
        config=LoopConfig(planner_timeout=60.0),
    )
    over = threading.Event()
    q = limited.robot.get_state().joint_positions
    loop.arm()
    thread = threading.Thread(target=loop.run, args=(over.is_set,), daemon=True)
    thread.start()
    path = q + 0.1 * np.linspace(0, 1, 11)[:, None] * np.array([1, 0.5, 0, 0.5, 0, 0, 1])
    now = time.monotonic()
    loop.submit(Chunk(sequence=1, start_time=now, joint_positions=path, step_dt=0.5))
    eventually(lambda: limited.robot.get_state().joint_positions[0] > q[0] + 0.08, 15)
    assert loop.status().mode is SafetyMode.ARMED, loop.status().message
    over.set()
    thread.join(5)
    assert push.read_log(limited.log)["reflexes"] == {}


@with_box
def test_a_jump_past_the_filter_is_softened(limited: Limited, push: ModuleType) -> None:
    """What the arm presses against holds it as far from its command, and is not pressed harder than that."""
    robot = limited.robot
    q = robot.get_state().joint_positions
    robot.send_action(command(q, 1))
    time.sleep(0.05)
    for number in range(2, 60):
        sent = robot.send_action(command(q + np.array([0, 0, 0, 0, 0, 0.5, 0]), number))
        time.sleep(0.02)
    assert sent is not None and robot.get_state().mode is RobotMode.MOVING
    assert push.read_log(limited.log)["reflexes"] == {}
    assert 0.05 < robot.get_state().joint_positions[5] - q[5] < 0.6


@with_box
def test_a_jump_is_a_reflex_that_only_recovery_ends(push: ModuleType, tmp_path: Path) -> None:
    scene = Limited(push, tmp_path, torque=[1e4] * 7)
    try:
        _jump(push, scene)
    finally:
        scene.close()


def _jump(push: ModuleType, limited: Limited) -> None:
    robot = limited.robot
    q = robot.get_state().joint_positions
    robot.send_action(command(q, 1))
    time.sleep(0.05)
    for number in range(2, 40):
        robot.send_action(command(q + np.array([0, 0, 0, 1.2, 0, 0, 0]), number))
        time.sleep(0.02)
        if robot.get_state().mode is not RobotMode.MOVING:
            break
    eventually(lambda: robot.get_state().mode in (RobotMode.ERROR, RobotMode.STOPPED))
    eventually(lambda: bool(push.read_log(limited.log)["reflexes"]))
    eventually(lambda: bool(np.abs(robot.get_state().joint_velocities).max() < 0.01), 20)
    here = robot.get_state().joint_positions
    robot.send_action(command(q, 50))
    time.sleep(0.5)
    assert np.abs(robot.get_state().joint_positions - here).max() < 0.01, "no resumption"
    robot.recover()
    well = (RobotMode.READY, RobotMode.MOVING)
    end = time.monotonic() + 10
    while robot.get_state().mode not in well and time.monotonic() < end:
        time.sleep(0.02)
    state = robot.get_state()
    assert state.mode in well and not state.errors, (state.mode, state.errors)


@with_box
def test_the_robot_server_dies_and_the_box_stops_the_arm(
    push: ModuleType, limited: Limited
) -> None:
    robot = limited.robot
    q = robot.get_state().joint_positions
    for number in range(1, 30):
        robot.send_action(command(q + 0.003 * number * np.array([1, 0, 0, 0, 0, 0, 0]), number))
        time.sleep(0.02)
    limited.server.process.kill()

    def lost() -> bool:
        try:
            return time.monotonic() - robot.get_state().time > 0.4
        except ControlError as error:
            return error.reason is Reason.ROBOT_LINK

    assert eventually(lost, 5) < 1.0
    options = {"host": "127.0.0.1", "realtime": False, "gripper": False}
    again = start_server("franka", options, python=PYTHON)
    try:
        second = RemoteRobot(again.address, again.token, SystemClock())
        second.connect()
        eventually(lambda: bool(np.abs(second.get_state().joint_velocities).max() < 0.01), 20)
        here = second.get_state().joint_positions
        time.sleep(0.5)
        assert np.abs(second.get_state().joint_positions - here).max() < 0.01
        assert abs(here[0] - q[0]) < 0.2 and HOME.shape == here.shape
        second.disconnect()
    finally:
        again.close()
