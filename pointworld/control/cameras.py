"""Cameras of a run: opened by name, posed by their calibration, and judged before anything is planned or armed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pointworld.capture import read_capture
from pointworld.control.backends.plugged import PluggedCamera
from pointworld.control.backends.realsense import RealSenseCamera
from pointworld.control.calibration import (
    ArmCheck,
    CameraCalibration,
    check_against_arm,
    read_calibration,
)
from pointworld.control.clock import Clock
from pointworld.control.frames import FrameRules, FrameWatch
from pointworld.control.protocols import Camera
from pointworld.control.types import CameraFrame, ControlError, Reason
from pointworld.errors import InputError
from pointworld.geometry import invert
from pointworld.robot import RobotModel
from pointworld.types import Capture, RGBDFrame


class ReplayCamera(PluggedCamera):
    """See `Camera`. The recorded frames of one camera, one after another, as if they were taken now."""

    def __init__(self, frames: Sequence[RGBDFrame], clock: Clock) -> None:
        """Args: frames: of one camera, in order; the last one stays."""
        super().__init__(frames[0].camera)
        self._frames, self._clock, self._next = tuple(frames), clock, 0

    def _newest(self, max_age_s: float) -> CameraFrame:
        """Always the next one."""
        at = min(self._next, len(self._frames) - 1)
        frame, self._next = self._frames[at], at + 1
        return CameraFrame(
            camera=self.name,
            rgb=frame.rgb,
            depth=np.where(frame.valid, frame.depth, 0.0).astype(np.float32),
            K=frame.K,
            time=self._clock.now(),
            sequence=at,
        )


@dataclass(kw_only=True, eq=False)
class MountedCamera:
    """A camera and where it is. calibration: a file's; else fixed: T_base_cam (4, 4). watch: what it delivered last."""

    camera: Camera
    calibration: CameraCalibration | None = None
    fixed: np.ndarray | None = None
    watch: FrameWatch = field(default_factory=FrameWatch)

    def __post_init__(self) -> None:
        if self.calibration is None and self.fixed is None:
            raise InputError(
                f"nothing says where camera '{self.name}' is. Give its --calibration; pointworld calibrate makes one"
            )

    @property
    def name(self) -> str:
        """As goals and recordings call it."""
        return self.camera.name if self.calibration is None else self.calibration.camera

    def pose(self, T_base_tool: np.ndarray) -> np.ndarray:
        """T_base_cam (4, 4) with the tool at T_base_tool."""
        if self.calibration is not None:
            return self.calibration.T_base_cam(T_base_tool)
        assert self.fixed is not None
        return self.fixed

    def take(self, now: float, clock: Clock) -> CameraFrame:
        """A frame that is fit to plan from. Args: now: when the look began, by which its age counts.

        Raises:
            ControlError: why it is not.
        """
        frame = self.camera.read_latest(self.watch.rules.age)
        # A picture may be taken after the look began, but not after it arrived.
        moment = min(max(now, frame.time), clock.now())
        self.watch, reason, message = self.watch.check(frame, moment)
        if reason is not Reason.NONE:
            raise ControlError(reason, message)
        return frame

    def posed(self, frame: CameraFrame, T_base_tool: np.ndarray, joints: np.ndarray) -> RGBDFrame:
        """The frame in the base frame."""
        depth = frame.depth.astype(np.float32)
        return RGBDFrame(
            rgb=frame.rgb,
            depth=depth,
            valid=np.isfinite(depth) & (depth > 0),
            K=frame.K,
            T_world_cam=self.pose(T_base_tool),
            timestamp=frame.time,
            name=f"{self.name}-{frame.sequence}",
            camera=self.name,
            joint_positions=joints,
        )

    def check(self, robot: RobotModel, joints: np.ndarray, T_base_tool: np.ndarray) -> ArmCheck:
        """Whether the camera sees the arm where its joints say it is. Args: joints: (joints,) in the robot's order."""
        frame = self.camera.read_latest(self.watch.rules.age)
        return check_against_arm(frame, robot, joints, self.pose(T_base_tool))


def read_calibrations(files: Sequence[Path]) -> dict[str, CameraCalibration]:
    """Calibrations by the name of their camera.

    Raises:
        InputError: a file that cannot be read, or two of one camera.
    """
    found: dict[str, CameraCalibration] = {}
    for file in files:
        calibration = read_calibration(file)
        if calibration.camera in found:
            raise InputError(f"{file}: there is another calibration of '{calibration.camera}'")
        found[calibration.camera] = calibration
    return found


def replay_cameras(
    folder: Path, clock: Clock, calibrations: dict[str, CameraCalibration]
) -> tuple[list[MountedCamera], Capture]:
    """The cameras of a capture, and the capture.

    Raises:
        InputError: no capture, or nothing says where the robot stood.
    """
    capture = read_capture(folder)
    base = capture.T_world_base
    mounted = []
    for name in sorted({frame.camera for frame in capture.frames}):
        frames = [frame for frame in capture.frames if frame.camera == name]
        if name not in calibrations and base is None:
            raise InputError(
                f"{folder} does not say where the robot stands (T_world_base), and there is no --calibration of "
                f"camera '{name}'"
            )
        fixed = None if base is None else invert(base) @ frames[0].T_world_cam
        still = FrameWatch(rules=FrameRules(still=len(frames) + 1000))
        mounted.append(
            MountedCamera(
                camera=ReplayCamera(frames, clock),
                calibration=calibrations.get(name),
                fixed=fixed,
                watch=still,
            )
        )
    return mounted, capture


def realsense_cameras(
    serials: Sequence[str],
    clock: Clock,
    calibrations: dict[str, CameraCalibration],
    *,
    anywhere: bool = False,
) -> list[MountedCamera]:
    """RealSense cameras by serial number, each with the calibration of that name, or the only one there is.

    Args:
        anywhere: a camera without a calibration counts as standing in the base frame.

    Raises:
        InputError: a camera without a calibration.
    """
    mounted = []
    for serial in serials:
        found = calibrations.get(serial)
        if found is None and len(serials) == len(calibrations) == 1:
            found = next(iter(calibrations.values()))
        if found is None and not anywhere:
            known = ", ".join(calibrations) or "none"
            raise InputError(
                f"camera {serial} has no calibration (given: {known}). Name the camera by its serial number when "
                "calibrating: pointworld calibrate ... --camera SERIAL"
            )
        mounted.append(
            MountedCamera(
                camera=RealSenseCamera(clock=clock, serial=serial),
                calibration=found,
                fixed=np.eye(4) if found is None else None,
            )
        )
    return mounted


def require_calibrated(
    cameras: Sequence[MountedCamera], robot: RobotModel, joints: np.ndarray, T_base_tool: np.ndarray
) -> dict[str, float]:
    """The gate before arming: every calibrated camera must see the arm where its joints say it is.

    Returns:
        Per camera the share of the arm's visible surface at the right depth.

    Raises:
        ControlError: CAMERA_CALIBRATION with the camera and what to do.
    """
    agreeing = {}
    for camera in cameras:
        if camera.calibration is None:
            continue
        result = camera.check(robot, joints, T_base_tool)
        agreeing[camera.name] = round(result.agreeing, 3)
        if result.reason is not Reason.NONE:
            seen = (
                f"{result.agreeing:.0%} of the arm's surface at the right depth"
                if result.points and np.isfinite(result.median)
                else "too little of the arm"
            )
            raise ControlError(
                result.reason,
                f"not armed: camera '{camera.name}' shows {seen}. Bring the arm into its view, or calibrate it again",
            )
    return agreeing
