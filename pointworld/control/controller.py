"""The control loop as a process of its own, between the planner and the robot server.

A planner that computes, hangs or dies disturbs neither the loop's times nor its checks. `pointworld.control.remote`
starts it and talks to it.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from pointworld.control.body import ArmBody, Space
from pointworld.control.client import RemoteRobot
from pointworld.control.clock import SystemClock
from pointworld.control.limits import read_joint_limits
from pointworld.control.loop import REAL_TIME, ControlLoop, LoopConfig
from pointworld.control.processes import Lifeline, answer_starter
from pointworld.control.recording import Recorder
from pointworld.control.safety import SafetyConfig, SafetyFilter
from pointworld.control.types import Chunk, ControlError, Reason, SafetyMode
from pointworld.control.wire import Decoder, Message, WireError, encode
from pointworld.errors import InputError, PointWorldError
from pointworld.robot import RobotModel

#: An arm stands when its joints are slower than this for so many looks [rad/s]; how long to wait for it [s].
_STANDING, _STILL_LOOKS, _STAND_TIME = 1e-4, 5, 3.0
#: Time that who connects has to name the token [s]. A planner waits twice as long for its turn.
_HELLO = 1.0


def build_loop(options: Mapping[str, Any]) -> ControlLoop:
    """A loop on a connected robot server.

    Args:
        options: "server" [host, port], "server_token", "model", optional "safety" (fields of SafetyConfig, with
            "space" as fields of Space), "planner_timeout" [s], "give_way" [rad], "check_space", "record".
    """
    clock = SystemClock()
    host, port = options["server"]
    robot = RemoteRobot((str(host), int(port)), options["server_token"], clock)
    robot.connect()
    model = RobotModel.load(options["model"])
    settings = dict(options.get("safety", {}))
    space = Space(**{k: _tuple(v) for k, v in settings.pop("space", {}).items()})
    safety = SafetyFilter(
        read_joint_limits(model.source, robot.info.arm_joints),
        SafetyConfig(**settings, space=space),
        body=ArmBody.of(model) if options.get("check_space", True) else None,
        max_width=robot.info.max_width,
    )
    record = options.get("record")
    recorder = None if record is None else Recorder(record, joints=robot.info.arm_joints)
    config = LoopConfig(
        planner_timeout=float(options.get("planner_timeout", 5.0)),
        give_way=float(options.get("give_way") or np.inf),
        rehearsals=REAL_TIME,
    )
    return ControlLoop(robot, safety, clock, config=config, recorder=recorder)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class PlannerLink:
    """Serves one planner at a time on a loopback port. A planner that goes while armed is a fault."""

    def __init__(self, loop: ControlLoop, token: str) -> None:
        self._loop, self._token = loop, token
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.2)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def serve(self, over: threading.Event) -> None:
        """Answer planners, one after another, until `over`."""
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                sock, _ = self._listener.accept()
                with sock:
                    sock.settimeout(0.2)
                    self._talk(sock, over)
        self._listener.close()

    def _talk(self, sock: socket.socket, over: threading.Event) -> None:
        """Answer one connection until it ends. One that does not name the token in time keeps no planner waiting."""
        decoder, trusted = Decoder(), False
        limit = time.monotonic() + _HELLO
        try:
            while not over.is_set() and (trusted or time.monotonic() < limit):
                try:
                    data = sock.recv(65536)
                except TimeoutError:
                    continue
                if not data:
                    raise WireError("it closed the connection")
                for message in decoder.feed(data):
                    trusted = trusted or self._greet(message)
                    sock.sendall(encode(self._answer(message)))
        except (OSError, WireError) as error:
            if trusted:
                stop_if_armed(self._loop, f"the planner is gone: {error}")

    def _greet(self, message: Message) -> bool:
        token = str(message.fields.get("token"))
        if message.kind != "hello" or not hmac.compare_digest(token.encode(), self._token.encode()):
            raise WireError("wrong token")
        return True

    def _answer(self, message: Message) -> Message:
        loop = self._loop
        try:
            if message.kind == "arm":
                loop.arm(dry_run=message.fields.get("dry_run") is True)
            elif message.kind == "disarm":
                loop.disarm()
            elif message.kind == "stop":
                reason = Reason(str(message.fields.get("reason", Reason.OPERATOR.value)))
                loop.stop(reason, str(message.fields.get("message", "")))
            elif message.kind == "recover":
                loop.recover(acknowledged=message.fields.get("acknowledged") is True)
            elif message.kind == "chunk":
                loop.submit(_read_chunk(message))
            elif message.kind == "rehearse":
                reason, why = loop.rehearse(_read_chunk(message), message.number("seconds"))
                return Message("rehearsed", {"reason": reason.value, "why": why})
            elif message.kind == "hold":
                loop.hold()
            elif message.kind not in ("hello", "status"):
                raise WireError(f"unknown message '{message.kind}'")
        except ControlError as error:
            if error.reason is Reason.CHUNK_INVALID and message.kind == "chunk":
                # A planner that makes no sense is not asked again; one that is only late may be.
                stop_if_armed(loop, str(error), error.reason)
            return Message("refused", {"reason": error.reason.value, "why": str(error)})
        except ValueError as error:
            raise WireError(str(error)) from error
        return _status_message(loop)


def stop_if_armed(
    loop: ControlLoop | None, message: str, reason: Reason = Reason.PLANNER_LINK
) -> None:
    """A planner that goes or fails while armed is a fault."""
    if loop is not None and loop.status().mode in (SafetyMode.ARMED, SafetyMode.DRY_RUN):
        loop.stop(reason, message)


def stop_and_stand(loop: ControlLoop | None, message: str) -> None:
    """`stop_if_armed`, and return when the arm stands, so that its record shows it; at most `_STAND_TIME` later."""
    stop_if_armed(loop, message)
    end = time.monotonic() + _STAND_TIME
    still = 0
    while loop is not None and still < _STILL_LOOKS and time.monotonic() < end:
        state = loop.status().state
        stands = state is None or float(np.abs(state.joint_velocities).max()) < _STANDING
        still = still + 1 if stands else 0
        time.sleep(0.02)


def _read_chunk(message: Message) -> Chunk:
    if "joint_positions" not in message.arrays:
        raise WireError("a chunk without joint positions")
    return Chunk(
        sequence=int(message.number("sequence")),
        start_time=message.number("start_time"),
        joint_positions=message.arrays["joint_positions"],
        step_dt=message.number("step_dt"),
        gripper_width=message.arrays.get("gripper_width"),
    )


def _status_message(loop: ControlLoop) -> Message:
    status = loop.status()
    state = status.state
    fields = {
        "time": status.time if np.isfinite(status.time) else None,
        "mode": status.mode.value,
        "reason": status.reason.value,
        "message": status.message,
        "holding": status.holding,
        "chunk": status.chunk,
        "ticks": status.ticks,
        "limited": status.limited,
        "gave_way": status.gave_way,
        "worst_gap": status.worst_gap,
        "stop_time": loop.safety.stop_time,
        "state_time": None if state is None else state.time,
        "gripper_width": None if state is None else state.gripper_width,
    }
    arrays = {}
    if status.commanded is not None:
        arrays["commanded"] = status.commanded
    if status.pace is not None:
        arrays["pace"] = status.pace
    if state is not None:
        arrays["joint_positions"] = np.asarray(state.joint_positions, dtype=np.float64)
        arrays["joint_velocities"] = np.asarray(state.joint_velocities, dtype=np.float64)
    return Message("status", fields, arrays)


def main() -> int:
    """Run until SIGTERM or SIGINT, or, if tied, until the starter is gone; options come as one JSON line on stdin."""
    options = json.loads(sys.stdin.readline())
    line = Lifeline()
    loop: ControlLoop | None = None
    if options.get("tied") is True:
        line.tie(lambda: stop_and_stand(loop, "the process that started the controller is gone"))
    try:
        if len(options["token"]) < 16:
            raise InputError("the token of a controller must have at least 16 characters")
        loop = build_loop(options)
        link = PlannerLink(loop, options["token"])
    except (PointWorldError, TypeError, KeyError) as error:
        answer_starter({"error": str(error)})
        return 2
    answer_starter({"port": link.port})
    thread = threading.Thread(
        target=link.serve, args=(line.over,), name="planner link", daemon=True
    )
    thread.start()
    loop.run(line.over.is_set)
    loop.robot.disconnect()
    if loop.recorder is not None:
        loop.recorder.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
