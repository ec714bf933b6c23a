"""A simulated arm with cameras in this process, on a clock that stands while one plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pointworld.control.cameras import MountedCamera
from pointworld.control.clock import Clock, ManualClock
from pointworld.control.loop import ControlLoop
from pointworld.control.rig import Look, look_through, rehearse, where_to_plan_from
from pointworld.control.types import Chunk, ControlError, Reason, SafetyMode
from pointworld.robot import RobotModel


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
            frames = look_through(self.cameras, self.robot, lambda _: joints, self._clock)
        except ControlError as error:
            self.stop(error.reason, str(error))
            raise
        ahead, pace = where_to_plan_from(joints, arm, status.commanded, status.pace)
        return Look(
            frames=frames,
            joints=joints,
            ahead=ahead,
            pace=pace,
            time=now,
            gave_way=status.gave_way,
        )

    def arm(self, *, dry_run: bool) -> None:
        """See `Rig`."""
        self.loop.arm(dry_run=dry_run)

    def submit(self, chunk: Chunk) -> None:
        """See `Rig`."""
        self.loop.submit(chunk)

    def passes(self, chunk: Chunk, seconds: float) -> bool:
        """See `Rig`."""
        return rehearse(self.loop, chunk, seconds)

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
