"""Ablation studies: what is varied, and one study from clips to its table through the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pointworld.cli.app import main
from pointworld.data import read_clip
from pointworld.errors import InputError
from pointworld.ptv3 import PTv3Arch
from pointworld.robot import RobotModel
from pointworld.train import TrainConfig, read_evaluation_clip
from pointworld.train.ablation import (
    STUDIES,
    SingleSteps,
    Variant,
    blind_to_colour,
    chained_predictor,
    one_step_sample,
    single_steps,
    variants_of,
)
from pointworld.train.ablation_report import plot_scaling, study_table
from pointworld.train.ablation_run import Setup, run_variant, variant_spec
from pointworld.train.augment import whole
from pointworld.train.cache import cache_folder
from pointworld.train.predictors import model_predictor
from pointworld.train.preparation import Preparation
from tests.model.test_rollout import make_model
from tests.train.synthetic import push

SCENES = ["--tabletop.families", "push", "--tabletop.height", "90", "--tabletop.width", "160"]


def test_names_are_folders_and_differ_between_studies() -> None:
    seen: dict[str, Variant] = {}
    for study in STUDIES:
        for variant in variants_of(study, ("rgb", "jepa:a/b")):
            assert "/" not in variant.name and ":" not in variant.name
            known = seen.setdefault(variant.name, variant)
            assert replace(known, label="") == replace(variant, label="")
    owners = {v.weights_of for v in seen.values() if v.weights_of}
    assert owners <= set(seen) and len(seen) > 15


def test_a_point_moves_as_the_surface_that_it_shows() -> None:
    """A body turns by 90 degrees: what is seen 2 cm beside it is carried by the turn of the body, not by its own."""
    sample = push(0)
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    motions = torch.eye(4).expand_as(sample.motions).clone()
    motions[1:, :, :3, :3] = quarter
    turned = replace(sample, motions=motions, surface=sample.points + torch.tensor([0.02, 0, 0]))
    assert turned.surface is not None
    moved = turned.positions(torch.arange(len(sample.points)))
    expected = turned.surface @ quarter.T - turned.surface
    assert torch.equal(moved[0], sample.points)
    assert torch.allclose(moved[5] - moved[0], expected, atol=1e-6)


def test_a_step_of_a_clip_as_a_sample() -> None:
    sample = push(0)
    shifted = one_step_sample(sample, 6)
    index = torch.arange(len(sample.points))
    true, short = sample.positions(index), shifted.positions(index)
    assert torch.allclose(short[0], true[6], atol=1e-6)
    assert torch.allclose(short[1:], true[7].expand(10, -1, -1), atol=1e-5)
    assert torch.equal(shifted.robot_positions[0], sample.robot_positions[6])
    assert torch.equal(shifted.robot_positions[4], sample.robot_positions[7])
    near = torch.cdist(short[0], shifted.robot_positions[:2].flatten(0, 1)).amin(-1)
    assert torch.allclose(near, shifted.reach, atol=1e-5)
    noisy = replace(sample, surface=sample.points + 0.01)
    moved = one_step_sample(noisy, 6).positions(index)
    apart = noisy.positions(index)
    assert torch.allclose(moved[0], apart[6], atol=1e-6)
    assert torch.allclose(moved[1] - moved[0], apart[7] - apart[6], atol=1e-5)
    known = torch.ones(11, len(sample.points), dtype=torch.bool)
    known[6, 0] = known[7, 1] = known[9, 2] = False
    partly = one_step_sample(replace(sample, supervised=known), 6).supervised
    assert partly is not None and partly[1, :3].tolist() == [False, False, True]
    steps = SingleSteps([push(0), push(1), push(2)])
    assert len(steps) == 30 and [s.key for s in steps[2:5]] == [
        "synthetic/2@0",
        "synthetic/0@1",
        "synthetic/1@1",
    ]
    with pytest.raises(IndexError):
        steps[30]


def test_chaining_shows_the_model_one_step_at_a_time() -> None:
    robot = whole(push(0), step_dt=0.1).robot
    stretched = single_steps(robot, 10)
    assert stretched.num_steps == 101
    assert torch.equal(stretched.positions[::10], robot.positions)
    chunk = stretched.positions[30:41]
    assert torch.equal(chunk[0], robot.positions[3])
    assert torch.equal(chunk[1:], robot.positions[4].expand(10, -1, -1))


def test_variants_change_the_description_of_the_model(tmp_path: Path) -> None:
    setup = _setup(tmp_path, tmp_path)
    ours, released, features = variants_of("tokens")
    sample = push(0, features=5)
    assert variant_spec(released, setup, sample) == replace(
        variant_spec(ours, setup, sample), mode="released"
    )
    assert variant_spec(features, setup, sample).features == "released"
    spec = variant_spec(Variant(name="x", label="x", encoder="rgb"), setup, sample)
    assert (spec.encoder, spec.image_channels) == ("rgb", 5)
    with pytest.raises(InputError, match="no study 'lose'"):
        variants_of("lose")


def _setup(clips: Path, out: Path) -> Setup:
    return Setup(
        data=(clips / "train",),
        validation=(clips / "val",),
        test=clips / "test",
        out=out,
        cache=clips / "cache",
        arch=PTv3Arch.tiny(),
        workers=1,
        config=TrainConfig(minutes=0, steps=1, batch_size=1),
    )


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip(
        "mujoco", reason="the simulator is an extra: pip install 'pointworld-open[sim]'"
    )
    root = tmp_path_factory.mktemp("clips")
    for seed, (name, count) in enumerate({"train": 2, "val": 1, "test": 1}.items()):
        options = ["--clips", str(count), "--workers", "0", "--seed", str(seed), *SCENES]
        assert main(["generate", "--out", str(root / name), *options]) == 0
    return root


def test_the_command_makes_a_table_and_keeps_what_is_done(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- generated: ablation-rollout -->\n<!-- end: ablation-rollout -->\n")
    folders = [f"--data={clips / 'train'}", f"--validation={clips / 'val'}"]
    folders += [f"--test={clips / 'test'}", f"--cache={clips / 'cache'}", f"--out={tmp_path}"]
    budget = "--train.minutes 0 --train.steps 1 --train.batch-size 1 --workers 1 --threads 1"
    command = ["ablate", "rollout", *folders, *budget.split(), "--page", str(page), "--json"]
    assert main(command) == 0
    study = json.loads(capsys.readouterr().out)["rollout"]
    assert [row["name"] for row in study["rows"]] == [
        "ours",
        "rollout-ours-chained",
        "rollout-one-step",
    ]
    assert study["rows"][2]["training"]["train_samples"] == 20
    lines = page.read_text().splitlines()
    assert lines[1].startswith("| steps |") and len(lines) == 7
    assert (tmp_path / "rollout.md").read_text().splitlines() == lines[1:-1]
    weights = (tmp_path / "ours" / "model.safetensors").stat().st_mtime_ns
    assert main(command) == 0 and page.read_text().splitlines() == lines
    assert (tmp_path / "ours" / "model.safetensors").stat().st_mtime_ns == weights
    capsys.readouterr()
    assert main([*command, "--limit", "1"]) == 2
    assert "made with another limit" in capsys.readouterr().err


def test_cameras_colour_and_features_reach_the_model(clips: Path, tmp_path: Path) -> None:
    setup = _setup(clips, tmp_path)
    one = run_variant(Variant(name="a", label="a", cameras=1), setup, lambda *_: None)
    colour = Variant(name="b", label="b", encoder="rgb", colour=False)
    record = run_variant(colour, setup, lambda *_: None)
    assert one["training"]["train_samples"] == record["training"]["train_samples"] == 2
    assert json.loads((tmp_path / "b" / "model.json").read_text())["spec"]["encoder"] == "rgb"
    counts = {p.name: len(list(p.glob("*.safetensors"))) for p in setup.cache.iterdir()}
    root = setup.cache
    plain, rgb = (
        cache_folder(root, clips / "train", Preparation(encoder=encoder), 0.5).name
        for encoder in (None, "rgb")
    )
    assert counts[f"{plain}-cameras1"] == counts[rgb] == 2


def test_predictors_of_the_studies(clips: Path) -> None:
    clip = read_evaluation_clip(
        read_clip(clips / "test" / "0000" / "000000.npz"), RobotModel.load("fr3")
    )
    model = make_model("stable")
    seen = model_predictor(model)(clip)
    blind = blind_to_colour(model_predictor(model))(clip)
    chained = chained_predictor(model)(clip)
    assert seen is not None and blind is not None and chained is not None
    assert chained.displacements.shape == seen.displacements.shape
    assert not torch.allclose(seen.displacements, blind.displacements, atol=1e-5)
    assert not torch.allclose(seen.displacements, chained.displacements, atol=1e-3)


def _row(name: str, samples: int, value: float) -> dict[str, Any]:
    def entry(mean: float) -> dict[str, float]:
        return {"mean": mean, "standard_error": 0.002, "count": 3}

    metrics = {
        "model": {"l2_moved": entry(value * 0.1), "l2_never_moving": entry(0.001)},
        "no_motion": {"l2_moved": entry(0.1)},
    }
    overall = {"metrics": metrics, "ratios_to_no_motion": {"model": value}}
    return {
        "name": name,
        "label": name,
        "training": {"train_samples": float(samples), "step": 500.0, "parameters": 2_650_000},
        "evaluation": {"overall": overall},
    }


def test_table_and_scaling_curve(tmp_path: Path) -> None:
    study = {"study": "data", "rows": [_row(f"r{n}", n, 2 * n**-0.25) for n in (100, 200, 400)]}
    lines = study_table(study).splitlines()
    assert lines[2] == "| r100 | 0.632 ± 0.020 | 1.00 | – | – | 100 | 500 | 2.6 M |"
    plot_scaling(study, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes()[:4] == b"\x89PNG"
