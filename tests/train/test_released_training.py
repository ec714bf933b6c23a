"""Training on released clips: streamed from both containers, exact, mixed with others, and as a command."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from pointworld.cli.app import main
from pointworld.data.released import (
    RawClip,
    decode_clip,
    evaluation_sample,
    read_manifest,
    synthetic,
)
from pointworld.data.released.index import find_clips
from pointworld.data.released.manifest import local_split
from pointworld.errors import InputError
from pointworld.model import ModelSpec, WorldModel, load
from pointworld.model.released_checkpoint import convert_released
from pointworld.robot import RobotModel
from pointworld.train import Ranks, TrainConfig, measure, read_curve, read_statistics, train
from pointworld.train.augment import AugmentConfig, TrainingSample
from pointworld.train.batches import Batches, Mix, draw_generator
from pointworld.train.model_sample import draw_sample, forecasts
from pointworld.train.objective import batch_loss
from pointworld.train.released_data import (
    ReleasedFeed,
    StreamedClip,
    as_training,
    chain_settings,
    tracked,
)
from pointworld.train.released_evaluation import predict_sample
from pointworld.train.source import Source
from tests.model import released_file as rf
from tests.model.test_released_checkpoint import SIZES
from tests.train.synthetic import push
from tests.train.test_trainer import ARCH, SPEC

pytest.importorskip("h5py", reason="pip install 'pointworld-open[datasets]'")
pytest.importorskip("webdataset", reason="pip install 'pointworld-open[datasets]'")

STEP_DT = 2 / 15
CLIPS = 11
#: As a released checkpoint of DROID, but small.
RELEASED = ModelSpec(
    arch=ARCH,
    mode="released",
    features="released",
    sampling="released",
    domains=("droid",),
    step_dt=STEP_DT,
    max_scene_points=300,
    max_robot_points=60,
    robot="panda_robotiq",
)
CONFIG = TrainConfig(
    minutes=0,
    steps=3,
    batch_size=2,
    optimiser="adamw",
    schedule="constant",
    warmup=0.0,
    validate_every=3,
    save_every=1,
)
TWO_STEPS = "--train.minutes 0 --train.steps 2 --train.batch-size 2 --threads 1 --workers 1"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def droid_clips() -> dict[str, RawClip]:
    made = {}
    for i in range(CLIPS):
        key, rng = f"SYNTH+{i:02d}-0:11", np.random.default_rng(i)
        made[key] = synthetic.droid_clip(rng, key=key, points=400)
    return made


@pytest.fixture(scope="module")
def h5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("h5")
    for key, clip in droid_clips().items():
        synthetic.write_h5(root / f"{key.rpartition('-')[0]}_flows.h5", {"0:11": clip})
    return root


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, clips = tmp_path_factory.mktemp("wds"), droid_clips()
    for split, keys in zip(("train", "test"), local_split(clips), strict=True):
        synthetic.write_wds(root, split, {key: clips[key] for key in keys})
    return root


@pytest.fixture(scope="module")
def robot() -> RobotModel:
    return RobotModel.load("panda_robotiq")


def sources(
    root: Path, robot: RobotModel, split: str = "train", row: int = 0
) -> list[StreamedClip]:
    found = find_clips(root, (split,), min_shard_bytes=0)
    feed = ReleasedFeed(robot=robot, domain=row)
    return [StreamedClip(place, feed) for place in found.by_split[split]]


def run(
    root: Path, robot: RobotModel, folder: Path, *, readers: int = 0, stop: int = 0
) -> WorldModel:
    class Stop(Exception):
        pass

    def on_step(step: int, _: float) -> None:
        if step == stop:
            raise Stop

    samples, validation = (sources(root, robot, split) for split in ("train", "test"))
    try:
        return train(
            RELEASED, samples, validation, folder, CONFIG, readers=readers, on_step=on_step
        )
    except Stop:
        return WorldModel(RELEASED)


def equal(one: WorldModel, other: WorldModel) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_both_containers_train_alike_also_when_interrupted(
    h5: Path, shards: Path, robot: RobotModel, tmp_path: Path
) -> None:
    """H5 in one go, shards read ahead by two threads and stopped after the first step: the same weights and losses."""
    straight = run(h5, robot, tmp_path / "h5")
    run(shards, robot, tmp_path / "wds", readers=2, stop=2)
    resumed = run(shards, robot, tmp_path / "wds", readers=2)
    assert equal(straight, resumed)
    (row,), (other,) = (read_curve(tmp_path / name / "curve.csv") for name in ("h5", "wds"))
    assert row["moved_ratio"] == other["moved_ratio"] and row["rest_mm"] == other["rest_mm"]
    assert math.isfinite(row["loss"]) and math.isfinite(row["rest_mm"])


def test_draws_depend_on_the_generator_alone(h5: Path, robot: RobotModel) -> None:
    clip = sources(h5, robot)[0]

    def drawn(slot: int, spec: ModelSpec = RELEASED) -> TrainingSample:
        return draw_sample(spec, clip, AugmentConfig(), draw_generator(0, 0, slot))

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert torch.equal(first.scene.points, again.scene.points)
    assert first.scene.points.shape != other.scene.points.shape or not torch.equal(
        first.scene.points, other.scene.points
    )
    assert len(first.scene) <= RELEASED.max_scene_points and first.robot.step_dt == STEP_DT
    assert first.supervised is not None and not first.supervised.all()
    assert first.displacements[-1].norm(dim=-1).max() > 0.1


def test_validation_is_the_published_evaluation(h5: Path, robot: RobotModel) -> None:
    torch.manual_seed(0)
    model, (clip,) = WorldModel(RELEASED).eval(), sources(h5, robot, "test")
    ((item, predicted, log_var),) = forecasts(model, [clip])
    chain = evaluation_sample(decode_clip(clip.place.read()), robot, chain_settings(RELEASED))
    want, want_var = predict_sample(model, chain)
    assert torch.equal(item.scene.points, chain.flow.scene.points)
    assert torch.equal(predicted, want) and torch.equal(log_var[..., 0], want_var)


def test_other_models_see_the_base_frame(h5: Path, robot: RobotModel) -> None:
    """The chain's turn, scale and mirror are undone; their own symmetries keep lengths of motions."""
    spec = replace(SPEC, domains=("droid",), step_dt=STEP_DT)
    clip = sources(h5, robot)[0]
    sample = evaluation_sample(decode_clip(clip.place.read()), robot, chain_settings(spec))
    own = tracked(sample, 0)
    assert torch.allclose(own.points.double(), sample.base_points(), atol=1e-6)
    assert 0.13 < own.points[own.points[:, 2] > 0.05][:, 2].mean() + 0.05 < 0.17  # the box's top
    drawn = draw_sample(spec, clip, AugmentConfig(), draw_generator(0, 0, 0))
    slide = drawn.displacements[-1].norm(dim=-1)
    assert slide.max() == pytest.approx(0.15, abs=2e-3)
    assert drawn.scene.clusters is not None and drawn.supervised is not None
    ((item, predicted, _),) = forecasts(WorldModel(spec).eval(), [clip], max_points=100)
    assert len(item.scene) == predicted.shape[1] == 100


def test_two_domains_with_own_clips(h5: Path, robot: RobotModel, tmp_path: Path) -> None:
    spec = replace(SPEC, domains=("sim", "droid"), domain_step_dt=(0.1, STEP_DT))
    released = sources(h5, robot, row=1)[:1]
    samples: list[Source] = [*(push(i) for i in range(30)), *released]
    validation: list[Source] = [push(100), *sources(h5, robot, "test", row=1)]
    model = train(spec, samples, validation, tmp_path, replace(CONFIG, steps=2), mix="domains")
    assert not torch.equal(model.scene_norm_mean[0], model.scene_norm_mean[1])
    chosen = {}
    alike = [replace(push(0), domain=1), *samples]
    mixes: tuple[Mix, ...] = ("clips", "domains", "sources")
    for mix in mixes:
        with Batches(spec, alike, CONFIG, range(2), mix=mix) as batches:
            drawn = [batches.choose(draw_generator(0, i, 0)) for i in range(400)]
        chosen[mix] = sum(clip is released[0] for clip in drawn)
    # One clip of 32; one of the two of its domain; the only released one of three sources.
    for mix, share in (("clips", 1 / 32), ("domains", 1 / 4), ("sources", 1 / 3)):
        assert chosen[mix] / 400 == pytest.approx(share, abs=0.05)


def test_a_released_checkpoint_is_fine_tuned(
    shards: Path, robot: RobotModel, tmp_path: Path
) -> None:
    """With its own image encoder; a few steps lower the loss on clips that are drawn the same way."""
    toy = checkpoint(tmp_path)
    model = load(toy)
    found = find_clips(shards, ("train",), min_shard_bytes=0)
    feed = ReleasedFeed(robot=robot, domain=0, encoder=model.image_encoder())
    samples = [StreamedClip(place, feed) for place in found.by_split["train"][:3]]
    config = replace(CONFIG, steps=8, learning_rate=3e-3, average=0.0, validate_every=8)
    batch = [
        draw_sample(model.spec, clip, config.augment, draw_generator(9, 0, i))
        for i, clip in enumerate(samples)
    ]
    assert batch[0].scene.features is not None
    assert batch[0].scene.features.shape[1] == rf.TOY_CHANNELS
    assert batch[0].scene.features.abs().sum() > 0

    def loss(of: WorldModel) -> float:
        with torch.no_grad():
            return float(batch_loss(of.eval(), batch, config))

    before = loss(model)
    tuned = train(model.spec, samples, samples[:1], tmp_path / "run", config, init=model)
    assert loss(tuned) < before - 0.05 * abs(before)


def checkpoint(folder: Path) -> Path:
    """A released DROID file of toy size, converted; fewer points, to be quick."""
    convert_released(rf.write_toy(folder / "toy.pt", seed=3), folder / "toy", sizes=SIZES)
    record = json.loads((folder / "toy" / "model.json").read_text())
    record["spec"] |= {"max_robot_points": 60, "max_scene_points": 300}
    (folder / "toy" / "model.json").write_text(json.dumps(record))
    return folder / "toy"


def test_the_loss_follows_the_release(h5: Path, robot: RobotModel) -> None:
    """Simulated domains state a constant variance; targets are clipped to half a metre on each axis."""
    torch.manual_seed(0)
    spec = replace(RELEASED, domains=("droid", "behavior"), simulated_domains=("behavior",))
    model = WorldModel(spec)
    real = draw_sample(RELEASED, sources(h5, robot)[0], AugmentConfig(), draw_generator(0, 0, 0))
    head = model.dynamics_predictor.log_var_head

    def gradient(*items: TrainingSample) -> float:
        model.zero_grad()
        batch_loss(model, list(items), CONFIG).backward()
        found = [parameter.grad for parameter in head.parameters()]
        assert all(grad is not None for grad in found), "every process waits for one"
        return sum(float(grad.abs().sum()) for grad in found if grad is not None)

    assert gradient(replace(real, domain=1)) == 0.0
    assert gradient(real, replace(real, domain=1)) > 0.0
    far = replace(real, displacements=real.displacements + 3.0 * real.displacements.sign())
    farther = replace(real, displacements=real.displacements + 9.0 * real.displacements.sign())
    with torch.no_grad():
        losses = [float(batch_loss(model.eval(), [item], CONFIG)) for item in (real, far, farther)]
    assert losses[0] != losses[1] == pytest.approx(losses[2], rel=1e-4)


def test_a_clip_that_cannot_be_read_is_left_out(
    shards: Path, robot: RobotModel, tmp_path: Path
) -> None:
    good = sources(shards, robot)
    broken = [
        StreamedClip(replace(clip.place, path=tmp_path / f"gone{i}.tar"), clip.feed)
        for i, clip in enumerate(good)
    ]
    half = [clip for pair in zip(good, broken, strict=True) for clip in pair]
    with pytest.warns(UserWarning, match="is left out: .*no such shard"):
        statistics = measure(RELEASED, half, seed=0)["droid"]
    assert statistics.clips == len(good)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Batches(RELEASED, half, CONFIG, range(2)) as batches:
            items = [*batches.batch(0), *batches.batch(1), *batches.batch(2)]
        assert len(items) == 6
        with (
            Batches(RELEASED, broken, CONFIG, range(2), readers=2) as batches,
            pytest.raises(InputError, match=r"8 clips in a row .*no such shard"),
        ):
            batches.batch(0)
        with pytest.raises(InputError, match="no such shard"):
            measure(RELEASED, broken, seed=0)


def test_padding_counts_nowhere(h5: Path, robot: RobotModel) -> None:
    """Statistics of a clip alone are those of the clip, whatever the size of others."""
    clip = sources(h5, robot)[0]
    entry = measure(RELEASED, [clip], seed=0)["droid"]
    drawn = draw_sample(RELEASED, clip, AugmentConfig(), torch.Generator().manual_seed(0))
    assert entry.scene_mean[3:6] == pytest.approx(drawn.scene.colors.mean(0).tolist(), abs=1e-5)
    assert entry.displacement_var[-1] > 1e-4


def test_the_command_trains_from_nothing(
    h5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From H5 files split here; the split is left for `evaluate`, and the statistics of a command are taken."""
    statistics, out = tmp_path / "statistics.json", tmp_path / "run"
    measured = ["statistics", "--released", str(h5), "--out", str(statistics), "--workers", "1"]
    assert main(measured) == 0
    assert read_statistics(statistics)["droid"].clips == CLIPS - 1
    command = ["train", "--released", str(h5), "--out", str(out), "--statistics", str(statistics)]
    assert main([*command, *TWO_STEPS.split(), "--device", "cpu", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["clips"] == CLIPS - 1
    spec = load(out).spec
    assert spec.domains == ("droid",) and spec.step_dt_of("droid") == pytest.approx(STEP_DT)
    assert spec.robot == "panda_robotiq"
    split = read_manifest(out / "split-droid.json")
    assert len(split.test_keys) == 1
    tested = ["evaluate", "--released", str(h5), "--checkpoint", str(out), "--json"]
    assert main([*tested, "--manifest", str(out / "split-droid.json")]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows["model"]["compat"]["full_eval/test/_meta/total_sequences"] == 1


def test_the_command_fine_tunes(shards: Path, tmp_path: Path) -> None:
    toy = checkpoint(tmp_path)
    command = ["train", "--init", str(toy), "--released", str(shards), "--min-shard-bytes", "0"]
    command += ["--device", "cpu", "--mix", "domains", *TWO_STEPS.split()]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    before, after = load(toy), load(tmp_path / "run")
    assert after.spec == before.spec and after.image_encoder() is not None
    assert torch.equal(after.scene_norm_mean, before.scene_norm_mean)
    assert not torch.equal(after.robot_type_emb, before.robot_type_emb)


def test_the_command_trains_both_domains_as_the_release_does(tmp_path: Path) -> None:
    """From nothing in `released` mode: two grippers, own time steps, BEHAVIOR's spread a constant."""
    clips: dict[str, dict[str, RawClip]] = {"droid": {}, "behavior": {}}
    for i in range(10):
        name, rng = f"{i}:{i + 11}", np.random.default_rng(i)
        clips["droid"][name] = synthetic.droid_clip(rng, key=f"d-{name}", points=300)
        joints = ("left_slide", "right_slide")
        made = synthetic.behavior_clip(rng, key=f"e-{name}", joint_names=joints)
        clips["behavior"][name] = made
    for domain, of in clips.items():
        synthetic.write_h5(tmp_path / domain / "episode_1.hdf5", of)
    roots = [str(tmp_path / domain) for domain in clips]
    command = ["train", "--released", *roots, "--behavior-robot", str(two_arms(tmp_path))]
    command += ["--mode", "released", "--encoder", "rgb", "--mix", "domains", "--device", "cpu"]
    assert main([*command, *TWO_STEPS.split(), "--out", str(tmp_path / "run")]) == 0
    model = load(tmp_path / "run")
    spec = model.spec
    assert (spec.mode, spec.features, spec.grippers) == ("released", "released", 2)
    assert [spec.step_dt_of(name) for name in spec.domains] == pytest.approx([0.2, STEP_DT])
    assert spec.domains == ("behavior", "droid") and spec.simulated_domains == ("behavior",)
    assert spec.image_channels == 3 and (spec.scene_channels, spec.robot_channels) == (42, 17)
    assert not torch.equal(model.scene_norm_mean[0], model.scene_norm_mean[1])
    assert sorted(p.name for p in (tmp_path / "run").glob("split-*.json")) == [
        "split-behavior.json",
        "split-droid.json",
    ]


def two_arms(folder: Path) -> Path:
    """A URDF of two gripper boxes on slides, named as the links of the R1 Pro."""
    joints = ""
    for side, y in (("left", 0.2), ("right", -0.2)):
        mesh = f"{side}_gripper_link.stl"
        trimesh.creation.box((0.06, 0.04, 0.1)).export(folder / mesh)
        joints += (
            f'<link name="{side}_gripper_link"><visual><geometry><mesh filename="{mesh}"/></geometry></visual></link>'
            f'<joint name="{side}_slide" type="prismatic"><parent link="base"/><child link="{side}_gripper_link"/>'
            f'<origin xyz="0.4 {y} 0.2"/><axis xyz="1 0 0"/>'
            '<limit lower="-1" upper="1" effort="1" velocity="1"/></joint>'
        )
    path = folder / "two_arms.urdf"
    path.write_text(f'<robot name="two_arms"><link name="base"/>{joints}</robot>')
    return path


@pytest.mark.slow
def test_the_command_in_two_processes(h5: Path, tmp_path: Path) -> None:
    command = ["-m", "pointworld.cli.app", "train", "--released", str(h5), "--device", "cpu"]
    command += TWO_STEPS.split()
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29631"]
    rows = []
    for name, more in (("one", []), ("two", launch)):
        full = [sys.executable, *more, *command, "--out", str(tmp_path / name)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(full, env=environment, check=True, timeout=600, capture_output=True)
        rows += read_curve(tmp_path / name / "curve.csv")
    for value in ("loss", "moved_ratio", "rest_mm"):
        assert rows[0][value] == pytest.approx(rows[1][value], rel=1e-4)
    one, two = (replace(load(tmp_path / name).spec, spread=()) for name in ("one", "two"))
    assert one == two


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "nothing to train on"),
        (["--released", "{h5}", "--split", "test"], "both 'test'"),
        (["--released", "{h5}", "--split", "extra"], "into train and test, not into extra"),
        (["--released", "{shards}", "--split", "extra"], "it has test, train"),
        (["--released", "{h5}", "{shards}"], "are there twice"),
        (["--released", "{h5}", "--init", "tiny"], "start from a checkpoint of their domain"),
        (["--released", "{h5}", "--manifest", "{behavior}"], "lists behavior clips"),
        (["--manifest", "{behavior}"], "nothing to train on"),
        (["--mode", "released", "--data", "a", "--validation", "b"], "from --released alone"),
        (["--released", "{h5}", "--size", "giant"], "expected one of tiny, small, base, large"),
    ],
)
def test_what_cannot_be_trained_on_is_said(
    h5: Path,
    shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    told: str,
) -> None:
    lists = {"schema_version": "wds_manifest.v1", "domain": "behavior", "seed": 42}
    lists |= {"test_percentage": 0.1, "test_clip_keys": []}
    (tmp_path / "behavior.json").write_text(json.dumps(lists))
    paths = {"h5": h5, "shards": shards, "behavior": tmp_path / "behavior.json"}
    given = [option.format(**paths) for option in options]
    command = ["train", "--out", str(tmp_path / "run"), "--min-shard-bytes", "0", "--device", "cpu"]
    assert main([*command, *given, *TWO_STEPS.split()]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


@pytest.mark.rejects_input
def test_behavior_clips_need_their_checkpoint_and_robot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = {
        f"{i}:{i + 11}": synthetic.behavior_clip(np.random.default_rng(0), key=f"e-{i}:{i + 11}")
        for i in range(10)
    }
    synthetic.write_h5(tmp_path / "data" / "episode_1.hdf5", clips)
    command = ["train", "--released", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    assert main([*command, "--device", "cpu"]) == 2
    assert "--behavior-robot" in capsys.readouterr().err
    assert main([*command, "--init", str(checkpoint(tmp_path)), "--device", "cpu"]) == 2
    assert "knows droid" in " ".join(capsys.readouterr().err.split())


def test_one_process_waits_for_nobody(h5: Path, robot: RobotModel) -> None:
    """Both halves of a batch together are the batch of one process."""
    samples = sources(h5, robot)[:4]
    whole, halves = Batches(RELEASED, samples, CONFIG, Ranks().mine(4)), []
    for rank in range(2):
        part = Batches(RELEASED, samples, CONFIG, Ranks(rank=rank, world=2).mine(4))
        halves.append(part.batch(5))
    for slot, item in enumerate(whole.batch(5)):
        assert torch.equal(item.scene.points, halves[slot % 2][slot // 2].scene.points)


def test_a_sample_as_it_is(h5: Path, robot: RobotModel) -> None:
    clip = sources(h5, robot)[0]
    sample = evaluation_sample(decode_clip(clip.place.read()), robot, chain_settings(RELEASED))
    item = as_training(sample, RELEASED, 0)
    assert torch.equal(item.displacements[0], torch.zeros_like(item.displacements[0]))
    assert item.supervised is sample.flow.supervised
