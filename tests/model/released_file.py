"""Makes files in the exact layout of the released checkpoints, written from the layout's description alone.

Key names, shapes and counts are listed here independently of the product's modules, so that a test can compare the two.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

Shapes = dict[str, tuple[int, ...]]

SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "enc_depths": (2, 2, 2, 6, 2),
        "enc": (128, 128, 128, 256, 512),
        "dec_depths": (2, 2, 2, 2),
        "dec": (128, 128, 128, 256),
    },
    "base": {
        "enc_depths": (4, 4, 4, 8, 8, 12, 4),
        "enc": (256, 256, 256, 384, 384, 512, 768),
        "dec_depths": (2,) * 6,
        "dec": (256, 256, 256, 384, 384, 512),
    },
    "large": {
        "enc_depths": (4, 4, 8, 8, 12, 12, 4),
        "enc": (256, 384, 384, 512, 512, 768, 1024),
        "dec_depths": (4,) * 6,
        "dec": (256, 384, 384, 512, 512, 768),
    },
    "toy": {"enc_depths": (1, 1), "enc": (16, 32), "dec_depths": (1,), "dec": (16,)},
}


def _affine(name: str, out: int, into: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _block(q: str, c: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{q}.cpe.0.weight", (c, 3, 3, 3, c)
    yield f"{q}.cpe.0.bias", (c,)
    yield from _affine(f"{q}.cpe.1", c, c)
    yield from _norm(f"{q}.cpe.2", c)
    yield from _norm(f"{q}.norm1.0", c)
    yield from _affine(f"{q}.attn.qkv", 3 * c, c)
    yield from _affine(f"{q}.attn.proj", c, c)
    yield from _norm(f"{q}.norm2.0", c)
    yield from _affine(f"{q}.mlp.0.fc1", 4 * c, c)
    yield from _affine(f"{q}.mlp.0.fc2", c, 4 * c)


def ptv3_shapes(size: str, width: int) -> Shapes:
    """The backbone, without its prefix."""
    s = SIZES[size]
    enc, dec = s["enc"], s["dec"]
    items = [
        *_affine("embedding.stem.linear", enc[0], width),
        *_norm("embedding.stem.norm", enc[0]),
    ]
    for stage, (depth, c) in enumerate(zip(s["enc_depths"], enc, strict=True)):
        if stage:
            items += _affine(f"enc.enc{stage}.down.proj", c, enc[stage - 1])
            items += _norm(f"enc.enc{stage}.down.norm.0", c)
        for block in range(depth):
            items += _block(f"enc.enc{stage}.block{block}", c)
    for stage, (depth, d) in enumerate(zip(s["dec_depths"], dec, strict=True)):
        below = dec[stage + 1] if stage + 1 < len(dec) else enc[-1]
        items += _affine(f"dec.dec{stage}.up.proj.0", d, below)
        items += _norm(f"dec.dec{stage}.up.proj.1", d)
        items += _affine(f"dec.dec{stage}.up.proj_skip.0", d, enc[stage])
        items += _norm(f"dec.dec{stage}.up.proj_skip.1", d)
        for block in range(depth):
            items += _block(f"dec.dec{stage}.block{block}", d)
    return dict(items)


def dinov3_shapes(width: int = 1024, depth: int = 24, head_dim: int = 64) -> Shapes:
    """DINOv3 under Meta's names, without a prefix."""
    shapes: Shapes = {
        "cls_token": (1, 1, width),
        "storage_tokens": (1, 4, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,),
        "rope_embed.periods": (head_dim // 4,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for i in range(depth):
        b = f"blocks.{i}"
        shapes.update(_norm(f"{b}.norm1", width))
        shapes.update(_affine(f"{b}.attn.qkv", 3 * width, width))
        shapes[f"{b}.attn.qkv.bias_mask"] = (3 * width,)
        shapes.update(_affine(f"{b}.attn.proj", width, width))
        shapes[f"{b}.ls1.gamma"] = (width,)
        shapes.update(_norm(f"{b}.norm2", width))
        shapes.update(_affine(f"{b}.mlp.fc1", 4 * width, width))
        shapes.update(_affine(f"{b}.mlp.fc2", width, 4 * width))
        shapes[f"{b}.ls2.gamma"] = (width,)
    return shapes


def model_shapes(
    size: str,
    width: int,
    *,
    domains: int = 1,
    grippers: int = 1,
    dino: Shapes | None = None,
    image_channels: int = 4096,
) -> Shapes:
    """The whole `model` entry of a released file."""
    robot, scene, c = 15 + grippers, 9 + 11 * (grippers + 1), width
    items: list[tuple[str, tuple[int, ...]]] = [("robot_type_emb", (1, c)), ("time_steps", (11,))]
    for name, shape in (
        ("norm_stats_per_step", (domains, 11, 3)),
        ("robot_norm", (domains, robot)),
        ("scene_norm", (domains, scene)),
    ):
        items += [(f"{name}_mean", shape), (f"{name}_var", shape)]
    items += [*_affine("robot_proj.fc1", c, robot), *_affine("robot_proj.fc2", c, c)]
    items += [*_affine("time_embed.mlp.0", c, c), *_affine("time_embed.mlp.2", c, c)]
    p = "scene_feature_encoder"
    items += _affine(f"{p}.scene_encoder.feat_proj", c, image_channels)
    items += _affine(f"{p}.scene_raw_feat_proj", c, scene)
    items += [*_norm(f"{p}.scene_encoder_norm", c), *_norm(f"{p}.scene_raw_norm", c)]
    items += _affine(f"{p}.scene_proj", c, 2 * c)
    for name, shape in (dinov3_shapes() if dino is None else dino).items():
        items.append((f"{p}.scene_encoder.dinov3.{name}", shape))
    d = "dynamics_predictor"
    for name in ("skip_film_gamma", "skip_film_beta", "robot_film_gamma", "robot_film_beta"):
        items.append((f"{d}.{name}", (1, 1, c)))
    for head, out in (("dynamics_head", 30), ("log_var_head", 10)):
        items += [*_affine(f"{d}.{head}.0.fc1", 128, c), *_affine(f"{d}.{head}.0.fc2", 128, 128)]
        items += _affine(f"{d}.{head}.1", out, 128)
    items += [(f"{d}.predictor_model.{k}", v) for k, v in ptv3_shapes(size, c).items()]
    return dict(items)


def contract(size: str, width: int, **changes: Any) -> dict[str, Any]:
    """The published model_contract (without the four camera fields)."""
    values: dict[str, Any] = {
        "ptv3_size": size,
        "ptv3_patch_size": 256,
        "predictor_dim": width,
        "max_scene_points": 12000,
        "max_robot_points": 500,
        "grid_size": 0.015,
        "depth_threshold": 0.003,
        "norm_stats_path": "stats/droid",
    }
    return {**values, **changes}


def file_content(
    weights: dict[str, torch.Tensor], size: str, width: int, domains: tuple[str, ...] = ("droid",)
) -> dict[str, Any]:
    """Everything around the weights, as the release's trainer writes it."""
    inner = argparse.Namespace(domains=list(domains), base_lr=1e-4, device=torch.device("cpu"))
    outer = argparse.Namespace(
        ptv3_size=size, og_args=inner, _explicit_cli_dests={"ptv3_size", "domains"}, amp=True
    )
    first = next(iter(weights))
    moments = {"step": torch.tensor(7.0), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.ones(3)}
    return {
        "model": weights,
        "optimizer": {
            "state": {0: moments},
            "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0], "name": first}],
        },
        "args": outer,
        "exp_name": "synthetic",
        "wandb_id": None,
        "batch_count": 5,
        "epoch_count": 1,
        "sample_count": 110,
        "checkpoint_schema_version": 1,
        "model_contract": contract(size, width),
        "data_contract": {"domains": list(domains)},
    }


def light_weights(shapes: Shapes) -> dict[str, torch.Tensor]:
    """Tensors of the right shapes that take four bytes each in memory and in the file."""
    return {name: torch.ones(1).expand(shape) for name, shape in shapes.items()}


def random_weights(shapes: Shapes, seed: int) -> dict[str, torch.Tensor]:
    """Small random weights; norms near one, variances positive, rotary periods as in DINOv3."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator) / math.sqrt(max(shape[-1], 1))
        if name.endswith("_var"):
            value = value.abs() + 0.1
        elif name.endswith("periods"):
            value = 100.0 ** torch.linspace(0, 1, shape[0])
        elif "norm" in name and name.endswith("weight"):
            value = 1 + 0.1 * value
        weights[name] = value
    return weights


TOY_DINO = dinov3_shapes(width=32, depth=4, head_dim=16)
TOY_CHANNELS = 4 * 32


def write_toy(path: Path, *, seed: int = 0, domains: tuple[str, ...] = ("droid",)) -> Path:
    """A complete, small released file with random weights."""
    grippers = 2 if any("behavior" in d for d in domains) else 1
    shapes = model_shapes(
        "toy",
        16,
        domains=len(domains),
        grippers=grippers,
        dino=TOY_DINO,
        image_channels=TOY_CHANNELS,
    )
    torch.save(file_content(random_weights(shapes, seed), "toy", 16, domains), path)
    return path
