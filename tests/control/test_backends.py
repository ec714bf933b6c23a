"""The same contract for every arm; vendors' SDKs are stood in for by stubs of their calls."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pointworld.control.backends import FakeRobot
from pointworld.control.backends.franka import FrankaRobot
from pointworld.control.backends.lerobot import LeRobotArm
from pointworld.control.backends.make import make_robot
from pointworld.control.backends.ur import URRobot
from pointworld.control.backends.xarm import XArmRobot
from pointworld.control.clock import ManualClock
from pointworld.control.protocols import Robot
from pointworld.control.types import ControlError, JointCommand, Reason, RobotMode
from pointworld.errors import InputError, MissingExtraError


class Bench:
    """An arm, its clock, and ways to see and break what is behind it."""

    def __init__(
        self,
        robot: Robot,
        clock: ManualClock,
        place: Callable[[], np.ndarray],
        reach: Callable[[], None] = lambda: None,
        hurt: Callable[[bool], None] | None = None,
    ) -> None:
        self.robot, self.clock, self.place, self.reach, self.hurt = robot, clock, place, reach, hurt

    def command(self, q: np.ndarray) -> JointCommand:
        return JointCommand(joint_positions=q, joint_velocities=np.zeros_like(q))


def _module(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    module = ModuleType(name)
    for key, value in content.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)


def _fake(monkeypatch: pytest.MonkeyPatch) -> Bench:
    clock = ManualClock()
    robot = FakeRobot(tuple("abcdefg"), np.zeros(7), clock, max_width=0.08)
    return Bench(
        robot, clock, lambda: robot._place()[0], lambda: setattr(clock, "time", clock.time + 1)
    )


def _franka(monkeypatch: pytest.MonkeyPatch) -> Bench:
    arm = SimpleNamespace(q=np.zeros(7), time=0.0, error=False)

    class Arm(SimpleNamespace):
        @property
        def state(self) -> Any:
            arm.time += 0.001
            errors = SimpleNamespace(joint_reflex=arm.error, other=False)
            return SimpleNamespace(
                q=arm.q,
                dq=np.zeros(7),
                time=SimpleNamespace(to_sec=lambda: arm.time),
                robot_mode="RobotMode.Reflex" if arm.error else "RobotMode.Idle",
                current_errors=errors,
                control_command_success_rate=1.0,
            )

        @property
        def has_errors(self) -> bool:
            return bool(arm.error)

        def move(self, motion: Any, asynchronous: bool) -> None:
            assert asynchronous

        is_in_control = True

        def poll_motion(self) -> bool:
            return False

        def recover_from_errors(self) -> bool:
            return not arm.error

    _module(
        monkeypatch,
        "franky",
        Robot=lambda host, realtime_config: Arm(),
        RealtimeConfig=SimpleNamespace(Enforce=1, Ignore=0),
        JointReference=lambda q, dq=None: q,
        JointImpedanceTrackingMotion=lambda stiffness, damping: SimpleNamespace(
            set_reference=lambda q: setattr(arm, "q", q)
        ),
        TorqueStopMotion=lambda: None,
        ControlException=RuntimeError,
    )
    clock = ManualClock()
    robot = FrankaRobot(clock=clock, host="127.0.0.1", gripper=False)
    return Bench(robot, clock, lambda: arm.q, hurt=lambda on: setattr(arm, "error", on))


def _ur(monkeypatch: pytest.MonkeyPatch) -> Bench:
    arm = SimpleNamespace(q=[0.0] * 6, time=0.0, protective=False)

    class Receive:
        def __init__(self, host: str) -> None: ...
        def isConnected(self) -> bool:
            return True

        def getTimestamp(self) -> float:
            arm.time += 0.002
            return float(arm.time)

        def getActualQ(self) -> list[float]:
            return list(arm.q)

        def getActualQd(self) -> list[float]:
            return [0.0] * 6

        def isProtectiveStopped(self) -> bool:
            return bool(arm.protective)

        def isEmergencyStopped(self) -> bool:
            return False

    class Control:
        def __init__(self, host: str) -> None: ...
        def setWatchdog(self, hz: float) -> None:
            assert hz == 10.0

        def servoJ(self, q: list[float], *numbers: float) -> bool:
            assert len(numbers) == 5
            arm.q = q
            return True

        def kickWatchdog(self) -> None: ...
        def servoStop(self, deceleration: float) -> None: ...
        def stopScript(self) -> None: ...
        def isProgramRunning(self) -> bool:
            return True

    _module(monkeypatch, "rtde_control", RTDEControlInterface=Control)
    _module(monkeypatch, "rtde_receive", RTDEReceiveInterface=Receive)
    clock = ManualClock()
    robot = URRobot(clock=clock, host="127.0.0.1")
    return Bench(
        robot, clock, lambda: np.array(arm.q), hurt=lambda on: setattr(arm, "protective", on)
    )


def _xarm(monkeypatch: pytest.MonkeyPatch) -> Bench:
    class API(SimpleNamespace):
        def __init__(self, host: str, is_radian: bool) -> None:
            assert is_radian
            super().__init__(
                q=[0.0] * 7, error_code=0, warn_code=0, connected=True, mode=0, fatal=0
            )
            arms.append(self)

        def motion_enable(self, enable: bool) -> int:
            return 0

        def set_mode(self, mode: int) -> int:
            self.mode = mode
            return 0

        def set_state(self, state: int) -> int:
            return 0

        def get_joint_states(self, is_radian: bool) -> tuple[int, list[list[float]]]:
            assert is_radian
            return 0, [list(self.q), [0.0] * 7]

        def set_servo_angle(self, angle: list[float], wait: bool, **more: Any) -> int:
            assert self.mode == 6 and not wait and more["is_radian"]
            self.q = angle
            return int(self.error_code)

        def clean_error(self) -> None:
            self.error_code = self.fatal

        def clean_warn(self) -> None: ...
        def disconnect(self) -> None: ...

    arms: list[API] = []
    _module(monkeypatch, "xarm.wrapper", XArmAPI=API)
    clock = ManualClock()
    robot = XArmRobot(clock=clock, host="127.0.0.1")

    def hurt(on: bool) -> None:
        arms[0].error_code = arms[0].fatal = 24 if on else 0

    return Bench(robot, clock, lambda: np.array(arms[0].q), hurt=hurt)


def _lerobot(monkeypatch: pytest.MonkeyPatch) -> Bench:
    class Follower:
        def __init__(self) -> None:
            self.is_connected = False
            self.values = {"pan.pos": 0.0, "lift.pos": 0.0, "hand.pos": 100.0}

        def connect(self) -> None:
            self.is_connected = True

        def disconnect(self) -> None:
            self.is_connected = False

        def get_observation(self) -> dict[str, float]:
            return dict(self.values)

        def send_action(self, action: dict[str, float]) -> dict[str, float]:
            self.values.update(action)
            return action

    follower, clock = Follower(), ManualClock()
    robot = LeRobotArm(
        follower, clock=clock, joints=("pan", "lift"), gripper="hand", max_width=0.07
    )
    return Bench(
        robot, clock, lambda: np.deg2rad([follower.values["pan.pos"], follower.values["lift.pos"]])
    )


MAKERS = {"fake": _fake, "franka": _franka, "ur": _ur, "xarm": _xarm, "lerobot": _lerobot}


@pytest.fixture(params=MAKERS)
def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return MAKERS[request.param](monkeypatch)


def test_it_has_the_shape_of_a_robot(bench: Bench) -> None:
    assert isinstance(bench.robot, Robot)
    assert not bench.robot.is_connected
    assert not bench.robot.info.tried_on_hardware


def test_without_a_connection_it_says_so(bench: Bench) -> None:
    if bench.robot.info.name == "lerobot":
        pytest.skip("LeRobot's object reports by itself")
    with pytest.raises(ControlError) as caught:
        bench.robot.get_state()
    assert caught.value.reason is Reason.ROBOT_LINK


def test_commands_move_it_and_states_count_on(bench: Bench) -> None:
    bench.robot.connect()
    bench.clock.time += 1
    first = bench.robot.get_state()
    assert first.mode is RobotMode.READY and not first.errors
    q = first.joint_positions + 0.1
    assert len(q) == len(bench.robot.info.arm_joints)
    sent = bench.robot.send_action(bench.command(q))
    bench.reach()
    assert np.allclose(sent.joint_positions, q) and np.allclose(bench.place(), q)
    bench.clock.time += 0.01
    second = bench.robot.get_observation().state
    assert second.sequence > first.sequence and second.time > first.time
    assert np.allclose(second.joint_positions, q)


def test_after_a_stop_only_recovery_lets_it_move(bench: Bench) -> None:
    bench.robot.connect()
    bench.robot.stop()
    bench.robot.stop()
    here = bench.place().copy()
    with pytest.raises(ControlError) as caught:
        bench.robot.send_action(bench.command(here + 0.1))
    assert caught.value.reason is Reason.ROBOT_ERROR
    assert np.array_equal(bench.place(), here)
    bench.clock.time += 1
    assert bench.robot.get_state().mode is RobotMode.STOPPED
    bench.robot.recover()
    bench.clock.time += 1
    bench.robot.send_action(bench.command(here + 0.1))


def test_disconnecting_twice_is_fine(bench: Bench) -> None:
    bench.robot.connect()
    bench.robot.disconnect()
    bench.robot.disconnect()
    assert not bench.robot.is_connected


@pytest.mark.rejects_input
def test_broken_commands_are_not_sent(bench: Bench) -> None:
    if bench.robot.info.name == "fake":
        pytest.skip("the filter and the server stand before the fake arm")
    bench.robot.connect()
    here = bench.place().copy()
    for wrong in (np.full(len(here), np.nan), np.zeros(len(here) + 1)):
        with pytest.raises(ControlError) as caught:
            bench.robot.send_action(bench.command(wrong))
        assert caught.value.reason is Reason.COMMAND_INVALID
    assert np.array_equal(bench.place(), here)


def test_errors_of_the_arm_are_named_and_outlast_recovery(bench: Bench) -> None:
    if bench.hurt is None:
        pytest.skip("this arm reports no errors")
    bench.robot.connect()
    bench.hurt(True)
    bench.clock.time += 1
    state = bench.robot.get_state()
    assert state.mode is RobotMode.ERROR and state.errors
    bench.robot.stop()
    with pytest.raises(ControlError):
        bench.robot.recover()
    bench.hurt(False)
    bench.robot.recover()
    bench.clock.time += 1
    assert bench.robot.get_state().mode is RobotMode.READY


@pytest.mark.rejects_input
def test_missing_sdks_and_unknown_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "franky", None)
    with pytest.raises(MissingExtraError, match="franky-control"):
        make_robot("franka", {"host": "127.0.0.1"}, ManualClock()).connect()
    with pytest.raises(InputError, match="expected one of"):
        make_robot("r2d2", {}, ManualClock())
    with pytest.raises(InputError, match="options"):
        make_robot("ur", {"hots": "x"}, ManualClock())
