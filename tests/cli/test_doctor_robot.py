"""`pointworld doctor robot`: simulated arms, the judgement of what came in, and the check of a camera's calibration."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pointworld.capture import read_capture
from pointworld.cli import doctor_robot
from pointworld.cli.doctor_robot import _judge_states, _Report
from pointworld.control.calibration import write_calibration
from pointworld.control.handeye import HandEye
from pointworld.control.rig_open import RigConfig
from pointworld.control.rig_runs import RigRun, take_look
from pointworld.control.task_runs import RunConfig
from pointworld.control.types import RobotMode, RobotState
from pointworld.errors import InputError
from pointworld.types import RGBDFrame

pytest.importorskip("mujoco", reason="mujoco is not installed")

QUICK = ["--robot", "sim", "--seconds", "0.2", "--rate", "20", "--json"]
FRANKY = os.environ.get("POINTWORLD_FRANKY", "")
#: What may be wrong on a machine that is busy with other things.
BUSY = ("busy", "older than", " s old", "between ticks", "states a second")


def _run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = doctor_robot.main(words)
    return code, json.loads(capsys.readouterr().out)


def _real(problems: list[str]) -> list[str]:
    """Problems that are not the machine's."""
    return [p for p in problems if not any(word in p for word in BUSY)]


def test_the_simulated_arm_is_examined_in_this_process(capsys: pytest.CaptureFixture[str]) -> None:
    code, report = _run(QUICK, capsys)
    assert code == (0 if report["ok"] else 2) and not _real(report["problems"])
    assert report["arm"] == "mujoco" and "mujoco" in report["versions"]
    assert len(report["joint_positions"]) == 7 and len(report["velocity_limits_here"]) == 7
    assert report["mode"] in ("ready", "moving")
    assert 0.1 < report["stop_time_s"] < 2.0


def test_an_arm_of_ones_own_is_examined_by_its_driver(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = tmp_path / "my_arm.py"
    driver.write_text(
        "import numpy as np\n"
        "from pointworld.control.backends import FakeRobot\n"
        "HOME = np.array([0.0, -0.6, 0.0, -2.2, 0.0, 1.6, 0.8])\n"
        "def make_robot(clock, host='desk'):\n"
        "    return FakeRobot(tuple(f'{host}{i}' for i in range(7)), HOME, clock, max_width=0.08)\n"
    )
    own = [
        "--robot",
        "own",
        "--driver",
        str(driver),
        "--host",
        "shelf",
        "--model",
        "fr3",
        *QUICK[2:],
    ]
    code, report = _run(own, capsys)
    assert code == (0 if report["ok"] else 2) and not _real(report["problems"])
    np.testing.assert_allclose(
        report["joint_positions"], [0, -0.6, 0, -2.2, 0, 1.6, 0.8], atol=1e-6
    )
    with pytest.raises(InputError, match="--driver"):
        doctor_robot.main(["--robot", "own", *QUICK[2:]])
    with pytest.raises(InputError, match="--model"):
        doctor_robot.main(["--robot", "own", "--driver", str(driver), *QUICK[2:]])


@pytest.mark.rejects_input
def test_a_simulated_box_needs_its_environment(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pip install franky-control franky-sim"):
        doctor_robot.main(["--robot", "franka-sim"])
    with pytest.raises(InputError, match="franky-sim"):
        doctor_robot.main(["--robot", "franka-sim", "--python", str(tmp_path / "python")])


@pytest.mark.slow
@pytest.mark.skipif(not FRANKY, reason="POINTWORLD_FRANKY does not name a Python with franky-sim")
def test_the_simulated_box_is_examined(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--robot", "franka-sim", "--python", FRANKY, "--seconds", "1", "--rate", "50"]
    _, report = _run([*words, "--json"], capsys)
    assert not _real(report["problems"])
    assert len(report["joint_positions"]) == 7 and report["arm"] != "fake"


def _states(
    count: int = 40, *, age: float = 0.002, **changes: Any
) -> list[tuple[float, RobotState]]:
    """(time of the look, state) every 10 ms from an arm that stands."""
    first = RobotState(
        time=0.0,
        sequence=0,
        mode=RobotMode.READY,
        joint_positions=np.zeros(7),
        joint_velocities=np.zeros(7),
        gripper_width=0.08,
    )
    return [
        (0.01 * k, replace(first, **{"time": 0.01 * k - age, "sequence": k, **changes}))
        for k in range(count)
    ]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"success_rate": None}, None),
        ({"success_rate": 1.0}, None),
        ({"success_rate": 0.95}, None),
        ({"success_rate": 0.94}, "only 0.94 of the commands"),
        # An arm to which nothing was sent yet reports zero.
        ({"success_rate": 0.0}, None),
        ({"errors": ("joint_reflex",)}, "the arm reports: joint_reflex"),
        ({"sequence": 7}, "fewer than 20 states a second"),
        ({"age": 0.2}, "states are older than 100 ms"),
        ({"age": 0.08}, None),
    ],
)
def test_what_came_in_is_judged(changes: dict[str, Any], problem: str | None) -> None:
    report = _Report()
    _judge_states(_states(**changes), report, oldest=0.1)
    if problem is None:
        assert report.problems == []
    else:
        assert len(report.problems) == 1 and problem in report.problems[0]
    assert report.facts["success_rate"] == changes.get("success_rate")


def test_a_box_that_runs_slower_may_send_older_states() -> None:
    report = _Report()
    _judge_states(_states(age=0.2), report, oldest=0.4)
    assert report.problems == [] and report.facts["state_age_ms"]["median"] == pytest.approx(200)


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What simulated cameras see of a simulated arm, as `pointworld mpc --look` writes it."""
    folder = tmp_path_factory.mktemp("look") / "capture"
    run = RunConfig(task="tissue_box", dynamics="none", planner="straight", renderer="rays")
    assert take_look(RigRun(run=run, rig=RigConfig(), look_only=True), 1, folder) == 3
    return folder


def _calibration(path: Path, frame: RGBDFrame, *, shift: float = 0.0, camera: str = "") -> Path:
    """Of the camera of a frame, moved aside by `shift` [m]."""
    T = frame.T_world_cam.copy()
    T[:3, 3] += shift * T[:3, 0]
    result = HandEye(
        mode="eye_to_hand",
        K=frame.K,
        T_parent_cam=T,
        T_other_board=np.eye(4),
        residuals=np.array([0.2]),
        translation_std=np.zeros(3),
        rotation_std=np.zeros(3),
    )
    write_calibration(path, camera or frame.camera, result)
    return path


@pytest.mark.parametrize(
    ("shift", "camera", "problem"),
    [(0.0, "", None), (0.06, "", "calibrate again"), (0.0, "elsewhere", "has no frame of camera")],
)
def test_a_camera_must_see_the_arm_where_it_is(
    look: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    shift: float,
    camera: str,
    problem: str | None,
) -> None:
    frame = read_capture(look).frames[0]
    file = _calibration(tmp_path / "side.json", frame, shift=shift, camera=camera)
    code, report = _run([*QUICK, "--calibration", str(file), "--capture", str(look)], capsys)
    real = _real(report["problems"])
    if problem is None:
        assert not real and report["arm_seen"]["frames"] == 1
        assert report["arm_seen"]["agreeing"] > 0.8 and report["arm_seen"]["median_mm"] < 10
    else:
        assert code == 2 and len(real) == 1 and problem in real[0]
