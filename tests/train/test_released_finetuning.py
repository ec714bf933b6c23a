"""Fine-tuning from a released checkpoint: its own image encoder, its own inputs, and what the result is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pointworld.capture.write import write_capture
from pointworld.cli.app import main
from pointworld.cli.capture_score import domain_row
from pointworld.cli.train import domain_rows
from pointworld.data import clip_to_capture, list_clips, read_clip
from pointworld.encoders.lejepa import shipped_folder
from pointworld.errors import InputError
from pointworld.model import ModelSpec, WorldModel, collate, load
from pointworld.model.prepare import prepare_released
from pointworld.model.released_checkpoint import convert_released
from pointworld.model.released_encoder import fingerprint, stored_encoder_weights
from pointworld.robot import RobotModel
from pointworld.train import (
    AugmentConfig,
    CachedSample,
    TrainConfig,
    build_cache,
    read_cache,
    train,
)
from pointworld.train.augment import TrainingSample, whole
from pointworld.train.evaluation_clip import read_evaluation_clip
from pointworld.train.labelled_score import score_labelled
from pointworld.train.model_sample import draw_sample, forecasts
from pointworld.train.objective import batch_loss
from pointworld.train.preparation import Preparation, new_preparation, preparations_of
from tests.model import released_file as rf
from tests.model.test_released_checkpoint import SIZES

pytest.importorskip(
    "mujoco", reason="the simulator is an extra: pip install 'pointworld-open[sim]'"
)

STEP_DT = 2 / 15
WORKSPACE = "--workspace=0.25,-0.4,-0.08,0.85,0.4,0.5"
NO_NOISE = AugmentConfig(position_noise=0.0)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A released file of toy size, converted; fewer robot points, to be quick."""
    folder = tmp_path_factory.mktemp("released")
    convert_released(rf.write_toy(folder / "toy.pt", seed=3), folder / "toy", sizes=SIZES)
    record = json.loads((folder / "toy" / "model.json").read_text())
    record["spec"]["max_robot_points"] = 60
    (folder / "toy" / "model.json").write_text(json.dumps(record))
    return folder / "toy"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Training and validation clips of the released robot at the released time step."""
    folder = tmp_path_factory.mktemp("clips")
    made = []
    for name, seed in (("train", 5), ("val", 7)):
        command = ["generate", "--out", str(folder / name), "--clips", "2", "--seed", str(seed)]
        command += ["--robot", "panda_robotiq", "--workers", "0", "--tabletop.families", "push"]
        step = [f"--tabletop.step-dt={STEP_DT!r}", f"--tabletop.timestep={STEP_DT / 32!r}"]
        assert main([*command, *step]) == 0
        made.append(folder / name)
    return made[0], made[1]


@pytest.fixture(scope="module")
def samples(
    checkpoint: Path, clips: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> list[CachedSample]:
    folder = tmp_path_factory.mktemp("cache")
    (preparation,) = preparations_of(checkpoint, load(checkpoint).spec)
    assert build_cache(clips[0], folder, preparation=preparation) == 2
    return list(read_cache(clips[0], folder))


def drawn(model: WorldModel, sample: CachedSample) -> TrainingSample:
    return draw_sample(model.spec, sample, NO_NOISE, torch.Generator().manual_seed(0))


def test_the_command_predicts_what_training_sees(
    checkpoint: Path, clips: tuple[Path, Path], samples: list[CachedSample], tmp_path: Path
) -> None:
    """Same points, same motion: up to the cache's half precision of image features and normals."""
    clip = read_clip(list_clips(clips[0])[0])
    write_capture(clip_to_capture(clip), tmp_path / "capture")
    np.savez(
        tmp_path / "path.npz",
        joint_positions=clip.joint_positions,
        joint_names=np.array(clip.joint_names),
        step_dt=clip.step_dt,
    )
    command = ["predict", str(tmp_path / "capture"), "--robot", "panda_robotiq", WORKSPACE]
    command += ["--trajectory", str(tmp_path / "path.npz"), "--checkpoint", str(checkpoint)]
    assert main([*command, "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    commanded = np.load(tmp_path / "out" / "prediction.npz")
    model = load(checkpoint)
    ((_, predicted, _),) = forecasts(model, samples[:1])
    assert np.allclose(commanded["points"], samples[0].points.numpy(), atol=1e-6)
    size = float(np.abs(commanded["displacements"]).max())
    assert size > 1e-3
    assert np.abs(commanded["displacements"] - predicted.numpy()).max() < 0.02 * size


def test_a_training_step_sees_what_prediction_sees(
    checkpoint: Path, samples: list[CachedSample]
) -> None:
    model = load(checkpoint)
    item = drawn(model, samples[0])
    # Centred, thinned again, gripper open or closed, with the encoder's channels.
    assert item.scene.points.mean(0).norm() < 0.2 < samples[0].points.mean(0).norm()
    assert set(item.robot.gripper_open.unique().tolist()) <= {0.0, 1.0}
    assert item.scene.features is not None and item.scene.features.shape[1] == rf.TOY_CHANNELS
    with torch.no_grad():
        outputs = model(collate([(item.scene, item.robot)]))
    ((_, predicted, _),) = forecasts(model, samples[:1])
    seen = whole(samples[0], step_dt=STEP_DT)
    kept = prepare_released(seen.scene, seen.robot, model.spec).kept
    assert len(kept) == len(item.scene) > 500
    assert (outputs.displacements[0] - predicted[:, kept]).abs().max() < 1e-6


def test_a_few_steps_lower_the_loss(
    checkpoint: Path, samples: list[CachedSample], tmp_path: Path
) -> None:
    model = load(checkpoint)
    config = TrainConfig(
        minutes=0,
        steps=6,
        batch_size=2,
        optimiser="adamw",
        learning_rate=3e-3,
        schedule="constant",
        warmup=0.0,
        average=0.0,
        validate_every=6,
        augment=NO_NOISE,
    )
    batch = [drawn(model, sample) for sample in samples]

    def loss(of: WorldModel) -> float:
        with torch.no_grad():
            return float(batch_loss(of.eval(), batch, config))

    before = loss(model)
    trained = train(model.spec, samples, samples, tmp_path, config, init=model)
    assert loss(trained) < before - 0.05 * abs(before)
    # A sample alone gives what it gives in a batch: they share no lattice.
    one = [batch_loss(model, [item], config) for item in batch]
    assert all(torch.isfinite(value) for value in one)


def test_the_command_makes_a_checkpoint_that_stands_alone(
    checkpoint: Path, clips: tuple[Path, Path], tmp_path: Path
) -> None:
    options = "--train.minutes 0 --train.steps 1 --train.batch-size 1 --threads 1 --workers 1"
    folders = ["--data", str(clips[0]), "--validation", str(clips[1])]
    out = ["--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache"), "--device", "cpu"]
    assert main(["train", "--init", str(checkpoint), *folders, *out, *options.split()]) == 0
    before, after = load(checkpoint), load(tmp_path / "run")
    assert after.spec == before.spec
    assert torch.equal(after.scene_norm_mean, before.scene_norm_mean)
    assert not torch.equal(after.robot_type_emb, before.robot_type_emb)
    weights = [stored_encoder_weights(path) for path in (checkpoint, tmp_path / "run")]
    assert weights[0] is not None and weights[1] is not None
    assert fingerprint(weights[0]) == fingerprint(weights[1])
    told = json.loads((tmp_path / "run" / "model.json").read_text())["training"]
    assert "NVIDIA Open Model License" in told["init"]["licence"]


def test_evaluation_and_scores_go_the_same_way(
    checkpoint: Path,
    clips: tuple[Path, Path],
    samples: list[CachedSample],
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = load(checkpoint)
    (preparation,) = preparations_of(checkpoint, model.spec)
    robot = RobotModel.load("panda_robotiq")
    seen = read_evaluation_clip(
        read_clip(list_clips(clips[0])[0]), robot, preparation=preparation
    ).sample
    ((_, predicted, _),) = forecasts(model, samples[:1])
    evaluated = model.predict(seen.scene, seen.robot).displacements
    size = float(predicted.abs().max())
    assert (evaluated - predicted).abs().max() < 0.02 * size
    capsys.readouterr()
    command = ["evaluate", str(clips[0]), "--checkpoint", str(checkpoint), "--limit", "1", "--json"]
    assert main(command) == 0
    table = json.loads(capsys.readouterr().out)["overall"]["metrics"]["model"]
    scored = score_labelled(model, samples[:1])
    assert scored.moved is not None and scored.moved > 0
    assert table["l2_moved"]["mean"] == pytest.approx(scored.moved, rel=0.02)


def test_a_sample_of_the_second_domain_has_its_step_and_two_grippers(
    samples: list[CachedSample], tmp_path: Path
) -> None:
    file = rf.write_toy(tmp_path / "two.pt", seed=5, domains=("droid", "behavior"))
    convert_released(file, tmp_path / "two", sizes=SIZES)
    model = load(tmp_path / "two")
    sample = replace(samples[0], domain=1, step_dt=0.2)
    item = drawn(model, sample)
    assert item.robot.gripper_open.shape == (11, 2) and not item.robot.gripper_open[:, 1].any()
    config = TrainConfig(minutes=0, steps=1, batch_size=1)
    assert torch.isfinite(batch_loss(model, [item], config))
    with pytest.raises(InputError, match=r"0\.1333 s .* the model 0\.2 s"):
        drawn(model, replace(sample, step_dt=STEP_DT))


@pytest.mark.slow
def test_own_recordings_fine_tune_it(checkpoint: Path, tmp_path: Path) -> None:
    """The way of docs/finetuning.md: recordings with joint logs, labels, training, scores."""
    step = [f"--tabletop.step-dt={STEP_DT!r}", f"--tabletop.timestep={STEP_DT / 32!r}"]
    for name, seed in (("train", "50"), ("val", "51")):
        made = ["capture", "simulate", "--recordings", "1", "--seed", seed, "--out"]
        robot = ["--robot", "panda_robotiq", "--tabletop.families", "push"]
        assert main([*made, str(tmp_path / f"rec_{name}"), *robot, *step]) == 0
        (recording,) = (tmp_path / f"rec_{name}").glob("*-0000")
        label = ["capture", "label", str(recording), "--robot", "panda_robotiq"]
        label += ["--out", str(tmp_path / name), "--label.step-dt", "0.133333"]
        assert main([*label, WORKSPACE.replace("--", "--label.")]) == 0
    model = load(checkpoint)
    (preparation,) = preparations_of(checkpoint, model.spec)
    build_cache(tmp_path / "train", tmp_path / "samples", preparation=preparation)
    (sample,) = read_cache(tmp_path / "train", tmp_path / "samples")
    assert sample.supervised is not None and not sample.supervised.all()
    assert sample.features is not None and sample.features.shape[1] == rf.TOY_CHANNELS
    item = drawn(model, sample)
    assert item.known().shape == item.displacements.shape[:-1] != sample.supervised.shape
    options = "--train.minutes 0 --train.steps 2 --train.batch-size 1 --threads 1 --workers 1"
    folders = ["--data", str(tmp_path / "train"), "--validation", str(tmp_path / "val")]
    out = ["--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache"), "--device", "cpu"]
    assert main(["train", "--init", str(checkpoint), *folders, *out, *options.split()]) == 0
    scored = ["capture", "score", str(tmp_path / "val"), "--cache", str(tmp_path / "cache")]
    assert main([*scored, "--checkpoints", str(checkpoint), str(tmp_path / "run")]) == 0


def test_samples_of_another_encoder_are_kept_apart(checkpoint: Path, tmp_path: Path) -> None:
    convert_released(rf.write_toy(tmp_path / "toy.pt", seed=4), tmp_path / "other", sizes=SIZES)
    (one,) = preparations_of(checkpoint, load(checkpoint).spec)
    (other,) = preparations_of(tmp_path / "other", load(tmp_path / "other").spec)
    assert one.encoder_id != other.encoder_id and one.label != other.label
    assert ":" not in one.label and Preparation().label == "plain"
    (ours,) = preparations_of("tiny", load("tiny").spec)
    assert ours == Preparation(), "the shipped model's samples are those of any model of ours"


def test_samples_of_a_local_encoder_follow_its_weights(tmp_path: Path) -> None:
    folder = shutil.copytree(shipped_folder(), tmp_path / "jepa")
    before = new_preparation(f"jepa:{folder}")
    assert before == new_preparation(f"jepa:{folder}")
    weights = load_file(folder / "model.safetensors")
    save_file({name: 2 * value for name, value in weights.items()}, folder / "model.safetensors")
    after = new_preparation(f"jepa:{folder}")
    assert before.label != after.label and before.settings() != after.settings()
    assert new_preparation("rgb").label == "rgb" and new_preparation("jepa").encoder_id == ""


@pytest.mark.rejects_input
def test_a_score_is_of_one_domain() -> None:
    one = ModelSpec(arch=load("tiny").spec.arch)
    two = replace(one, domains=("sim", "real"))
    assert domain_row("x", two, "real") == 1
    assert domain_row("x", one, None) == domain_row("x", one, "real") == 0
    with pytest.raises(InputError, match="sim, real: say with --domain"):
        domain_row("x", two, None)
    with pytest.raises(InputError, match="knows sim, real"):
        domain_row("x", two, "reel")


@pytest.mark.rejects_input
def test_another_time_step_is_refused(
    checkpoint: Path, samples: list[CachedSample], tmp_path: Path
) -> None:
    model = load(checkpoint)
    slow = [replace(sample, step_dt=0.1) for sample in samples]
    config = TrainConfig(minutes=0, steps=1, batch_size=1)
    with pytest.raises(InputError, match=r"0\.1 s .* 0\.1333 s.*--label\.step-dt 0\.133333"):
        train(model.spec, slow, samples, tmp_path, config, init=model)
    with pytest.raises(InputError, match=r"0\.1333 s"):
        train(model.spec, samples, slow, tmp_path, config, init=model)
    almost = replace(samples[0], step_dt=0.1335)
    assert len(drawn(model, almost).displacements) == model.spec.num_steps


@pytest.mark.rejects_input
def test_domains_are_the_checkpoints_own() -> None:
    spec = replace(ModelSpec(arch=load("tiny").spec.arch), domains=("droid", "behavior"))
    assert domain_rows(["behavior"], "x", spec) == {"behavior": 1}
    assert domain_rows(["mine", "yours"], "x", spec) == {"mine": 0, "yours": 1}
    assert domain_rows(["b", "a"], None, None) == {"b": 0, "a": 1}
    with pytest.raises(InputError, match="droid, behavior"):
        domain_rows(["sim"], "x", spec)
