"""DINOv3 as Meta publishes it, written plainly in float64: the independent check of the mapping and the encoder.

Source: the DINOv3 paper (arXiv 2508.10104) and the facts of its published configuration: pre-norm blocks with
LayerScale, erf GELU, LayerNorm eps 1e-5, axial rotary embedding of coordinates normalised per axis to [-1, 1].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

State = dict[str, torch.Tensor]


def random_state(
    *,
    hidden: int = 32,
    heads: int = 2,
    depth: int = 5,
    registers: int = 3,
    patch: int = 16,
    seed: int = 0,
) -> State:
    """Random weights under Meta's names; every tensor is far from its initial value, bias_mask included."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 0.2, mean: float = 0.0) -> torch.Tensor:
        return torch.randn(*shape, generator=g) * scale + mean

    head_dim = hidden // heads
    state = {
        "cls_token": draw(1, 1, hidden),
        "storage_tokens": draw(1, registers, hidden),
        "mask_token": draw(1, hidden),
        "patch_embed.proj.weight": draw(hidden, 3, patch, patch, scale=0.05),
        "patch_embed.proj.bias": draw(hidden),
        "rope_embed.periods": 100.0 ** (torch.arange(head_dim // 4) / (head_dim // 4)) * 1.07,
        "norm.weight": draw(hidden, mean=1.0),
        "norm.bias": draw(hidden),
    }
    for i in range(depth):
        b = f"blocks.{i}."
        for norm in ("norm1", "norm2"):
            state[f"{b}{norm}.weight"], state[f"{b}{norm}.bias"] = (
                draw(hidden, mean=1.0),
                draw(hidden),
            )
        state[f"{b}attn.qkv.weight"], state[f"{b}attn.qkv.bias"] = (
            draw(3 * hidden, hidden),
            draw(3 * hidden),
        )
        state[f"{b}attn.qkv.bias_mask"] = torch.cat(
            [torch.ones(hidden), draw(hidden), torch.ones(hidden)]
        )
        state[f"{b}attn.proj.weight"], state[f"{b}attn.proj.bias"] = (
            draw(hidden, hidden),
            draw(hidden),
        )
        state[f"{b}mlp.fc1.weight"], state[f"{b}mlp.fc1.bias"] = (
            draw(4 * hidden, hidden),
            draw(4 * hidden),
        )
        state[f"{b}mlp.fc2.weight"], state[f"{b}mlp.fc2.bias"] = (
            draw(hidden, 4 * hidden),
            draw(hidden),
        )
        state[f"{b}ls1.gamma"], state[f"{b}ls2.gamma"] = (
            draw(hidden, mean=0.5),
            draw(hidden, mean=0.5),
        )
    return state


def forward(state: State, images: torch.Tensor, layers: tuple[int, ...]) -> torch.Tensor:
    """Features (views, layers * hidden, rows, columns) of images (views, 3, h, w) in 0-1."""
    s = {key: value.double() for key, value in state.items()}
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((images.double().permute(0, 2, 3, 1) - mean) / std).permute(0, 3, 1, 2)
    weight = s["patch_embed.proj.weight"]
    hidden, patch = weight.shape[0], weight.shape[-1]
    rows, columns = x.shape[2] // patch, x.shape[3] // patch
    tiles = x[:, :, : rows * patch, : columns * patch].reshape(
        len(x), 3, rows, patch, columns, patch
    )
    tokens = (
        tiles.permute(0, 2, 4, 1, 3, 5).reshape(len(x), rows * columns, -1)
        @ weight.reshape(hidden, -1).T
    )
    tokens = tokens + s["patch_embed.proj.bias"]
    prefix = torch.cat([s["cls_token"], s["storage_tokens"]], 1)
    hidden_states = torch.cat([prefix.expand(len(x), -1, -1), tokens], 1)
    angles = _angles(s["rope_embed.periods"], rows, columns)
    depth = 1 + max(int(key.split(".")[1]) for key in s if key.startswith("blocks."))
    maps = []
    for i in range(depth):
        hidden_states = _block(s, f"blocks.{i}.", hidden_states, angles, prefix.shape[1])
        if i in layers:
            normed = _norm(hidden_states, s["norm.weight"], s["norm.bias"])[:, prefix.shape[1] :]
            maps.append(normed.reshape(len(x), rows, columns, hidden).permute(0, 3, 1, 2))
    return torch.cat(maps, 1)


def _angles(periods: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """(rows * columns, head_dim) rotary angles: rows' then columns' frequencies, the whole twice."""
    out = []
    for r in range(rows):
        for c in range(columns):
            y, x = 2 * (r + 0.5) / rows - 1, 2 * (c + 0.5) / columns - 1
            half = torch.cat([2 * math.pi * y / periods, 2 * math.pi * x / periods])
            out.append(torch.cat([half, half]))
    return torch.stack(out)


def _norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    centered = x - x.mean(-1, keepdim=True)
    return centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


def _rotate(x: torch.Tensor, angles: torch.Tensor, prefix: int) -> torch.Tensor:
    head, tail = x[..., :prefix, :], x[..., prefix:, :]
    first, second = tail.chunk(2, -1)
    turned = tail * angles.cos() + torch.cat([-second, first], -1) * angles.sin()
    return torch.cat([head, turned], -2)


def _block(s: State, b: str, x: torch.Tensor, angles: torch.Tensor, prefix: int) -> torch.Tensor:
    hidden, head_dim = x.shape[-1], angles.shape[-1]
    h = _norm(x, s[f"{b}norm1.weight"], s[f"{b}norm1.bias"])
    qkv = h @ s[f"{b}attn.qkv.weight"].T + s[f"{b}attn.qkv.bias"] * s[f"{b}attn.qkv.bias_mask"]
    heads = qkv.reshape(*x.shape[:2], 3, hidden // head_dim, head_dim).permute(2, 0, 3, 1, 4)
    q, k, v = _rotate(heads[0], angles, prefix), _rotate(heads[1], angles, prefix), heads[2]
    attention = (q @ k.transpose(-1, -2) / math.sqrt(head_dim)).softmax(-1) @ v
    mixed = attention.transpose(1, 2).reshape(x.shape)
    x = x + (mixed @ s[f"{b}attn.proj.weight"].T + s[f"{b}attn.proj.bias"]) * s[f"{b}ls1.gamma"]
    h = _norm(x, s[f"{b}norm2.weight"], s[f"{b}norm2.bias"])
    h = F.gelu(h @ s[f"{b}mlp.fc1.weight"].T + s[f"{b}mlp.fc1.bias"], approximate="none")
    return x + (h @ s[f"{b}mlp.fc2.weight"].T + s[f"{b}mlp.fc2.bias"]) * s[f"{b}ls2.gamma"]
