"""Robot server and client as they run: real sockets, real processes, real time."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from pointworld.control.backends import FakeRobot
from pointworld.control.client import RemoteRobot
from pointworld.control.clock import SystemClock
from pointworld.control.limits import JointLimits
from pointworld.control.loop import ControlLoop
from pointworld.control.safety import SafetyConfig, SafetyFilter
from pointworld.control.serve import ServerProcess, start_server
from pointworld.control.server import RobotServer, ServerConfig
from pointworld.control.types import (
    Chunk,
    ControlError,
    JointCommand,
    Reason,
    RobotMode,
    SafetyMode,
)
from pointworld.control.wire import PROTOCOL, Message, encode
from pointworld.errors import InputError
from tests.control.conftest import HOME

TOKEN = "a token of sixteen and more"
NAMES = tuple(f"fr3_joint{i}" for i in range(1, 8))
#: This machine may be busy with other things: times are checked with this much in addition [s].
SLACK = 0.25


class Served:
    """A fake arm behind a server in a thread."""

    def __init__(self) -> None:
        clock = SystemClock()
        self.arm = FakeRobot(NAMES, HOME, clock, max_width=0.08)
        self.arm.connect()
        config = ServerConfig(watchdog=0.3, hello=0.3)
        self.server = RobotServer(self.arm, clock, token=TOKEN, config=config)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.server.serve, args=(self.over.is_set,))
        self.thread.start()

    def client(self, token: str = TOKEN) -> RemoteRobot:
        return RemoteRobot(self.server.address, token, SystemClock())


@pytest.fixture
def served() -> Iterator[Served]:
    scene = Served()
    yield scene
    scene.over.set()
    scene.thread.join(5)


def command(q: np.ndarray, sequence: int = 1) -> JointCommand:
    return JointCommand(
        joint_positions=q, joint_velocities=np.zeros(7), gripper_width=0.05, sequence=sequence
    )


def eventually(condition: Callable[[], bool], seconds: float = 3.0) -> float:
    """Seconds until the condition holds."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, "never happened"
        time.sleep(0.005)
    return time.monotonic() - begun


def test_commands_and_states_pass(served: Served) -> None:
    robot = served.client()
    robot.connect()
    assert robot.info.arm_joints == NAMES and robot.info.max_width == 0.08
    sent = robot.send_action(command(HOME + 0.01))
    assert np.array_equal(sent.joint_positions, HOME + 0.01)
    eventually(lambda: np.allclose(robot.get_state().joint_positions, HOME + 0.01))
    state = robot.get_state()
    assert state.gripper_width == 0.05
    assert -0.01 < time.monotonic() - state.time < 0.1 + SLACK
    robot.disconnect()
    assert not robot.is_connected
    with pytest.raises(ControlError):
        robot.get_state()


def test_a_silent_client_stops_the_arm_until_recovery(served: Served) -> None:
    robot = served.client()
    robot.connect()
    robot.send_action(command(HOME + 0.01))
    eventually(lambda: served.server._active)
    assert eventually(lambda: served.arm.get_state().mode is RobotMode.STOPPED) < 0.3 + 2 * SLACK
    state = robot.get_state
    eventually(lambda: any("command_timeout" in e for e in state().errors))
    robot.send_action(command(HOME + 0.02))
    time.sleep(0.05)
    assert not np.allclose(state().joint_positions, HOME + 0.02), "no resumption"
    robot.recover()
    eventually(lambda: state().mode is RobotMode.READY and not state().errors)
    robot.disconnect()


def test_a_client_that_goes_stops_the_arm(served: Served) -> None:
    robot = served.client()
    robot.connect()
    robot.send_action(command(HOME + 0.01))
    eventually(lambda: served.server._active)
    robot.disconnect()
    eventually(lambda: served.arm.get_state().mode is RobotMode.STOPPED)
    again = served.client()
    again.connect()
    assert again.get_state().mode is RobotMode.STOPPED
    again.disconnect()


@pytest.mark.rejects_input
def test_wrong_tokens_and_second_clients_are_refused(served: Served) -> None:
    with pytest.raises(ControlError, match="wrong token"):
        served.client("not the token, is it?").connect()
    first = served.client()
    first.connect()
    with pytest.raises(ControlError, match="another client"):
        served.client().connect()
    assert first.get_state().sequence > 0
    first.disconnect()


@pytest.mark.rejects_input
@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"PWC1" + b"\xff" * 12, b""])
def test_strangers_are_dropped_and_the_arm_stays(served: Served, data: bytes) -> None:
    with socket.create_connection(served.server.address) as sock:
        sock.settimeout(3)
        sock.sendall(data)
        assert sock.recv(10) == b"" if data else True
    robot = served.client()
    eventually(lambda: _connects(robot))
    robot.disconnect()


def _connects(robot: RemoteRobot) -> bool:
    robot.connect()
    return robot.is_connected


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    "message",
    [
        Message("action", {"sequence": 1}, {"q": np.zeros(6), "v": np.zeros(7)}),
        Message("action", {"sequence": "one"}, {"q": np.zeros(7), "v": np.zeros(7)}),
        Message("recover", {}),
        Message("self destruct", {}),
    ],
)
def test_broken_messages_end_the_connection(served: Served, message: Message) -> None:
    with socket.create_connection(served.server.address) as sock:
        sock.settimeout(3)
        sock.sendall(encode(Message("hello", {"token": TOKEN, "protocol": PROTOCOL})))
        sock.sendall(encode(message))
        while sock.recv(65536):
            pass
    assert np.array_equal(served.arm.get_state().joint_positions, HOME)


def test_not_a_number_stops_the_arm(served: Served) -> None:
    robot = served.client()
    robot.connect()
    robot.send_action(command(np.full(7, np.nan)))
    eventually(lambda: robot.get_state().mode is RobotMode.STOPPED)
    assert any("command_invalid" in e for e in robot.get_state().errors)
    robot.disconnect()


@pytest.mark.rejects_input
def test_only_loopback_unless_said_otherwise() -> None:
    with pytest.raises(InputError, match="other machines"):
        ServerConfig(host="0.0.0.0")
    assert ServerConfig(host="0.0.0.0", allow_remote=True).allow_remote


@pytest.mark.rejects_input
def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = unused.getsockname()[:2]
    with pytest.raises(ControlError, match="Is it running"):
        RemoteRobot(address, TOKEN, SystemClock()).connect()


class Running:
    """A loop in a thread, moving a fake arm in another process."""

    def __init__(self, limits: JointLimits, server: ServerProcess) -> None:
        self.clock = SystemClock()
        self.server = server
        self.robot = RemoteRobot(server.address, server.token, self.clock)
        self.robot.connect()
        config = SafetyConfig(ramp=0.0, watchdog=0.5, state_age=0.3, period=0.02)
        self.loop = ControlLoop(
            self.robot, SafetyFilter(limits, config, body=None, max_width=0.08), self.clock
        )
        self.over = threading.Event()
        self.loop.arm()
        self.thread = threading.Thread(target=self.loop.run, args=(self.over.is_set,))
        self.thread.start()
        path = np.repeat(HOME[None], 11, 0)
        path[:, 0] += np.linspace(0, 0.5, 11)
        now = self.clock.now()
        self.loop.submit(Chunk(sequence=1, start_time=now, joint_positions=path, step_dt=0.5))

    def fault(self) -> float:
        """Seconds until the loop is in FAULT."""
        return eventually(lambda: self.loop.status().mode is SafetyMode.FAULT)

    def close(self) -> None:
        self.over.set()
        self.thread.join(5)
        self.robot.disconnect()
        self.server.close()


@pytest.fixture
def running(fr3_limits: JointLimits) -> Iterator[Running]:
    options = {"joints": list(NAMES), "home": HOME.tolist(), "max_width": 0.08}
    scene = Running(fr3_limits, start_server("fake", options))
    yield scene
    scene.close()


def test_the_server_is_killed(running: Running) -> None:
    time.sleep(0.3)
    running.server.process.kill()
    assert running.fault() < 0.3 + 2 * SLACK
    assert running.loop.status().reason in (Reason.ROBOT_LINK, Reason.STATE_STALE)


def test_the_server_freezes_and_wakes(running: Running) -> None:
    time.sleep(0.3)
    os.kill(running.server.process.pid, signal.SIGSTOP)
    try:
        assert running.fault() < 0.3 + 2 * SLACK
        assert running.loop.status().reason in (Reason.ROBOT_LINK, Reason.STATE_STALE)
        time.sleep(0.3)
    finally:
        os.kill(running.server.process.pid, signal.SIGCONT)
    # What had piled up in the socket is not carried out: the server latches its own stop first.
    time.sleep(0.2)
    here = running.robot._state
    time.sleep(0.2)
    there = running.robot._state
    assert here is not None and there is not None
    assert np.array_equal(here.joint_positions, there.joint_positions)
    assert running.loop.status().mode is SafetyMode.FAULT


@pytest.mark.slow
@pytest.mark.parametrize("phase", np.random.default_rng(3).uniform(0.0, 2.0, 20).round(3))
def test_the_server_freezes_at_any_time(running: Running, phase: float) -> None:
    time.sleep(float(phase))
    test_the_server_freezes_and_wakes(running)


class Proxy:
    """Passes bytes on until it is told to be silent: a half-open connection."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()[:2]
        self.silent = threading.Event()
        self.target = target
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        near, _ = self.listener.accept()
        far = socket.create_connection(self.target)
        threading.Thread(target=self._pass, args=(far, near), daemon=True).start()
        self._pass(near, far)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if not self.silent.is_set():
                    sink.sendall(data)
        except OSError:
            return


def test_a_half_open_connection_stops_both_sides(served: Served) -> None:
    proxy = Proxy(served.server.address)
    robot = RemoteRobot((str(proxy.address[0]), int(proxy.address[1])), TOKEN, SystemClock())
    robot.connect()
    robot.send_action(command(HOME + 0.01))
    eventually(lambda: served.server._active)
    proxy.silent.set()
    begun = time.monotonic()
    while served.arm.get_state().mode is not RobotMode.STOPPED:
        robot.get_state()
        assert time.monotonic() - begun < 0.3 + 2 * SLACK
        time.sleep(0.01)
    age = time.monotonic() - robot.get_state().time
    assert age > 0.2, "the client sees it by the age of the state"
    robot.disconnect()
