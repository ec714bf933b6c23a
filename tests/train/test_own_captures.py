"""From recordings and joint logs to labels, to a cache, to a fine-tuned checkpoint; the labels against the truth."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pointworld.cli.app import main
from pointworld.data import DatasetSpec, dataset_generator, list_clips, read_clip, scene_keys
from pointworld.data.recordings import (
    LabelConfig,
    LabelledClip,
    build,
    label,
    open_recording,
    read_labelled,
    write_labelled,
)
from pointworld.data.recordings.label import Labels
from pointworld.data.recordings.resample import joints_at_steps, motions_at_steps
from pointworld.data.recordings.simulated import simulate_recording, write_recording
from pointworld.data.recordings.trajectories import Part
from pointworld.data.recordings.windows import find_windows
from pointworld.data.sample import point_pixels, true_positions
from pointworld.data.shards import read_manifest
from pointworld.errors import InputError
from pointworld.model import WorldModel, load
from pointworld.robot import RobotModel
from pointworld.train import TrainConfig, build_cache, read_cache
from pointworld.train.augment import whole
from pointworld.train.objective import batch_loss
from tests.train.test_trainer import SPEC

pytest.importorskip(
    "mujoco", reason="the simulator is an extra: pip install 'pointworld-open[sim]'"
)

#: Simulated motions: in one a thing is nudged in full view, in the other two are, half hidden by the hand.
SEED, SEEN, HIDDEN = 777, 12, 1


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings as a user would have them, with the truth beside them."""
    folder = tmp_path_factory.mktemp("recordings")
    generator = dataset_generator(DatasetSpec(clips=1, seed=SEED))
    for index in (SEEN, HIDDEN):
        write_recording(simulate_recording(generator, SEED, index), folder / str(index))
    return folder


@pytest.fixture(scope="module")
def labelled(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    taken = str(recordings / str(SEEN))
    workspace = ["--label.workspace", "0.25,-0.4,-0.08,0.85,0.4,0.5"]
    assert main(["capture", "label", taken, "--out", str(folder), *workspace]) == 0
    return folder


def errors(clip: LabelledClip, truth: Path) -> tuple[np.ndarray, np.ndarray]:
    """(steps, points) distance of labels to the truth, and true distance moved [m]."""
    simulated = read_clip(truth)
    points = clip.points.astype(np.float64)
    views, pixels = point_pixels(simulated, points)
    segmentation = np.stack([v.segmentation.reshape(-1) for v in simulated.views])
    bodies = segmentation[views, pixels].astype(np.int64) - 1
    positions = true_positions(simulated, points, bodies)
    return (
        np.linalg.norm(clip.positions() - positions, axis=-1),
        np.linalg.norm(positions - positions[0], axis=-1),
    )


def test_labels_are_right_where_they_are_given(recordings: Path, labelled: Path) -> None:
    (path,) = list_clips(labelled)
    clip = read_labelled(path)
    error, moved = errors(clip, recordings / str(SEEN) / "truth.npz")
    known = clip.known.copy()
    known[0] = False
    movers, still = (moved > 0.005) & known, (moved.max(0) < 1e-3) & known
    assert (moved > 0.005).sum() > 200 and movers.sum() > 0.5 * (moved > 0.005).sum()
    assert np.median(error[movers]) < 0.003 and np.percentile(error[movers], 95) < 0.01
    assert (
        still.sum() > 0.9 * (moved.max(0) < 1e-3).sum() * 10
        and (error[still] > 0.002).mean() < 0.005
    )
    # No motion is far worse, so the labels say something.
    assert np.median(moved[movers]) > 5 * np.median(error[movers])
    assert clip.info["labelled"] == pytest.approx(clip.known[1:].mean())


def test_a_clip_survives_its_file(labelled: Path, tmp_path: Path) -> None:
    clip = read_labelled(list_clips(labelled)[0])
    write_labelled(clip, tmp_path / "again.npz")
    again = read_labelled(tmp_path / "again.npz")
    assert again.key == clip.key and again.joint_names == clip.joint_names
    assert np.array_equal(again.known, clip.known) and np.array_equal(again.points, clip.points)
    assert np.allclose(again.motions, clip.motions, atol=1e-12)
    assert np.allclose(again.frames[0].depth, clip.frames[0].depth, atol=1e-4)
    write_labelled(clip, tmp_path / "twice.npz")
    assert (tmp_path / "twice.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()


def test_points_without_label_have_no_weight(labelled: Path, tmp_path: Path) -> None:
    assert build_cache(labelled, tmp_path / "cache") == 1
    (sample,) = read_cache(labelled, tmp_path / "cache")
    clip = read_labelled(list_clips(labelled)[0])
    assert sample.supervised is not None and sample.key == clip.key
    assert torch.equal(sample.supervised, torch.from_numpy(clip.known))
    every = torch.arange(len(sample.points))
    assert np.allclose(sample.positions(every).numpy(), clip.positions(), atol=1e-5)
    # What lies where nothing is known must not change the loss; what is known must.
    item = whole(sample, step_dt=0.1)
    torch.manual_seed(0)
    model = WorldModel(replace(SPEC, max_robot_points=192)).eval()
    unknown = ~item.known()
    assert unknown[1:].any()

    def loss(displacements: torch.Tensor) -> float:
        changed = replace(item, displacements=displacements)
        return batch_loss(model, [changed], TrainConfig(minutes=0, steps=1)).item()

    steps = item.displacements.clone()
    # A whole trajectory, so that no step between a known and an unknown position changes.
    never = ~item.known()[1:].any(0)
    assert never.any()
    steps[:, never] += 0.3 * torch.arange(len(steps))[:, None, None]
    assert loss(steps) == loss(item.displacements)
    steps[:, ~never] += 0.3 * torch.arange(len(steps))[:, None, None]
    assert loss(steps) != loss(item.displacements)


def test_labelling_again_adds_only_what_is_new(
    recordings: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "clips"
    shutil.copytree(labelled, folder)
    before = list_clips(folder)[0].read_bytes()
    workspace = ["--label.workspace", "0.25,-0.4,-0.08,0.85,0.4,0.5"]
    taken = [str(recordings / str(SEEN)), "--out", str(folder), "--json"]
    capsys.readouterr()
    assert main(["capture", "label", *taken, *workspace]) == 0
    assert json.loads(capsys.readouterr().out)["clips"] == 0
    assert [p.read_bytes() for p in list_clips(folder)] == [before]
    assert main(["capture", "label", *taken, "--label.stride", "0.25", *workspace]) == 2
    assert "other settings" in capsys.readouterr().err
    # The same recording under another name, twice: nothing is doubled.
    again = tmp_path / "again"
    other = tmp_path / "other"
    shutil.copytree(recordings / str(SEEN), other)
    twice = [str(recordings / str(SEEN)), str(other), "--out", str(again), *workspace]
    assert main(["capture", "label", *twice]) == 0
    assert len(list_clips(again)) == 1
    moved = ["--base-pose", "0.01,0,0,1,0,0,0"]
    assert main(["capture", "label", *taken, *workspace, *moved]) == 2
    assert "other joints or another base pose" in capsys.readouterr().err
    assert main(["shards", "pack", str(folder), "--out", str(tmp_path / "shards")]) == 0
    assert scene_keys(tmp_path / "shards") == scene_keys(folder)
    assert read_manifest(tmp_path / "shards")[1][0].families == {"recording": 1}
    with pytest.raises(InputError, match="labelled recording"):
        read_clip(list_clips(folder)[0])


def turning(
    times: np.ndarray, speed: float, edge: np.ndarray, points: np.ndarray, trusted: np.ndarray
) -> Labels:
    """Labels of a thing that turns about `edge` (a place; its axis is y) and lies beside one that stays."""
    angle = speed * (times - times[0])
    R = Rotation.from_rotvec(angle[:, None] * [0.0, 1.0, 0.0]).as_matrix()
    motions = np.tile(np.eye(4), (len(times), 2, 1, 1))
    motions[:, 1, :3, :3], motions[:, 1, :3, 3] = R, edge - R @ edge
    for k in np.flatnonzero(~trusted):
        motions[k, 1] = motions[k - 1, 1]
    known = np.tile(trusted[:, None], (1, len(points)))
    return Labels(
        positions=np.zeros((len(times), len(points), 3)),
        known=known,
        sigma=np.zeros_like(known, float),
        motion=np.ones(len(points), np.int64),
        motions=motions,
        trusted=np.stack([np.ones_like(trusted), trusted], 1),
    )


def test_motions_are_moved_to_the_times_of_the_steps() -> None:
    """Far from the origin, too, a thing turns about its own edge; times as of 25 frames/s."""
    edge = np.array([0.63, 0.1, 0.0])
    points = edge + np.random.default_rng(0).uniform([0, -0.05, 0], [0.06, 0.05, 0.12], (50, 3))
    steps = 5.0 + 0.1 * np.arange(8)
    times = steps + 0.02 * np.array([0, 1, 0, -1, 1, 0, 1, -1])
    for speed in (0.0, 1.0, 3.0):
        labels = turning(times, speed, edge, points, np.ones(8, bool))
        motions, known = motions_at_steps(labels, points, times, steps)
        where = points @ motions[:, 1, :3, :3].swapaxes(-1, -2) + motions[:, 1, None, :3, 3]
        truth = turning(steps, speed, edge, points, np.ones(8, bool)).motions[:, 1]
        true = points @ truth[:, :3, :3].swapaxes(-1, -2) + truth[:, None, :3, 3]
        # The last step lies 20 ms behind the last frame, where the joints end as well.
        assert np.linalg.norm(where - true, axis=-1)[:-1].max() < 0.0006 * speed + 1e-9
        assert known.all()
    labels = turning(steps, 1.0, edge, points, np.ones(8, bool))
    assert motions_at_steps(labels, points, steps - 5.0, steps)[0] is labels.motions


@pytest.mark.parametrize("skew", [-0.02, 0.02])
def test_what_was_lost_for_a_moment_is_not_told_beside_it(skew: float) -> None:
    edge, points = np.array([0.5, 0.0, 0.0]), np.array([[0.5, 0.0, 0.1], [0.55, 0.0, 0.1]])
    steps = 0.1 * np.arange(9)
    times = steps + np.where(steps > 0, skew, 0.0)
    lost = np.isin(np.arange(9), [4, 7, 8])
    labels = turning(times, 1.0, edge, points, ~lost)
    motions, known = motions_at_steps(labels, points, times, steps)
    truth = turning(steps, 1.0, edge, points, np.ones(9, bool)).motions[:, 1]
    where, true = (
        points @ T[:, :3, :3].swapaxes(-1, -2) + T[:, None, :3, 3] for T in (motions[:, 1], truth)
    )
    assert np.linalg.norm(where - true, axis=-1)[known.all(1)].max() < 0.001
    # Step 6 comes after the last frame that is sure if that is early.
    unknown = [4, 6, 7, 8] if skew < 0 else [4, 7, 8]
    assert np.flatnonzero(~known[:, 0]).tolist() == unknown


def test_joints_are_moved_to_the_times_of_the_steps() -> None:
    times = np.array([0.0, 0.12, 0.21, 0.3])
    joints = np.stack([2 * times, 1 - times], 1)
    told = joints_at_steps(joints, times, 5.0 + 0.1 * np.arange(4))
    assert np.allclose(told, np.stack([0.2 * np.arange(4), 1 - 0.1 * np.arange(4)], 1))
    assert joints_at_steps(joints, 0.1 * np.arange(4), 5.0 + 0.1 * np.arange(4)) is joints


def test_a_scattered_part_is_none(monkeypatch: pytest.MonkeyPatch, recordings: Path) -> None:
    """Pixels picked here and there outvote their neighbours at no scene point; labelling goes on without them."""
    recording = open_recording(recordings / str(SEEN), RobotModel.load("fr3"))
    config = LabelConfig(workspace="0.25,-0.4,-0.08,0.85,0.4,0.5")
    followed: list[Part] = []

    def outvoted(
        points: np.ndarray, near: object, parts: Sequence[Part]
    ) -> tuple[np.ndarray, np.ndarray]:
        followed.extend(p for p in parts if p.trajectory is not None and not p.trajectory.still)
        nowhere = np.zeros((len(parts), len(points)), bool)
        return nowhere, nowhere

    monkeypatch.setattr(label, "_parts_of", outvoted)
    clip = build.label_window(recording, build.windows_of(recording, config)[0], "fr3", config)
    assert followed and clip.known[0].any() and not clip.motion_ids.any()


def test_windows_follow_the_clock_of_the_log(recordings: Path) -> None:
    robot = RobotModel.load("fr3")
    folder = recordings / str(SEEN)
    recording = open_recording(folder, robot)
    settings = {"num_steps": 6, "step_dt": 0.1, "stride": 0.2, "max_skew": 0.02}
    found = find_windows(recording, **settings)
    assert [round(w.start, 3) for w in found] == [0.0, 0.2, 0.4]
    assert all(len(w.frames) == 6 and len(w.frames[0]) == len(recording.cameras) for w in found)
    late = open_recording(folder, robot, joints=folder / "joints.npz", joints_start=0.4)
    assert [round(w.start, 3) for w in find_windows(late, **settings)] == [0.4]
    assert np.allclose(late.joints_at(np.array([0.45])), recording.joints_at(np.array([0.05])))
    with pytest.raises(InputError, match=r"--joints-start.*--label\.max-skew"):
        find_windows(
            open_recording(folder, robot, joints=folder / "joints.npz", joints_start=9.0),
            **settings,
        )
    # Without a log beside them the frames' own joints serve.
    assert np.allclose(
        open_recording(_without_log(folder), robot).joint_positions, recording.joint_positions
    )


def _without_log(folder: Path) -> Path:
    copy = folder.parent / "without_log"
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    (copy / "joints.npz").unlink()
    return copy


def test_a_checkpoint_learns_from_recordings(
    recordings: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The way of docs/finetuning.md, but for the number of recordings and steps."""
    validation = tmp_path / "val"
    taken = [str(recordings / str(HIDDEN)), "--out", str(validation)]
    assert main(["capture", "label", *taken]) == 0
    run = ["--init", "tiny", "--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]
    steps = "--train.minutes 0 --train.steps 2 --train.batch-size 2 --threads 1 --workers 1"
    folders = ["--data", str(labelled), "--validation", str(validation)]
    assert main(["train", *folders, *run, *steps.split()]) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["summary"]["clips"] == 1 and np.isfinite(record["summary"]["last"]["loss"])
    before = torch.cat([p.flatten() for p in load("tiny").parameters()])
    after = torch.cat([p.flatten() for p in load(str(tmp_path / "run")).parameters()])
    assert not torch.equal(before, after)
    capsys.readouterr()
    scored = [str(validation), "--checkpoints", "tiny", str(tmp_path / "run"), "--json"]
    assert main(["capture", "score", *scored, "--cache", str(tmp_path / "cache")]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert set(scores) == {"tiny", str(tmp_path / "run")}
    assert scores["tiny"]["moving_clips"] == 1 and scores["tiny"]["moved"] > 0
    # The same recording for both would be learned by heart.
    same = ["--data", str(labelled), "--validation", str(labelled), "--out", str(tmp_path / "x")]
    assert main(["train", *same]) == 2
    assert "label other recordings" in capsys.readouterr().err


@pytest.mark.rejects_input
def test_bad_recordings_are_refused(recordings: Path, labelled: Path, tmp_path: Path) -> None:
    robot = RobotModel.load("fr3")
    bare = _without_log(recordings / str(SEEN))
    record = json.loads((bare / "capture.json").read_text())
    for frame in record["frames"]:
        del frame["joint_positions"]
    (bare / "capture.json").write_text(json.dumps(record | {"joint_names": []}))
    with pytest.raises(InputError, match="nothing says how the robot moved"):
        open_recording(bare, robot)
    (bare / "capture.json").write_text(json.dumps(record | {"T_world_base": None}))
    (bare / "joints.npz").write_bytes((recordings / str(SEEN) / "joints.npz").read_bytes())
    with pytest.raises(InputError, match="where the robot stands"):
        open_recording(bare, robot)
    clip = tmp_path / "clip.npz"
    clip.write_bytes(list_clips(labelled)[0].read_bytes()[:5000])
    with pytest.raises(InputError, match="not a readable clip"):
        read_labelled(clip)
    good = read_labelled(list_clips(labelled)[0])
    with pytest.raises(InputError, match="follows no motion"):
        replace(good, motion_ids=good.motion_ids + 1000)
    with pytest.raises(InputError, match="NaN"):
        replace(good, points=good.points * np.nan)
