"""Processes of a rig: started with their options on stdin, and gone when the one that started them is.

The one that starts holds the other end of stdin. However it ends (also by SIGKILL), the system closes that end; the
process that was started sees it, brings the arm to rest and ends. As a program this module ties a command that knows
nothing of that to the same end: `python -m pointworld.control.processes COMMAND ...`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import IO, Any

from pointworld.control.types import ControlError, Reason

#: A process that was left alone ends within this, whatever it hangs in [s].
HARD_END = 10.0
#: A command that was asked to end gets this long before it is killed [s].
_PATIENCE = 2.0


class Lifeline:
    """Watches for the end of the process that started this one.

    over: set when this process shall end: by SIGTERM, by SIGINT, or, with `tied`, after the starter has gone.
    """

    def __init__(self) -> None:
        self.over = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.over.set()

    def tie(self, cut: Callable[[], object]) -> None:
        """From now on, call `cut()` in a thread when the starter has gone, then set `over`.

        Whatever hangs after that, the process is ended `HARD_END` [s] later.
        """
        threading.Thread(target=self._watch, args=(cut,), name="lifeline", daemon=True).start()

    def _watch(self, cut: Callable[[], object]) -> None:
        # Not through sys.stdin, whose lock a waiting thread would hold while the interpreter shuts down.
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                continue
        threading.Thread(target=_end_hard, name="hard end", daemon=True).start()
        try:
            cut()
        finally:
            self.over.set()


def _end_hard() -> None:
    time.sleep(HARD_END)
    os._exit(3)


@dataclass(frozen=True, kw_only=True, eq=False)
class Child:
    """A running process. When this one ends, or lets go of it, it ends too."""

    process: subprocess.Popen[str]

    def close(self, timeout: float = 5.0) -> None:
        """End it; the arm comes to rest on the way."""
        end_process(self.process, timeout)


def start_child(
    command: Sequence[str], options: Mapping[str, Any], what: str, *, env: Mapping[str, str]
) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """Start a command, give it `options` as a JSON line, and read the JSON line that it answers when it is ready.

    It gets a session of its own: Ctrl-C reaches this process alone, which ends the others in order.

    Raises:
        ControlError: ROBOT_LINK with what it says.
    """
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps({**options, "tied": True}) + "\n")
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
    except (ValueError, OSError):
        answer = {"error": "it ended without a word"}
    if "error" in answer:
        process.kill()
        end_process(process, _PATIENCE)
        raise ControlError(Reason.ROBOT_LINK, f"{what} did not start: {answer['error']}")
    return process, answer


def answer_starter(answer: Mapping[str, Any]) -> None:
    """Tell the starter, if it is still there, that this process is ready, or {"error"}: why it is not."""
    with contextlib.suppress(OSError):
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def start_tied(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    log: IO[str] | int | None = None,
) -> subprocess.Popen[str]:
    """Start a command that ends when this process does. Args: env: in addition. log: for its words, None = nowhere."""
    words = subprocess.DEVNULL if log is None else log
    return subprocess.Popen(
        [sys.executable, "-m", "pointworld.control.processes", *command],
        stdin=subprocess.PIPE,
        stdout=words,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(env or {})},
        start_new_session=True,
    )


def end_process(process: subprocess.Popen[str], timeout: float = 5.0) -> None:
    """End a process that was started here, by force after `timeout` [s], and close its pipes."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def main(command: Sequence[str]) -> int:
    """Run a command until it ends or the starter is gone."""
    line = Lifeline()
    process = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, text=True)
    line.tie(lambda: None)
    while process.poll() is None and not line.over.wait(0.05):
        continue
    end_process(process, _PATIENCE)
    return process.returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
