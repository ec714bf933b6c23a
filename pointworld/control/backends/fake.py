"""An arm that exists only as numbers: it goes where it is sent, one control period later."""

from __future__ import annotations

import numpy as np

from pointworld.control.backends.vendor import check_command
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


class FakeRobot:
    """See `Robot`. Moves in a straight line to the last target within `period`, then stands."""

    def __init__(
        self,
        joints: tuple[str, ...],
        home: np.ndarray,
        clock: Clock,
        *,
        period: float = 0.01,
        max_width: float | None = None,
    ) -> None:
        """Args: home: (joints,) where it stands at first. max_width: of its gripper [m], None without one."""
        self._info = RobotInfo(name="fake", arm_joints=joints, max_width=max_width)
        self._clock, self._period = clock, period
        self._from = self._to = np.array(home, dtype=np.float64)
        self._since = clock.now()
        self._width, self._sequence, self._last = max_width, 0, -np.inf
        self._stopped, self._connected = False, False

    @property
    def info(self) -> RobotInfo:
        return self._info

    @property
    def is_connected(self) -> bool:
        return self._connected

    def connect(self) -> None:
        """See `Robot`."""
        self._connected = True

    def disconnect(self) -> None:
        """See `Robot`."""
        if self._connected:
            self.stop()
        self._connected = False

    def _place(self) -> tuple[np.ndarray, np.ndarray]:
        share = min(max((self._clock.now() - self._since) / self._period, 0.0), 1.0)
        way = self._to - self._from
        speed = way / self._period if share < 1 else np.zeros_like(way)
        return self._from + share * way, speed

    def get_state(self) -> RobotState:
        """See `Robot`."""
        if not self._connected:
            raise ControlError(Reason.ROBOT_LINK, "the fake arm is not connected")
        now = self._clock.now()
        if now != self._last:
            self._sequence, self._last = self._sequence + 1, now
        q, v = self._place()
        moving = bool(v.any())
        mode = RobotMode.MOVING if moving else RobotMode.READY
        return RobotState(
            time=now,
            sequence=self._sequence,
            mode=RobotMode.STOPPED if self._stopped else mode,
            joint_positions=q,
            joint_velocities=v,
            gripper_width=self._width,
        )

    def get_observation(self) -> Observation:
        """See `Robot`."""
        return Observation(state=self.get_state())

    def send_action(self, command: JointCommand) -> JointCommand:
        """See `Robot`."""
        if not self._connected:
            raise ControlError(Reason.ROBOT_LINK, "the fake arm is not connected")
        if self._stopped:
            raise ControlError(Reason.ROBOT_ERROR, "the fake arm is stopped; recover it first")
        q = check_command(command, len(self._to))
        self._from, _ = self._place()
        self._to, self._since = q.copy(), self._clock.now()
        if command.gripper_width is not None and self._width is not None:
            self._width = command.gripper_width
        return command

    def stop(self) -> None:
        """See `Robot`."""
        self._from, _ = self._place()
        self._to, self._stopped = self._from, True

    def recover(self) -> None:
        """See `Robot`."""
        self._stopped = False
