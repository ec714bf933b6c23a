"""The robot-server process: holds the vendor's SDK and one client. When the client falls silent, the arm stops.

One thread does everything, so that a server that was frozen notices it before it acts on anything that piled up.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import selectors
import socket
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pointworld.control.clock import Clock
from pointworld.control.protocols import Robot
from pointworld.control.types import (
    ControlError,
    JointCommand,
    Reason,
    RobotMode,
    RobotState,
)
from pointworld.control.wire import PROTOCOL, Decoder, Message, WireError, encode
from pointworld.errors import InputError

log = logging.getLogger(__name__)

_HEADER, _PAYLOAD = 16 * 1024, 64 * 1024
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """period: between states sent [s]. watchdog: longest silence of a client that moves the arm, and longest gap in
    the server's own work [s]. hello: time to name the token [s].
    """

    host: str = "127.0.0.1"
    port: int = 0
    period: float = 0.01
    watchdog: float = 0.1
    hello: float = 2.0
    allow_remote: bool = False

    def __post_init__(self) -> None:
        if self.host not in LOOPBACK and not self.allow_remote:
            raise InputError(
                f"the robot server would listen on {self.host}, where other machines can reach it. Set allow_remote "
                "if that is meant, and keep the network to yourself: the token travels unencrypted"
            )


class _Client:
    """A connection. trusted: it named the token."""

    def __init__(self, sock: socket.socket, now: float) -> None:
        self.sock, self.since, self.heard = sock, now, now
        self.decoder = Decoder(max_header=_HEADER, max_payload=_PAYLOAD)
        self.trusted = False


class RobotServer:
    """Serves one robot to one client at a time."""

    def __init__(self, robot: Robot, clock: Clock, *, token: str, config: ServerConfig) -> None:
        """Opens the port. Args: token: what a client must name, at least 16 characters."""
        if len(token) < 16:
            raise InputError("the token of a robot server must have at least 16 characters")
        self.robot, self.clock, self.config = robot, clock, config
        self._token = token
        self._listener = socket.create_server((config.host, config.port))
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._clients: list[_Client] = []
        self._active = False
        self._reference: np.ndarray | None = None
        self._latched: tuple[Reason, str] | None = None
        self._newest: float = -np.inf
        self._woken = self._sent = clock.now()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that clients connect to."""
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    @property
    def held(self) -> bool:
        """A client holds the arm."""
        return any(client.trusted for client in tuple(self._clients))

    def serve(self, until: Callable[[], bool]) -> None:
        """Run until `until()`; then the arm is stopped and everything closed."""
        self._woken = self.clock.now()
        try:
            while not until():
                self.step()
        finally:
            self.robot.stop()
            for client in list(self._clients):
                self._drop(client)
            self._selector.close()
            self._listener.close()

    def step(self) -> None:
        """Wait for traffic for at most half a period; answer it; watch the times; send a state when one is due."""
        self._check_gap()
        ready = self._selector.select(self.config.period / 2)
        self._check_gap()
        for key, _ in ready:
            if key.fileobj is self._listener:
                self._accept()
            else:
                self._read(key.data)
        now = self._check_gap()
        for client in list(self._clients):
            if not client.trusted and now - client.since > self.config.hello:
                self._drop(client)
            elif client.trusted and self._active and now - client.heard > self.config.watchdog:
                silence = now - client.heard
                self._latch(Reason.COMMAND_TIMEOUT, f"the client was silent for {silence:.3f} s")
        if now - self._sent >= self.config.period:
            self._sent = now
            self._send_state()

    def _check_gap(self) -> float:
        """Notice a freeze of this process before anything that arrived meanwhile is acted on. Gives the time."""
        now = self.clock.now()
        if self._active and now - self._woken > self.config.watchdog:
            gap = now - self._woken
            self._latch(Reason.COMMAND_TIMEOUT, f"the robot server stood still for {gap:.3f} s")
        self._woken = now
        return now

    def _latch(self, reason: Reason, message: str) -> None:
        """Stop the arm, and take no commands until a client recovers."""
        self.robot.stop()
        self._active = False
        if self._latched is None:
            self._latched = (reason, message)
            log.warning("stopped (%s): %s", reason.value, message)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = _Client(sock, self.clock.now())
            self._clients.append(client)
            self._selector.register(sock, selectors.EVENT_READ, client)

    def _drop(self, client: _Client) -> None:
        if client not in self._clients:
            return
        self._clients.remove(client)
        self._selector.unregister(client.sock)
        client.sock.close()
        if client.trusted and self._active:
            self._latch(Reason.ROBOT_LINK, "the client is gone")

    def _read(self, client: _Client) -> None:
        try:
            data = client.sock.recv(65536)
            messages = client.decoder.feed(data)
            if not data:
                raise WireError("closed")
            for message in messages:
                self._handle(client, message)
        except BlockingIOError:
            return
        except (OSError, WireError) as error:
            log.info("client dropped: %s", error)
            self._drop(client)

    def _handle(self, client: _Client, message: Message) -> None:
        if not client.trusted:
            self._greet(client, message)
            return
        client.heard = self.clock.now()
        if message.kind == "action":
            self._act(message)
        elif message.kind == "stop":
            self._latch(Reason.OPERATOR, "stopped by the client")
        elif message.kind == "recover":
            if message.fields.get("acknowledged") is not True:
                raise WireError("recover without acknowledgement")
            self._recover(client)
        elif message.kind != "beat":
            raise WireError(f"unknown message '{message.kind}'")

    def _greet(self, client: _Client, message: Message) -> None:
        token = message.fields.get("token")
        named = isinstance(token, str) and hmac.compare_digest(token.encode(), self._token.encode())
        if message.kind != "hello" or not named:
            self._send(client, Message("refused", {"why": "wrong token"}))
            raise WireError("wrong token")
        if message.fields.get("protocol") != PROTOCOL:
            why = f"this server speaks protocol {PROTOCOL}, the client {message.fields.get('protocol')}"
            self._send(client, Message("refused", {"why": why}))
            raise WireError(why)
        if self.held:
            self._send(client, Message("refused", {"why": "another client holds the arm"}))
            raise WireError("busy")
        client.trusted, self._newest = True, -np.inf
        info = self.robot.info
        self._send(
            client,
            Message(
                "welcome",
                {
                    "name": info.name,
                    "arm_joints": list(info.arm_joints),
                    "max_width": info.max_width,
                    "tried_on_hardware": info.tried_on_hardware,
                    "versions": dict(info.versions),
                },
            ),
        )

    def _act(self, message: Message) -> None:
        """Pass a command on. After a latch commands are ignored: the client sees why in the state.

        A command that a newer one has overtaken on the way is passed over: the arm never goes back to it.
        """
        # Frozen since the last look, this command may be one of many that piled up meanwhile.
        self._check_gap()
        if self._latched is not None:
            return
        count = len(self.robot.info.arm_joints)
        q, v = message.vector("q", count), message.vector("v", count)
        sequence = message.number("sequence")
        if sequence < self._newest:
            return
        self._newest = sequence
        width = message.fields.get("width")
        if not (np.isfinite(q).all() and np.isfinite(v).all()):
            self._latch(Reason.COMMAND_INVALID, "a command with NaN or infinity")
            return
        command = JointCommand(
            joint_positions=q,
            joint_velocities=v,
            gripper_width=None if width is None else message.number("width"),
            sequence=int(sequence),
        )
        try:
            self._reference = self.robot.send_action(command).joint_positions
            self._active = True
        except ControlError as error:
            self._latch(error.reason, str(error))

    def _recover(self, client: _Client) -> None:
        try:
            self.robot.recover()
        except ControlError as error:
            self._latched = (error.reason, str(error))
            return
        self._latched, self._active = None, False
        client.heard = self.clock.now()

    def _send_state(self) -> None:
        holder = next((c for c in self._clients if c.trusted), None)
        if holder is None:
            return
        try:
            state = self.robot.get_state()
        except ControlError as error:
            self._latch(error.reason, str(error))
            return
        now = self.clock.now()
        if not self._send(holder, _state_message(state, now, self._latched, self._reference)):
            self._drop(holder)

    def _send(self, client: _Client, message: Message) -> bool:
        """False when the client does not take it: it hangs, or is gone."""
        data = encode(message)
        try:
            return client.sock.send(data) == len(data)
        except OSError:
            return False


def _state_message(
    state: RobotState,
    now: float,
    latched: tuple[Reason, str] | None,
    reference: np.ndarray | None,
) -> Message:
    errors = list(state.errors)
    if latched is not None:
        errors.append(f"{latched[0].value}: {latched[1]}")
    mode = (
        RobotMode.STOPPED if latched is not None and state.mode != RobotMode.ERROR else state.mode
    )
    return Message(
        "state",
        {
            "sequence": state.sequence,
            "age": now - state.time,
            "sent": now,
            "mode": mode.value,
            "width": state.gripper_width,
            "errors": errors,
            "success_rate": state.success_rate,
        },
        {
            "q": np.asarray(state.joint_positions, dtype=np.float64),
            "v": np.asarray(state.joint_velocities, dtype=np.float64),
            **({} if reference is None else {"reference": reference.astype(np.float64)}),
        },
    )
