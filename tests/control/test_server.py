"""Robot server and client as they run: real sockets, real processes, real time."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pointworld.control.backends import FakeRobot
from pointworld.control.client import RemoteRobot
from pointworld.control.clock import SystemClock
from pointworld.control.limits import JointLimits
from pointworld.control.loop import ControlLoop, LoopStatus
from pointworld.control.recording import Recorder, read_recording
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
#: Longest silence of a client of the servers here, and oldest state that the loops here act on [s].
WATCHDOG = STATE_AGE = 0.3


class Served:
    """A fake arm behind a server in a thread."""

    def __init__(self) -> None:
        clock = SystemClock()
        self.arm = FakeRobot(NAMES, HOME, clock, max_width=0.08)
        self.arm.connect()
        config = ServerConfig(watchdog=WATCHDOG, hello=0.3)
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


def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> float:
    """Seconds until the condition holds; a test of a time limit looks at them, or gives its own."""
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


def test_what_a_driver_made_of_a_command_comes_back(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that bounds what it passes on to its arm, as that of a Franka does."""
    send = served.arm.send_action

    def bounded(wanted: JointCommand) -> JointCommand:
        return send(replace(wanted, joint_positions=wanted.joint_positions.clip(max=HOME + 0.02)))

    monkeypatch.setattr(served.arm, "send_action", bounded)
    robot = served.client()
    robot.connect()
    assert robot.get_state().reference is None
    robot.send_action(command(HOME + 0.05))
    eventually(lambda: robot.get_state().reference is not None)
    reference = robot.get_state().reference
    assert reference is not None and np.allclose(reference, HOME + 0.02)
    robot.disconnect()


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
    """A loop in a thread moves a fake arm behind a server; everything is recorded."""

    def __init__(
        self, limits: JointLimits, address: tuple[str, int], token: str, folder: Path
    ) -> None:
        """Returns when the arm is on its way."""
        self.clock = SystemClock()
        self.robot = RemoteRobot(address, token, self.clock)
        self.robot.connect()
        self.folder, self.recorder = folder, Recorder(folder, joints=NAMES)
        config = SafetyConfig(ramp=0.0, watchdog=0.5, state_age=STATE_AGE, period=0.02)
        self.loop = ControlLoop(
            self.robot,
            SafetyFilter(limits, config, body=None, max_width=0.08),
            self.clock,
            recorder=self.recorder,
        )
        self.over = threading.Event()
        self.loop.arm()
        self.thread = threading.Thread(target=self.loop.run, args=(self.over.is_set,))
        self.thread.start()
        self.loop.submit(self.chunk(1))
        eventually(lambda: self.robot.get_state().joint_positions[0] > HOME[0] + 0.01)

    def chunk(self, sequence: int) -> Chunk:
        path = np.repeat(HOME[None], 11, 0)
        path[:, 0] += np.linspace(0, 0.5, 11)
        now = self.clock.now()
        return Chunk(sequence=sequence, start_time=now, joint_positions=path, step_dt=0.5)

    def check_stopped(self, reason: set[Reason], *, since: float, within: float) -> LoopStatus:
        """In FAULT for one of these reasons in time; gives what the loop says then, when it is over with the motion."""
        eventually(lambda: self.loop.status().mode is SafetyMode.FAULT)
        assert time.monotonic() - since < within + 2 * SLACK
        status = self.loop.status()
        assert status.reason in reason and status.message
        time.sleep(self.loop.safety.stop_time)
        self.check_refusals()
        return status

    def check_refusals(self) -> None:
        """Neither a new plan, nor arming, nor a recovery that nobody acknowledges leads out of the fault."""
        with pytest.raises(ControlError):
            self.loop.submit(self.chunk(2))
        with pytest.raises(ControlError):
            self.loop.arm()
        with pytest.raises(ControlError):
            self.loop.recover(acknowledged=False)
        assert self.loop.status().mode is SafetyMode.FAULT

    def check_stopped_by_server(self, why: str) -> None:
        """The arm stands where the server stopped it, not where the commands lead that came too late."""
        eventually(
            lambda: any(f"command_timeout: {why}" in e for e in self.robot.get_state().errors)
        )
        here = self.robot.get_state().joint_positions
        time.sleep(0.3)
        state, commanded = self.robot.get_state(), self.loop.status().commanded
        assert state.mode is RobotMode.STOPPED and np.array_equal(state.joint_positions, here)
        assert commanded is not None and commanded[0] > here[0] + 0.01

    def check_recovery(self) -> None:
        """An acknowledged recovery leads to disarmed; the arm, armed again, stays where it is."""
        self.check_refusals()
        here = self.robot.get_state().joint_positions
        self.loop.recover(acknowledged=True)
        assert self.loop.status().mode is SafetyMode.DISARMED
        eventually(lambda: self.robot.get_state().mode is RobotMode.READY)
        self.loop.arm()
        time.sleep(0.2)
        status = self.loop.status()
        assert status.mode is SafetyMode.ARMED and status.holding, status.message
        assert np.array_equal(self.robot.get_state().joint_positions, here)

    def check_log(self, told: LoopStatus) -> None:
        """The record tells of one fault, as the loop did, and of no command in it after the time to stop."""
        self.close()
        reading = read_recording(self.folder)
        assert reading.complete
        (fault,) = (event for event in reading.events if event["event"] == "fault")
        assert (fault["reason"], fault["message"]) == (told.reason.value, told.message)
        ticks = reading.ticks
        sent = ticks["time"][ticks["sent"] & (ticks["mode"] == SafetyMode.FAULT.value)]
        assert (sent - fault["time"] < self.loop.safety.stop_time + SLACK).all()

    def close(self) -> None:
        self.over.set()
        self.thread.join(5)
        self.robot.disconnect()
        self.recorder.close()


def _serve(port: int = 0) -> ServerProcess:
    options = {"joints": list(NAMES), "home": HOME.tolist(), "max_width": 0.08}
    return start_server("fake", options, port=port, watchdog=WATCHDOG)


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    process = _serve()
    yield process
    process.close()


@pytest.fixture
def running(fr3_limits: JointLimits, server: ServerProcess, tmp_path: Path) -> Iterator[Running]:
    scene = Running(fr3_limits, server.address, server.token, tmp_path / "run")
    yield scene
    scene.close()


def test_the_server_is_killed_and_another_takes_its_place(
    server: ServerProcess, running: Running
) -> None:
    begun = time.monotonic()
    server.process.kill()
    told = running.check_stopped(
        {Reason.ROBOT_LINK, Reason.STATE_STALE}, since=begun, within=STATE_AGE
    )
    again = _serve(server.address[1])
    try:
        with pytest.raises(ControlError) as caught:
            running.loop.recover(acknowledged=True)
        assert caught.value.reason is Reason.ROBOT_LINK, "it is not connected to the new one"
        running.robot.disconnect()
        running.robot._token = again.token
        running.robot.connect()
        time.sleep(0.3)
        assert np.array_equal(running.robot.get_state().joint_positions, HOME)
        running.check_recovery()
        running.check_log(told)
    finally:
        again.close()


#: When the server freezes, after the arm has set off [s].
PHASES = np.random.default_rng(3).uniform(0.0, 2.0, 20).round(3).tolist()


@pytest.mark.parametrize(
    "phase", [*PHASES[:5], *(pytest.param(p, marks=pytest.mark.slow) for p in PHASES[5:])]
)
def test_the_server_freezes_and_wakes(
    server: ServerProcess, running: Running, phase: float
) -> None:
    time.sleep(phase)
    begun = time.monotonic()
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        told = running.check_stopped({Reason.STATE_STALE}, since=begun, within=STATE_AGE)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    # What had piled up in the socket is not carried out: the server latches its own stop first.
    running.check_stopped_by_server("the robot server stood still")
    running.check_recovery()
    running.check_log(told)


class Proxy:
    """Passes bytes on while it is open. While it is not they wait in it, and nobody is told: a half-open connection."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self.listener.getsockname()[:2]
        self.open = threading.Event()
        self.open.set()
        self.target = target
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        near, _ = self.listener.accept()
        far = socket.create_connection(self.target)
        threading.Thread(target=self._pass, args=(far, near), daemon=True).start()
        self._pass(near, far)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.open.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.open.set()
        self.listener.close()


def test_a_half_open_connection_stops_both_sides(
    fr3_limits: JointLimits, served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The loop by the age of the arm's state, the server by its client's silence; and so it stays when all arrives."""
    proxy = Proxy(served.server.address)
    running = Running(fr3_limits, proxy.address, TOKEN, tmp_path / "run")
    try:
        begun = time.monotonic()
        proxy.open.clear()
        eventually(lambda: served.server._latched is not None)
        assert time.monotonic() - begun < WATCHDOG + 2 * SLACK
        assert served.server._latched is not None
        assert served.server._latched[0] is Reason.COMMAND_TIMEOUT
        assert served.arm.get_state().mode is RobotMode.STOPPED
        assert "stopped (command_timeout): the client was silent" in caplog.text
        told = running.check_stopped({Reason.STATE_STALE}, since=begun, within=STATE_AGE)
        proxy.open.set()
        running.check_stopped_by_server("the client was silent")
        running.check_recovery()
        running.check_log(told)
    finally:
        running.close()
        proxy.close()
