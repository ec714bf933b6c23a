"""A simulated Franka control box (franky-sim, libfranka's protocol) as a process, in the SDK's own environment."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

from pointworld.control.processes import end_process, start_tied
from pointworld.control.types import ControlError, Reason
from pointworld.errors import InputError

HOST, PORT = "127.0.0.1", 1337
_PATIENCE = 90.0


def start_box(python: Path | None) -> subprocess.Popen[str]:
    """Start the control box that lies beside `python` and wait until it listens. It ends when this process does.

    Raises:
        InputError: that environment has no franky-sim.
        ControlError: ROBOT_LINK when it does not come up, or another box runs already.
    """
    program = None if python is None else python.with_name("franky-sim")
    if program is None or not program.is_file():
        raise InputError(
            "--robot franka-sim needs an environment with the simulated control box: python -m venv franky; "
            "franky/bin/pip install franky-control franky-sim; then add --python franky/bin/python. "
            "For a box that runs already give its --host"
        )
    if listening(HOST):
        raise ControlError(
            Reason.ROBOT_LINK,
            f"something answers at {HOST}:{PORT} already; end it, or name it with --host",
        )
    process = start_tied([str(program), "-s", "mujoco", "--hostname", HOST])
    limit = time.monotonic() + _PATIENCE
    while not listening(HOST):
        if process.poll() is not None or time.monotonic() > limit:
            end_process(process)
            raise ControlError(Reason.ROBOT_LINK, "the simulated control box did not start")
        time.sleep(0.2)
    return process


def listening(host: str) -> bool:
    """Whether a control box answers there."""
    with socket.socket() as sock:
        sock.settimeout(0.5)
        return sock.connect_ex((host, PORT)) == 0
