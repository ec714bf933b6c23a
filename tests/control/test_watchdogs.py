"""Whoever falls silent is missed: not before its deadline, and at the first tick after it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pointworld.control.backends import FakeRobot
from pointworld.control.clock import ManualClock
from pointworld.control.limits import JointLimits
from pointworld.control.loop import ControlLoop, LoopConfig
from pointworld.control.safety import SafetyConfig, SafetyFilter
from pointworld.control.server import RobotServer, ServerConfig, _Client
from pointworld.control.types import Chunk, JointCommand, Reason, RobotMode, RobotState, SafetyMode
from pointworld.control.wire import Message, encode
from tests.control.conftest import HOME
from tests.control.test_safety import EXAMPLES
from tests.control.test_server import TOKEN

#: Longer than any silence here [s].
_NEVER = 100.0
#: What rounding makes of times of this size [s].
_ROUNDING = 1e-9

#: All in seconds. Deadlines are far above a tick, as everywhere in use, and silences on both sides of them.
times = given(
    deadline=st.floats(0.06, 0.5), tick=st.floats(0.005, 0.05), silence=st.floats(0.0, 0.8)
)
#: Of what the safety filter itself watches, as many cases as of its other properties.
thorough = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
quick = settings(thorough, max_examples=60)


class Silent:
    """A fake arm that gives its last measurement again while `silent`."""

    def __init__(self, arm: FakeRobot) -> None:
        self.arm, self.silent = arm, False
        self._last: RobotState | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.arm, name)

    def get_state(self) -> RobotState:
        if self._last is None or not self.silent:
            self._last = self.arm.get_state()
        return self._last


class Watched:
    """An armed loop on a clock moved by hand, in which only what a test sets has a deadline."""

    def __init__(
        self,
        limits: JointLimits,
        tick: float,
        *,
        watchdog: float = _NEVER,
        state_age: float = _NEVER,
        planner: float = _NEVER,
    ) -> None:
        config = SafetyConfig(period=tick, watchdog=watchdog, state_age=state_age)
        self.tick, self.clock = tick, ManualClock(50.0)
        self.robot: Any = Silent(FakeRobot(limits.names, HOME, self.clock, max_width=0.08))
        self.robot.connect()
        safety = SafetyFilter(limits, config, body=None, max_width=0.08)
        loop = LoopConfig(planner_timeout=planner)
        self.loop = ControlLoop(self.robot, safety, self.clock, config=loop)
        self.loop.arm()
        self.go(5 * tick)

    @property
    def reason(self) -> Reason:
        return self.loop.status().reason

    def go(self, seconds: float) -> float:
        """Tick until a fault, or for so long; gives the time that has passed [s]."""
        begun = self.clock.now()
        for _ in range(math.floor(seconds / self.tick)):
            self.clock.time += self.tick
            self.loop.tick()
            if self.loop.status().mode is SafetyMode.FAULT:
                break
        return self.clock.now() - begun

    def say(self) -> None:
        """What a planner says who wants the arm to stay where it is."""
        path = np.repeat(HOME[None], 2, 0)
        now = self.clock.now()
        self.loop.submit(Chunk(sequence=1, start_time=now, joint_positions=path, step_dt=10.0))


def _in_time(passed: float, deadline: float, tick: float) -> bool:
    return deadline - _ROUNDING < passed < deadline + tick + _ROUNDING


@thorough
@times
def test_a_loop_that_was_silent_stops_at_its_first_tick(
    fr3_limits: JointLimits, deadline: float, tick: float, silence: float
) -> None:
    assume(abs(silence - deadline) > _ROUNDING)
    scene = Watched(fr3_limits, tick, watchdog=deadline)
    scene.clock.time += silence
    decision = scene.loop.tick()
    if silence <= deadline:
        assert scene.reason is Reason.NONE
    else:
        assert decision.fault is scene.reason is Reason.WATCHDOG and decision.command is None


@thorough
@times
def test_an_arm_that_is_silent_is_missed_in_time(
    fr3_limits: JointLimits, deadline: float, tick: float, silence: float
) -> None:
    assume(abs(silence - deadline) > tick)
    scene = Watched(fr3_limits, tick, state_age=deadline)
    scene.robot.silent = True
    passed = scene.go(silence)
    scene.robot.silent = False
    scene.go(deadline)
    if silence < deadline:
        assert scene.reason is Reason.NONE
    else:
        assert scene.reason is Reason.STATE_STALE and _in_time(passed, deadline, tick)


@quick
@times
def test_a_planner_that_is_silent_is_missed_in_time(
    fr3_limits: JointLimits, deadline: float, tick: float, silence: float
) -> None:
    """Whether it was heard once more before its deadline or not."""
    assume(abs(silence - deadline) > tick)
    scene = Watched(fr3_limits, tick, planner=deadline)
    scene.say()
    passed = scene.go(silence)
    if silence < deadline:
        assert scene.reason is Reason.NONE
        scene.loop.hold()
        passed = scene.go(_NEVER)
    assert scene.reason is Reason.PLANNER_LATE and _in_time(passed, deadline, tick)


@quick
@times
def test_a_client_that_is_silent_is_missed_by_the_robot_server_in_time(
    deadline: float, tick: float, silence: float
) -> None:
    """The server's clock goes on by a tick in every wait for traffic, and none comes."""
    assume(abs(silence - deadline) > tick)
    clock = ManualClock(50.0)
    arm = FakeRobot(tuple("abcdefg"), HOME, clock)
    arm.connect()
    server = RobotServer(arm, clock, token=TOKEN, config=ServerConfig(watchdog=deadline))
    try:
        _only_pass_time(server, clock, tick)
        client = _moving_client(server)
        while server._latched is None and clock.now() + tick < 50.0 + silence:
            server.step()
        if silence < deadline:
            assert server._latched is None
            client.heard = clock.now()
        while server._latched is None:
            server.step()
    finally:
        server._selector.close()
        server._listener.close()
    assert server._latched[0] is Reason.COMMAND_TIMEOUT
    assert _in_time(clock.now() - client.heard, deadline, tick)


class _Freezing(ManualClock):
    """Stands still for 5 s right before one of its readings."""

    def __init__(self, reading: int) -> None:
        super().__init__(50.0)
        self.left = reading

    def now(self) -> float:
        self.left -= 1
        if self.left == 0:
            self.time += 5.0
        return super().now()


@pytest.mark.parametrize("reading", range(1, 9))
def test_wherever_a_server_freezes_it_says_so_and_carries_nothing_old_out(reading: int) -> None:
    """A command waits in its socket all the time; the freeze is before each of the readings of two steps."""
    clock = _Freezing(0)
    arm = FakeRobot(tuple("abcdefg"), HOME, ManualClock(50.0))
    arm.connect()
    server = RobotServer(arm, clock, token=TOKEN, config=ServerConfig(watchdog=0.1))
    client = _moving_client(server)
    late: list[bool] = []
    send = arm.send_action

    def send_action(command: JointCommand) -> JointCommand:
        late.append(clock.time > 50.0)
        return send(command)

    arm.send_action = send_action  # type: ignore[method-assign]
    arrays = {"q": HOME + 0.1, "v": np.zeros(7)}
    data = encode(Message("action", {"sequence": 1, "width": None}, arrays))
    client.sock = SimpleNamespace(recv=lambda size: data, send=len)  # type: ignore[assignment]
    server._selector.close()
    ready = [(SimpleNamespace(fileobj=client.sock, data=client), 1)]
    server._selector = SimpleNamespace(select=lambda timeout: ready)  # type: ignore[assignment]
    clock.left = reading
    for _ in range(3):
        server.step()
    server._listener.close()
    assert clock.left < 0 and server._latched is not None
    assert server._latched == (Reason.COMMAND_TIMEOUT, "the robot server stood still for 5.000 s")
    assert not any(late)
    assert arm.get_state().mode is RobotMode.STOPPED


def _only_pass_time(server: RobotServer, clock: ManualClock, tick: float) -> None:
    def select(timeout: float) -> list[Any]:
        clock.time += tick
        return []

    server._selector.close()
    server._selector = SimpleNamespace(select=select, close=lambda: None)  # type: ignore[assignment]


def _moving_client(server: RobotServer) -> _Client:
    """One that has sent commands until now, and takes every state."""
    sock: Any = SimpleNamespace(send=len)
    client = _Client(sock, server.clock.now())
    client.trusted, server._active = True, True
    server._clients.append(client)
    return client
