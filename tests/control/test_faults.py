"""Faults between real processes over a network that loses, delays, repeats and holds back messages.

Every one that matters ends in a stop in time, with a reason and a readable log, and nothing goes on by itself.
"""

from __future__ import annotations

import heapq
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from pointworld.control.backends import FakeRobot
from pointworld.control.client import RemoteRobot
from pointworld.control.clock import ManualClock, SystemClock
from pointworld.control.frames import FrameWatch
from pointworld.control.limits import JointLimits
from pointworld.control.loop import ControlLoop, LoopConfig
from pointworld.control.protocols import Robot
from pointworld.control.recording import Recorder, read_recording
from pointworld.control.remote import ControllerProcess, RemoteController, start_controller
from pointworld.control.rig_process import ProcessRig
from pointworld.control.safety import SafetyConfig, SafetyFilter
from pointworld.control.serve import ServerProcess, start_server
from pointworld.control.types import (
    CameraFrame,
    Chunk,
    ControlError,
    Reason,
    RobotMode,
    RobotState,
    SafetyMode,
)
from pointworld.control.wire import Decoder, Message, encode
from pointworld.robot import RobotModel
from tests.control.conftest import HOME
from tests.control.test_loop import Scene
from tests.control.test_server import NAMES, SLACK, Served, command, eventually

#: Wide times: this machine may be busy with other things.
CONFIG = SafetyConfig(ramp=0.0, period=0.02, watchdog=0.5, state_age=0.4)
WATCHDOG = 0.3


@dataclass
class Weather:
    """What happens to the messages of one direction. lose, repeat: shares. late: seconds, drawn up to that much, in
    order as TCP keeps it; shuffle: out of order, as no TCP does. hold: everything waits until it is let go.
    """

    lose: float = 0.0
    repeat: float = 0.0
    late: float = 0.0
    shuffle: bool = False
    hold: threading.Event = field(default_factory=threading.Event)
    counts: dict[str, int] = field(
        default_factory=lambda: {"passed": 0, "lost": 0, "repeated": 0, "reordered": 0}
    )


class LossyLine:
    """A TCP proxy that takes messages apart and lets weather befall them. Greetings pass untouched."""

    def __init__(self, target: tuple[str, int], seed: int) -> None:
        self.up, self.down = Weather(), Weather()
        self._target, self._seed = target, seed
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pairs = ((near, far, self.up, 1), (far, near, self.down, 2))
            for source, sink, weather, salt in pairs:
                _Direction(source, sink, weather, np.random.default_rng((self._seed, salt)))

    def close(self) -> None:
        self._listener.close()


class _Direction:
    """One way of a connection: a thread that reads and one that writes when it is time."""

    def __init__(
        self,
        source: socket.socket,
        sink: socket.socket,
        weather: Weather,
        rng: np.random.Generator,
    ) -> None:
        self._source, self._sink, self._weather, self._rng = source, sink, weather, rng
        self._queue: list[tuple[float, int, bytes]] = []
        self._ready = threading.Condition()
        self._number, self._last, self._sent, self._over = 0, 0.0, -1, False
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._write, daemon=True).start()

    def _read(self) -> None:
        decoder = Decoder()
        try:
            while data := self._source.recv(65536):
                for message in decoder.feed(data):
                    self._take(message)
        except (OSError, ValueError):
            pass
        with self._ready:
            self._over = True
            self._ready.notify()

    def _take(self, message: Message) -> None:
        weather, greeting = self._weather, message.kind in ("hello", "welcome", "refused")
        if not greeting and self._rng.random() < weather.lose:
            weather.counts["lost"] += 1
            return
        again = not greeting and self._rng.random() < weather.repeat
        weather.counts["repeated"] += again
        for _ in range(1 + again):
            delay = 0.0 if greeting else weather.late * float(self._rng.random())
            due = time.monotonic() + delay
            if not weather.shuffle:
                due = self._last = max(due, self._last)
            with self._ready:
                heapq.heappush(self._queue, (due, self._number, encode(message)))
                self._number += 1
                self._ready.notify()

    def _write(self) -> None:
        try:
            while True:
                with self._ready:
                    now = time.monotonic()
                    held = self._weather.hold.is_set()
                    if self._over and not self._queue:
                        break
                    if held or not self._queue or self._queue[0][0] > now:
                        rest = 0.005 if held or not self._queue else self._queue[0][0] - now
                        self._ready.wait(min(rest, 0.05))
                        continue
                    _, number, data = heapq.heappop(self._queue)
                self._weather.counts["reordered"] += number < self._sent
                self._sent = max(self._sent, number)
                self._weather.counts["passed"] += 1
                self._sink.sendall(data)
        except OSError:
            pass
        for sock in (self._source, self._sink):
            sock.close()


class OverLine:
    """A loop in a thread moves a fake arm in another process, over a line with weather; everything is recorded."""

    def __init__(
        self,
        limits: JointLimits,
        folder: Path,
        seed: int,
        *,
        config: SafetyConfig = CONFIG,
        watchdog: float = WATCHDOG,
    ) -> None:
        options = {"joints": list(NAMES), "home": HOME.tolist(), "max_width": 0.08}
        self.server: ServerProcess = start_server("fake", options, watchdog=watchdog)
        self.line = LossyLine(self.server.address, seed)
        clock = SystemClock()
        self.robot = RemoteRobot(self.line.address, self.server.token, clock)
        self.robot.connect()
        self.folder = folder
        self.recorder = Recorder(folder, joints=NAMES)
        self.loop = ControlLoop(
            self.robot,
            SafetyFilter(limits, config, body=None, max_width=0.08),
            clock,
            config=LoopConfig(planner_timeout=30.0),
            recorder=self.recorder,
        )
        self.over = threading.Event()
        self.loop.arm()
        self.thread = threading.Thread(target=self.loop.run, args=(self.over.is_set,))
        self.thread.start()

    def move(self, *, angle: float = 0.4, seconds: float = 4.0) -> None:
        """Send a chunk and wait until the arm is on its way."""
        path = np.repeat(HOME[None], 9, 0)
        path[:, 0] += angle * np.linspace(0, 1, 9)
        now = time.monotonic()
        self.loop.submit(
            Chunk(sequence=1, start_time=now, joint_positions=path, step_dt=seconds / 8)
        )
        eventually(lambda: self.turned() > 0.01)

    def turned(self) -> float:
        state = self.loop.status().state
        return 0.0 if state is None else float(state.joint_positions[0])

    def check_stopped(self, reasons: set[Reason], within: float) -> None:
        """In FAULT in time for one of these reasons, standing, for good, until acknowledged; the log tells."""
        assert eventually(lambda: self.loop.status().mode is SafetyMode.FAULT) < within + SLACK
        status = self.loop.status()
        assert status.reason in reasons and status.message
        time.sleep(0.1)
        with pytest.raises(ControlError):
            self.loop.arm()
        with pytest.raises(ControlError):
            self.loop.recover(acknowledged=False)
        self.close()
        reading = read_recording(self.folder)
        faults = [event for event in reading.events if event["event"] == "fault"]
        assert [event["reason"] for event in faults] == [status.reason.value]
        assert faults[0]["message"] == status.message
        assert reading.complete

    def close(self) -> None:
        if not self.over.is_set():
            self.over.set()
            self.thread.join(5)
            self.robot.disconnect()
            self.line.close()
            self.recorder.close()

    def arm_stopped(self) -> np.ndarray:
        """Where the arm stands, as a second client of the server sees it; it must say that it was stopped."""
        robot = RemoteRobot(self.server.address, self.server.token, SystemClock())
        eventually(lambda: _connected(robot))
        try:
            eventually(lambda: robot.get_state().mode is RobotMode.STOPPED)
            here = robot.get_state().joint_positions
            time.sleep(0.2)
            assert np.array_equal(robot.get_state().joint_positions, here)
            return here
        finally:
            robot.disconnect()


def _connected(robot: RemoteRobot) -> bool:
    try:
        robot.connect()
    except ControlError:
        return False
    return True


@pytest.fixture
def over_line(fr3_limits: JointLimits, tmp_path: Path) -> Iterator[OverLine]:
    scene = OverLine(fr3_limits, tmp_path / "run", seed=7)
    yield scene
    scene.close()
    scene.server.close()


@pytest.fixture
def patient_line(fr3_limits: JointLimits, tmp_path: Path) -> Iterator[OverLine]:
    """One whose watchdogs outlast every pause of a busy machine, for what is to be borne and not stopped."""
    config = replace(CONFIG, watchdog=2.0, state_age=2.0)
    scene = OverLine(fr3_limits, tmp_path / "run", seed=7, config=config, watchdog=2.0)
    yield scene
    scene.close()
    scene.server.close()


def test_a_tenth_lost_repeated_and_late_is_borne(patient_line: OverLine) -> None:
    for weather in (patient_line.line.up, patient_line.line.down):
        weather.lose, weather.repeat, weather.late = 0.1, 0.1, 0.02
    patient_line.move(angle=0.2, seconds=1.6)
    eventually(lambda: patient_line.loop.status().holding and patient_line.turned() > 0.15, 10.0)
    assert patient_line.loop.status().mode is SafetyMode.ARMED, patient_line.loop.status().message
    for weather in (patient_line.line.up, patient_line.line.down):
        assert weather.counts["lost"] > 3 and weather.counts["repeated"] > 3, weather.counts
    assert patient_line.turned() == pytest.approx(0.2, abs=0.04)


def test_no_states_stop_the_run_by_their_age(over_line: OverLine) -> None:
    over_line.move()
    over_line.line.down.lose = 1.0
    over_line.check_stopped({Reason.STATE_STALE}, within=CONFIG.state_age)
    over_line.arm_stopped()


def test_no_commands_stop_the_arm_at_the_server(over_line: OverLine) -> None:
    over_line.move()
    over_line.line.up.lose = 1.0
    over_line.check_stopped({Reason.ROBOT_ERROR, Reason.TRACKING}, within=WATCHDOG)
    over_line.arm_stopped()


def test_what_was_held_back_is_not_carried_out_later(over_line: OverLine) -> None:
    """A second of silence, then everything at once: the server has stopped by then, and stays so."""
    over_line.move()
    over_line.line.up.hold.set()
    eventually(lambda: over_line.loop.status().mode is SafetyMode.FAULT, 3.0)
    assert over_line.loop.status().reason in (Reason.ROBOT_ERROR, Reason.TRACKING)
    here = over_line.turned()
    time.sleep(0.4)
    over_line.line.up.hold.clear()
    time.sleep(0.3)
    assert over_line.turned() == pytest.approx(here, abs=1e-3)
    over_line.check_stopped({Reason.ROBOT_ERROR, Reason.TRACKING}, within=0.0)


@pytest.mark.parametrize(
    ("up", "down", "age", "reasons"),
    [
        pytest.param(
            {"late": 2.0},
            {"late": 2.0},
            CONFIG.state_age,
            {Reason.STATE_STALE, Reason.ROBOT_ERROR, Reason.TRACKING},
            id="2 s both ways",
        ),
        # With the age that an arm's states may have outside tests; the commands come through all the time.
        pytest.param(
            {"lose": 0.1},
            {"lose": 0.1, "late": 0.2},
            SafetyConfig().state_age,
            {Reason.STATE_STALE},
            id="a tenth lost, states 200 ms late",
        ),
    ],
)
def test_much_jitter_stops_the_run(
    fr3_limits: JointLimits,
    tmp_path: Path,
    up: dict[str, float],
    down: dict[str, float],
    age: float,
    reasons: set[Reason],
) -> None:
    scene = OverLine(fr3_limits, tmp_path / "run", seed=7, config=replace(CONFIG, state_age=age))
    try:
        scene.move()
        for weather, change in ((scene.line.up, up), (scene.line.down, down)):
            for name, value in change.items():
                setattr(weather, name, value)
        scene.check_stopped(reasons, within=age + 0.6)
        scene.arm_stopped()
    finally:
        scene.close()
        scene.server.close()


def test_states_out_of_order_do_no_harm(over_line: OverLine) -> None:
    """As over UDP: older measurements that come after newer ones are passed over."""
    over_line.line.down.late, over_line.line.down.shuffle = 0.06, True
    over_line.move(angle=0.2, seconds=1.6)
    eventually(lambda: over_line.loop.status().holding and over_line.turned() > 0.15, 10.0)
    assert over_line.loop.status().mode is SafetyMode.ARMED, over_line.loop.status().message
    assert over_line.line.down.counts["reordered"] > 10


def test_commands_that_were_overtaken_are_passed_over() -> None:
    served = Served()
    try:
        robot = served.client()
        robot.connect()
        for number, place in ((1, 1), (3, 3), (2, 3), (3, 3), (4, 4)):
            robot.send_action(command(HOME + 0.01 * number, sequence=number))
            time.sleep(0.05)
            robot.get_state()
            eventually(lambda at=place: _stands(served, HOME + 0.01 * at))  # type: ignore[misc]
            time.sleep(0.05)
            robot.get_state()
            assert _stands(served, HOME + 0.01 * place), f"after command {number}"
        robot.disconnect()
        again = served.client()
        eventually(lambda: _connected(again))
        again.recover()
        eventually(lambda: again.get_state().mode is RobotMode.READY)
        again.send_action(command(HOME, sequence=1))
        eventually(lambda: _stands(served, HOME))
        again.disconnect()
    finally:
        served.over.set()
        served.thread.join(5)


def _stands(served: Served, q: np.ndarray) -> bool:
    return bool(np.allclose(served.arm.get_state().joint_positions, q))


class PutAside:
    """A fake arm whose answer comes after the process was put aside for a while, and is from the end of that."""

    def __init__(self, arm: FakeRobot, clock: ManualClock) -> None:
        self.arm, self.clock, self.away = arm, clock, 0.0

    def __getattr__(self, name: str) -> object:
        return getattr(self.arm, name)

    def get_state(self) -> RobotState:
        self.clock.time += self.away
        return self.arm.get_state()


def test_a_pause_before_measuring_is_no_state_from_the_future(fr3_limits: JointLimits) -> None:
    wrapped: list[PutAside] = []

    def wrap(arm: FakeRobot, clock: ManualClock) -> Robot:
        wrapped.append(PutAside(arm, clock))
        return wrapped[0]  # type: ignore[return-value]

    scene = Scene(fr3_limits, wrap=wrap)
    scene.loop.submit(scene.chunk(seconds=3.0))
    scene.go(0.2)
    wrapped[0].away = 0.06
    scene.go(0.03)
    assert scene.loop.status().mode is SafetyMode.ARMED, scene.loop.status().message
    wrapped[0].away = 0.2
    assert scene.until_fault() < 0.5
    assert scene.loop.status().reason is Reason.WATCHDOG


PLANNER = """
import sys, time
import numpy as np
from pointworld.control.clock import SystemClock
from pointworld.control.remote import RemoteController
from pointworld.control.planning import planning
from pointworld.control.types import Chunk
port, token = sys.stdin.readline().split()
link = RemoteController(int(port), token)
link.arm()
for number in range(1, 1000):
    here = link.status().arrays["commanded"]
    path = np.repeat(here[None], 6, 0)
    path[:, 0] += 0.1 * np.linspace(0, 1, 6)
    if number == 5:
        with planning(link, SystemClock(), deadline=0.05):
            {then}
    link.submit(Chunk(sequence=number, start_time=time.monotonic(), joint_positions=path, step_dt=0.2))
    print(number, flush=True)
    time.sleep(0.3)
"""

CAMERA = """
import sys, time
import numpy as np
from pointworld.control.wire import Message, encode
rng = np.random.default_rng(0)
for number in range(10000):
    depth = (0.7 + 0.002 * rng.standard_normal((48, 64))).astype(np.float32)
    rgb = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
    fields = {"time": time.monotonic(), "sequence": number}
    sys.stdout.buffer.write(encode(Message("frame", fields, {"depth": depth, "rgb": rgb})))
    sys.stdout.buffer.flush()
    time.sleep(0.03)
"""


class CameraProcess:
    """A driver in a process of its own; see `Camera.read_latest`."""

    name = "left"

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", CAMERA], stdout=subprocess.PIPE)
        self._newest: CameraFrame | None = None
        threading.Thread(target=self._read, daemon=True).start()
        eventually(lambda: self._newest is not None, 20)

    def _read(self) -> None:
        decoder = Decoder()
        assert self.process.stdout is not None
        while data := os.read(self.process.stdout.fileno(), 65536):
            for message in decoder.feed(data):
                self._newest = CameraFrame(
                    camera=self.name,
                    rgb=message.arrays["rgb"],
                    depth=message.arrays["depth"],
                    K=np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]),
                    time=message.number("time"),
                    sequence=int(message.number("sequence")),
                )

    def read_latest(self) -> CameraFrame:
        assert self._newest is not None
        return self._newest


class Whole:
    """Planner, controller and robot server as processes."""

    def __init__(self, folder: Path, *, planner_timeout: float = 5.0) -> None:
        self.folder = folder
        options = {"joints": list(NAMES), "home": HOME.tolist(), "max_width": 0.08}
        # As long as the controller's own: here it is not the server that is to miss its client first.
        self.server: ServerProcess = start_server("fake", options, watchdog=CONFIG.watchdog)
        self.controller: ControllerProcess = start_controller(
            self.server.address,
            self.server.token,
            safety=CONFIG,
            planner_timeout=planner_timeout,
            check_space=False,
            record=folder,
        )
        self.link: RemoteController | None = None

    def planner(self, then: str = "pass") -> subprocess.Popen[str]:
        """Start one that sends a chunk every 0.3 s, and wait until the third.

        Args:
            then: what it does after the fourth, as a statement.
        """
        process = subprocess.Popen(
            [sys.executable, "-c", PLANNER.replace("{then}", then)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{self.controller.port} {self.controller.token}\n")
        process.stdin.flush()
        while process.stdout.readline() != "3\n":
            assert process.poll() is None, "the planner ended"
        return process

    def ask(self) -> RemoteController:
        self.link = self.link or RemoteController(self.controller.port, self.controller.token)
        return self.link

    def faulted(self) -> bool:
        return bool(self.ask().status().fields["mode"] == SafetyMode.FAULT.value)

    def check_stopped(self, reasons: set[str]) -> None:
        """Standing after the stated time, for good; the log has the reason."""
        status = self.ask().status().fields
        assert status["reason"] in reasons and status["message"]
        time.sleep(float(status["stop_time"]))
        arrays = self.ask().status().arrays
        time.sleep(0.2)
        assert np.array_equal(
            self.ask().status().arrays["joint_positions"], arrays["joint_positions"]
        )
        with pytest.raises(ControlError):
            self.ask().arm()
        with pytest.raises(ControlError):
            self.ask().recover(acknowledged=False)
        self.ask().close()
        self.controller.close()
        reading = read_recording(self.folder)
        assert reading.complete
        assert [e["reason"] for e in reading.events if e["event"] == "fault"] == [status["reason"]]

    def close(self) -> None:
        self.controller.close()
        self.server.close()


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Whole]:
    scene = Whole(tmp_path / "run")
    yield scene
    scene.close()


def _kill(process: subprocess.Popen[str]) -> float:
    """SIGKILL; returns when."""
    process.send_signal(signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    return time.monotonic()


def test_the_planner_is_killed(whole: Whole) -> None:
    begun = _kill(whole.planner())
    eventually(whole.faulted)
    assert time.monotonic() - begun < 0.3 + 2 * SLACK
    whole.check_stopped({"planner_link"})


@pytest.mark.slow
def test_the_robot_server_is_killed_under_the_planner(whole: Whole) -> None:
    planner = whole.planner()
    whole.server.process.kill()
    begun = time.monotonic()
    # The planner is refused from now on and ends; the controller keeps the first reason.
    planner.wait(CONFIG.state_age + 1.0 + 4 * SLACK)
    _kill(planner)
    eventually(whole.faulted)
    assert time.monotonic() - begun < CONFIG.state_age + 1.5 + 4 * SLACK
    whole.check_stopped({"robot_link", "state_stale"})


def test_the_camera_is_killed(whole: Whole) -> None:
    camera, watch, link = CameraProcess(), FrameWatch(), whole.ask()
    link.arm()
    killed, begun = False, time.monotonic()
    for number in range(1, 60):
        # What a planner does every round: judge the newest frame, then plan.
        watch, reason, message = watch.check(camera.read_latest(), time.monotonic())
        if reason is not Reason.NONE:
            link.stop(reason, message)
            break
        path = np.repeat(link.status().arrays["commanded"][None], 6, 0)
        path[:, 0] += 0.1 * np.linspace(0, 1, 6)
        now = time.monotonic()
        link.submit(Chunk(sequence=number, start_time=now, joint_positions=path, step_dt=0.2))
        if number == 4:
            camera.process.kill()
            camera.process.wait()
            killed, begun = True, time.monotonic()
        time.sleep(0.1)
    assert killed and time.monotonic() - begun < watch.rules.age + 0.2 + SLACK
    assert whole.faulted()
    whole.check_stopped({"camera_stale"})


def test_settling_waits_for_the_arm(whole: Whole, fr3: RobotModel) -> None:
    link = whole.ask()
    rig = ProcessRig(link, NAMES, fr3, [])
    rig.settle(5.0)
    link.arm()
    path = np.repeat(link.status().arrays["commanded"][None], 6, 0)
    path[:, 0] += 0.1 * np.linspace(0, 1, 6)
    begun = time.monotonic()
    link.submit(Chunk(sequence=1, start_time=begun, joint_positions=path, step_dt=0.2))
    rig.settle(8.0)
    assert 0.9 < time.monotonic() - begun < 6.0
    assert link.status().arrays["joint_positions"][0] == pytest.approx(0.1, abs=0.025)
    link.stop()
    with pytest.raises(ControlError):
        rig.settle(1.0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_any_weather_ends_well(fr3_limits: JointLimits, tmp_path: Path, seed: int) -> None:
    """Drawn weather, changing while the arm moves: it arrives, or it stops with a reason; it never runs on."""
    rng = np.random.default_rng(seed)
    scene = OverLine(fr3_limits, tmp_path / "run", seed)
    try:
        scene.move(angle=0.3, seconds=3.0)
        end = time.monotonic() + 4.0
        while time.monotonic() < end:
            for weather in (scene.line.up, scene.line.down):
                weather.lose = float(rng.choice([0.0, 0.1, 0.5, 1.0], p=[0.5, 0.3, 0.1, 0.1]))
                weather.repeat = float(rng.choice([0.0, 0.3]))
                weather.late = float(rng.choice([0.0, 0.03, 0.3], p=[0.5, 0.4, 0.1]))
                weather.shuffle = bool(rng.random() < 0.3)
            time.sleep(float(rng.uniform(0.05, 0.4)))
        status = scene.loop.status()
        if status.mode is SafetyMode.FAULT:
            scene.check_stopped({Reason(status.reason)}, within=0.0)
            scene.arm_stopped()
        else:
            assert scene.turned() == pytest.approx(0.3, abs=0.1)
    finally:
        scene.close()
        scene.server.close()
