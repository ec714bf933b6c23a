"""Our checkpoint folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import pointworld
from pointworld.errors import CheckpointError
from pointworld.model import ModelSpec, WorldModel, load_checkpoint, save_checkpoint
from pointworld.model.checkpoint_io import inspect_checkpoint
from pointworld.model.load import bundled_checkpoints, find_checkpoint
from tests.model.test_rollout import arch, make_flow, make_model, make_scene


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_checkpoint(make_model(), tmp_path / "checkpoint", training={"clips": 3})


def test_saved_model_predicts_the_same(folder: Path, generator: torch.Generator) -> None:
    model, scene, flow = make_model(), make_scene(generator), make_flow(generator)
    loaded = pointworld.load(folder)
    assert isinstance(loaded, WorldModel)
    assert not loaded.training
    assert loaded.spec == model.spec
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    expected = model.predict(scene, flow).displacements
    torch.testing.assert_close(
        loaded.predict(scene, flow).displacements, expected, atol=1e-6, rtol=0
    )


def test_loaded_model_can_be_trained_further(folder: Path) -> None:
    loaded = load_checkpoint(folder)
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.parameters())
    assert not any(value.is_meta for value in loaded.state_dict().values())


def test_report_counts_and_describes(folder: Path) -> None:
    report = inspect_checkpoint(folder)
    model = make_model()
    assert report["trainable_parameters"] == sum(p.numel() for p in model.parameters())
    assert report["keys"] == len(model.state_dict())
    assert report["training"] == {"clips": 3}
    assert report["spec"] == json.loads(json.dumps(model.spec.to_json()))


def test_saving_again_replaces_the_older_checkpoint(folder: Path) -> None:
    other = WorldModel(ModelSpec(arch=arch(24)))
    save_checkpoint(other, folder)
    assert load_checkpoint(folder).spec.width == 24
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "model.safetensors"]


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        weights = {k: v.clone() for k, v in load_file(folder / "model.safetensors").items()}
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return edit


def _edit_json(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        values = json.loads((folder / "model.json").read_text())
        change(values)
        (folder / "model.json").write_text(json.dumps(values))

    return edit


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (_truncate, "not a readable safetensors"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "is missing"),
    "no description": (lambda f: (f / "model.json").unlink(), "has no model.json"),
    "half a description": (
        lambda f: (f / "model.json").write_text('{"format": '),
        "not valid JSON",
    ),
    "another format": (_edit_json(lambda v: v.update(version=99)), "version"),
    "no spec": (_edit_json(lambda v: v.pop("spec")), "has no 'spec'"),
    "missing key": (
        _edit_weights(lambda w: w.pop("robot_type_emb")),
        "1 keys missing .*robot_type",
    ),
    "unknown key": (
        _edit_weights(lambda w: w.update(extra=torch.zeros(1))),
        r"1 unknown \(extra\)",
    ),
    "wrong shape": (
        _edit_weights(lambda w: w.update(robot_type_emb=torch.zeros(2, 16))),
        r"robot_type_emb is \(2, 16\), expected \(1, 16\)",
    ),
    "not a number": (
        _edit_weights(lambda w: w["robot_type_emb"].fill_(float("nan"))),
        "NaN or infinity in robot_type_emb",
    ),
}


@pytest.mark.rejects_input
@pytest.mark.parametrize("name", BROKEN)
def test_broken_folders_are_refused(folder: Path, name: str) -> None:
    change, message = BROKEN[name]
    change(folder)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


@pytest.mark.rejects_input
def test_unknown_name_says_what_exists() -> None:
    with pytest.raises(CheckpointError, match="no checkpoint 'tinny'"):
        pointworld.load("tinny")


def test_bundled_names_are_found() -> None:
    for name in bundled_checkpoints():
        assert find_checkpoint(name).is_dir()
        assert pointworld.load(name).spec.horizon == 10
