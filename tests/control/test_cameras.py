"""Cameras of a run: replayed captures, poses from calibrations, and the gate before arming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pointworld.capture import write_capture
from pointworld.control.calibration import CameraCalibration, write_calibration
from pointworld.control.cameras import (
    MountedCamera,
    ReplayCamera,
    read_calibrations,
    realsense_cameras,
    replay_cameras,
    require_calibrated,
)
from pointworld.control.clock import ManualClock
from pointworld.control.frames import FrameWatch
from pointworld.control.handeye import HandEye
from pointworld.control.rig import tool_pose
from pointworld.control.types import ControlError, Reason
from pointworld.errors import InputError
from pointworld.robot import RobotModel
from pointworld.types import Capture, RGBDFrame
from tests.control.conftest import HOME, depth_of_arm

K = np.array([[150.0, 0, 80], [0, 150, 60], [0, 0, 1]])
JOINTS = np.append(HOME, 0.04)


def frame(camera: str = "side", number: int = 0, grey: int = 90) -> RGBDFrame:
    return RGBDFrame(
        rgb=np.full((120, 160, 3), grey, np.uint8),
        depth=np.full((120, 160), 0.8, np.float32),
        valid=np.ones((120, 160), bool),
        K=K,
        T_world_cam=np.eye(4),
        name=f"{camera}{number}",
        camera=camera,
        timestamp=0.1 * number,
        joint_positions=JOINTS,
    )


def calibration(path: Path, camera: str, T: np.ndarray) -> Path:
    result = HandEye(
        mode="eye_to_hand",
        K=K,
        T_parent_cam=T,
        T_other_board=np.eye(4),
        residuals=np.array([0.2]),
        translation_std=np.zeros(3),
        rotation_std=np.zeros(3),
    )
    write_calibration(path, camera, result)
    return path


def test_a_capture_is_replayed_as_if_taken_now(tmp_path: Path, fr3: RobotModel) -> None:
    base = np.eye(4)
    base[:3, 3] = (0.5, 0.0, 0.2)
    frames = tuple(frame(c, k, 90 + k) for k in range(3) for c in ("left", "right"))
    write_capture(
        Capture(frames=frames, source="t", T_world_base=base, joint_names=fr3.joint_names),
        tmp_path / "cap",
    )
    clock = ManualClock(7.0)
    mounted, capture = replay_cameras(tmp_path / "cap", clock, {})
    assert [m.name for m in mounted] == ["left", "right"] and len(capture.frames) == 6
    left = mounted[0]
    with pytest.raises(ControlError, match="not connected"):
        left.take(7.0, clock)
    left.camera.connect()
    greys = [int(left.take(clock.now(), clock).rgb[0, 0, 0]) for _ in range(5)]
    assert greys == [90, 91, 92, 92, 92]
    posed = left.posed(left.take(7.0, clock), np.eye(4), JOINTS)
    assert np.allclose(posed.T_world_cam[:3, 3], (-0.5, 0.0, -0.2)) and posed.timestamp == 7.0


def test_a_calibration_wins_and_moves_with_the_hand(tmp_path: Path) -> None:
    T = np.eye(4)
    T[:3, 3] = (0.1, 0.2, 0.3)
    hand = CameraCalibration(camera="wrist", mode="eye_in_hand", T_parent_cam=T, K=K, rms_px=0.2)
    camera = ReplayCamera([frame("raw")], ManualClock())
    mounted = MountedCamera(camera=camera, calibration=hand, fixed=np.eye(4))
    tool = np.eye(4)
    tool[:3, 3] = (1.0, 0.0, 0.0)
    assert mounted.name == "wrist" and np.allclose(mounted.pose(tool)[:3, 3], (1.1, 0.2, 0.3))
    with pytest.raises(InputError, match="--calibration"):
        MountedCamera(camera=camera)


def test_frames_that_are_not_fit_to_plan_from_are_refused() -> None:
    clock = ManualClock()
    dark = replace(frame(), depth=np.zeros((120, 160), np.float32))
    mounted = MountedCamera(camera=ReplayCamera([dark], clock), fixed=np.eye(4))
    mounted.camera.connect()
    with pytest.raises(ControlError, match="have depth") as caught:
        mounted.take(clock.now(), clock)
    assert caught.value.reason is Reason.CAMERA_INVALID


def test_only_a_camera_that_sees_the_arm_in_its_place_may_be_armed(
    tmp_path: Path, fr3: RobotModel
) -> None:
    T, depth = depth_of_arm(fr3, JOINTS, K, (120, 160))
    seen = replace(frame(), depth=depth, valid=depth > 0)
    tool = tool_pose(fr3, JOINTS)

    def gate(T_base_cam: np.ndarray) -> dict[str, float]:
        known = read_calibrations([calibration(tmp_path / "side.json", "side", T_base_cam)])
        camera = ReplayCamera([seen], ManualClock())
        camera.connect()
        mounted = MountedCamera(camera=camera, calibration=known["side"], watch=FrameWatch())
        return require_calibrated([mounted], fr3, JOINTS, tool)

    assert gate(T)["side"] > 0.9
    pushed = T.copy()
    pushed[:3, 3] += (0.0, 0.05, 0.0)
    for wrong in (pushed, np.eye(4)):
        with pytest.raises(ControlError, match="calibrate it again") as caught:
            gate(wrong)
        assert caught.value.reason is Reason.CAMERA_CALIBRATION
    # A pose that nobody calibrated (a simulated camera's own) is not asked.
    camera = MountedCamera(camera=ReplayCamera([seen], ManualClock()), fixed=pushed)
    assert require_calibrated([camera], fr3, JOINTS, tool) == {}


@pytest.mark.rejects_input
def test_cameras_without_a_place_are_refused(tmp_path: Path) -> None:
    bare = replace(frame(), joint_positions=None)
    write_capture(Capture(frames=(bare,), source="t"), tmp_path / "cap")
    with pytest.raises(InputError, match="where the robot stands"):
        replay_cameras(tmp_path / "cap", ManualClock(), {})
    file = calibration(tmp_path / "a.json", "side", np.eye(4))
    with pytest.raises(InputError, match="another calibration"):
        read_calibrations([file, calibration(tmp_path / "b.json", "side", np.eye(4))])
    known = read_calibrations([file])
    with pytest.raises(InputError, match="camera 12 has no calibration"):
        realsense_cameras(["12", "13"], ManualClock(), known)
    (only,) = realsense_cameras(["12"], ManualClock(), known)
    assert only.name == "side"
