"""DINOv3 weights under Meta's names: mapped, then compared with a plain float64 forward."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pointworld.encoders import dinov3_from_meta_state_dict, load_encoder
from pointworld.errors import CheckpointError
from tests.encoders import meta_reference


@pytest.mark.parametrize("size", [(180, 320), (48, 32)])
def test_agrees_with_the_plain_architecture(
    size: tuple[int, int], generator: torch.Generator
) -> None:
    state = meta_reference.random_state()
    encoder = dinov3_from_meta_state_dict(state, layers=(1, 2, 4))
    images = torch.rand(2, 3, *size, generator=generator)
    got = encoder.encode(images)
    want = meta_reference.forward(state, images, (1, 2, 4))
    assert got.shape == (2, 96, size[0] // 16, size[1] // 16)
    assert encoder.channels == 96
    assert encoder.stride == 16
    assert (got - want).abs().max() < 1e-4
    assert want.std() > 0.5


@pytest.mark.parametrize(
    "key", ["attn.qkv.bias_mask", "rope_embed.periods", "storage_tokens", "ls2.gamma"]
)
def test_every_kind_of_tensor_matters(key: str, generator: torch.Generator) -> None:
    state = meta_reference.random_state()
    images = torch.rand(1, 3, 64, 48, generator=generator)
    before = dinov3_from_meta_state_dict(state).encode(images)
    name = next(k for k in state if k.endswith(key))
    state[name] = state[name] * 1.5
    assert (dinov3_from_meta_state_dict(state).encode(images) - before).abs().max() > 1e-3


def test_round_trip_of_a_library_model(tmp_path: Path, generator: torch.Generator) -> None:
    """A model of the library, exported to Meta's names and mapped back, is the same encoder."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    torch.manual_seed(3)
    config = DINOv3ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_register_tokens=2,
        layerscale_value=0.7,
        initializer_range=0.3,
    )
    model = DINOv3ViTModel(config)
    model.save_pretrained(tmp_path)
    images = torch.rand(1, 3, 50, 70, generator=generator)
    mapped = dinov3_from_meta_state_dict(_to_meta(model))
    loaded = load_encoder(f"dinov3:{tmp_path}")
    assert mapped.layers == loaded.layers == (0, 1, 2, 3)
    assert (mapped.encode(images) - loaded.encode(images)).abs().max() < 1e-5


def _to_meta(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    s = model.state_dict()
    prefix = next(k for k in s if k.endswith("layer.0.norm1.weight"))[: -len("0.norm1.weight")]
    hidden, head_dim = (
        model.config.hidden_size,
        model.config.hidden_size // model.config.num_attention_heads,
    )
    out = {
        "cls_token": s["embeddings.cls_token"],
        "storage_tokens": s["embeddings.register_tokens"],
        "mask_token": s["embeddings.mask_token"][0],
        "patch_embed.proj.weight": s["embeddings.patch_embeddings.weight"],
        "patch_embed.proj.bias": s["embeddings.patch_embeddings.bias"],
        "rope_embed.periods": 100.0 ** torch.arange(0, 1, 4 / head_dim),
        "norm.weight": s["norm.weight"],
        "norm.bias": s["norm.bias"],
    }
    ones, zeros = torch.ones(hidden), torch.zeros(hidden)
    for i in range(model.config.num_hidden_layers):
        a, b = f"{prefix}{i}.", f"blocks.{i}."
        qkv = [s[f"{a}attention.{p}_proj.weight"] for p in "qkv"]
        out[f"{b}attn.qkv.weight"] = torch.cat(qkv)
        value_bias = s[f"{a}attention.v_proj.bias"]
        out[f"{b}attn.qkv.bias"] = torch.cat([s[f"{a}attention.q_proj.bias"], ones * 7, value_bias])
        out[f"{b}attn.qkv.bias_mask"] = torch.cat([ones, zeros, ones])
        for ours, meta in (
            ("norm1", "norm1"),
            ("norm2", "norm2"),
            ("attention.o_proj", "attn.proj"),
            ("mlp.up_proj", "mlp.fc1"),
            ("mlp.down_proj", "mlp.fc2"),
        ):
            for kind in ("weight", "bias"):
                out[f"{b}{meta}.{kind}"] = s[f"{a}{ours}.{kind}"]
        out[f"{b}ls1.gamma"], out[f"{b}ls2.gamma"] = (
            s[f"{a}layer_scale1.lambda1"],
            s[f"{a}layer_scale2.lambda1"],
        )
    return out


@pytest.mark.rejects_input
def test_refuses_other_keys_and_shapes() -> None:
    state = meta_reference.random_state(depth=2)
    for broken in (
        {k: v for k, v in state.items() if k != "blocks.1.ls1.gamma"},
        {**state, "blocks.0.attn.extra": torch.zeros(1)},
        {f"dinov3.{k}": v for k, v in state.items()},
    ):
        with pytest.raises(CheckpointError, match="not DINOv3 weights under Meta's names"):
            dinov3_from_meta_state_dict(broken)
    with pytest.raises(CheckpointError, match="do not fit"):
        dinov3_from_meta_state_dict({**state, "blocks.1.norm1.weight": torch.zeros(5)})


def test_released_depth_and_layers() -> None:
    """The layout of the published ViT-L: 368 tensors, 24 blocks, blocks 4, 11, 17 and 23."""
    state = meta_reference.random_state(hidden=16, heads=1, depth=24)
    assert len(state) == 368
    assert dinov3_from_meta_state_dict(state).layers == (4, 11, 17, 23)
