"""An arm with cameras, as a planner meets it: `SimRig` in this process, or `ProcessRig` behind processes of its own.

The first runs on a clock that stands while one plans, the second in real time. To the planner they are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from pointworld.control.cameras import MountedCamera, require_calibrated
from pointworld.control.clock import Clock
from pointworld.control.loop import ControlLoop
from pointworld.control.remote import RemoteController
from pointworld.control.types import Chunk, ControlError, Reason
from pointworld.robot import RobotModel
from pointworld.types import RGBDFrame

#: A plan starts where the arm is commanded to be, or as near to that as this from where it is measured [rad].
_SLACK = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """One moment. frames: posed in the base frame, each where its camera was when it was taken. joints: (joints,)
    measured when the pictures were taken, in the robot's order, gripper included.

    ahead, pace: (joints,) where the arm is commanded to be, and at which speed: a plan goes on from there. time: on
    the rig's clock [s]. gave_way: chunks forgotten since the start because the arm was held back.
    """

    frames: tuple[RGBDFrame, ...]
    joints: np.ndarray
    ahead: np.ndarray
    pace: np.ndarray
    time: float
    gave_way: int = 0


class Rig(Protocol):
    """See `SimRig` and `ProcessRig`."""

    robot: RobotModel
    cameras: Sequence[MountedCamera]

    @property
    def clock(self) -> Clock: ...

    @property
    def real_time(self) -> bool:
        """Time goes on while one plans."""
        ...

    @property
    def grips(self) -> bool:
        """The arm has a gripper that can be sent somewhere."""
        ...

    def look(self) -> Look:
        """Everything now.

        Raises:
            ControlError: a camera's frame or the arm's state is not fit to plan from; the arm is stopped then.
        """
        ...

    def arm(self, *, dry_run: bool) -> None:
        """Let chunks move the arm.

        Raises:
            ControlError: why not.
        """
        ...

    def submit(self, chunk: Chunk) -> None:
        """Hand a plan over.

        Raises:
            ControlError: it was refused.
        """
        ...

    def passes(self, chunk: Chunk, seconds: float) -> bool:
        """Whether the safety filter would let the first `seconds` of a chunk through from here."""
        ...

    def hold(self) -> None:
        """Come to rest and wait for the next chunk."""
        ...

    def wait(self, until: float) -> None:
        """Let time pass.

        Raises:
            ControlError: the safety filter faulted.
        """
        ...

    def settle(self, longest: float) -> None:
        """Let time pass until the arm stands where it was sent, `longest` [s] at most.

        Raises:
            ControlError: the safety filter faulted.
        """
        ...

    def disarm(self) -> None:
        """Come to rest and take no more plans."""
        ...

    def stop(self, reason: Reason = Reason.OPERATOR, message: str = "stopped by hand") -> None:
        """Latch a fault."""
        ...

    def close(self) -> None:
        """Leave the arm standing and end all that was started."""
        ...


def look_through(
    cameras: Sequence[MountedCamera],
    robot: RobotModel,
    joints: Callable[[float], np.ndarray],
    clock: Clock,
) -> tuple[RGBDFrame, ...]:
    """Posed frames of all cameras. Args: joints: (joints,) of the arm at a time.

    Raises:
        ControlError: a frame is not fit to plan from.
    """
    now = clock.now()
    taken = [(camera, camera.take(now, clock)) for camera in cameras]
    found = []
    for camera, frame in taken:
        there = joints(frame.time)
        found.append(camera.posed(frame, tool_pose(robot, there), there))
    return tuple(found)


def where_to_plan_from(
    joints: np.ndarray,
    columns: Sequence[int],
    commanded: np.ndarray | None,
    pace: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Joints and speeds (joints,) that a plan starts from: the commanded ones, where the arm follows them."""
    ahead, speeds, arm = joints.copy(), np.zeros(len(joints)), list(columns)
    if commanded is not None and pace is not None:
        ahead[arm] = np.clip(commanded, joints[arm] - _SLACK, joints[arm] + _SLACK)
        speeds[arm] = pace
    return ahead, speeds


def tool_pose(robot: RobotModel, joints: np.ndarray) -> np.ndarray:
    """T_base_tool (4, 4)."""
    return np.asarray(robot.tool_pose(torch.from_numpy(np.asarray(joints, dtype=np.float64))))


def check_cameras(rig: Rig) -> dict[str, float]:
    """See `require_calibrated`."""
    joints = rig.look().joints
    return require_calibrated(rig.cameras, rig.robot, joints, tool_pose(rig.robot, joints))


def rehearse(loop: ControlLoop | RemoteController, chunk: Chunk, seconds: float) -> bool:
    """Whether the filter lets the first `seconds` of a chunk through; False for a chunk that is refused as a whole.

    Raises:
        ControlError: PLANNER_LINK, the controller does not answer.
    """
    try:
        return loop.rehearse(chunk, seconds)[0] is Reason.NONE
    except ControlError as error:
        if error.reason is Reason.PLANNER_LINK:
            raise
        return False
