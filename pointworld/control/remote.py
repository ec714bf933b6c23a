"""A planner's end of the link to the controller process: start it, and call it like a `ControlLoop`.

Needs only NumPy, so that a planner may live in an environment of its own.
"""

from __future__ import annotations

import dataclasses
import secrets
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pointworld.control.processes import Child, start_child
from pointworld.control.types import Chunk, ControlError, Reason
from pointworld.control.wire import PROTOCOL, Decoder, Message, WireError, encode

if TYPE_CHECKING:
    from pointworld.control.safety import SafetyConfig


#: A controller that a busy machine slows down still answers within this [s]; it computes many ticks.
_REHEARSAL = 10.0


class RemoteController:
    """A planner's end of the link. Every call returns the loop's status: see `LoopStatus` for its fields.

    Times are of the system's monotonic clock, which all processes of a machine share. Threads may share a link. A call
    that is not answered in time ends the link, and with it the motion.
    """

    def __init__(self, port: int, token: str, *, timeout: float = 2.0) -> None:
        """Raises: ControlError: PLANNER_LINK when nothing answers there."""
        self._decoder, self._lock, self._timeout = Decoder(), threading.Lock(), timeout
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
        message = _chunk_message("rehearse", chunk, seconds=seconds)
        answer = self._call(message, timeout=max(_REHEARSAL, self._timeout))
        return Reason(str(answer.fields["reason"])), str(answer.fields["why"])

    def hold(self) -> Message:
        """See `ControlLoop.hold`."""
        return self._call(Message("hold"))

    def close(self) -> None:
        """Hang up. While armed this stops the arm; disarm first."""
        self._sock.close()

    def _call(self, message: Message, *, timeout: float | None = None) -> Message:
        try:
            with self._lock:
                answers = self._exchange(message, timeout or self._timeout)
        except (OSError, WireError) as error:
            # An answer that comes later would be taken for that to the next call.
            self._sock.close()
            raise ControlError(Reason.PLANNER_LINK, f"controller: {error}") from error
        if answers[0].kind == "refused":
            fields = answers[0].fields
            raise ControlError(Reason(str(fields.get("reason"))), str(fields.get("why")))
        return answers[0]

    def _exchange(self, message: Message, timeout: float) -> list[Message]:
        self._sock.settimeout(timeout)
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
    give_way: float | None = None,
    check_space: bool = True,
    record: str | Path | None = None,
) -> ControllerProcess:
    """Start a control loop on a robot server, disarmed, in a process of its own. It ends when this process does.

    Args:
        model: bundled robot or URDF with the arm's limits and shape. record: folder of a recording.
        give_way: see `LoopConfig` [rad], None = never.

    Raises:
        ControlError: ROBOT_LINK with what it says.
    """
    token = secrets.token_urlsafe(24)
    options = {
        "server": list(server),
        "server_token": server_token,
        "token": token,
        "model": model,
        "safety": {} if safety is None else dataclasses.asdict(safety),
        "planner_timeout": planner_timeout,
        "give_way": give_way,
        "check_space": check_space,
        "record": None if record is None else str(record),
    }
    command = [sys.executable, "-m", "pointworld.control.controller"]
    process, answer = start_child(command, options, "the controller", env={"OMP_NUM_THREADS": "1"})
    return ControllerProcess(process=process, port=int(answer["port"]), token=token)


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
