"""Joint paths: files, resampling, matching to a robot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pointworld.errors import InputError
from pointworld.robot import (
    RobotModel,
    joint_path_to_positions,
    read_joint_path,
    resample_joint_path,
)
from pointworld.types import JointPath

ARM = tuple(f"fr3_joint{i}" for i in range(1, 8))
HOME = np.array([0.0, -0.4, 0.0, -2.2, 0.0, 1.9, 0.785])


def _path(steps: int = 11, step_dt: float = 0.1, **extra: Any) -> JointPath:
    q = HOME + np.linspace(0, 0.3, steps)[:, None]
    return JointPath(joint_positions=q, joint_names=ARM, step_dt=step_dt, **extra)


def _save(path: Path, **replace: Any) -> Path:
    entries: dict[str, Any] = {
        "joint_positions": _path().joint_positions,
        "joint_names": np.array(ARM),
        "step_dt": 0.1,
    } | replace
    np.savez(path, **{k: v for k, v in entries.items() if v is not None})
    return path


def test_npz_round_trip(tmp_path: Path) -> None:
    width = np.linspace(0.08, 0.02, 11)
    path = read_joint_path(_save(tmp_path / "p.npz", gripper_width=width))
    assert path.joint_names == ARM and path.step_dt == 0.1
    assert np.array_equal(path.joint_positions, _path().joint_positions)
    assert path.gripper_width is not None and np.array_equal(path.gripper_width, width)
    names = np.array([n.encode() for n in ARM])
    assert read_joint_path(_save(tmp_path / "b.npz", joint_names=names)).joint_names == ARM


def _csv(path: Path, extra: dict[str, np.ndarray], *, steps: int = 11) -> Path:
    table = np.column_stack([_path(steps).joint_positions, *extra.values()])
    lines = [", ".join([*ARM, *extra]), *(",".join(f"{v:.17g}" for v in row) for row in table)]
    path.write_text("\n".join(lines) + "\n\n")
    return path


def test_csv_with_time_or_step(tmp_path: Path) -> None:
    timed = read_joint_path(_csv(tmp_path / "t.csv", {"time": 5 + 0.05 * np.arange(11)}))
    assert timed.step_dt == pytest.approx(0.05)
    stepped = read_joint_path(
        _csv(tmp_path / "s.csv", {"step_dt": np.full(11, 0.2), "gripper_width": np.full(11, 0.03)})
    )
    assert stepped.step_dt == 0.2 and stepped.joint_names == ARM
    assert stepped.gripper_width is not None and stepped.gripper_width[3] == 0.03
    for path in (timed, stepped):
        assert np.allclose(path.joint_positions, _path().joint_positions, atol=1e-12)


def test_uneven_times_are_put_on_an_even_grid(tmp_path: Path) -> None:
    time = np.array([0.0, 0.1, 0.2, 0.5, 0.6])
    path = read_joint_path(_csv(tmp_path / "u.csv", {"time": time}, steps=5))
    assert path.step_dt == pytest.approx(0.1) and len(path.joint_positions) == 7
    q = _path(5).joint_positions
    assert np.allclose(path.joint_positions[3], q[2] + (q[3] - q[2]) / 3)
    assert np.allclose(path.joint_positions[-1], q[-1])


def test_resampling_is_linear_and_keeps_both_ends() -> None:
    path = _path(11, 0.1, gripper_width=np.linspace(0.08, 0.0, 11))
    fine = resample_joint_path(path, 0.04)
    time = np.minimum(0.04 * np.arange(26), 1.0)
    assert np.allclose(fine.joint_positions, HOME + 0.3 * time[:, None])
    assert fine.gripper_width is not None
    assert np.allclose(fine.gripper_width, 0.08 * (1 - time))
    coarse = resample_joint_path(
        path, 0.3
    )  # 1.0 s is no multiple: the last step holds the last pose
    assert np.allclose(coarse.joint_positions[:, 0], [0, 0.09, 0.18, 0.27, 0.3])
    assert resample_joint_path(path, 0.1) is path
    back = resample_joint_path(resample_joint_path(path, 0.05), 0.1)
    assert np.allclose(back.joint_positions, path.joint_positions)
    assert len(resample_joint_path(path, 2 / 15).joint_positions) == 9  # 1.0 s / 0.1333 s = 7.5
    assert len(resample_joint_path(path, 50.0).joint_positions) == 2


def test_joints_are_matched_by_name(fr3: RobotModel) -> None:
    path = _path()
    shuffled = np.random.default_rng(1).permutation(7)
    mixed = JointPath(
        joint_positions=path.joint_positions[:, shuffled],
        joint_names=tuple(ARM[i] for i in shuffled),
        step_dt=0.1,
    )
    q = joint_path_to_positions(fr3, mixed)
    assert np.array_equal(q[:, :7], path.joint_positions)
    assert np.allclose(q[:, 7], 0.04)  # no gripper given: open


def test_gripper_width_sets_the_gripper_joint(fr3: RobotModel) -> None:
    width = np.linspace(0.08, 0.01, 11)
    q = joint_path_to_positions(fr3, _path(gripper_width=width))
    assert np.allclose(q[:, 7], width / 2, atol=1e-6)


def test_both_fingers_may_be_listed(fr3: RobotModel) -> None:
    both = np.column_stack([_path().joint_positions, np.full((11, 2), 0.015)])
    names = (*ARM, "fr3_finger_joint1", "fr3_finger_joint2")
    path = JointPath(joint_positions=both, joint_names=names, step_dt=0.1)
    assert np.allclose(joint_path_to_positions(fr3, path)[:, 7], 0.015)
    wide = JointPath(
        joint_positions=both, joint_names=names, step_dt=0.1, gripper_width=np.full(11, 0.08)
    )
    with pytest.raises(InputError, match="disagree by 50 mm"):
        joint_path_to_positions(fr3, wide)


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    ("replace", "message"),
    [
        ({"joint_names": None}, "no 'joint_names'"),
        ({"step_dt": None}, "no 'step_dt'"),
        ({"step_dt": 0.0}, "step_dt is 0.0"),
        ({"step_dt": np.nan}, "step_dt is nan"),
        ({"step_dt": np.ones(3)}, "step_dt must be numbers"),
        ({"joint_names": np.array(ARM[:6])}, r"expected \(steps, 6\)"),
        ({"joint_names": np.arange(7)}, "list of strings"),
        ({"joint_names": np.array(ARM, dtype=object)}, "plain arrays"),
        ({"joint_positions": np.full((11, 7), np.nan)}, "NaN"),
        ({"joint_positions": np.array([["a"] * 7] * 11)}, "must be numbers"),
        ({"joint_positions": HOME[None]}, "at least 2"),
        ({"joint_positions": HOME}, "joint_positions are"),
        ({"gripper_width": np.ones(3)}, "gripper_width is"),
        ({"gripper_width": np.full(11, np.inf)}, "NaN or infinity"),
    ],
)
def test_bad_npz(tmp_path: Path, replace: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_joint_path(_save(tmp_path / "p.npz", **replace))


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "header"),
        ("fr3_joint1,time\n", "header"),
        ("fr3_joint1\n0\n0.1\n", "time base"),
        ("fr3_joint1,time,step_dt\n0,0,1\n0,1,1\n", "time base"),
        ("fr3_joint1,time\n0,0\n0.1\n", "line 3 has 1 values"),
        ("fr3_joint1,time\n0,0\nx,1\n", "line 3"),
        ("fr3_joint1,time\n0,1\n0,0\n", "must increase"),
        ("fr3_joint1,time\nnan,0\n0,1\n", "NaN"),
        ("fr3_joint1,fr3_joint1,time\n0,0,0\n0,0,1\n", "distinct"),
        ("fr3_joint1,step_dt\n0,0.1\n0,0.2\n", "varies"),
        ("fr3_joint1,time\n0,0\n", "at least 2|must increase"),
        ("fr3_joint1,time\n0,0\n0,1e-9\n0,2e-9\n0,1000\n", "steps, at most"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_joint_path(path)


@pytest.mark.rejects_input
def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such"):
        read_joint_path(tmp_path / "none.npz")
    (tmp_path / "p.txt").write_text("x")
    with pytest.raises(InputError, match=r"\.npz or \.csv"):
        read_joint_path(tmp_path / "p.txt")
    good = _save(tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(good[:-40])
    with pytest.raises(InputError, match="not a readable"):
        read_joint_path(tmp_path / "cut.npz")
    (tmp_path / "bin.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="text"):
        read_joint_path(tmp_path / "bin.csv")


@pytest.mark.rejects_input
def test_wrong_joints_and_limits(fr3: RobotModel) -> None:
    path = _path()
    renamed = JointPath(
        joint_positions=path.joint_positions, joint_names=("fr3_joint0", *ARM[1:]), step_dt=0.1
    )
    with pytest.raises(InputError, match=r"'fr3_joint0' is not part of the robot\. Did you mean"):
        joint_path_to_positions(fr3, renamed)
    short = JointPath(joint_positions=path.joint_positions[:, :6], joint_names=ARM[:6], step_dt=0.1)
    with pytest.raises(InputError, match="lack fr3_joint7"):
        joint_path_to_positions(fr3, short)
    degrees = JointPath(
        joint_positions=np.degrees(path.joint_positions), joint_names=ARM, step_dt=0.1
    )
    with pytest.raises(InputError, match=r"outside its limits .* degrees"):
        joint_path_to_positions(fr3, degrees)
    with pytest.raises(InputError, match="gripper width"):
        joint_path_to_positions(fr3, _path(gripper_width=np.full(11, 0.3)))
