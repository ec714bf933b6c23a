"""`pointworld doctor robot` and `pointworld calibrate`, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pointworld.capture import write_capture
from pointworld.cli import calibrate, doctor_robot
from pointworld.errors import InputError
from pointworld.types import Capture, RGBDFrame
from tests.control.conftest import HOME


def test_doctor_robot_looks_at_a_fake_arm(capsys: pytest.CaptureFixture[str]) -> None:
    code = doctor_robot.main(["--seconds", "0.3", "--rate", "20", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == (0 if report["ok"] else 2)
    # A busy machine may be late; nothing else may be wrong with a fake arm.
    assert all(
        "busy" in p or "100 ms" in p or "watchdog" in p or "state" in p for p in report["problems"]
    )
    assert report["arm"] == "fake" and report["tried_on_hardware"] is False
    assert report["state_age_ms"]["median"] < 300
    if "stop_time_s" in report:
        assert 0.2 < report["stop_time_s"] < 1.0


@pytest.mark.rejects_input
def test_doctor_robot_says_what_is_missing() -> None:
    with pytest.raises(InputError, match="--host"):
        doctor_robot.main(["--robot", "ur"])
    with pytest.raises(InputError, match="go together"):
        doctor_robot.main(["--calibration", "x.json"])


def _capture(folder: Path, *, cameras: tuple[str, ...] = ("side",), joints: bool = True) -> Path:
    frames = tuple(
        RGBDFrame(
            rgb=np.full((48, 64, 3), 128, np.uint8),
            depth=np.ones((48, 64), np.float32),
            valid=np.ones((48, 64), bool),
            K=np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]),
            T_world_cam=np.eye(4),
            name=f"{camera}{k}",
            camera=camera,
            joint_positions=np.append(HOME, 0.04) if joints else None,
        )
        for camera in cameras
        for k in range(2)
    )
    names = (*(f"fr3_joint{i}" for i in range(1, 8)), "fr3_finger_joint1")
    write_capture(Capture(frames=frames, source="test", joint_names=names), folder)
    return folder


@pytest.mark.rejects_input
def test_calibrate_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name a capture"):
        calibrate.main([])
    two = _capture(tmp_path / "two", cameras=("left", "right"))
    with pytest.raises(InputError, match="left, right"):
        calibrate.main([str(two)])
    bare = _capture(tmp_path / "bare", joints=False)
    with pytest.raises(InputError, match="joint positions"):
        calibrate.main([str(bare)])


def test_calibrate_finds_no_board_in_grey_images(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    with pytest.raises(InputError, match="usable views"):
        calibrate.main([str(_capture(tmp_path / "grey"))])


def test_the_board_can_be_printed(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    assert calibrate.main(["--print-board", str(tmp_path / "board.png")]) == 0
    assert Image.open(tmp_path / "board.png").size == (840, 600)
