"""Faults of the planner and of the disk between real processes: each ends in a stop with its reason, for good."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pointworld.control.recording import Recorder, read_recording
from pointworld.control.rig_process import ProcessRig
from pointworld.control.types import ControlError, Reason
from pointworld.control.wire import PROTOCOL, Decoder, Message, encode
from pointworld.robot import RobotModel
from tests.control.test_faults import NAMES, Whole, _kill
from tests.control.test_server import SLACK, eventually

resource = pytest.importorskip("resource", reason="only where a process's files can be limited")

#: Of the controllers here [s].
TIMEOUT = 1.5


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Whole]:
    scene = Whole(tmp_path / "run", planner_timeout=TIMEOUT)
    yield scene
    scene.close()


def no_more_space(pid: int) -> None:
    """From now on no file of a process grows beyond nothing, as on a full disk."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def room_again(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_a_frozen_planner_is_missed(whole: Whole) -> None:
    """Its socket stays open: only the clock tells."""
    planner = whole.planner()
    os.kill(planner.pid, signal.SIGSTOP)
    try:
        # The frozen planner holds the only place; the reason is in the log.
        eventually(lambda: _logged(whole.folder, "planner_late"), TIMEOUT + 2 + 4 * SLACK)
    finally:
        _kill(planner)
    whole.check_stopped({"planner_late"})


def _logged(folder: Path, reason: str) -> bool:
    log = folder / "events.jsonl"
    return log.is_file() and f'"{reason}"' in log.read_text()


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        ("raise ZeroDivisionError('no candidates')", "planner_error"),
        pytest.param("time.sleep(0.6)", "planner_late", marks=pytest.mark.slow),
    ],
)
def test_a_planner_that_fails_says_so_before_it_goes(whole: Whole, then: str, reason: str) -> None:
    """An exception, and a plan that took twelve times its deadline."""
    planner = whole.planner(then)
    planner.wait(10)
    _kill(planner)
    eventually(whole.faulted)
    whole.check_stopped({reason})


def test_a_disk_that_fills_under_the_controller_stops_the_run(whole: Whole) -> None:
    planner = whole.planner()
    pid = whole.controller.process.pid
    no_more_space(pid)
    try:
        # The next chunk cannot be written; the planner is refused and ends.
        planner.wait(5)
        _kill(planner)
        eventually(whole.faulted)
        status = whole.ask().status()
        assert status.fields["reason"] == "recording", status.fields
        time.sleep(float(str(status.fields["stop_time"])))
        here = whole.ask().status().arrays["joint_positions"]
        time.sleep(0.2)
        assert np.array_equal(whole.ask().status().arrays["joint_positions"], here)
        with pytest.raises(ControlError):
            whole.ask().arm()
    finally:
        room_again(pid)
    whole.ask().close()
    whole.controller.close()
    assert not read_recording(whole.folder).complete


def test_a_disk_that_fills_under_the_planner_stops_the_run(
    whole: Whole, fr3: RobotModel, tmp_path: Path
) -> None:
    recorder = Recorder(tmp_path / "pictures", joints=NAMES)
    rig = ProcessRig(whole.ask(), NAMES, fr3, [], recorder=recorder)
    rig.arm(dry_run=False)
    rig.wait(rig.clock.now() + 0.1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        recorder.plan(rig.clock.now(), {"large": np.zeros(100_000)})
        recorder._thread.join(timeout=10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with pytest.raises(ControlError) as caught:
        rig.wait(rig.clock.now() + 1.0)
    assert caught.value.reason is Reason.RECORDING
    whole.check_stopped({"recording"})


@pytest.mark.parametrize("wrong", [np.full((6, 7), np.nan), np.zeros((6, 5)), np.zeros((1, 7))])
def test_a_plan_that_makes_no_sense_stops_the_run(whole: Whole, wrong: np.ndarray) -> None:
    """NaN written past the checks of `Chunk`, too few joints, a single step."""
    link = whole.ask()
    link.arm()
    fields = {"sequence": 1, "start_time": time.monotonic(), "step_dt": 0.2}
    with pytest.raises(ControlError) as caught:
        link._call(Message("chunk", fields, {"joint_positions": wrong}))
    assert caught.value.reason is Reason.CHUNK_INVALID
    whole.check_stopped({"chunk_invalid"})


def test_a_plan_that_breaks_off_stops_the_run(whole: Whole) -> None:
    """A program that is not ours arms, and goes in the middle of its chunk."""
    fields = {"sequence": 1, "start_time": time.monotonic(), "step_dt": 0.2}
    with socket.create_connection(("127.0.0.1", whole.controller.port)) as sock:
        hello = {"token": whole.controller.token, "protocol": PROTOCOL}
        sock.settimeout(5)
        for message in (Message("hello", hello), Message("arm", {})):
            sock.sendall(encode(message))
            assert Decoder().feed(sock.recv(65536))[0].kind != "refused"
        chunk = encode(Message("chunk", fields, {"joint_positions": np.zeros((6, 7))}))
        sock.sendall(chunk[: len(chunk) // 2])
    eventually(whole.faulted)
    whole.check_stopped({"planner_link"})
