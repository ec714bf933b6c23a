"""Pointcept's weights: loading with a full report, folding of layer scales, refusals, and its own network."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from pointworld.errors import CheckpointError, InputError
from pointworld.model.predictor import DynamicsPredictor
from pointworld.ptv3.arch import PTv3Arch
from pointworld.ptv3.backbone import PTv3, initialise
from pointworld.ptv3.levels import stable_pyramid
from pointworld.ptv3.pointcept import (
    arch_from_pointcept,
    backbone_state,
    load_pointcept,
    read_pointcept,
)
from tests.model.predictor_inputs import cast, lively, random_inputs
from tests.ptv3.clouds import surface_tokens

SONATA_LIKE = PTv3Arch(
    name="pointcept",
    in_channels=9,
    enc_depths=(1, 2, 1),
    enc_channels=(16, 32, 48),
    enc_heads=(1, 2, 3),
    dec_depths=(),
    dec_channels=(),
    dec_heads=(),
    patch_size=1024,
)
CONFIG = {
    "enc_num_head": (1, 2, 3),
    "enc_patch_size": (1024, 1024, 1024),
    "order": ("z", "z-trans", "hilbert", "hilbert-trans"),
    "enc_mode": True,
}


def _state(arch: PTv3Arch, generator: torch.Generator) -> dict[str, torch.Tensor]:
    network = PTv3(arch)
    initialise(network, generator)
    return {
        key: torch.randn(v.shape, generator=generator) * 0.2
        for key, v in network.state_dict().items()
    }


def _run(network: PTv3, generator: torch.Generator) -> torch.Tensor:
    coords, batch = surface_tokens(300, generator)
    features = torch.randn(300, network.arch.in_channels, generator=generator)
    pyramid = stable_pyramid(
        coords,
        batch,
        1,
        arch=network.arch,
        grid_size=0.02,
        rank=torch.zeros_like(batch),
        features=features,
    )
    with torch.no_grad():
        return network.eval()(features, pyramid)


def test_sonata_file_loads_completely(tmp_path: Path, generator: torch.Generator) -> None:
    state = _state(SONATA_LIKE, generator)
    torch.save({"config": CONFIG, "state_dict": state}, tmp_path / "sonata.pth")
    read, config = read_pointcept(tmp_path / "sonata.pth")
    network = PTv3(arch_from_pointcept(backbone_state(read), config))
    assert network.arch == SONATA_LIKE
    report = load_pointcept(network, read)
    assert set(report.loaded) == set(state) and not report.missing and not report.unused
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[key]), key
    coarse = _run(network, generator)
    assert coarse.shape[1] == 48 and 1 < len(coarse) < 300


def test_report_names_everything_that_did_not_match(generator: torch.Generator) -> None:
    state = {f"module.backbone.{k}": v for k, v in _state(SONATA_LIKE, generator).items()}
    state["module.backbone.embedding.mask_token"] = torch.zeros(1, 16)
    state["module.seg_head.weight"] = torch.zeros(20, 64)
    del state["module.backbone.enc.enc1.down.proj.bias"]
    arch = PTv3Arch.from_dict(
        {
            **SONATA_LIKE.to_dict(),
            "dec_depths": (1, 1),
            "dec_channels": (16, 32),
            "dec_heads": (1, 2),
        }
    )
    network = PTv3(arch)
    initialise(network, generator)
    report = load_pointcept(network, state)
    assert report.unused == ("embedding.mask_token",)
    assert "enc.enc1.down.proj.bias" in report.missing
    assert {name for name in report.missing if name.startswith("dec.")} == {
        name for name in network.state_dict() if name.startswith("dec.")
    }
    assert "embedding.mask_token" in str(report) and "enc.enc1.down.proj.bias" in str(report)


def test_decoder_is_recognised(generator: torch.Generator) -> None:
    arch = PTv3Arch.small(32)
    found = arch_from_pointcept(_state(arch, generator), patch_size=256)
    assert found.enc_depths == arch.enc_depths and found.dec_channels == arch.dec_channels
    assert found.mlp_ratio == 4 and found.patch_size == 256


def test_layer_scale_is_folded_exactly(generator: torch.Generator) -> None:
    state = _state(SONATA_LIKE, generator)
    plain = dict(state)
    for s, depth in enumerate(SONATA_LIKE.enc_depths):
        for i in range(depth):
            width = SONATA_LIKE.enc_channels[s]
            for part, layer in (("ls1", "attn.proj"), ("ls2", "mlp.0.fc2")):
                block = f"enc.enc{s}.block{i}"
                gamma = torch.rand(width, generator=generator)
                state[f"{block}.{part}.0.gamma"] = gamma
                for kind in ("weight", "bias"):
                    key = f"{block}.{layer}.{kind}"
                    plain[key] = torch.einsum("i,i...->i...", gamma, plain[key])
    scaled, expected = PTv3(SONATA_LIKE), PTv3(SONATA_LIKE)
    report = load_pointcept(scaled, state)
    load_pointcept(expected, plain)
    assert len(report.folded) == 8 and not report.unused
    for key, value in expected.state_dict().items():
        torch.testing.assert_close(scaled.state_dict()[key], value)


@pytest.mark.rejects_input
def test_m1_is_refused_with_an_explanation(generator: torch.Generator) -> None:
    state = _state(SONATA_LIKE, generator)
    del state["embedding.stem.linear.weight"], state["embedding.stem.linear.bias"]
    state["embedding.stem.conv.weight"] = torch.zeros(16, 5, 5, 5, 6)
    with pytest.raises(CheckpointError, match="PTv3-m1"):
        load_pointcept(PTv3(SONATA_LIKE), state)


@pytest.mark.rejects_input
def test_unfit_files_are_refused(tmp_path: Path, generator: torch.Generator) -> None:
    state = _state(SONATA_LIKE, generator)
    twice = {f"{who}.backbone.{k}": v for who in ("student", "teacher") for k, v in state.items()}
    with pytest.raises(CheckpointError, match=r"holds 2 backbones.*teacher"):
        load_pointcept(PTv3(SONATA_LIKE), twice)
    report = load_pointcept(PTv3(SONATA_LIKE), twice, prefix="teacher.backbone.")
    assert not report.missing
    with pytest.raises(CheckpointError, match="no PTv3 backbone"):
        load_pointcept(PTv3(SONATA_LIKE), {"conv1.weight": torch.zeros(1)})
    other = PTv3(SONATA_LIKE)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    state["enc.enc0.block0.attn.qkv.weight"] = torch.zeros(48, 17)
    with pytest.raises(CheckpointError, match="other shapes"):
        load_pointcept(other, state)
    for key, value in other.state_dict().items():
        # Nothing has set these weights yet, so some may be NaN.
        assert torch.allclose(value, before[key], rtol=0, atol=0, equal_nan=True)

    for name, content in (("code.pth", Path("x")), ("empty.pth", {}), ("list.pth", [1])):
        torch.save(content, tmp_path / name)
        with pytest.raises(CheckpointError, match=name):
            read_pointcept(tmp_path / name)
    whole = tmp_path / "whole.pth"
    torch.save(state, whole)
    (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"cut\.pth"):
        read_pointcept(tmp_path / "cut.pth")


def _pointcept_installed() -> bool:
    return all(importlib.util.find_spec(name) for name in ("pointcept", "spconv", "torch_scatter"))


@pytest.mark.rejects_input
@pytest.mark.skipif(_pointcept_installed(), reason="Pointcept is installed")
def test_absent_pointcept_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"docs/pointcept\.md"):
        DynamicsPredictor(PTv3Arch.tiny(), "released", backend="pointcept")


@pytest.mark.rejects_input
def test_pointcept_knows_no_stable_mode() -> None:
    with pytest.raises(InputError, match="released mode"):
        DynamicsPredictor(PTv3Arch.tiny(), "stable", backend="pointcept")


@pytest.mark.skipif(
    not _pointcept_installed() or not torch.cuda.is_available(),
    reason="needs an installed Pointcept with spconv and torch-scatter, and a GPU (docs/pointcept.md)",
)
@pytest.mark.parametrize("orders", ["identity", "drawn"])
def test_pointcept_gives_the_same_with_the_same_weights(
    orders: str, generator: torch.Generator
) -> None:
    native = lively(DynamicsPredictor(PTv3Arch.small(64), "released"), generator)
    theirs = DynamicsPredictor(PTv3Arch.small(64), "released", backend="pointcept").eval()
    theirs.load_state_dict(native.state_dict(), strict=True)
    inputs = cast(random_inputs(generator, channels=64, batch=1, robot_points=0), torch.float32)
    cells = torch.floor(inputs[0][0] / 0.03).unique(dim=0)  # one point per voxel: all rules agree
    count = len(cells)
    inputs = (
        (cells * 0.03)[None],
        inputs[1][:, :count],
        torch.ones(1, count, dtype=torch.bool),
        *inputs[3:],
    )
    inputs = tuple(tensor.cuda() for tensor in inputs)
    with torch.no_grad():
        one, other = (
            network.cuda()(*inputs, orders=orders, generator=torch.Generator().manual_seed(15))[0]
            for network in (native, theirs)
        )
    # flash attention runs in bfloat16: measured rms 0.4 % of the standard deviation with these weights
    assert float((one - other).square().mean().sqrt()) < 0.01 * float(one.std())
