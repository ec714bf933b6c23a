"""From simulated clips to a checkpoint to a table, through the commands."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pointworld import load
from pointworld.cli.app import main
from pointworld.data import list_clips, read_clip, true_positions
from pointworld.errors import InputError
from pointworld.robot import RobotModel
from pointworld.train import build_cache, read_cache, read_evaluation_clip, tune_radius
from pointworld.train.augment import whole
from pointworld.train.cache import cache_folder
from pointworld.train.evaluator import evaluate_clip
from pointworld.train.metrics import summarise
from pointworld.train.objective import validate
from pointworld.train.predictors import carry_predictors
from pointworld.train.preparation import Preparation

pytest.importorskip(
    "mujoco", reason="the simulator is an extra: pip install 'pointworld-open[sim]'"
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    command = ["generate", "--out", str(folder), "--clips", "4", "--workers", "0", "--seed", "5"]
    assert main(command) == 0
    return folder


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other scenes, as shards."""
    folder = tmp_path_factory.mktemp("validation")
    command = ["generate", "--out", str(folder), "--clips", "2", "--workers", "0", "--seed", "7"]
    assert main([*command, "--shards", "1"]) == 0
    return folder


@pytest.fixture(scope="module")
def run_folder(clips: Path, validation: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    options = "--train.minutes 0 --train.steps 2 --train.batch-size 2 --threads 1 --workers 1"
    paths = ["--data", str(clips), "--validation", str(validation), "--out", str(folder)]
    assert main(["train", *paths, "--cache", str(folder / "cache"), *options.split()]) == 0
    return folder


def test_cached_samples_follow_the_simulator(clips: Path, tmp_path: Path) -> None:
    assert build_cache(clips, tmp_path) == 4
    for path, sample in zip(list_clips(clips), read_cache(clips, tmp_path), strict=True):
        clip = read_clip(path)
        assert sample.key == clip.key and sample.family == clip.family
        index = torch.arange(len(sample.points))
        truth = true_positions(clip, sample.points.double().numpy(), sample.body_ids.numpy())
        assert (sample.positions(index) - torch.from_numpy(truth)).abs().max() < 1e-5
        gap = torch.cdist(sample.points, sample.robot_positions.flatten(0, 1)).min(-1).values
        assert torch.allclose(gap, sample.reach, atol=1e-5)


def test_samples_of_noisy_cameras_move_as_what_they_show(clips: Path, tmp_path: Path) -> None:
    build_cache(clips, tmp_path / "all", noisy=1.0)
    build_cache(clips, tmp_path / "half", noisy=0.5)
    clean = build_cache(clips, tmp_path / "clean") and read_cache(clips, tmp_path / "clean")
    for path, sample, before in zip(
        list_clips(clips), read_cache(clips, tmp_path / "all"), clean, strict=True
    ):
        assert sample.surface is not None and before.surface is None
        off = (sample.points - sample.surface).norm(dim=-1)
        assert 1e-3 < off.median() < 0.03, "errors of depth and calibration, of a camera 1 m away"
        moved = sample.positions(torch.arange(len(off)))
        assert torch.allclose(moved[0], sample.points, atol=1e-6)
        shown = sample.surface.double().numpy()
        truth = torch.from_numpy(true_positions(read_clip(path), shown, sample.body_ids.numpy()))
        assert (moved - moved[:1] - (truth - truth[:1])).abs().max() < 1e-5
    kinds = [sample.surface is not None for sample in read_cache(clips, tmp_path / "half")]
    assert len(set(kinds)) == 2, "some are seen as they are, some with errors"


def test_sets_of_one_name_share_no_samples(clips: Path, validation: Path, tmp_path: Path) -> None:
    """Also when they have one --cache and clips of one number; what was cached before a clip was made is made anew."""
    sets = []
    for place, source in (("a", clips), ("b", validation)):
        shutil.copytree(source, tmp_path / place / "clips")
        sets.append(tmp_path / place / "clips")
    folders = [cache_folder(tmp_path / "cache", data, Preparation(), 0.5) for data in sets]
    for data, folder in zip(sets, folders, strict=True):
        build_cache(data, folder, noisy=0.5)
    keys = [[s.key for s in read_cache(*pair)] for pair in zip(sets, folders, strict=True)]
    assert keys == [[read_clip(path).key for path in list_clips(data)] for data in sets]
    assert not set(keys[0]) & set(keys[1])

    shutil.rmtree(sets[0])
    command = ["generate", "--out", str(sets[0]), "--clips", "2", "--workers", "0", "--seed", "8"]
    assert main(command) == 0
    build_cache(sets[0], folders[0], noisy=0.5)
    made = [sample.key for sample in read_cache(sets[0], folders[0])]
    assert made == [read_clip(path).key for path in list_clips(sets[0])]
    # The set may grow meanwhile.
    (folders[0] / f"{list_clips(sets[0])[0].stem}.safetensors").unlink()
    assert len(read_cache(sets[0], folders[0])) == 1
    with pytest.raises(InputError, match="cache them first"):
        read_cache(sets[0], tmp_path)


def test_held_tools_are_known_and_not_counted(tmp_path: Path) -> None:
    command = ["generate", "--out", str(tmp_path / "clips"), "--clips", "1", "--workers", "0"]
    assert main([*command, "--seed", "5", "--tabletop.families", "broom"]) == 0
    build_cache(tmp_path / "clips", tmp_path / "cache")
    (sample,) = read_cache(tmp_path / "clips", tmp_path / "cache")
    (path,) = list_clips(tmp_path / "clips")
    clip = read_clip(path)
    seen = read_evaluation_clip(clip, RobotModel.load(clip.robot))
    held = seen.held
    assert torch.equal(sample.held_points(torch.arange(len(sample.points))), held)
    assert 20 < held.sum() < len(held)

    # For the baselines the tool is part of the hand, and moves as the hand does.
    tool = seen.sample.positions[:, held]
    for step in (0, 5, 10):
        assert torch.cdist(tool[step], seen.hand.surface[step]).min(-1).values.max() < 5e-3
    carried = carry_predictors(0.005)["rigid_carry"](seen)
    assert carried is not None
    assert (carried.displacements - seen.sample.displacements)[:, held].norm(dim=-1).max() < 2e-3

    item = whole(sample, step_dt=clip.step_dt)
    assert torch.equal(item.free(), ~held)
    model = load("tiny")
    before = validate(model, [sample])["moved_ratio"]
    motions = sample.motions.clone()
    motions[:, sample.held, 2, 3] += torch.linspace(0, 1, len(motions))[:, None]
    after = validate(model, [replace(sample, motions=motions)])["moved_ratio"]
    assert after == pytest.approx(before, rel=1e-6), "the truth of a held tool is not asked about"


def test_a_cache_of_other_settings_is_refused(clips: Path, tmp_path: Path) -> None:
    build_cache(clips, tmp_path)
    with pytest.raises(InputError, match="choose another --cache"):
        build_cache(clips, tmp_path, preparation=Preparation(encoder="rgb"))
    with pytest.raises(InputError, match="from 0 to 1"):
        build_cache(clips, tmp_path / "more", noisy=2.0)
    next(tmp_path.glob("*.safetensors")).write_bytes(b"half")
    with pytest.raises(InputError, match="delete it"):
        read_cache(clips, tmp_path)


def test_training_leaves_a_usable_checkpoint(run_folder: Path) -> None:
    names = {p.name for p in run_folder.iterdir()}
    assert {"model.safetensors", "model.json", "curve.csv", "curve.png", "run.json"} <= names
    record = json.loads((run_folder / "run.json").read_text())
    assert record["command"] == "train" and record["summary"]["clips"] == 4


def test_evaluation_of_shards_prints_one_object(
    validation: Path, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--checkpoint", str(run_folder), "--out", str(tmp_path), "--limit", "2", "--json"]
    assert main(["evaluate", str(validation), *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "evaluation.json").read_text())
    assert printed["clips"] == 2
    for scores in [printed["overall"], *printed["families"].values()]:
        assert set(scores["metrics"]) == {"model", "no_motion", "rigid_carry", "object_carry"}
        for metrics in scores["metrics"].values():
            assert set(metrics["l2"]) == {"mean", "standard_error", "count"}
    assert main(["evaluate", str(validation), *options, "--noisy"]) == 0
    noisy = json.loads(capsys.readouterr().out)
    assert noisy["noisy"] and noisy["overall"] != printed["overall"]
    still = printed["overall"]["metrics"]["no_motion"]
    assert still["l2_never_moving"]["mean"] < 1e-3
    assert "spearman_moved" in printed["overall"]["metrics"]["model"]


def test_the_radius_is_the_best_of_those_tried(clips: Path) -> None:
    robot = RobotModel.load("fr3")
    read = [read_evaluation_clip(read_clip(path), robot) for path in list_clips(clips)]
    tried = (0.005, 0.06)
    errors = []
    for radius in tried:
        scores = [evaluate_clip(carry_predictors(radius), clip).metrics for clip in read]
        errors.append(summarise(score["rigid_carry"]["l2_moved"] for score in scores).mean)
    assert None not in errors, "none of the clips has a mover"
    assert tune_radius(read, tried) == tried[errors.index(min(errors))]


@pytest.mark.rejects_input
def test_no_clips_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path), "--checkpoint", str(tmp_path)]) == 2
    assert "error:" in capsys.readouterr().err


@pytest.mark.rejects_input
def test_training_and_validation_must_not_share_scenes(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = ["--data", str(clips), "--validation", str(clips), "--out", str(tmp_path / "run")]
    assert main(["train", *paths]) == 2
    assert "share 4 of 4 scenes" in capsys.readouterr().err and not (tmp_path / "run").exists()
