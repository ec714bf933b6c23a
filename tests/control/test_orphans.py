"""Whatever ends the planner's process, the arm comes to rest, and the processes behind it end by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from pointworld.control.processes import HARD_END, start_tied
from pointworld.control.recording import Recording, read_recording
from tests.control.conftest import HOME
from tests.control.test_server import NAMES, SLACK, eventually

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc"
)

#: A planner as docs/control.md shows it: argv are a folder, joint names and home.
PLANNER = """
import json, sys, time
import numpy as np
from pointworld.control.remote import RemoteController, start_controller
from pointworld.control.safety import SafetyConfig
from pointworld.control.serve import start_server
from pointworld.control.types import Chunk
folder, names, home = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
server = start_server("fake", {"joints": names, "home": home, "max_width": 0.08}, watchdog=0.5)
safety = SafetyConfig(ramp=0.0, period=0.02, watchdog=0.5, state_age=0.4)
controller = start_controller(
    server.address, server.token, safety=safety, check_space=False, record=folder
)
link = RemoteController(controller.port, controller.token)
link.arm()
path = np.repeat(np.array(home)[None], 9, 0)
path[:, 0] += np.linspace(0, 0.6, 9)
link.submit(Chunk(sequence=1, start_time=time.monotonic(), joint_positions=path, step_dt=0.5))
status = link.status()
while status.arrays["joint_positions"][0] < 0.03:
    assert status.fields["mode"] == "armed", status.fields
    time.sleep(0.02)
    status = link.status()
print("moving", flush=True)
time.sleep(60)
"""


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and those that these have."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has ended meanwhile
            for child in (int(word) for word in path.read_text().split()):
                found += [child, *descendants(child)]
    return found


def alive(pid: int) -> bool:
    """It runs, and is not only waiting for somebody to take note of its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def start(command: list[str]) -> subprocess.Popen[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=env, preexec_fn=_listen_to_interrupts
    )


def _listen_to_interrupts() -> None:
    """A shell starts its background jobs deaf to SIGINT, and they their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def end_and_wait(process: subprocess.Popen[str], number: int, *, least: int) -> None:
    """Send a signal; the process and all that it had started must be gone in the time that docs/control.md gives."""
    family = [process.pid, *descendants(process.pid)]
    assert len(family) > least and all(alive(pid) for pid in family)
    process.send_signal(number)
    process.wait(10)
    try:
        eventually(lambda: not any(alive(pid) for pid in family), HARD_END + 4 * SLACK)
    finally:
        for pid in family:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def came_to_rest(recording: Recording) -> None:
    """It moved, and stood at the end of the record, which ended in order."""
    measured = recording.ticks["measured"]
    assert recording.complete and recording.ticks["sent"].any()
    assert np.abs(np.diff(measured, axis=0)).max() > 1e-4
    assert np.array_equal(measured[-1], measured[-2])


@pytest.fixture
def planner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    words = [str(tmp_path / "run"), str(list(NAMES)).replace("'", '"'), str(HOME.tolist())]
    process = start([sys.executable, "-c", PLANNER, *words])
    assert process.stdout is not None
    assert process.stdout.readline() == "moving\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize(
    "name",
    [
        "SIGKILL",
        "SIGINT",
        pytest.param("SIGTERM", marks=pytest.mark.slow),
        pytest.param("SIGHUP", marks=pytest.mark.slow),
    ],
)
def test_a_planner_that_ends_takes_everything_with_it(
    planner: subprocess.Popen[str], tmp_path: Path, name: str
) -> None:
    end_and_wait(planner, getattr(signal, name), least=2)
    recording = read_recording(tmp_path / "run")
    faults = [e["reason"] for e in recording.events if e["event"] == "fault"]
    assert faults == ["planner_link"], recording.events
    came_to_rest(recording)


@pytest.mark.slow
def test_a_frozen_controller_of_a_dead_planner_ends_when_it_wakes(
    planner: subprocess.Popen[str],
) -> None:
    server, controller = descendants(planner.pid)[:2]
    os.kill(controller, signal.SIGSTOP)
    planner.kill()
    try:
        # The server stops the arm by its watchdog, waits for its client, and goes.
        eventually(lambda: not alive(server), HARD_END + 4 * SLACK)
    finally:
        os.kill(controller, signal.SIGCONT)
    eventually(lambda: not alive(controller), HARD_END + 4 * SLACK)


def test_a_program_that_knows_nothing_of_it_is_tied_too() -> None:
    holder = start(
        [
            sys.executable,
            "-c",
            "import sys, time\n"
            "from pointworld.control.processes import start_tied\n"
            "start_tied([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
            "print('ready', flush=True)\ntime.sleep(60)",
        ]
    )
    assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
    eventually(lambda: len(descendants(holder.pid)) == 2)
    end_and_wait(holder, signal.SIGKILL, least=2)
    holder.stdout.close()


def test_a_tied_program_passes_its_end_on() -> None:
    process = start_tied([sys.executable, "-c", "raise SystemExit(7)"])
    assert process.wait(10) == 7
    assert process.stdin is not None
    process.stdin.close()


def test_the_command_is_killed_while_the_arm_moves(tmp_path: Path) -> None:
    """`pointworld mpc` itself, with all its processes."""
    pytest.importorskip("mujoco", reason="mujoco is not installed")
    rule = ["--dynamics", "none", "--planner", "straight", "--perception", "true"]
    words = [
        "mpc",
        "--robot",
        "fake",
        "--task",
        "tissue_box",
        "--arm",
        "--max-frame-age",
        "5",
        *rule,
    ]
    process = start(
        [sys.executable, "-m", "pointworld.cli.app", *words, "--record", str(tmp_path / "run")]
    )
    record = tmp_path / "run" / "episode_00000" / "control"

    def moving() -> bool:
        assert process.poll() is None, "the command ended"
        return len(list(record.glob("chunk-*.npz"))) > 1

    eventually(moving, 60)
    end_and_wait(process, signal.SIGKILL, least=2)
    recording = read_recording(record)
    assert [e["reason"] for e in recording.events if e["event"] == "fault"] == ["planner_link"]
    came_to_rest(recording)
    assert process.stdout is not None
    process.stdout.close()
