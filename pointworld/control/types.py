"""Values that pass between planner, safety filter, robot and recording: frozen, checked once."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from pointworld.errors import InputError, PointWorldError


class Reason(StrEnum):
    """Why a run is not moving as asked. The value is what logs and `--json` show."""

    NONE = "none"
    CLOCK = "clock"
    WATCHDOG = "watchdog"
    STATE_STALE = "state_stale"
    STATE_INVALID = "state_invalid"
    ROBOT_ERROR = "robot_error"
    ROBOT_LINK = "robot_link"
    TRACKING = "tracking"
    COMMAND_INVALID = "command_invalid"
    COMMAND_UNITS = "command_units"
    COMMAND_LIMITS = "command_limits"
    COMMAND_JUMP = "command_jump"
    START_MISMATCH = "start_mismatch"
    WORKSPACE = "workspace"
    TABLE = "table"
    SELF_COLLISION = "self_collision"
    TOOL_SPEED = "tool_speed"
    LIMITED_TOO_FAR = "limited_too_far"
    CHUNK_INVALID = "chunk_invalid"
    CHUNK_OLD = "chunk_old"
    CHUNK_EXPIRED = "chunk_expired"
    PLANNER_LATE = "planner_late"
    PLANNER_ERROR = "planner_error"
    PLANNER_LINK = "planner_link"
    CAMERA_STALE = "camera_stale"
    CAMERA_FROZEN = "camera_frozen"
    CAMERA_INVALID = "camera_invalid"
    CAMERA_UNITS = "camera_units"
    CAMERA_CALIBRATION = "camera_calibration"
    RECORDING = "recording"
    COMMAND_TIMEOUT = "command_timeout"
    NOT_ARMED = "not_armed"
    OPERATOR = "operator"


class SafetyMode(StrEnum):
    """What the safety filter lets through: nothing, a log of it, or commands; FAULT is left only by `recover`."""

    DISARMED = "disarmed"
    DRY_RUN = "dry_run"
    ARMED = "armed"
    FAULT = "fault"


class RobotMode(StrEnum):
    """What an arm says of itself: READY takes commands, MOVING follows them, STOPPED or ERROR needs `recover`."""

    READY = "ready"
    MOVING = "moving"
    STOPPED = "stopped"
    ERROR = "error"


class ControlError(PointWorldError):
    """Something on the way to the arm failed; `reason` says what."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, kw_only=True, eq=False)
class RobotState:
    """What an arm measured.

    time: when, on the clock of the process that holds this value [s]. sequence: grows with every new measurement.
    joint_positions, joint_velocities: (arm joints,) [rad, rad/s or m, m/s]. gripper_width: [m], None without one.
    errors: what the arm complains of, in its own words. success_rate: share of commands that reached its controller
    lately, where the arm says so. reference: (arm joints,) of the last command as the driver passed it on, which may
    have bounded it; behind a robot server only, None before the first.
    """

    time: float
    sequence: int
    mode: RobotMode
    joint_positions: np.ndarray
    joint_velocities: np.ndarray
    gripper_width: float | None = None
    errors: tuple[str, ...] = ()
    success_rate: float | None = None
    reference: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class JointCommand:
    """Where the arm shall be one control period from now.

    joint_positions: (arm joints,) [rad or m]. joint_velocities: the speed at that point, for drivers that can use it.
    gripper_width: [m], None = leave it. sequence: grows with every command.
    """

    joint_positions: np.ndarray
    joint_velocities: np.ndarray
    gripper_width: float | None = None
    sequence: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraFrame:
    """One image with depth registered to colour, as a driver delivers it.

    rgb: (height, width, 3) uint8. depth: (height, width) float32 [m], 0 = unknown. K: (3, 3) [px], pixel centres at
    integer + 0.5. time: of exposure, on this process's clock [s]. sequence: the driver's frame number.
    """

    camera: str
    rgb: np.ndarray
    depth: np.ndarray
    K: np.ndarray
    time: float
    sequence: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Observation:
    """A state of the arm and the frames that belong to it."""

    state: RobotState
    frames: tuple[CameraFrame, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """A planned motion: joint targets over time.

    sequence: grows with every plan. start_time: when index 0 is due, on the controller's clock [s].
    joint_positions: (steps, arm joints) [rad or m]. gripper_width: (steps,) [m], or None. step_dt: [s].

    Raises:
        ControlError: CHUNK_INVALID when shapes, numbers or times make no sense.
    """

    sequence: int
    start_time: float
    joint_positions: np.ndarray
    step_dt: float
    gripper_width: np.ndarray | None = None

    def __post_init__(self) -> None:
        q = np.asarray(self.joint_positions)
        if q.ndim != 2 or len(q) < 2 or not np.issubdtype(q.dtype, np.floating):
            raise ControlError(
                Reason.CHUNK_INVALID,
                f"a chunk of shape {q.shape} {q.dtype}, expected (2 or more steps, arm joints) of floats",
            )
        width = self.gripper_width
        if width is not None and np.shape(width) != (len(q),):
            raise ControlError(
                Reason.CHUNK_INVALID,
                f"{np.shape(width)} gripper widths for {len(q)} steps of a chunk",
            )
        finite = np.isfinite(q).all() and (width is None or np.isfinite(width).all())
        if not (finite and np.isfinite(self.start_time) and 0 < self.step_dt < np.inf):
            raise ControlError(
                Reason.CHUNK_INVALID, "a chunk holds NaN or infinity, or its step is not above 0 s"
            )

    @property
    def duration(self) -> float:
        """From the first to the last target [s]."""
        return (len(self.joint_positions) - 1) * self.step_dt

    @property
    def end_time(self) -> float:
        """When the chunk expires [s]."""
        return self.start_time + self.duration


@dataclass(frozen=True, kw_only=True)
class RobotInfo:
    """What a backend is. arm_joints: names in the order of all joint vectors here. max_width: of the gripper [m]."""

    name: str
    arm_joints: tuple[str, ...]
    max_width: float | None = None
    tried_on_hardware: bool = False
    versions: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.arm_joints or len(set(self.arm_joints)) != len(self.arm_joints):
            raise InputError(f"arm joints are {self.arm_joints}, expected different names")
