"""Pointcept's weights in our backbone, and an installed Pointcept in place of our backbone.

PTv3-m2 (Sonata and later) has the same modules and names as ours. PTv3-m1 has another stem and other pooling, so its
weights mean something else and are refused. docs/pointcept.md says how to get and install everything.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from pointworld.errors import CheckpointError, InputError
from pointworld.ptv3.arch import PTv3Arch
from pointworld.ptv3.backbone import PTv3

STEM = "embedding.stem."
HEAD_WIDTH = 16  # channels per attention head in all published PTv3 encoders


@dataclass(frozen=True)
class PointceptReport:
    """What became of a state dict.

    loaded: our entries that were set.
    missing: our entries that the file lacks; they keep their values.
    unused: entries of the file that have no place in our network.
    folded: layer scales that were multiplied into the matrix before them.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    folded: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} tensors loaded, {len(self.folded)} layer scales folded"]
        for label in ("missing", "unused"):
            names = getattr(self, label)
            lines += [f"{len(names)} {label}:", *(f"  {name}" for name in names)] if names else []
        return "\n".join(lines)


def read_pointcept(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """State dict and, where the file has one (Sonata), the network's settings.

    Raises:
        CheckpointError: the file cannot be read safely or holds no state dict.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a readable PyTorch file of tensors and plain values ({str(error)[:200]}). "
            "Is the download complete? Files with pickled code are never loaded."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a dictionary, got {type(content).__name__}")
    state = content.get("state_dict") or content.get("model") or content
    tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{path}: expected a state dict, alone or under 'state_dict' or 'model'"
        )
    config = content.get("config", {})
    return tensors, dict(config) if isinstance(config, dict) else {}


def backbone_state(
    state: Mapping[str, torch.Tensor], prefix: str | None = None
) -> dict[str, torch.Tensor]:
    """The entries of one PTv3-m2 backbone, without what stands before their names.

    Args:
        state: as read from the file.
        prefix: text before "embedding.stem." where the file holds several backbones (student and teacher).
    Raises:
        CheckpointError: no backbone, several and no `prefix`, or PTv3-m1.
    """
    found = sorted({key.split(STEM)[0] for key in state if STEM in key})
    if prefix is None and len(found) > 1:
        raise CheckpointError(f"the file holds {len(found)} backbones; name one by prefix: {found}")
    if not found or (prefix is not None and prefix not in found):
        raise CheckpointError(
            f"no PTv3 backbone found (looked for '...{STEM}*', prefixes in the file: {found}); "
            f"first entries: {sorted(state)[:5]}"
        )
    prefix = found[0] if prefix is None else prefix
    inner = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    if any(key.startswith(f"{STEM}conv.") for key in inner):
        raise CheckpointError(
            "this is a PTv3-m1 backbone (its stem is a 5x5x5 sparse convolution, 'embedding.stem.conv'). "
            "This encoder is PTv3-m2: a Linear stem, pooling on a fixed lattice and a different block order of "
            "operations, so m1 weights would run but mean nothing. Use Sonata or another PT-v3m2 checkpoint."
        )
    return inner


def arch_from_pointcept(
    state: Mapping[str, torch.Tensor],
    config: Mapping[str, Any] | None = None,
    *,
    patch_size: int = 1024,
) -> PTv3Arch:
    """The architecture of a backbone's state dict (after `backbone_state`).

    Depths, widths, MLP ratio and whether there is a decoder follow from the tensors. Heads, patch size and curves do
    not: they come from `config` where present (as in Sonata's files), else 16 channels per head, `patch_size` and
    all four curves.
    """
    config = dict(config or {})
    stages = 1 + max(int(key.split(".")[1][3:]) for key in state if key.startswith("enc.enc"))
    depths = {"enc": [], "dec": []}  # type: dict[str, list[int]]
    widths = {"enc": [], "dec": []}  # type: dict[str, list[int]]
    for part, count in (("enc", stages), ("dec", stages - 1)):
        if not any(key.startswith(f"{part}.") for key in state):
            continue
        for s in range(count):
            blocks = {
                key.split(".")[2] for key in state if key.startswith(f"{part}.{part}{s}.block")
            }
            depths[part].append(len(blocks))
            widths[part].append(state[f"{part}.{part}{s}.block0.norm1.0.weight"].shape[0])
    heads = {part: [width // HEAD_WIDTH for width in widths[part]] for part in widths}
    patches = {int(size) for size in config.get("enc_patch_size", [patch_size])}
    if len(patches) > 1:
        raise InputError(
            f"patch sizes that differ between stages are not supported: {sorted(patches)}"
        )
    order = config.get("order", ("z", "z-trans", "hilbert", "hilbert-trans"))
    return PTv3Arch(
        name="pointcept",
        in_channels=state[f"{STEM}linear.weight"].shape[1],
        enc_depths=tuple(depths["enc"]),
        enc_channels=tuple(widths["enc"]),
        enc_heads=tuple(config.get("enc_num_head", heads["enc"])),
        dec_depths=tuple(depths["dec"]),
        dec_channels=tuple(widths["dec"]),
        dec_heads=tuple(config.get("dec_num_head", heads["dec"]))[: len(depths["dec"])],
        patch_size=patches.pop(),
        mlp_ratio=state["enc.enc0.block0.mlp.0.fc1.weight"].shape[0] // widths["enc"][0],
        drop_path=float(config.get("drop_path", 0.3)),
        curves=(order,) if isinstance(order, str) else tuple(order),
    )


def _fold_layer_scales(state: dict[str, torch.Tensor]) -> list[str]:
    """Multiplies every layer scale into the matrix whose output it scales; returns their names."""
    folded = []
    for block_part, layer in (("ls1.0.gamma", "attn.proj"), ("ls2.0.gamma", "mlp.0.fc2")):
        for key in [key for key in state if key.endswith(f".{block_part}")]:
            gamma = state.pop(key)
            target = key[: -len(block_part)] + layer
            if f"{target}.weight" not in state:
                raise CheckpointError(f"layer scale '{key}' has no '{target}.weight' to scale")
            state[f"{target}.weight"] = gamma[:, None] * state[f"{target}.weight"]
            if f"{target}.bias" in state:
                state[f"{target}.bias"] = gamma * state[f"{target}.bias"]
            folded.append(key)
    return folded


def load_pointcept(
    network: PTv3, state: Mapping[str, torch.Tensor], *, prefix: str | None = None
) -> PointceptReport:
    """Copies a PTv3-m2 state dict into our backbone, as far as the names agree.

    Args:
        network: changed in place.
        state: a Pointcept or Sonata state dict.
        prefix: see `backbone_state`.
    Returns:
        Which entries were loaded, missing and unused; print it.
    Raises:
        CheckpointError: PTv3-m1, no backbone, or shapes that disagree (nothing is changed then).
    """
    given = backbone_state(state, prefix)
    folded = _fold_layer_scales(given)
    own = network.state_dict()
    shared = [key for key in own if key in given]
    if wrong := [key for key in shared if own[key].shape != given[key].shape]:
        listed = [
            f"{k}: file {tuple(given[k].shape)}, network {tuple(own[k].shape)}" for k in wrong
        ]
        raise CheckpointError(
            f"{len(wrong)} tensors have other shapes: {listed[:5]}; build the network with arch_from_pointcept"
        )
    network.load_state_dict({key: given[key] for key in shared}, strict=False)
    return PointceptReport(
        loaded=tuple(shared),
        missing=tuple(key for key in own if key not in given),
        unused=tuple(key for key in given if key not in own),
        folded=tuple(folded),
    )


def import_pointcept() -> ModuleType:
    """Pointcept's PTv3-m2 module.

    Raises:
        InputError: Pointcept, or something that it needs, is not installed.
    """
    try:
        from pointcept.models.point_transformer_v3 import point_transformer_v3m2_sonata as module
    except ImportError as error:
        raise InputError(
            f"backend 'pointcept' needs an installed Pointcept with spconv and torch-scatter ({error}); "
            "docs/pointcept.md says how to install them. The default backend needs none of them."
        ) from error
    return module


def build_pointcept(arch: PTv3Arch, *, flash: bool | None = None) -> nn.Module:
    """Pointcept's own network with our architecture; parameter names and shapes are those of `PTv3`.

    Args:
        arch: the backbone.
        flash: use flash attention (CUDA only); None = where it is installed and a GPU is present. Without it
            Pointcept cuts every sample into patches no longer than the smallest sample.
    """
    module = import_pointcept()
    if flash is None:
        flash = torch.cuda.is_available() and getattr(module, "flash_attn", None) is not None
    stages = len(arch.enc_depths)
    network: nn.Module = module.PointTransformerV3(
        in_channels=arch.in_channels,
        order=arch.curves,
        stride=(2,) * (stages - 1),
        enc_depths=arch.enc_depths,
        enc_channels=arch.enc_channels,
        enc_num_head=arch.enc_heads,
        enc_patch_size=(arch.patch_size,) * stages,
        dec_depths=arch.dec_depths,
        dec_channels=arch.dec_channels,
        dec_num_head=arch.dec_heads,
        dec_patch_size=(arch.patch_size,) * (stages - 1),
        mlp_ratio=arch.mlp_ratio,
        drop_path=arch.drop_path,
        enable_flash=flash,
        traceable=True,
        enc_mode=not arch.dec_depths,
    )
    return network


def run_pointcept(
    network: nn.Module,
    features: torch.Tensor,
    coords: torch.Tensor,
    batch: torch.Tensor,
    *,
    grid_size: float,
    orders: str = "identity",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Output features of Pointcept's network, with released semantics (its own kernels decide shared voxels).

    Args:
        network: from `build_pointcept`.
        features: (tokens, channels).
        coords: (tokens, 3) [m].
        batch: (tokens,) int64, ascending.
        grid_size: voxel edge [m].
        orders: "identity" or "drawn", as in `released_pyramid`.
        generator: CPU generator of the draws; torch's global one if None.
    """
    if orders not in ("identity", "drawn"):
        raise InputError(f"unknown orders '{orders}', expected 'identity' or 'drawn'")
    for part in network.modules():
        if hasattr(part, "shuffle_orders"):
            part.__dict__["shuffle_orders"] = orders == "drawn"
    edge = torch.full((1,), grid_size, dtype=coords.dtype, device=coords.device)
    data = {"coord": coords, "feat": features, "batch": batch, "grid_size": edge}
    if orders == "identity" or generator is None:
        output: torch.Tensor = network(data).feat
        return output
    with torch.random.fork_rng(devices=[]):  # it draws from the global generator only
        torch.set_rng_state(generator.get_state())
        output = network(data).feat
        generator.set_state(torch.get_rng_state())
    return output
