"""What happens to the record, and to those who look at it, while the arm moves."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pointworld.control.limits import JointLimits
from pointworld.control.recording import Recorder, read_recording
from pointworld.control.types import ControlError, Reason, SafetyMode
from tests.control.test_fault_processes import _logged
from tests.control.test_faults import CONFIG, NAMES, Whole, _kill
from tests.control.test_loop import DT, Scene
from tests.control.test_orphans import came_to_rest, end_and_wait, planner, start
from tests.control.test_server import eventually

assert planner

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")

#: Reads the record of a run again and again, as a viewer does; argv: its folder.
VIEWER = """
import sys
from pointworld.control.recording import read_recording
print("looking", flush=True)
while True:
    read_recording(sys.argv[1])
"""


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Whole]:
    scene = Whole(tmp_path / "run")
    yield scene
    scene.close()


def break_the_disk(path: Path) -> None:
    """From now on what this process writes to an open file ends in an input/output error, as on a broken disk.

    The file becomes a terminal whose other end is gone.
    """
    far, near = os.openpty()
    os.close(far)
    links = Path("/proc/self/fd").iterdir()
    (number,) = [int(p.name) for p in links if p.is_symlink() and p.readlink() == path]
    os.dup2(near, number)
    os.close(near)


def test_an_input_output_error_stops_the_run(fr3_limits: JointLimits, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run", joints=NAMES)
    scene = Scene(fr3_limits, recorder=recorder)
    scene.loop.submit(scene.chunk(seconds=2.0))
    scene.go(0.3)
    eventually(lambda: _logged(tmp_path / "run", "none"))
    break_the_disk(tmp_path / "run" / "events.jsonl")
    recorder.event(scene.clock.now(), "a note", Reason.NONE, "")
    recorder._thread.join(timeout=10)
    assert recorder.error is not None and "Input/output error" in recorder.error
    assert scene.until_fault() <= 2 * DT
    assert "Input/output error" in scene.loop.status().message
    scene.check_stopped(Reason.RECORDING)
    recorder.close()
    assert not read_recording(tmp_path / "run").complete


def _remove_while_written(folder: Path) -> None:
    """Remove a folder into which another process may still put a file between two looks."""
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise


def test_a_record_whose_folder_goes_away_stops_the_run(whole: Whole) -> None:
    """As when a drive is pulled, or somebody tidies up."""
    running = whole.planner()
    _remove_while_written(whole.folder)
    # The next chunk cannot be written; the planner is refused and ends.
    running.wait(5)
    _kill(running)
    eventually(whole.faulted)
    status = whole.ask().status()
    assert status.fields["reason"] == "recording", status.fields
    time.sleep(float(str(status.fields["stop_time"])))
    here = whole.ask().status().arrays["joint_positions"]
    time.sleep(0.2)
    assert np.array_equal(whole.ask().status().arrays["joint_positions"], here)
    with pytest.raises(ControlError):
        whole.ask().arm()


def test_who_looks_on_may_hang_or_crash(planner: subprocess.Popen[str], tmp_path: Path) -> None:
    """A viewer of the running record is frozen, then killed; who read the planner's words goes away."""
    folder = tmp_path / "run"
    viewer = start([sys.executable, "-c", VIEWER, str(folder)])
    assert viewer.stdout is not None and viewer.stdout.readline() == "looking\n"
    viewer.send_signal(signal.SIGSTOP)
    assert planner.stdout is not None
    planner.stdout.close()
    time.sleep(0.5)
    _kill(viewer)
    viewer.stdout.close()
    # The chunk is carried out to its end; 5 s after it came, a planner that says nothing is missed.
    eventually(lambda: _logged(folder, "chunk_expired"), 8.0)
    end_and_wait(planner, signal.SIGTERM, least=2)
    recording = read_recording(folder)
    came_to_rest(recording)
    armed = recording.ticks["mode"] == SafetyMode.ARMED.value
    assert np.diff(recording.ticks["time"][armed]).max() < CONFIG.watchdog
    assert np.ptp(recording.ticks["measured"][:, 0]) == pytest.approx(0.6, abs=0.05)
    told = [e["event"] for e in recording.events]
    assert "holding" in told[: told.index("fault")], "no fault before the end"
