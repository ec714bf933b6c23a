"""The control loop as a process of its own, between the planner and the robot server.

A planner that computes, hangs or dies disturbs neither the loop's times nor its checks. Start it with
`start_controller`; talk to it through `RemoteController`, whose calls are those of `ControlLoop`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hmac
import json
import secrets
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pointworld.control.body import ArmBody, Space
from pointworld.control.client import RemoteRobot
from pointworld.control.clock import SystemClock
from pointworld.control.limits import read_joint_limits
from pointworld.control.loop import ControlLoop, LoopConfig
from pointworld.control.processes import Child, Lifeline, answer_starter, start_child
from pointworld.control.recording import Recorder
from pointworld.control.safety import SafetyConfig, SafetyFilter
from pointworld.control.types import Chunk, ControlError, Reason, SafetyMode
from pointworld.control.wire import PROTOCOL, Decoder, Message, WireError, encode
from pointworld.errors import InputError, PointWorldError
from pointworld.robot import RobotModel


def build_loop(options: Mapping[str, Any]) -> ControlLoop:
    """A loop on a connected robot server.

    Args:
        options: "server" [host, port], "server_token", "model", optional "safety" (fields of SafetyConfig, with
            "space" as fields of Space), "planner_timeout" [s], "check_space", "record".
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
    config = LoopConfig(planner_timeout=float(options.get("planner_timeout", 5.0)))
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
        decoder, trusted = Decoder(), False
        try:
            while not over.is_set():
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
            return Message("refused", {"reason": error.reason.value, "why": str(error)})
        except ValueError as error:
            raise WireError(str(error)) from error
        return _status_message(loop)


def stop_if_armed(loop: ControlLoop | None, message: str) -> None:
    """A planner that goes while armed is a fault."""
    if loop is not None and loop.status().mode in (SafetyMode.ARMED, SafetyMode.DRY_RUN):
        loop.stop(Reason.PLANNER_LINK, message)


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


def _chunk_message(kind: str, chunk: Chunk, **more: float) -> Message:
    arrays = {"joint_positions": np.asarray(chunk.joint_positions, dtype=np.float64)}
    if chunk.gripper_width is not None:
        arrays["gripper_width"] = np.asarray(chunk.gripper_width, dtype=np.float64)
    fields = {
        "sequence": chunk.sequence,
        "start_time": chunk.start_time,
        "step_dt": chunk.step_dt,
    }
    return Message(kind, {**fields, **more}, arrays)


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


class RemoteController:
    """A planner's end of the link. Every call returns the loop's status: see `LoopStatus` for its fields.

    Times are of the system's monotonic clock, which all processes of a machine share. Threads may share a link.
    """

    def __init__(self, port: int, token: str, *, timeout: float = 2.0) -> None:
        """Raises: ControlError: PLANNER_LINK when nothing answers there."""
        self._decoder, self._lock = Decoder(), threading.Lock()
        try:
            self._sock = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        except OSError as error:
            raise ControlError(
                Reason.PLANNER_LINK, f"no controller at port {port}: {error}"
            ) from error
        self._call(Message("hello", {"token": token, "protocol": PROTOCOL}))

    def status(self) -> Message:
        """The loop now."""
        return self._call(Message("status"))

    def arm(self, *, dry_run: bool = False) -> Message:
        """See `ControlLoop.arm`."""
        return self._call(Message("arm", {"dry_run": dry_run}))

    def disarm(self) -> Message:
        """See `ControlLoop.disarm`."""
        return self._call(Message("disarm"))

    def stop(self, reason: Reason = Reason.OPERATOR, message: str = "stopped by hand") -> Message:
        """See `ControlLoop.stop`. A planner or camera that failed says so here."""
        return self._call(Message("stop", {"reason": reason.value, "message": message}))

    def recover(self, *, acknowledged: bool) -> Message:
        """See `ControlLoop.recover`."""
        return self._call(Message("recover", {"acknowledged": acknowledged}))

    def submit(self, chunk: Chunk) -> Message:
        """See `ControlLoop.submit`."""
        return self._call(_chunk_message("chunk", chunk))

    def rehearse(self, chunk: Chunk, seconds: float) -> tuple[Reason, str]:
        """See `ControlLoop.rehearse`."""
        answer = self._call(_chunk_message("rehearse", chunk, seconds=seconds))
        return Reason(str(answer.fields["reason"])), str(answer.fields["why"])

    def hold(self) -> Message:
        """See `ControlLoop.hold`."""
        return self._call(Message("hold"))

    def close(self) -> None:
        """Hang up. While armed this stops the arm; disarm first."""
        self._sock.close()

    def _call(self, message: Message) -> Message:
        try:
            with self._lock:
                answers = self._exchange(message)
        except (OSError, WireError) as error:
            raise ControlError(Reason.PLANNER_LINK, f"controller: {error}") from error
        if answers[0].kind == "refused":
            fields = answers[0].fields
            raise ControlError(Reason(str(fields.get("reason"))), str(fields.get("why")))
        return answers[0]

    def _exchange(self, message: Message) -> list[Message]:
        self._sock.sendall(encode(message))
        answers = list[Message]()
        while not answers:
            data = self._sock.recv(65536)
            if not data:
                raise WireError("it closed the connection")
            answers = self._decoder.feed(data)
        return answers


@dataclass(frozen=True, kw_only=True, eq=False)
class ControllerProcess(Child):
    """A running controller, which ends with this process. port, token: for `RemoteController`."""

    port: int
    token: str


def start_controller(
    server: tuple[str, int],
    server_token: str,
    *,
    model: str = "fr3",
    safety: SafetyConfig | None = None,
    planner_timeout: float = 5.0,
    check_space: bool = True,
    record: str | Path | None = None,
) -> ControllerProcess:
    """Start a control loop on a robot server, disarmed, in a process of its own. It ends when this process does.

    Args:
        model: bundled robot or URDF with the arm's limits and shape. record: folder of a recording.

    Raises:
        ControlError: ROBOT_LINK with what it says.
    """
    token = secrets.token_urlsafe(24)
    options = {
        "server": list(server),
        "server_token": server_token,
        "token": token,
        "model": model,
        "safety": dataclasses.asdict(safety or SafetyConfig()),
        "planner_timeout": planner_timeout,
        "check_space": check_space,
        "record": None if record is None else str(record),
    }
    command = [sys.executable, "-m", "pointworld.control.controller"]
    process, answer = start_child(command, options, "the controller", env={"OMP_NUM_THREADS": "1"})
    return ControllerProcess(process=process, port=int(answer["port"]), token=token)


def main() -> int:
    """Run until SIGTERM or SIGINT, or, if tied, until the starter is gone; options come as one JSON line on stdin."""
    options = json.loads(sys.stdin.readline())
    line = Lifeline()
    loop: ControlLoop | None = None
    if options.get("tied") is True:
        line.tie(lambda: stop_if_armed(loop, "the process that started the controller is gone"))
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
