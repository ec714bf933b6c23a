"""The demo: bundled capture with truth, real captures, and the files users look at."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pointworld.capture import write_capture
from pointworld.cli import demo
from pointworld.cli.app import main
from pointworld.cli.demo import DemoArgs, bundled_clip, captured, forget_bundled, sweep
from pointworld.data import clip_to_capture
from pointworld.errors import InputError
from pointworld.robot import RobotModel
from pointworld.view.result import read_result, write_truth
from pointworld.view.video import import_av

pytest.importorskip("open3d", reason="needs the extra [viewer]")


def test_demo_on_the_bundled_capture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path), "--no-loop", "--no-splat", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert 0 < summary["errors"]["ratio"] < 0.7
    assert summary["errors"]["never_moving_mm"] < 6
    result = read_result(tmp_path)
    assert result.truth is not None and result.num_steps == 11 and len(result.cameras) == 3
    assert not result.displacements[0].any()
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 5 and "data:video/mp4;base64," in page
    with import_av().open(str(tmp_path / "flow.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) >= 11
    assert np.abs(frames[0].astype(int) - frames[-1].astype(int)).mean() > 1


@pytest.mark.needs_shared
@pytest.mark.parametrize("name", ["kitchen_table", "apc_shelf"])
def test_demo_on_real_captures(shared_dir: Path, tmp_path: Path, name: str) -> None:
    capture = shared_dir / "captures" / name
    command = ["demo", "--capture", str(capture), "--frames", "0,8", "--no-splat"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "base_pose.json").is_file()
    result = read_result(tmp_path)
    assert len(result.points) > 500 and result.truth is None


def bundled_run(out: Path) -> None:
    """What a run on the bundled capture leaves, and a file of the user's."""
    for name in ("capture/capture.json", "loop/events.jsonl", "splat/future/color.mp4"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("{}")
    for name in ("truth.png", "error.png", "loop.png", "prediction.npz", "notes.txt"):
        (out / name).write_text("")
    write_truth(out, np.zeros((11, 3, 3)))


@dataclass(frozen=True)
class Made:
    """What `captured` asks of a prediction."""

    notes: tuple[str, ...] = ("base",)


def test_a_run_on_ones_own_capture_forgets_the_bundled_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine"
    bundled_run(out)
    whole = clip_to_capture(bundled_clip())
    write_capture(replace(whole, frames=whole.frames[:1]), mine)
    monkeypatch.setattr(demo, "sweep", lambda robot, points: np.tile(robot.home, (11, 1)))
    monkeypatch.setattr(demo, "_predict", lambda *args, **kwargs: Made())
    captured(DemoArgs(out=out, capture=mine), mine)
    left = {path.name for path in out.iterdir()}
    assert left == {"prediction.npz", "notes.txt", "joints.npz", "base_pose.json"}


def test_the_arm_in_view_is_nothing_to_push(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the capture says how the arm stands, the sweep is chosen among what is left without it."""
    whole = clip_to_capture(bundled_clip())
    # In this clip the hand waits above the table: without joints its points stand there like a thing.
    monkeypatch.setattr(demo, "_predict", lambda *args, **kwargs: Made())
    given: list[np.ndarray] = []

    def look(robot: RobotModel, points: np.ndarray) -> np.ndarray:
        given.append(points)
        return np.tile(robot.home, (11, 1))

    monkeypatch.setattr(demo, "sweep", look)
    for name, frames in {
        "known": whole.frames,
        "unknown": tuple(replace(frame, joint_positions=None) for frame in whole.frames),
    }.items():
        write_capture(replace(whole, frames=frames), tmp_path / name)
        captured(
            DemoArgs(out=tmp_path / f"out_{name}", capture=tmp_path / name, frames="0,1,2"),
            tmp_path / name,
        )
    known, unknown = given
    robot = RobotModel.load("fr3")
    q = robot.order_joints(np.asarray(whole.frames[0].joint_positions), whole.joint_names)
    hand = robot.tool_pose(torch.from_numpy(q))[:3, 3].numpy()
    near = [
        int((np.linalg.norm(points - hand, axis=-1) < 0.06).sum()) for points in (known, unknown)
    ]
    assert near[0] == 0 and near[1] > 20


def test_ones_own_files_are_not_taken_for_a_bundled_run(tmp_path: Path) -> None:
    bundled_run(tmp_path)
    # The capture in use stays, also when it is the one that the bundled run wrote.
    forget_bundled(tmp_path, tmp_path / "capture")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"capture", "prediction.npz", "notes.txt"}
    # Without a truth no bundled run was here.
    (tmp_path / "splat").mkdir()
    forget_bundled(tmp_path, tmp_path / "elsewhere")
    assert {path.name for path in tmp_path.iterdir()} == {*left, "splat"}


def test_the_sweep_goes_through_what_stands_there() -> None:
    rng = np.random.default_rng(0)
    table = np.column_stack(
        [rng.uniform(0.3, 0.8, 500), rng.uniform(-0.3, 0.3, 500), np.zeros(500)]
    )
    box = rng.uniform([0.5, 0.05, 0.02], [0.56, 0.11, 0.1], (80, 3))
    robot = RobotModel.load("fr3")
    joints = sweep(robot, np.concatenate([table, box]))
    tcp = robot.tool_pose(torch.from_numpy(joints))[:, :3, 3].numpy()
    assert np.linalg.norm(tcp[:, :2] - box.mean(0)[:2], axis=-1).min() < 0.02
    assert (tcp[:, 2] >= 0.029).all()
    with pytest.raises(InputError, match="nothing to push"):
        sweep(robot, table)


@pytest.mark.rejects_input
def test_view_without_a_display_names_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    np.savez(
        tmp_path / "prediction.npz",
        points=np.zeros((3, 3)),
        colors=np.zeros((3, 3)),
        displacements=np.zeros((11, 3, 3)),
        step_dt=0.1,
    )
    assert main(["view", str(tmp_path)]) == 2
    assert "--screenshot" in capsys.readouterr().err
    assert main(["view", str(tmp_path / "absent")]) == 2
