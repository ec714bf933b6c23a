"""Any arm that LeRobot drives, by its `Robot` object. Not yet tried on hardware.

LeRobot is not a dependency: the object is used by its shape. Its calls may wait for the bus, so give it a robot server
of its own or a slow loop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from pointworld.control.backends.vendor import VendorArm, check_command
from pointworld.control.clock import Clock
from pointworld.control.types import (
    ControlError,
    JointCommand,
    Reason,
    RobotInfo,
    RobotMode,
    RobotState,
)


class LeRobotArm(VendorArm):
    """See `Robot`. Velocities are differences of positions: LeRobot reports none.

    It says nothing of when it measured either. Motors that are asked every time (Feetech, Dynamixel) raise when they
    do not answer, and an answer is as old as the question. Robots that give the last state they were told
    (CAN motors, a robot behind a network) may be frozen: that is noticed only when the arm is sent elsewhere and seems
    not to follow, never by the age of its states.
    """

    def __init__(
        self,
        robot: Any,
        *,
        clock: Clock,
        joints: Sequence[str],
        scale: float | Sequence[float] = np.pi / 180,
        offset: float | Sequence[float] = 0.0,
        gripper: str | None = None,
        gripper_range: tuple[float, float] = (0.0, 100.0),
        max_width: float | None = None,
    ) -> None:
        """Args:
        joints: motor names in the order of the arm's joints.
        scale, offset: radians = scale * value + offset; LeRobot's motors count in degrees or in -100 .. 100.
        gripper: name of its motor. gripper_range: its values closed and open. max_width: [m] when open.
        """
        super().__init__(clock)
        self._robot, self._joints = robot, tuple(joints)
        self._scale = np.broadcast_to(np.asarray(scale, dtype=np.float64), len(joints))
        self._offset = np.broadcast_to(np.asarray(offset, dtype=np.float64), len(joints))
        self._gripper, self._range, self._max = gripper, gripper_range, max_width
        self._before: tuple[float, np.ndarray] | None = None

    @property
    def info(self) -> RobotInfo:
        width = self._max if self._gripper is not None else None
        return RobotInfo(
            name="lerobot", arm_joints=self._joints, max_width=width, versions=self._versions
        )

    @property
    def is_connected(self) -> bool:
        return bool(self._robot.is_connected)

    def connect(self) -> None:
        """See `Robot`."""
        try:
            self._robot.connect()
        except Exception as error:
            raise ControlError(Reason.ROBOT_LINK, f"LeRobot: {error}") from error
        self._note_versions("lerobot")

    def disconnect(self) -> None:
        """See `Robot`."""
        if self.is_connected:
            self.stop()
            with contextlib.suppress(Exception):
                self._robot.disconnect()

    def get_state(self) -> RobotState:
        """See `Robot`."""
        asked = self._clock.now()
        try:
            seen = self._robot.get_observation()
            q = self._scale * [float(seen[f"{name}.pos"]) for name in self._joints] + self._offset
            width = None if self._gripper is None else self._to_width(seen[f"{self._gripper}.pos"])
        except Exception as error:
            raise ControlError(Reason.ROBOT_LINK, f"LeRobot: {error}") from error
        v = np.zeros_like(q)
        if self._before is not None and asked > self._before[0]:
            v = (q - self._before[1]) / (asked - self._before[0])
        self._before = (asked, q)
        time, sequence = self._answered(asked, q, v)
        return RobotState(
            time=time,
            sequence=sequence,
            mode=RobotMode.STOPPED if self._stopped else RobotMode.READY,
            joint_positions=q,
            joint_velocities=v,
            gripper_width=width,
        )

    def _to_width(self, value: float) -> float:
        closed, opened = self._range
        return float((value - closed) / (opened - closed) * (self._max or 0.0))

    def send_action(self, command: JointCommand) -> JointCommand:
        """See `Robot`. Returns what LeRobot says it sent, which its own clamps may have changed."""
        self._refuse_if_stopped()
        q = check_command(command, len(self._joints))
        values = (q - self._offset) / self._scale
        action = {f"{name}.pos": float(v) for name, v in zip(self._joints, values, strict=True)}
        if self._gripper is not None and command.gripper_width is not None:
            closed, opened = self._range
            share = command.gripper_width / (self._max or 1.0)
            action[f"{self._gripper}.pos"] = closed + share * (opened - closed)
        try:
            sent = self._robot.send_action(action)
        except Exception as error:
            raise ControlError(Reason.ROBOT_LINK, f"LeRobot: {error}") from error
        told = np.array([float(sent[f"{name}.pos"]) for name in self._joints])
        return JointCommand(
            joint_positions=self._scale * told + self._offset,
            joint_velocities=command.joint_velocities,
            gripper_width=command.gripper_width,
            sequence=command.sequence,
        )

    def stop(self) -> None:
        """See `Robot`. Holds the place it is at: LeRobot has no stop."""
        if self._stopped:
            return
        with contextlib.suppress(Exception):
            seen = self._robot.get_observation()
            self._robot.send_action({f"{n}.pos": seen[f"{n}.pos"] for n in self._joints})
        self._stopped = True

    def recover(self) -> None:
        """See `Robot`."""
        self._stopped = False
