"""What a checkpoint brings along beside its weights: the frozen image encoder, and where it all comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pointworld.model.checkpoint_io import ENCODER_WEIGHTS, read_description, read_weights
from pointworld.model.load import find_checkpoint
from pointworld.model.released_checkpoint import read_released

Tensor = torch.Tensor


def stored_encoder_weights(name_or_path: str | Path) -> dict[str, Tensor] | None:
    """Weights of the image encoder that travels with a checkpoint, under Meta's names; None where none does.

    Args:
        name_or_path: as for `pointworld.load`.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    path = find_checkpoint(name_or_path)
    if path.is_file():
        weights = read_released(path).encoder_weights
        return {name: value.contiguous() for name, value in weights.items()}
    if not read_description(path).get("encoder_weights"):
        return None
    return read_weights(path / ENCODER_WEIGHTS)


def provenance(name_or_path: str | Path) -> dict[str, Any]:
    """What a checkpoint says of where its weights come from, licence included.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
    """
    path = find_checkpoint(name_or_path)
    if path.is_file():
        return read_released(path).provenance()
    return dict(read_description(path).get("training") or {})


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """Twelve hexadecimal digits that name these weights: equal for equal names, shapes, types and numbers."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]
