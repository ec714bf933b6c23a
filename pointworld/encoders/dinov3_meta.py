"""DINOv3 weights under Meta's names (as inside the PointWorld release) to the `transformers` architecture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pointworld.encoders.vit import ViTEncoder
from pointworld.errors import CheckpointError

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_RENAMED = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.up_proj",
    "mlp.fc2": "mlp.down_proj",
}
_BLOCK_KEYS = {
    *(f"{name}.{kind}" for name in _RENAMED for kind in ("weight", "bias")),
    "attn.qkv.weight",
    "attn.qkv.bias",
    "attn.qkv.bias_mask",
    "ls1.gamma",
    "ls2.gamma",
}
_OUTER_KEYS = {
    "cls_token",
    "storage_tokens",
    "mask_token",
    "patch_embed.proj.weight",
    "patch_embed.proj.bias",
    "rope_embed.periods",
    "norm.weight",
    "norm.bias",
}


def dinov3_from_meta_state_dict(
    state: Mapping[str, torch.Tensor],
    *,
    name: str = "dinov3:released",
    layers: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> ViTEncoder:
    """Build the DINOv3 encoder that a state dict with Meta's names describes.

    Width, depth, heads, patch and register counts are read off the shapes. The bias of queries, keys and values is
    `bias * bias_mask`, and the rotary frequencies are 1 / `periods`, both as stored (not recomputed). Tensors are
    shared with `state` where their layout allows.

    Args:
        state: keys as in the release sheet: cls_token, storage_tokens, mask_token, patch_embed.proj,
            rope_embed.periods, blocks.N.*, norm; any floating dtype. No prefix.
        name: stored as the encoder's name.
        layers: blocks to use; None for the default of its depth.

    Raises:
        CheckpointError: keys are missing or unknown, or shapes disagree.
    """
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    depth = _check_keys(state)
    config = DINOv3ViTConfig(**_config_values(state, depth))
    with torch.device("meta"):
        model = DINOv3ViTModel(config)
    converted = _rename(state, depth, prefix=_block_prefix(model))
    try:
        model.load_state_dict(converted, strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"the DINOv3 weights do not fit the architecture they describe: {error}"
        ) from error
    rope: Any = model.rope_embeddings
    rope.inv_freq = 1.0 / state["rope_embed.periods"].to(torch.float32)
    return ViTEncoder(model, name=name, layers=layers, device=device)


def _check_keys(state: Mapping[str, torch.Tensor]) -> int:
    """Number of blocks; raises unless the keys are exactly those of that many blocks."""
    indices = {int(match[1]) for key in state if (match := _BLOCK.fullmatch(key))}
    depth = max(indices, default=-1) + 1
    expected = _OUTER_KEYS | {f"blocks.{i}.{key}" for i in range(depth) for key in _BLOCK_KEYS}
    missing, unknown = sorted(expected - set(state)), sorted(set(state) - expected)
    if depth == 0 or missing or unknown:
        raise CheckpointError(
            f"these are not DINOv3 weights under Meta's names: {depth} blocks, {len(missing)} keys missing "
            f"{missing[:5]}, {len(unknown)} unknown {unknown[:5]}. Expected 8 + 15 per block, without a prefix."
        )
    return depth


def _config_values(state: Mapping[str, torch.Tensor], depth: int) -> dict[str, Any]:
    patch = state["patch_embed.proj.weight"]
    hidden, head_dim = int(patch.shape[0]), 4 * int(state["rope_embed.periods"].numel())
    if patch.ndim != 4 or patch.shape[2] != patch.shape[3] or hidden % head_dim:
        raise CheckpointError(
            f"DINOv3 weights: patch projection {tuple(patch.shape)} and {head_dim // 4} rotary periods do not fit; "
            "expected square patches and a width that is a multiple of 4 x periods"
        )
    return {
        "patch_size": int(patch.shape[2]),
        "hidden_size": hidden,
        "intermediate_size": int(state["blocks.0.mlp.fc1.weight"].shape[0]),
        "num_hidden_layers": depth,
        "num_attention_heads": hidden // head_dim,
        "num_register_tokens": int(state["storage_tokens"].shape[1]),
        "key_bias": True,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
    }


def _block_prefix(model: nn.Module) -> str:
    """Where this version of the library keeps block 0 ("layer." or "model.layer.")."""
    return next(key for key in model.state_dict() if key.endswith("layer.0.norm1.weight"))[
        : -len("0.norm1.weight")
    ]


def _rename(
    state: Mapping[str, torch.Tensor], depth: int, *, prefix: str
) -> dict[str, torch.Tensor]:
    def get(key: str) -> torch.Tensor:
        return state[key].detach().to(torch.float32)

    out = {
        "embeddings.cls_token": get("cls_token"),
        "embeddings.register_tokens": get("storage_tokens"),
        "embeddings.mask_token": get("mask_token").reshape(1, 1, -1),
        "embeddings.patch_embeddings.weight": get("patch_embed.proj.weight"),
        "embeddings.patch_embeddings.bias": get("patch_embed.proj.bias"),
        "norm.weight": get("norm.weight"),
        "norm.bias": get("norm.bias"),
    }
    for i in range(depth):
        meta, ours = f"blocks.{i}.", f"{prefix}{i}."
        for old, new in _RENAMED.items():
            for kind in ("weight", "bias"):
                out[f"{ours}{new}.{kind}"] = get(f"{meta}{old}.{kind}")
        for old, new in (("ls1", "layer_scale1"), ("ls2", "layer_scale2")):
            out[f"{ours}{new}.lambda1"] = get(f"{meta}{old}.gamma")
        bias = get(f"{meta}attn.qkv.bias") * get(f"{meta}attn.qkv.bias_mask")
        weight = get(f"{meta}attn.qkv.weight")
        for part, w, b in zip("qkv", weight.chunk(3), bias.chunk(3), strict=True):
            out[f"{ours}attention.{part}_proj.weight"] = w
            out[f"{ours}attention.{part}_proj.bias"] = b
    return out
