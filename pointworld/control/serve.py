"""Run a robot server as a process of its own: `python -m pointworld.control.serve < options.json`.

Options come on stdin, so that the token is in no process list: {"robot", "options", "token", "host", "port",
"allow_remote", "watchdog"}. The address is printed as one JSON line when the arm is connected.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from pointworld.control.backends.make import make_robot
from pointworld.control.clock import SystemClock
from pointworld.control.server import RobotServer, ServerConfig
from pointworld.control.types import ControlError, Reason
from pointworld.errors import PointWorldError


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    options = json.loads(sys.stdin.readline())
    over = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        over.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    clock = SystemClock()
    try:
        robot = make_robot(options["robot"], options.get("options", {}), clock)
        robot.connect()
        config = ServerConfig(
            host=options.get("host", "127.0.0.1"),
            port=int(options.get("port", 0)),
            allow_remote=bool(options.get("allow_remote", False)),
            watchdog=float(options.get("watchdog", ServerConfig.watchdog)),
        )
        server = RobotServer(robot, clock, token=options["token"], config=config)
    except PointWorldError as error:
        sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
        return 2
    host, port = server.address
    sys.stdout.write(json.dumps({"host": host, "port": port}) + "\n")
    sys.stdout.flush()
    try:
        server.serve(over.is_set)
    finally:
        robot.disconnect()
    return 0


@dataclass(frozen=True, kw_only=True, eq=False)
class ServerProcess:
    """A running robot server. address: (host, port). token: what its client must name."""

    process: subprocess.Popen[str]
    address: tuple[str, int]
    token: str

    def close(self, timeout: float = 5.0) -> None:
        """End it; the arm is stopped by it on the way."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def start_server(
    robot: str,
    options: Mapping[str, Any],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    python: str | Path = sys.executable,
    watchdog: float = ServerConfig.watchdog,
) -> ServerProcess:
    """Start a robot server on this machine and wait until its arm is connected.

    Args:
        python: interpreter of the environment that holds the vendor's SDK. It needs that SDK and NumPy, not the
            rest of this package's dependencies; this package is put on its path.
        watchdog: longest silence of a client that moves the arm [s].

    Raises:
        ControlError: ROBOT_LINK with what the server says.
    """
    token = secrets.token_urlsafe(24)
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [str(python), "-m", "pointworld.control.serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdin is not None and process.stdout is not None
    asked = {
        "robot": robot,
        "options": dict(options),
        "token": token,
        "host": host,
        "port": port,
        "watchdog": watchdog,
    }
    process.stdin.write(json.dumps(asked) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    try:
        answer = json.loads(line)
    except ValueError:
        answer = {"error": "it ended without a word"}
    if "error" in answer:
        process.kill()
        process.wait()
        raise ControlError(Reason.ROBOT_LINK, f"the robot server did not start: {answer['error']}")
    return ServerProcess(process=process, address=(answer["host"], answer["port"]), token=token)


if __name__ == "__main__":
    raise SystemExit(main())
