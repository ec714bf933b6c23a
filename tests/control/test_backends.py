"""The same contract for every arm; vendors' SDKs are stood in for by stubs of their calls."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pointworld.control.backends import FakeRobot
from pointworld.control.backends.franka import FrankaRobot
from pointworld.control.backends.lerobot import LeRobotArm
from pointworld.control.backends.make import make_robot
from pointworld.control.backends.ur import URRobot
from pointworld.control.backends.vendor import sdk_version
from pointworld.control.backends.xarm import XArmRobot
from pointworld.control.client import RemoteRobot
from pointworld.control.clock import ManualClock, SystemClock
from pointworld.control.limits import JointLimits
from pointworld.control.protocols import Robot
from pointworld.control.serve import start_server
from pointworld.control.types import ControlError, JointCommand, Reason, RobotMode, SafetyMode
from pointworld.errors import InputError, MissingExtraError
from tests.control.conftest import HOME
from tests.control.own_driver import Follower, arm_of
from tests.control.simulated import simulated_arm
from tests.control.test_loop import CONFIG, DT, Scene

DRIVER = Path(__file__).parent / "own_driver.py"

#: A command so far away is sent on as it is by every driver, also by one that bounds its torque [rad].
STEP = 0.02


class Bench:
    """An arm that is not connected yet, and ways to let time pass, to see it, and to break what is behind it.

    near: how exactly it goes where it is sent [rad]. at_once: a command that it refuses raises; the client of a robot
    server sees it in the states. strict: it refuses commands that make no sense, and does not leave that to the filter
    before it.
    """

    def __init__(
        self,
        robot: Robot,
        advance: Callable[[float], None],
        place: Callable[[], np.ndarray],
        *,
        hurt: Callable[[bool], None] | None = None,
        near: float = 1e-8,
        at_once: bool = True,
        strict: bool = True,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.robot, self.advance, self.place, self.hurt = robot, advance, place, hurt
        self.near, self.at_once, self.strict, self.close = near, at_once, strict, close

    def send(self, q: np.ndarray) -> JointCommand:
        """A command to q (joints,) at rest."""
        return self.robot.send_action(JointCommand(joint_positions=q, joint_velocities=0 * q))

    def at(self, q: np.ndarray) -> bool:
        """Whether it stands at q (joints,)."""
        return bool(np.allclose(self.place(), q, atol=self.near, rtol=0))

    def until(self, condition: Callable[[], bool]) -> None:
        """Let time pass until it holds, 10 s at most."""
        for _ in range(200):
            if condition():
                return
            self.advance(0.05)
        raise AssertionError("it never happened")

    def mode(self) -> RobotMode:
        """As it says now."""
        return self.robot.get_state().mode


def _by_hand(clock: ManualClock) -> Callable[[float], None]:
    return lambda seconds: setattr(clock, "time", clock.time + seconds)


def _module(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    module = ModuleType(name)
    for key, value in content.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)


def _fake(monkeypatch: pytest.MonkeyPatch) -> Bench:
    clock = ManualClock()
    robot = FakeRobot(tuple("abcdefg"), np.zeros(7), clock, max_width=0.08)
    return Bench(robot, _by_hand(clock), lambda: robot._place()[0], strict=False)


def _mujoco(monkeypatch: pytest.MonkeyPatch) -> Bench:
    clock = ManualClock(3.0)
    arm = simulated_arm(clock)

    def place() -> np.ndarray:
        arm.catch_up()
        return np.array(arm.data.qpos[arm.index.arm][:-1])

    return Bench(arm, _by_hand(clock), place, near=0.006, strict=False)


def _served(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A fake arm behind a robot server's process; a busy machine may hold up both."""
    return _behind_server("fake", {"joints": list("abcdefg"), "home": [0.0] * 7, "max_width": 0.08})


def _behind_server(kind: str, options: dict[str, Any]) -> Bench:
    server = start_server(kind, options, watchdog=20.0)
    robot = RemoteRobot(server.address, server.token, SystemClock(), timeout=30.0)

    def advance(seconds: float) -> None:
        end = time.monotonic() + min(seconds, 0.3)
        while time.monotonic() < end:
            with contextlib.suppress(ControlError):
                robot.get_state()
            time.sleep(0.01)

    def close() -> None:
        robot.disconnect()
        server.close()

    return Bench(
        robot, advance, lambda: robot.get_state().joint_positions, at_once=False, close=close
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
    return Bench(robot, _by_hand(clock), lambda: arm.q, hurt=lambda on: setattr(arm, "error", on))


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

    class Dashboard:
        def __init__(self, host: str) -> None: ...
        def connect(self) -> None: ...
        def polyscopeVersion(self) -> str:
            return "5.12.4.1101661"

        def disconnect(self) -> None: ...

    _module(monkeypatch, "rtde_control", RTDEControlInterface=Control)
    _module(monkeypatch, "dashboard_client", DashboardClient=Dashboard)
    _module(monkeypatch, "rtde_receive", RTDEReceiveInterface=Receive)
    clock = ManualClock()
    robot = URRobot(clock=clock, host="127.0.0.1")
    return Bench(
        robot,
        _by_hand(clock),
        lambda: np.array(arm.q),
        hurt=lambda on: setattr(arm, "protective", on),
    )


def _xarm(monkeypatch: pytest.MonkeyPatch) -> Bench:
    class API(SimpleNamespace):
        def __init__(self, host: str, is_radian: bool) -> None:
            assert is_radian
            super().__init__(
                q=[0.0] * 7, error_code=0, warn_code=0, connected=True, mode=0, fatal=0
            )
            self.v, self.version = [0.0] * 7, "v2.6.0"
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
            return 0, [list(self.q), list(self.v)]

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

    return Bench(robot, _by_hand(clock), lambda: np.array(arms[0].q), hurt=hurt)


def _lerobot(monkeypatch: pytest.MonkeyPatch) -> Bench:
    follower, clock = Follower(), ManualClock()
    return Bench(
        arm_of(follower, clock),
        _by_hand(clock),
        lambda: np.deg2rad([follower.values["pan.pos"], follower.values["lift.pos"]]),
    )


def _own(monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A driver file behind a robot server's process."""
    return _behind_server("own", {"driver": str(DRIVER), "host": "here"})


MAKERS = {
    "fake": _fake,
    "mujoco": _mujoco,
    "served": _served,
    "franka": _franka,
    "ur": _ur,
    "xarm": _xarm,
    "lerobot": _lerobot,
    "own": _own,
}


@pytest.fixture(params=MAKERS)
def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = MAKERS[request.param](monkeypatch)
    yield made
    made.close()


def test_it_has_the_shape_of_a_robot(bench: Bench) -> None:
    assert not bench.robot.is_connected
    bench.robot.connect()
    assert isinstance(bench.robot, Robot) and bench.robot.is_connected
    assert not bench.robot.info.tried_on_hardware


def test_without_a_connection_it_says_so(bench: Bench) -> None:
    if isinstance(bench.robot, LeRobotArm):
        pytest.skip("LeRobot's object reports by itself")
    with pytest.raises(ControlError) as caught:
        bench.robot.get_state()
    assert caught.value.reason is Reason.ROBOT_LINK


def test_commands_move_it_and_states_count_on(bench: Bench) -> None:
    bench.robot.connect()
    bench.until(lambda: bench.mode() is RobotMode.READY)
    first = bench.robot.get_state()
    assert not first.errors
    q = first.joint_positions + STEP
    assert len(q) == len(bench.robot.info.arm_joints)
    assert np.allclose(bench.send(q).joint_positions, q)
    bench.until(lambda: bench.at(q))
    bench.advance(0.01)
    second = bench.robot.get_observation().state
    assert second.sequence > first.sequence and second.time > first.time
    assert np.allclose(second.joint_positions, q, atol=bench.near)


def test_after_a_stop_only_recovery_lets_it_move(bench: Bench) -> None:
    bench.robot.connect()
    bench.robot.stop()
    bench.robot.stop()
    here = bench.place().copy()
    if bench.at_once:
        with pytest.raises(ControlError) as caught:
            bench.send(here + STEP)
        assert caught.value.reason is Reason.ROBOT_ERROR
    else:
        bench.send(here + STEP)
    bench.advance(1.0)
    bench.until(lambda: bench.mode() is RobotMode.STOPPED)
    assert bench.at(here)
    bench.robot.recover()
    bench.advance(1.0)
    assert bench.at(here), "recovering moves nothing"
    bench.send(here + STEP)
    bench.until(lambda: bench.at(here + STEP))


def test_disconnecting_twice_is_fine(bench: Bench) -> None:
    bench.robot.connect()
    bench.robot.disconnect()
    bench.robot.disconnect()
    assert not bench.robot.is_connected


@pytest.mark.rejects_input
def test_broken_commands_are_not_sent(bench: Bench) -> None:
    if not bench.strict:
        pytest.skip("the filter and the server stand before this arm")
    bench.robot.connect()
    here = bench.place().copy()
    if not bench.at_once:
        bench.send(np.full(len(here), np.nan))
        bench.until(lambda: bench.mode() is RobotMode.STOPPED)
        errors = bench.robot.get_state().errors
        assert any(Reason.COMMAND_INVALID.value in e for e in errors) and bench.at(here)
        bench.robot.recover()
        bench.send(np.zeros(len(here) + 1))
        bench.until(lambda: not bench.robot.is_connected)
        return
    for wrong in (np.full(len(here), np.nan), np.zeros(len(here) + 1)):
        with pytest.raises(ControlError) as caught:
            bench.send(wrong)
        assert caught.value.reason is Reason.COMMAND_INVALID
    assert np.array_equal(bench.place(), here)


def test_errors_of_the_arm_are_named_and_outlast_recovery(bench: Bench) -> None:
    if bench.hurt is None:
        pytest.skip("this arm reports no errors")
    bench.robot.connect()
    bench.hurt(True)
    bench.advance(1.0)
    state = bench.robot.get_state()
    assert state.mode is RobotMode.ERROR and state.errors
    bench.robot.stop()
    with pytest.raises(ControlError):
        bench.robot.recover()
    bench.hurt(False)
    bench.robot.recover()
    bench.advance(1.0)
    assert bench.robot.get_state().mode is RobotMode.READY


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("franka", {"franky-control": "unknown"}),
        ("ur", {"ur_rtde": "unknown", "polyscope": "5.12.4.1101661"}),
        ("xarm", {"xarm-python-sdk": "unknown", "controller": "v2.6.0"}),
        ("lerobot", {"lerobot": "unknown"}),
    ],
)
def test_versions_of_the_sdk_and_the_controller_are_told(
    monkeypatch: pytest.MonkeyPatch, name: str, known: dict[str, str]
) -> None:
    """The SDKs are stubs here, which no package has brought."""
    bench = MAKERS[name](monkeypatch)
    bench.robot.connect()
    told, package = bench.robot.info.versions, next(iter(known))
    assert told == known | {package: sdk_version(package)}
    assert sdk_version("numpy") == np.__version__ and sdk_version("no such package") == "unknown"


def test_the_hand_of_a_franka_tells_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    _franka(monkeypatch)
    hand = SimpleNamespace(width=0.05, server_version=3)
    monkeypatch.setattr(sys.modules["franky"], "Gripper", lambda host: hand, raising=False)
    robot = FrankaRobot(clock=ManualClock(), host="127.0.0.1")
    robot.connect()
    assert robot.info.versions["hand"] == "3"
    robot.disconnect()


def test_a_controller_that_tells_no_version_is_connected_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As PolyScope X, which has no dashboard server."""
    robot = _ur(monkeypatch).robot

    def refuse(dashboard: Any) -> None:
        raise RuntimeError("Timeout connecting to UR dashboard server.")

    monkeypatch.setattr(sys.modules["dashboard_client"].DashboardClient, "connect", refuse)
    robot.connect()
    assert set(robot.info.versions) == {"ur_rtde"} and robot.is_connected


def _xarm_at_home(monkeypatch: pytest.MonkeyPatch) -> tuple[XArmRobot, Any]:
    """A connected arm, and the stub behind it."""
    robot = _xarm(monkeypatch).robot
    assert isinstance(robot, XArmRobot)
    robot.connect()
    robot._arm.q = HOME.tolist()
    return robot, robot._arm


def _lerobot_at_home(monkeypatch: pytest.MonkeyPatch) -> tuple[LeRobotArm, Any]:
    """An arm, and the stub behind it, which goes where it is sent."""
    names = tuple("abcdefg")
    behind = Follower()
    behind.values = {f"{n}.pos": float(q) for n, q in zip(names, HOME, strict=True)}
    robot = LeRobotArm(behind, clock=ManualClock(), joints=names, scale=1.0)
    robot.connect()
    return robot, behind


#: Arms whose SDK gives no time of measurement.
UNSTAMPED = {"xarm": _xarm_at_home, "lerobot": _lerobot_at_home}


def _in_a_loop(limits: JointLimits, robot: Any) -> Scene:
    """An armed loop round a driver."""

    def put(arm: FakeRobot, clock: ManualClock) -> Robot:
        robot._clock = clock
        taken: Robot = robot
        return taken

    return Scene(limits, wrap=put)


@pytest.mark.parametrize("name", UNSTAMPED)
def test_an_arm_that_stands_may_say_the_same_for_ever(
    fr3_limits: JointLimits, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    robot, _ = UNSTAMPED[name](monkeypatch)
    scene = _in_a_loop(fr3_limits, robot)
    first = robot.get_state()
    scene.go(5 * CONFIG.state_age)
    last = robot.get_state()
    assert scene.loop.status().mode is SafetyMode.ARMED, scene.loop.status().message
    assert np.array_equal(last.joint_positions, first.joint_positions)
    assert last.time == scene.clock.now() and last.sequence > first.sequence + 10


def test_a_copy_of_a_moving_arms_state_stops_the_run_by_its_age(
    fr3_limits: JointLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot, behind = _xarm_at_home(monkeypatch)
    scene = _in_a_loop(fr3_limits, robot)
    scene.go(0.2)
    behind.v = [0.05, *[0.0] * 6]
    first = robot.get_state()
    scene.clock.time += DT
    copy = robot.get_state()
    assert (copy.time, copy.sequence) == (first.time, first.sequence)
    assert scene.until_fault() <= CONFIG.state_age + DT
    scene.check_stopped(Reason.STATE_STALE)


@pytest.mark.parametrize("name", UNSTAMPED)
def test_a_copy_of_a_standing_arms_state_is_noticed_when_it_should_move(
    fr3_limits: JointLimits, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """No SDK without a time of its own can tell earlier: see bring_your_own_arm.md."""
    robot, behind = UNSTAMPED[name](monkeypatch)
    scene = _in_a_loop(fr3_limits, robot)
    call = "set_servo_angle" if name == "xarm" else "send_action"
    taken = 0 if name == "xarm" else dict(behind.__dict__.get("values", {}))
    monkeypatch.setattr(behind, call, lambda *words, **more: taken, raising=False)
    scene.loop.submit(scene.chunk(seconds=2.0))
    assert scene.until_fault() < 1.5
    scene.check_stopped(Reason.TRACKING)


@pytest.mark.parametrize("name", UNSTAMPED)
def test_a_slow_answer_is_as_old_as_its_question(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    robot, behind = UNSTAMPED[name](monkeypatch)
    call = "get_joint_states" if name == "xarm" else "get_observation"
    answer, clock = getattr(behind, call), ManualClock(7.0)
    robot._clock = clock  # type: ignore[attr-defined]

    def slowly(**more: Any) -> Any:
        clock.time += 0.3
        return answer(**more)

    monkeypatch.setattr(behind, call, slowly, raising=False)
    assert robot.get_state().time == 7.0 and clock.now() == 7.3


@pytest.mark.rejects_input
def test_missing_sdks_and_unknown_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "franky", None)
    with pytest.raises(MissingExtraError, match="franky-control"):
        make_robot("franka", {"host": "127.0.0.1"}, ManualClock()).connect()
    with pytest.raises(InputError, match="expected one of"):
        make_robot("r2d2", {}, ManualClock())
    with pytest.raises(InputError, match="options"):
        make_robot("ur", {"hots": "x"}, ManualClock())


@pytest.mark.rejects_input
def test_a_driver_file_that_makes_no_arm_is_explained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a file"):
        make_robot("own", {"driver": str(tmp_path / "none.py")}, ManualClock())
    with pytest.raises(InputError, match="no motors at there"):
        make_robot("own", {"driver": str(DRIVER), "host": "there"}, ManualClock())
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(InputError, match="must define make_robot"):
        make_robot("own", {"driver": str(tmp_path / "empty.py")}, ManualClock())
    with pytest.raises(ControlError, match="no motors at there"):
        start_server("own", {"driver": str(DRIVER), "host": "there"})
