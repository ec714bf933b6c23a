"""Released files: layout, contract, safety, conversion."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from pointworld.errors import CheckpointError
from pointworld.model import load, read_released
from pointworld.model.checkpoint_io import inspect_checkpoint
from pointworld.model.released_checkpoint import convert_released, summary
from pointworld.model.released_contract import RELEASED_SIZES
from pointworld.model.world_model import WorldModel
from pointworld.ptv3 import PTv3Arch
from tests.model import released_file as rf


def toy_arch(width: int) -> PTv3Arch:
    return PTv3Arch(
        name="toy",
        in_channels=width,
        enc_depths=(1, 1),
        enc_channels=(width, 32),
        enc_heads=(2, 4),
        dec_depths=(1,),
        dec_channels=(width,),
        dec_heads=(2,),
    )


SIZES = {**RELEASED_SIZES, "toy": toy_arch}


@pytest.mark.parametrize(
    ("size", "width", "keys", "ptv3_parameters", "trainable"),
    [
        ("small", 128, 858, 50_417_280, 51_102_760),
        ("base", 256, 1494, 409_479_424, 410_975_784),
        ("large", 256, 1854, 983_821_568, 985_317_928),
    ],
)
def test_layout_is_the_released_one(
    tmp_path: Path, size: str, width: int, keys: int, ptv3_parameters: int, trainable: int
) -> None:
    shapes = rf.model_shapes(size, width)
    assert len(shapes) == keys
    path = tmp_path / "model-best.pt"
    torch.save(rf.file_content(rf.light_weights(shapes), size, width), path)
    checkpoint = read_released(path)
    with torch.device("meta"):
        model = WorldModel(checkpoint.spec)
    ours = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    prefix = "scene_feature_encoder.scene_encoder.dinov3."
    assert ours == {k: v for k, v in shapes.items() if not k.startswith(prefix)}
    assert sum(p.numel() for p in model.parameters()) == trainable
    backbone = model.dynamics_predictor.predictor_model
    assert sum(p.numel() for p in backbone.parameters()) == ptv3_parameters
    report = summary(checkpoint)
    assert report["keys"] == keys
    assert report["trainable_parameters"] == trainable
    if size == "small":
        assert report["trainable_parameters"] + report["encoder_parameters"] == 354_256_936
    assert checkpoint.spec.step_dt == pytest.approx(2 / 15)
    assert checkpoint.spec.arch.patch_size == 256
    assert checkpoint.spec.encoder_layers == (4, 11, 17, 23)
    assert len(checkpoint.spec.robot_links) == 9


def test_two_domains_carry_their_own_time_step_and_links(tmp_path: Path) -> None:
    path = rf.write_toy(tmp_path / "toy.pt", domains=("droid", "behavior"))
    spec = read_released(path, sizes=SIZES).spec
    assert spec.step_dt_of("droid") == pytest.approx(2 / 15)
    assert spec.step_dt_of("behavior") == 0.2
    assert spec.simulated_domains == ("behavior",)
    assert spec.grippers == 2
    assert "left_gripper_finger_link1" in spec.robot_links_of("behavior")
    assert (spec.scene_channels, spec.robot_channels) == (42, 17)


def test_camera_fields_have_the_published_defaults_and_casts(tmp_path: Path) -> None:
    path = rf.write_toy(tmp_path / "toy.pt")
    contract = read_released(path, sizes=SIZES).contract
    cameras = (
        contract.train_min_num_cameras,
        contract.train_max_num_cameras,
        contract.eval_min_num_cameras,
        contract.eval_max_num_cameras,
    )
    assert cameras == (1, 3, 2, 2)
    changed = _changed(path, tmp_path, lambda c: c["model_contract"].update(grid_size="0.02"))
    assert read_released(changed, sizes=SIZES).spec.grid_size == 0.02


def test_entries_that_predictions_do_not_need_may_differ(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for name in ("optimizer", "args", "exp_name", "wandb_id"):
            del content[name]
        content["best_metric"] = 0.05

    path = _changed(rf.write_toy(tmp_path / "toy.pt"), tmp_path, change)
    report = summary(read_released(path, sizes=SIZES))
    assert report["ignored_keys"] == ["best_metric"]
    assert report["optimizer_bytes"] == 0


def test_conversion_keeps_every_number_and_runs(tmp_path: Path) -> None:
    path = rf.write_toy(tmp_path / "toy.pt", seed=3)
    convert_released(path, tmp_path / "out", sizes=SIZES)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "encoder.safetensors",
        "model.json",
        "model.safetensors",
    ]
    original = torch.load(path, weights_only=False)["model"]
    model = load(tmp_path / "out")
    for name, value in model.state_dict().items():
        assert torch.equal(value, original[name]), name
    encoder = model.image_encoder()
    direct = read_released(path, sizes=SIZES).encoder()
    image = torch.rand(1, 3, 64, 80, generator=torch.Generator().manual_seed(1))
    assert encoder is not None
    assert torch.equal(encoder.encode(image), direct.encode(image))
    assert encoder.channels == rf.TOY_CHANNELS
    report = inspect_checkpoint(tmp_path / "out")
    assert report["training"]["contract"]["domains"] == ["droid"]
    json.dumps(report)


def _changed(path: Path, folder: Path, change: Any) -> Path:
    content = torch.load(path, weights_only=False)
    change(content)
    out = folder / "changed.pt"
    torch.save(content, out)
    return out


def _rename(content: dict[str, Any], old: str, new: str) -> None:
    content["model"][new] = content["model"].pop(old)


BAD: dict[str, tuple[Any, str]] = {
    "unknown key": (
        lambda c: c["model"].update({"dynamics_predictor.surprise": torch.zeros(2)}),
        "1 unknown .*surprise",
    ),
    "missing key": (
        lambda c: c["model"].pop("dynamics_predictor.skip_film_beta"),
        "1 keys? missing .*skip_film_beta",
    ),
    "wrong shape": (
        lambda c: c["model"].update(robot_type_emb=torch.zeros(1, 17)),
        r"robot_type_emb is \(1, 17\), expected \(1, 16\)",
    ),
    "schema": (lambda c: c.update(checkpoint_schema_version=2), "schema version 2, expected 1"),
    "no contract": (lambda c: c.pop("model_contract"), "no model_contract"),
    "contract field": (lambda c: c["model_contract"].pop("grid_size"), "lacks .*grid_size"),
    "contract extra": (lambda c: c["model_contract"].update(speed=1), "unknown fields .*speed"),
    "contract value": (
        lambda c: c["model_contract"].update(predictor_dim="wide"),
        "predictor_dim.*'wide'",
    ),
    "size": (lambda c: c["model_contract"].update(ptv3_size="huge"), "huge.*small, base, large"),
    "counter": (lambda c: c.pop("sample_count"), "missing keys .*sample_count"),
    "domains": (lambda c: c["data_contract"].update(domains=[]), "domains"),
    "wrapped": (
        lambda c: c.update(model={f"module.{k}": v for k, v in c["model"].items()}),
        "module",
    ),
    "not tensors": (lambda c: c["model"].update(extra=3), "not a mapping of names to tensors"),
}


@pytest.mark.rejects_input
@pytest.mark.parametrize("name", BAD)
def test_wrong_content_is_refused_by_name(tmp_path: Path, name: str) -> None:
    change, message = BAD[name]
    path = _changed(rf.write_toy(tmp_path / "toy.pt"), tmp_path, change)
    with pytest.raises(CheckpointError, match=message):
        read_released(path, sizes=SIZES)


@pytest.mark.rejects_input
def test_nan_weights_and_foreign_encoder_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    path = rf.write_toy(tmp_path / "toy.pt")
    broken = _changed(path, tmp_path, lambda c: c["model"]["robot_type_emb"].fill_(float("nan")))
    with pytest.raises(CheckpointError, match=r"NaN.*robot_type_emb"):
        convert_released(broken, tmp_path / "out", sizes=SIZES)
    key = "scene_feature_encoder.scene_encoder.dinov3.blocks.0.ls1.gamma"
    foreign = _changed(path, tmp_path, lambda c: _rename(c, key, key + "s"))
    with pytest.raises(CheckpointError, match="DINOv3"):
        convert_released(foreign, tmp_path / "out", sizes=SIZES)
    assert not (tmp_path / "out").exists()


@pytest.mark.rejects_input
@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    path = rf.write_toy(tmp_path / "toy.pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
    with pytest.raises(CheckpointError, match="not a readable PyTorch file"):
        read_released(path, sizes=SIZES)


class _Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.rejects_input
def test_code_inside_is_refused_and_never_runs(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    path = _changed(
        rf.write_toy(tmp_path / "toy.pt"), tmp_path, lambda c: c.update(wandb_id=_Malicious(marker))
    )
    with pytest.raises(CheckpointError, match="could run code"):
        read_released(path, sizes=SIZES)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file of this test is harmless, so the test proves nothing"
