"""What the loop needs of an arm and of a camera; simulated and real ones are the same to it.

The verbs are LeRobot's (connect, disconnect, get_observation, send_action that returns what was sent) plus stop,
recover and get_state. Structural: a driver does not inherit from anything here.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pointworld.control.types import CameraFrame, JointCommand, Observation, RobotInfo, RobotState


@runtime_checkable
class Robot(Protocol):
    """An arm with or without a gripper. No call may block for longer than a control period."""

    @property
    def info(self) -> RobotInfo: ...

    @property
    def is_connected(self) -> bool: ...

    def connect(self) -> None:
        """Open the connection; the arm does not move.

        Raises:
            ControlError: ROBOT_LINK with what to check.
        """
        ...

    def disconnect(self) -> None:
        """Close the connection and leave the arm standing still. Safe to call twice."""
        ...

    def get_state(self) -> RobotState:
        """The newest measurement, at once.

        Raises:
            ControlError: ROBOT_LINK when there is none.
        """
        ...

    def get_observation(self) -> Observation:
        """The newest state and the frames of cameras that are part of the arm (often none)."""
        ...

    def send_action(self, command: JointCommand) -> JointCommand:
        """Start towards a target that is due one control period later; returns what was really sent.

        Raises:
            ControlError: ROBOT_ERROR while the arm is stopped or in error, ROBOT_LINK when it cannot be reached.
        """
        ...

    def stop(self) -> None:
        """Stand still as fast as the arm may, and take no commands until `recover`. Never raises."""
        ...

    def recover(self) -> None:
        """Leave the stop after an operator has acknowledged it.

        Raises:
            ControlError: ROBOT_ERROR when the arm stays in error.
        """
        ...


@runtime_checkable
class Camera(Protocol):
    """A colour and depth camera."""

    @property
    def name(self) -> str: ...

    @property
    def is_connected(self) -> bool: ...

    def connect(self) -> None:
        """Open the camera and wait for its first frame.

        Raises:
            ControlError: CAMERA_STALE when none comes.
        """
        ...

    def disconnect(self) -> None:
        """Close the camera. Safe to call twice."""
        ...

    def read(self, timeout_s: float = 1.0) -> CameraFrame:
        """The next frame that has not been read yet.

        Raises:
            ControlError: CAMERA_STALE when none comes in time.
        """
        ...

    def read_latest(self, max_age_s: float = 0.3) -> CameraFrame:
        """The newest frame, at once.

        Raises:
            ControlError: CAMERA_STALE when it is older than `max_age_s`.
        """
        ...
