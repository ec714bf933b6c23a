"""An arm with cameras, as a planner meets it: simulated in this process, or behind controller and robot server.

`SimRig` runs on a clock that stands while one plans; `ProcessRig` in real time. To the planner they are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from pointworld.control.cameras import MountedCamera, require_calibrated
from pointworld.control.clock import Clock, ManualClock, SystemClock
from pointworld.control.controller import RemoteController
from pointworld.control.filming import PICTURES
from pointworld.control.loop import ControlLoop
from pointworld.control.recording import Recorder
from pointworld.control.types import CameraFrame, Chunk, ControlError, Reason, SafetyMode
from pointworld.control.wire import Message
from pointworld.robot import RobotModel
from pointworld.types import RGBDFrame

#: Between two questions to the controller, and how long its first measurement may take [s].
_POLL, _FIRST_STATE = 0.01, 2.0
#: An arm is where it was sent, and stands, within these [rad, rad/s].
_THERE, _STANDS = 0.02, 0.02
#: A plan starts where the arm is commanded to be, or as near to that as this from where it is measured [rad].
_SLACK = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """One moment. frames: posed in the base frame. joints: (joints,) measured, in the robot's order, gripper included.

    ahead, pace: (joints,) where the arm is commanded to be, and at which speed: a plan goes on from there. time: on
    the rig's clock [s].
    """

    frames: tuple[RGBDFrame, ...]
    joints: np.ndarray
    ahead: np.ndarray
    pace: np.ndarray
    time: float


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
    joints: np.ndarray,
    take: Callable[[MountedCamera], CameraFrame],
) -> tuple[RGBDFrame, ...]:
    """Posed frames of all cameras, with the arm at `joints` (joints,)."""
    tool = tool_pose(robot, joints)
    return tuple(camera.posed(take(camera), tool, joints) for camera in cameras)


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


def _rehearse(loop: ControlLoop | RemoteController, chunk: Chunk, seconds: float) -> bool:
    try:
        return loop.rehearse(chunk, seconds)[0] is Reason.NONE
    except ControlError:
        return False


class SimRig:
    """A simulated arm behind the control loop, in this process."""

    real_time, grips = False, True

    def __init__(
        self,
        loop: ControlLoop,
        clock: ManualClock,
        robot: RobotModel,
        cameras: Sequence[MountedCamera],
        *,
        measure: Callable[[], np.ndarray],
    ) -> None:
        """Args: measure: the joints (joints,) now, in the robot's order."""
        self.loop, self.robot, self.cameras = loop, robot, cameras
        self._clock = clock
        self._measure = measure
        loop.robot.connect()
        for camera in cameras:
            camera.camera.connect()

    @property
    def clock(self) -> Clock:
        return self._clock

    def look(self) -> Look:
        """See `Rig`."""
        joints, status, now = self._measure(), self.loop.status(), self._clock.now()
        arm = range(len(self.loop.robot.info.arm_joints))
        try:
            frames = look_through(self.cameras, self.robot, joints, lambda camera: camera.take(now))
        except ControlError as error:
            self.stop(error.reason, str(error))
            raise
        ahead, pace = where_to_plan_from(joints, arm, status.commanded, status.pace)
        return Look(frames=frames, joints=joints, ahead=ahead, pace=pace, time=now)

    def arm(self, *, dry_run: bool) -> None:
        """See `Rig`."""
        self.loop.arm(dry_run=dry_run)

    def submit(self, chunk: Chunk) -> None:
        """See `Rig`."""
        self.loop.submit(chunk)

    def passes(self, chunk: Chunk, seconds: float) -> bool:
        """See `Rig`."""
        return _rehearse(self.loop, chunk, seconds)

    def hold(self) -> None:
        """See `Rig`."""
        self.loop.hold()

    def wait(self, until: float) -> None:
        """See `Rig`."""
        period = self.loop.safety.config.period
        while self._clock.now() < until - period / 2:
            self._clock.time += period
            self.loop.tick()
            status = self.loop.status()
            if status.mode is SafetyMode.FAULT:
                raise ControlError(status.reason, status.message)

    def settle(self, longest: float) -> None:
        """See `Rig`. This arm is where it was sent."""

    def disarm(self) -> None:
        """See `Rig`."""
        self.loop.disarm()

    def stop(self, reason: Reason = Reason.OPERATOR, message: str = "stopped by hand") -> None:
        """See `Rig`."""
        self.loop.stop(reason, message)

    def close(self) -> None:
        """See `Rig`."""
        self.loop.robot.disconnect()
        for camera in self.cameras:
            camera.camera.disconnect()


class ProcessRig:
    """An arm behind a controller process and a robot-server process; cameras in this one."""

    real_time = True

    def __init__(
        self,
        controller: RemoteController,
        arm_joints: tuple[str, ...],
        robot: RobotModel,
        cameras: Sequence[MountedCamera],
        *,
        recorder: Recorder | None = None,
        ends: Sequence[Callable[[], None]] = (),
    ) -> None:
        """Args: recorder: for pictures. ends: what to call, in order, when the rig is closed."""
        self._clock = SystemClock()
        self.controller, self.robot, self.cameras = controller, robot, cameras
        self._columns = [robot.joint_names.index(name) for name in arm_joints]
        self._recorder, self._ends = recorder, ends
        self._filmed = -np.inf
        self.measured()  # The first state is there from now on.
        self.grips = controller.status().fields.get("gripper_width") is not None
        for camera in cameras:
            camera.camera.connect()

    @property
    def clock(self) -> Clock:
        return self._clock

    def measured(self) -> tuple[np.ndarray, np.ndarray]:
        """Joints and speeds (joints,) in the robot's order, as the arm measured them last.

        Raises:
            ControlError: STATE_STALE when there is no measurement.
        """
        end = self.clock.now() + _FIRST_STATE
        while "joint_positions" not in (status := self.controller.status()).arrays:
            if self.clock.now() > end:
                break
            time.sleep(_POLL)
        return self._joints(status)

    def _joints(self, status: Message) -> tuple[np.ndarray, np.ndarray]:
        if "joint_positions" not in status.arrays:
            raise ControlError(Reason.STATE_STALE, "the arm has not been measured yet")
        joints, speeds = np.array(self.robot.home), np.zeros(len(self.robot.home))
        joints[self._columns] = status.arrays["joint_positions"]
        speeds[self._columns] = status.arrays["joint_velocities"]
        width = status.fields.get("gripper_width")
        if isinstance(width, float | int) and self.robot.gripper is not None:
            most = self.robot.gripper_max_width
            opened = self.robot.with_gripper_width(
                torch.from_numpy(joints), min(max(float(width), 0.0), most)
            )
            joints = opened.numpy()
        return joints, speeds

    def look(self) -> Look:
        """See `Rig`."""
        try:
            status = self.controller.status()
            joints, _ = self._joints(status)
            now = self.clock.now()
            frames = look_through(self.cameras, self.robot, joints, lambda c: c.take(now))
        except ControlError as error:
            self.stop(error.reason, str(error))
            raise
        ahead, pace = where_to_plan_from(
            joints, self._columns, status.arrays.get("commanded"), status.arrays.get("pace")
        )
        return Look(frames=frames, joints=joints, ahead=ahead, pace=pace, time=now)

    def arm(self, *, dry_run: bool) -> None:
        """See `Rig`."""
        self.controller.arm(dry_run=dry_run)

    def submit(self, chunk: Chunk) -> None:
        """See `Rig`. A chunk that comes after a fault is refused with the reason of the fault."""
        try:
            self.controller.submit(chunk)
        except ControlError:
            self._raise_fault(self.controller.status())
            raise

    def passes(self, chunk: Chunk, seconds: float) -> bool:
        """See `Rig`."""
        return _rehearse(self.controller, chunk, seconds)

    def hold(self) -> None:
        """See `Rig`."""
        self.controller.hold()

    def wait(self, until: float) -> None:
        """See `Rig`. Pictures for the recording are taken meanwhile; the control loop is another process."""
        while True:
            status = self.controller.status()
            self._raise_fault(status)
            now = self.clock.now()
            if now >= until:
                return
            if self._recorder is not None and now - self._filmed >= PICTURES - _POLL / 2:
                self._filmed = max(self._filmed + PICTURES, now - PICTURES / 2)
                self._film(self._recorder, status)
            time.sleep(min(_POLL, max(until - self.clock.now(), 0.0)))

    def _raise_fault(self, status: Message) -> None:
        if status.fields["mode"] == SafetyMode.FAULT.value:
            reason = Reason(str(status.fields["reason"]))
            raise ControlError(reason, str(status.fields["message"]))

    def _film(self, recorder: Recorder, status: Message) -> None:
        try:
            joints, _ = self._joints(status)
            tool = tool_pose(self.robot, joints)
            for mounted in self.cameras:
                frame = mounted.camera.read_latest()
                recorder.frame(frame, mounted.pose(tool), joints)
        except ControlError as error:
            # Whether a camera is fit to plan from is judged at the next look.
            recorder.event(self.clock.now(), "no picture", error.reason, str(error))

    def settle(self, longest: float) -> None:
        """See `Rig`. An arm that gives way, or a simulated one on a busy machine, comes late."""
        end = self.clock.now() + longest
        while self.clock.now() < end:
            status = self.controller.status()
            self._raise_fault(status)
            arrays = status.arrays
            if status.fields["mode"] != SafetyMode.ARMED.value or "commanded" not in arrays:
                return
            off = np.abs(arrays["commanded"] - arrays["joint_positions"]).max()
            fast = np.abs(arrays["joint_velocities"]).max()
            if status.fields["holding"] and off < _THERE and fast < _STANDS:
                return
            time.sleep(_POLL)

    def disarm(self) -> None:
        """See `Rig`."""
        self.controller.disarm()

    def stop(self, reason: Reason = Reason.OPERATOR, message: str = "stopped by hand") -> None:
        """See `Rig`."""
        self.controller.stop(reason, message)

    def close(self) -> None:
        """See `Rig`."""
        for camera in self.cameras:
            camera.camera.disconnect()
        for end in self._ends:
            end()
