"""Run a robot server as a process of its own: `python -m pointworld.control.serve < options.json`.

Options come on stdin, so that the token is in no process list: {"robot", "options", "token", "host", "port",
"allow_remote", "watchdog", "tied"}. The address is printed as one JSON line when the arm is connected. A server that is
`tied` ends when its stdin is closed, after its client has gone.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointworld.control.backends.make import make_robot
from pointworld.control.clock import SystemClock
from pointworld.control.processes import Child, Lifeline, answer_starter, start_child
from pointworld.control.server import RobotServer, ServerConfig
from pointworld.errors import PointWorldError

#: Left alone, a server waits this long for its client to bring the arm to rest and go [s].
LEAVE = 3.0


def main() -> int:
    """Serve until SIGTERM or SIGINT, or, if tied, until the starter and the client are gone."""
    options = json.loads(sys.stdin.readline())
    line, clock = Lifeline(), SystemClock()
    server: RobotServer | None = None
    if options.get("tied") is True:
        line.tie(lambda: _wait_for_rest(server))
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
        answer_starter({"error": str(error)})
        return 2
    host, port = server.address
    answer_starter({"host": host, "port": port})
    try:
        server.serve(line.over.is_set)
    finally:
        robot.disconnect()
    return 0


def _wait_for_rest(server: RobotServer | None) -> None:
    """Until no client holds the arm, `LEAVE` at most. A client that moved the arm and goes has stopped it."""
    limit = time.monotonic() + LEAVE
    while server is not None and server.held and time.monotonic() < limit:
        time.sleep(0.02)


@dataclass(frozen=True, kw_only=True, eq=False)
class ServerProcess(Child):
    """A running robot server, which ends with this process. address: (host, port). token: what its client must name."""

    address: tuple[str, int]
    token: str


def start_server(
    robot: str,
    options: Mapping[str, Any],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    python: str | Path = sys.executable,
    watchdog: float = ServerConfig.watchdog,
) -> ServerProcess:
    """Start a robot server on this machine and wait until its arm is connected. It ends when this process does.

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
    asked = {
        "robot": robot,
        "options": dict(options),
        "token": token,
        "host": host,
        "port": port,
        "watchdog": watchdog,
    }
    command = [str(python), "-m", "pointworld.control.serve"]
    process, answer = start_child(command, asked, "the robot server", env={"PYTHONPATH": path})
    return ServerProcess(process=process, address=(answer["host"], answer["port"]), token=token)


if __name__ == "__main__":
    raise SystemExit(main())
