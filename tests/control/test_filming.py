"""A recorded run: pictures at an even pace, plans with predictions, replay in the viewer, training clips from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pointworld.control.filming import PICTURES, export_capture
from pointworld.control.recording import Recorder, read_recording
from pointworld.control.task_runs import RunConfig, run_one
from pointworld.data.recordings import LabelConfig, label_recordings, open_recording
from pointworld.errors import InputError
from pointworld.robot import RobotModel
from pointworld.view.replay import is_recording, read_replay

pytest.importorskip("mujoco", reason="mujoco is not installed")

STEPS = 28


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A push that is aimed by the cameras and predicts nothing."""
    folder = tmp_path_factory.mktemp("run") / "record"
    config = RunConfig(
        task="tissue_box", dynamics="none", planner="straight", max_steps=STEPS, execute=7
    )
    result = run_one(config, 0, record=folder)
    assert result.plans == STEPS // 7 and result.distance < result.start_distance - 0.02
    return folder


def test_pictures_come_at_an_even_pace_with_the_joints_of_their_moment(run: Path) -> None:
    recording = read_recording(run)
    assert recording.complete and recording.robot == "fr3" and len(recording.robot_joints) == 8
    frames = list(recording.frames())
    cameras = sorted({frame.camera for frame in frames})
    times = np.array([frame.timestamp for frame in frames if frame.camera == cameras[0]])
    assert len(frames) == len(cameras) * len(times) and len(times) > STEPS
    assert np.allclose(np.diff(times), PICTURES, atol=1e-6)
    ticks = recording.ticks
    for frame in frames[:: len(frames) // 5]:
        row = int(np.abs(ticks["time"] - frame.timestamp).argmin())
        assert frame.joint_positions is not None
        assert np.abs(frame.joint_positions[:7] - ticks["measured"][row]).max() < 1e-9


def test_plans_hold_what_was_seen_and_meant(run: Path) -> None:
    plans = list(read_recording(run).plans())
    made = [plan for plan in plans if "predicted" in plan]
    assert len(made) == STEPS // 7 and len(plans) == len(made) + 1
    for plan in made:
        assert plan["predicted"].shape == (11, len(plan["points"]), 3)
        assert plan["joint_positions"].shape == (11, 8) and plan["tool"].shape == (11, 3)
        assert plan["target"].shape == plan["places"].shape and plan["plan_seconds"] > 0
    moved = np.linalg.norm(plans[-1]["target"] - plans[0]["target"], axis=-1).mean()
    assert moved > 0.02 and "predicted" not in plans[-1]


def test_the_viewer_replays_a_run(run: Path) -> None:
    assert is_recording(run) and not is_recording(run.parent)
    flow = read_replay(run)
    assert flow.truth is not None and flow.joint_positions is not None
    assert len(flow.joint_positions) == flow.num_steps >= STEPS
    assert not flow.displacements[0].any() and not flow.truth[0].any()
    assert len(flow.cameras) == len({c.name for c in flow.cameras}) > 1
    # Nothing is predicted here: within a plan the points stand, and at the next look they have caught up.
    target = np.linalg.norm(flow.truth[-1], axis=-1) > 0.01
    assert target.sum() > 20 and target.mean() < 0.5
    recording = read_recording(run)
    first = recording.ticks["measured"][0]
    assert np.abs(flow.joint_positions[0][:7] - first).max() < 0.02
    starts = [float(p["time"]) for p in recording.plans() if "predicted" in p]
    rows = [round((start - starts[0]) / flow.step_dt) for start in starts]
    gap = np.linalg.norm(flow.displacements - flow.truth, axis=-1)[:, target].mean(-1)
    assert gap[rows].max() < 0.01 < gap.max()


def test_a_recorded_run_becomes_training_clips(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "capture"
    assert export_capture(read_recording(run), folder) > STEPS
    opened = open_recording(folder, RobotModel.load("fr3"))
    made = label_recordings([opened], tmp_path / "clips", "fr3", LabelConfig(stride=2.0))
    assert len(made) >= 1
    assert all(clip["labelled"] > 0.5 for clip in made)
    assert any(clip["moving_labelled"] is not None for clip in made)


@pytest.mark.rejects_input
def test_what_cannot_be_replayed_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no recording"):
        read_replay(tmp_path)
    recorder = Recorder(tmp_path / "bare", joints=("a",))
    recorder.close()
    with pytest.raises(InputError, match="without plans"):
        read_replay(tmp_path / "bare")
    with pytest.raises(InputError, match="no frames"):
        export_capture(read_recording(tmp_path / "bare"), tmp_path / "out")


def test_a_controllers_part_is_read_with_the_planners(tmp_path: Path) -> None:
    planner = Recorder(tmp_path / "run", joints=("a",), robot="fr3")
    planner.plan(1.0, {"target": np.zeros((1, 3))})
    controller = Recorder(tmp_path / "run" / "control", joints=("b",))
    controller.close()
    planner.close()
    both = read_recording(tmp_path / "run")
    assert both.complete and both.joints == ("b",) and both.robot == "fr3"
    assert len(list(both.plans())) == 1
