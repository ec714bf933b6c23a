"""Limits: the shrinking velocity limits, against the formula and against libfranka itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pointworld.control.limits import VELOCITY_TOLERANCE, JointLimits, read_joint_limits
from pointworld.errors import AssetError, InputError
from pointworld.robot import RobotModel

ORACLE = Path(__file__).with_name("libfranka_limits.py")
#: What it printed once, and from which libfranka; see `meta_json` inside.
STORED = Path(__file__).parent / "data" / "libfranka_limits.npz"


def test_full_speed_in_the_middle_and_none_at_the_ends(fr3_limits: JointLimits) -> None:
    slowest, fastest = fr3_limits.velocity_range((fr3_limits.lower + fr3_limits.upper) / 2)
    assert np.allclose(fastest[[0, 2, 4, 6]], fr3_limits.velocity[[0, 2, 4, 6]])
    assert np.allclose(fastest, -slowest)
    assert (fr3_limits.velocity_range(fr3_limits.upper)[1] == 0).all()
    assert (fr3_limits.velocity_range(fr3_limits.lower)[0] == 0).all()


def test_the_formula_of_joint_2(fr3_limits: JointLimits) -> None:
    q = np.array([0, 1.5, 0, -2, 0, 2, 0.0])
    expected = np.sqrt(2 * 2.585 * (1.8361 - 1.5)) - 0.25
    assert fr3_limits.velocity_range(q)[1][1] == pytest.approx(expected)
    q[1] = -1.5
    assert fr3_limits.velocity_range(q)[0][1] == pytest.approx(-expected)


def test_joints_without_shrinking_limits_keep_their_speed() -> None:
    robot = RobotModel.load("panda_robotiq")
    limits = read_joint_limits(robot.source, robot.joint_names[:7])
    assert np.allclose(limits.velocity_range(limits.upper)[1], limits.velocity)
    assert limits.acceleration[1] == 7.5


@pytest.mark.rejects_input
def test_missing_limits_are_named(tmp_path: Path) -> None:
    file = tmp_path / "arm.urdf"
    file.write_text(
        '<robot name="a"><joint name="j" type="revolute"><limit lower="0"/></joint></robot>'
    )
    with pytest.raises(AssetError, match="joint 'j'"):
        read_joint_limits(file, ["j"])
    with pytest.raises(AssetError, match="no joint 'k'"):
        read_joint_limits(file, ["k"])


@pytest.mark.rejects_input
def test_nonsense_is_refused(fr3_limits: JointLimits) -> None:
    with pytest.raises(InputError):
        fr3_limits.narrowed(2.0)
    with pytest.raises(InputError):
        fr3_limits.scaled(velocity=1.5, acceleration=1, jerk=1)


@pytest.fixture(scope="module")
def configurations(fr3_limits: JointLimits) -> np.ndarray:
    """(1000, 7) all over the joints' ranges."""
    return np.random.default_rng(7).uniform(fr3_limits.lower, fr3_limits.upper, (1000, 7))


def check_against_libfranka(
    limits: JointLimits, q: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> None:
    """libfranka stays its own tolerance below the curve, also where the curve is at zero."""
    slowest, fastest = limits.velocity_range(q)
    assert np.allclose(fastest - VELOCITY_TOLERANCE, upper, rtol=0, atol=1e-9)
    assert np.allclose(slowest + VELOCITY_TOLERANCE, lower, rtol=0, atol=1e-9)


def test_libfranka_agreed_on_1000_configurations(
    fr3_limits: JointLimits, configurations: np.ndarray
) -> None:
    with np.load(STORED, allow_pickle=False) as stored:
        meta = json.loads(str(stored["meta_json"]))
        assert meta["seed"] == 7 and meta["libfranka"] == "0.21.2"
        assert np.array_equal(stored["joint_positions"], configurations)
        check_against_libfranka(fr3_limits, configurations, stored["lower"], stored["upper"])


def test_libfranka_agrees_on_1000_configurations(
    fr3: RobotModel, fr3_limits: JointLimits, configurations: np.ndarray
) -> None:
    """The library itself, in a Python of its own: named by POINTWORLD_PYLIBFRANKA, never imported in this process."""
    python = os.environ.get("POINTWORLD_PYLIBFRANKA")
    if python is None or shutil.which(python) is None:
        pytest.skip("POINTWORLD_PYLIBFRANKA does not name a Python with pylibfranka")
    done = subprocess.run(
        [python, str(ORACLE), str(fr3.source)],
        input=json.dumps(configurations.tolist()),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lower, upper = np.array(json.loads(done.stdout)).transpose(1, 0, 2)
    check_against_libfranka(fr3_limits, configurations, lower, upper)
