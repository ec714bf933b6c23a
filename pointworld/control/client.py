"""A robot behind a robot server, as a `Robot`. A thread reads; no call waits for the network after `connect`."""

from __future__ import annotations

import contextlib
import select
import socket
import threading

import numpy as np

from pointworld.control.clock import Clock
from pointworld.control.types import (
    ControlError,
    JointCommand,
    Observation,
    Reason,
    RobotInfo,
    RobotMode,
    RobotState,
)
from pointworld.control.wire import PROTOCOL, Decoder, Message, WireError, encode

_BEAT = 0.02


class RemoteRobot:
    """See `Robot`. States carry the time of measurement: the server's age of it, plus what the way took longer than
    the quickest message so far.
    """

    def __init__(
        self, address: tuple[str, int], token: str, clock: Clock, *, timeout: float = 5.0
    ) -> None:
        """Args: timeout: for connecting and the first state [s]."""
        self._address, self._token, self._clock, self._timeout = address, token, clock, timeout
        self._sock: socket.socket | None = None
        self._info: RobotInfo | None = None
        self._state: RobotState | None = None
        self._lost: str | None = "not connected"
        self._fastest, self._beat = np.inf, -np.inf
        self._first = threading.Event()
        self._sending = threading.Lock()

    @property
    def info(self) -> RobotInfo:
        if self._info is None:
            raise ControlError(Reason.ROBOT_LINK, "not connected to a robot server")
        return self._info

    @property
    def is_connected(self) -> bool:
        return self._lost is None

    def connect(self) -> None:
        """See `Robot`."""
        where = f"{self._address[0]}:{self._address[1]}"
        try:
            sock = socket.create_connection(self._address, timeout=self._timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(encode(Message("hello", {"token": self._token, "protocol": PROTOCOL})))
            decoder, messages = Decoder(), list[Message]()
            while not messages:
                data = sock.recv(65536)
                if not data:
                    raise WireError("it closed the connection")
                messages = decoder.feed(data)
        except (OSError, WireError) as error:
            raise ControlError(
                Reason.ROBOT_LINK,
                f"no robot server at {where}: {error}. Is it running, and is the port right?",
            ) from error
        self._info = _info(messages[0], where)
        self._sock, self._lost = sock, None
        self._state, self._fastest = None, np.inf
        self._first.clear()
        thread = threading.Thread(
            target=self._listen,
            args=(sock, decoder, messages[1:]),
            name="robot states",
            daemon=True,
        )
        thread.start()
        if not self._first.wait(self._timeout):
            self.disconnect()
            raise ControlError(Reason.ROBOT_LINK, f"the robot server at {where} sends no states")
        sock.settimeout(0.0)

    def disconnect(self) -> None:
        """See `Robot`. The server stops the arm when its client goes."""
        sock, self._sock = self._sock, None
        self._lost = self._lost or "disconnected"
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def get_state(self) -> RobotState:
        """See `Robot`. Also tells the server that this client lives; call it every period."""
        if self._lost is not None or self._state is None:
            raise ControlError(Reason.ROBOT_LINK, f"robot server: {self._lost or 'no state yet'}")
        if self._clock.now() - self._beat > _BEAT:
            self._send(Message("beat"))
        return self._state

    def get_observation(self) -> Observation:
        """See `Robot`."""
        return Observation(state=self.get_state())

    def send_action(self, command: JointCommand) -> JointCommand:
        """See `Robot`. What the arm's driver made of it comes with a later state, as its `reference`."""
        fields = {"sequence": command.sequence, "width": command.gripper_width}
        arrays = {
            "q": np.asarray(command.joint_positions, dtype=np.float64),
            "v": np.asarray(command.joint_velocities, dtype=np.float64),
        }
        self._send(Message("action", fields, arrays))
        return command

    def stop(self) -> None:
        """See `Robot`."""
        with contextlib.suppress(ControlError):
            self._send(Message("stop"))

    def recover(self) -> None:
        """See `Robot`. The safety filter has checked the acknowledgement."""
        self._send(Message("recover", {"acknowledged": True}))

    def _send(self, message: Message) -> None:
        sock = self._sock
        if sock is None or self._lost is not None:
            raise ControlError(Reason.ROBOT_LINK, f"robot server: {self._lost}")
        data = encode(message)
        with self._sending:
            try:
                if sock.send(data) != len(data):
                    raise OSError("it takes no more data")
            except OSError as error:
                self._lost = str(error) or type(error).__name__
                raise ControlError(Reason.ROBOT_LINK, f"robot server: {self._lost}") from error
        self._beat = self._clock.now()

    def _listen(self, sock: socket.socket, decoder: Decoder, messages: list[Message]) -> None:
        try:
            while True:
                for message in messages:
                    self._take(message)
                data = _receive(sock)
                if not data:
                    raise WireError("the server closed the connection")
                messages = decoder.feed(data)
        except (OSError, ValueError) as error:
            self._lost = self._lost or str(error) or type(error).__name__

    def _take(self, message: Message) -> None:
        if message.kind != "state":
            raise WireError(f"unexpected message '{message.kind}'")
        now, count = self._clock.now(), len(self.info.arm_joints)
        way = now - message.number("sent")
        self._fastest = min(self._fastest, way)
        width = message.fields.get("width")
        rate = message.fields.get("success_rate")
        self._state = RobotState(
            time=now - message.number("age") - (way - self._fastest),
            sequence=int(message.number("sequence")),
            mode=RobotMode(str(message.fields.get("mode"))),
            joint_positions=message.vector("q", count),
            joint_velocities=message.vector("v", count),
            gripper_width=None if width is None else message.number("width"),
            errors=tuple(str(e) for e in message.fields.get("errors", ())),
            success_rate=None if rate is None else message.number("success_rate"),
            reference=message.vector("reference", count) if "reference" in message.arrays else None,
        )
        self._first.set()


def _receive(sock: socket.socket) -> bytes:
    """Wait for data, whatever the socket's own time-out."""
    while not select.select([sock], [], [], 1.0)[0]:
        continue
    return sock.recv(65536)


def _info(message: Message, where: str) -> RobotInfo:
    if message.kind != "welcome":
        why = message.fields.get("why", message.kind)
        raise ControlError(Reason.ROBOT_LINK, f"the robot server at {where} refused: {why}")
    width = message.fields.get("max_width")
    return RobotInfo(
        name=str(message.fields.get("name")),
        arm_joints=tuple(str(n) for n in message.fields.get("arm_joints", ())),
        max_width=None if width is None else message.number("max_width"),
        tried_on_hardware=message.fields.get("tried_on_hardware") is True,
        versions={str(k): str(v) for k, v in dict(message.fields.get("versions", {})).items()},
    )
