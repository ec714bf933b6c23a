"""An arm behind a controller process and a robot-server process, in real time; its cameras are in this one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from pointworld.control.cameras import MountedCamera
from pointworld.control.clock import Clock, SystemClock
from pointworld.control.filming import PICTURES
from pointworld.control.recording import Recorder
from pointworld.control.remote import RemoteController
from pointworld.control.rig import Look, look_through, rehearse, tool_pose, where_to_plan_from
from pointworld.control.track import Track
from pointworld.control.types import Chunk, ControlError, Reason, SafetyMode
from pointworld.control.wire import Message
from pointworld.robot import RobotModel

#: Between two questions to the controller, and how long its first measurement may take [s].
_POLL, _FIRST_STATE = 0.02, 2.0
#: An arm is where it was sent, and stands, within these [rad, rad/s].
_THERE, _STANDS = 0.02, 0.02


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
        width: float | None = None,
    ) -> None:
        """Connect the cameras and wait for the arm's first state.

        Args:
            recorder: for pictures. ends: what to call, in order, when the rig is closed.
            width: how far the gripper of an arm is open that does not report it [m], None = as at home.
        """
        self._clock = SystemClock()
        self.controller, self.robot, self.cameras = controller, robot, cameras
        self._columns = [robot.joint_names.index(name) for name in arm_joints]
        self._recorder, self._ends, self._width = recorder, ends, width
        self._filmed, self._track = -np.inf, Track()
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

    def _status(self) -> Message:
        """The controller's, and where the arm is noted for the pictures of this moment."""
        status = self.controller.status()
        if "joint_positions" in status.arrays:
            moment = status.fields.get("time")
            now = float(moment) if isinstance(moment, float | int) else self.clock.now()
            self._track.add(now, self._joints(status)[0])
        return status

    def _joints(self, status: Message) -> tuple[np.ndarray, np.ndarray]:
        if "joint_positions" not in status.arrays:
            raise ControlError(Reason.STATE_STALE, "the arm has not been measured yet")
        joints, speeds = np.array(self.robot.home), np.zeros(len(self.robot.home))
        joints[self._columns] = status.arrays["joint_positions"]
        speeds[self._columns] = status.arrays["joint_velocities"]
        told = status.fields.get("gripper_width")
        width = self._width if told is None else told
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
            status = self._status()
            joints, _ = self._joints(status)
            now = self.clock.now()
            frames = look_through(self.cameras, self.robot, self._track.at, self.clock)
        except ControlError as error:
            self.stop(error.reason, str(error))
            raise
        ahead, pace = where_to_plan_from(
            joints, self._columns, status.arrays.get("commanded"), status.arrays.get("pace")
        )
        times = [frame.timestamp for frame in frames]
        return Look(
            frames=frames,
            joints=self._track.at(float(np.mean(times))) if times else joints,
            ahead=ahead,
            pace=pace,
            time=now,
            gave_way=int(status.number("gave_way")),
        )

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
        return rehearse(self.controller, chunk, seconds)

    def hold(self) -> None:
        """See `Rig`."""
        self.controller.hold()

    def wait(self, until: float) -> None:
        """See `Rig`. Pictures for the recording are taken meanwhile; the control loop is another process."""
        while True:
            status = self._status()
            self._raise_fault(status)
            self._raise_full_disk()
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

    def _raise_full_disk(self) -> None:
        """The controller watches its own part of the record; this is the planner's."""
        if self._recorder is not None and self._recorder.error is not None:
            message = f"the record cannot be written: {self._recorder.error}"
            self.stop(Reason.RECORDING, message)
            raise ControlError(Reason.RECORDING, message)

    def _film(self, recorder: Recorder, status: Message) -> None:
        try:
            self._joints(status)
            for mounted in self.cameras:
                frame = mounted.camera.read_latest()
                # A picture is of where the arm was when it was taken.
                joints = self._track.at(frame.time)
                recorder.frame(frame, mounted.pose(tool_pose(self.robot, joints)), joints)
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
