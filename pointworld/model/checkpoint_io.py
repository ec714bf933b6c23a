"""Our checkpoints: a folder with `model.safetensors` (weights) and `model.json` (what they mean).

A converted release has a third file, `encoder.safetensors`, with the frozen image encoder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pointworld.encoders import ImageEncoder, dinov3_from_meta_state_dict
from pointworld.errors import CheckpointError, InputError
from pointworld.files import atomic_folder, write_json
from pointworld.model.spec import ModelSpec
from pointworld.model.world_model import WorldModel

Tensor = torch.Tensor

WEIGHTS, DESCRIPTION, ENCODER_WEIGHTS = "model.safetensors", "model.json", "encoder.safetensors"
FORMAT = "pointworld-checkpoint"
FORMAT_VERSION = 1
#: Keys named in an error before the rest is counted.
SHOWN = 8


def save_checkpoint(
    model: WorldModel,
    folder: str | Path,
    *,
    training: Mapping[str, Any] | None = None,
    encoder_weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write weights and description; an older checkpoint in `folder` is replaced as a whole, never mixed.

    Args:
        training: anything JSON can hold that says where the weights come from (data, steps, results).
        encoder_weights: state dict of the frozen image encoder, when it must travel with the model.

    Returns:
        The folder.
    """
    weights = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    return write_checkpoint(
        folder, model.spec, weights, training=training, encoder_weights=encoder_weights
    )


def write_checkpoint(
    folder: str | Path,
    spec: ModelSpec,
    weights: Mapping[str, Tensor],
    *,
    training: Mapping[str, Any] | None = None,
    encoder_weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """As `save_checkpoint`, from a state dict (which may be memory-mapped)."""
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise InputError(f"cannot write a checkpoint to {target}: it is a file, expected a folder")
    description = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "spec": spec.to_json(),
        "parameters": count_elements(weights),
        "training": dict(training or {}),
        "encoder_weights": ENCODER_WEIGHTS if encoder_weights is not None else None,
    }
    with atomic_folder(target) as temporary:
        _write_weights(temporary / WEIGHTS, weights)
        if encoder_weights is not None:
            _write_weights(temporary / ENCODER_WEIGHTS, encoder_weights)
        write_json(temporary / DESCRIPTION, description)
    if encoder_weights is None:
        (target / ENCODER_WEIGHTS).unlink(missing_ok=True)
    return target


def _write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    save_file(dict(weights), path)
    # The writer makes files that only the owner reads; a checkpoint is like any other result.
    path.chmod(0o644)


def count_elements(weights: Mapping[str, Tensor]) -> int:
    """Numbers held by all tensors together."""
    return sum(value.numel() for value in weights.values())


def encoder_parameters(weights: Mapping[str, Tensor]) -> int:
    """Parameters of an image encoder under Meta's names; its masks and rotary periods are not parameters."""
    return sum(
        value.numel()
        for name, value in weights.items()
        if not name.endswith("bias_mask") and not name.startswith("rope_embed")
    )


def read_description(folder: Path) -> dict[str, Any]:
    """The parsed `model.json` of a checkpoint folder.

    Raises:
        CheckpointError: the file is absent, no JSON, or of another format or version.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a checkpoint: it has no {DESCRIPTION}. A checkpoint is a folder with {WEIGHTS} and "
            f"{DESCRIPTION}, or a released .pt file"
        )
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    found = (
        (description.get("format"), description.get("version"))
        if isinstance(description, dict)
        else None
    )
    if found != (FORMAT, FORMAT_VERSION):
        raise CheckpointError(
            f"{path} says format and version {found}, expected ({FORMAT!r}, {FORMAT_VERSION}). Was it written by a "
            "newer version of this package?"
        )
    if not isinstance(description.get("spec"), dict):
        raise CheckpointError(f"{path} has no 'spec', which describes the architecture")
    return description


def load_checkpoint(folder: str | Path, *, device: torch.device | str = "cpu") -> WorldModel:
    """Rebuild the model of a checkpoint folder, in evaluation mode.

    Raises:
        CheckpointError: files are missing, truncated, of another architecture, or hold NaN.
    """
    target = Path(folder)
    description = read_description(target)
    spec = ModelSpec.from_json(description["spec"], where=str(target / DESCRIPTION))
    weights = read_weights(target / WEIGHTS)
    model = build_model(spec, weights, where=str(target / WEIGHTS)).to(device)
    if description.get("encoder_weights"):
        model.encoder_source = partial(_stored_encoder, target, spec)
    return model


def _stored_encoder(folder: Path, spec: ModelSpec, device: torch.device | str) -> ImageEncoder:
    return encoder_from_weights(read_weights(folder / ENCODER_WEIGHTS), spec, device=device)


def inspect_checkpoint(folder: str | Path) -> dict[str, Any]:
    """What `pointworld checkpoint inspect` reports of a folder; names and shapes are checked, weights are not read.

    Raises:
        CheckpointError: see `load_checkpoint`.
    """
    target = Path(folder)
    description = read_description(target)
    spec = ModelSpec.from_json(description["spec"], where=str(target / DESCRIPTION))
    weights = read_weights(target / WEIGHTS)
    model = check_layout(spec, weights, where=str(target / WEIGHTS))
    stored = description.get("encoder_weights")
    encoder = read_weights(target / ENCODER_WEIGHTS) if stored else {}
    names = [WEIGHTS, DESCRIPTION, *([ENCODER_WEIGHTS] if stored else [])]
    return {
        "kind": "pointworld",
        "file": str(target),
        "bytes": sum((target / name).stat().st_size for name in names),
        "keys": len(weights) + len(encoder),
        "trainable_parameters": sum(value.numel() for value in model.parameters()),
        "encoder_parameters": encoder_parameters(encoder),
        "optimizer_bytes": 0,
        "spec": spec.to_json(),
        "training": description.get("training", {}),
    }


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, memory-mapped where the platform can.

    Raises:
        CheckpointError: the file is absent or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing from the checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}). Is the download complete?"
        ) from error


def build_model(spec: ModelSpec, weights: Mapping[str, Tensor], *, where: str) -> WorldModel:
    """A model in evaluation mode that holds `weights` (not copied).

    Raises:
        CheckpointError: names or shapes are not exactly those of the architecture, or a weight is not finite.
    """
    model = check_layout(spec, weights, where=where)
    broken = [name for name, value in weights.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise CheckpointError(f"{where}: NaN or infinity in {shortened(broken)}")
    floats = {name: value.to(torch.float32) for name, value in weights.items()}
    model.load_state_dict(floats, assign=True)
    return model.eval()


def check_layout(spec: ModelSpec, weights: Mapping[str, Tensor], *, where: str) -> WorldModel:
    """Compare names and shapes with what the architecture needs; reads no weight.

    Returns:
        The model on the meta device, to be given its weights.

    Raises:
        CheckpointError: listing what is missing, unknown or of another shape.
    """
    with torch.device("meta"):
        model = WorldModel(spec)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    unknown, missing = sorted(set(weights) - set(expected)), sorted(set(expected) - set(weights))
    wrong = [
        f"{name} is {tuple(weights[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    if unknown or missing or wrong:
        raise CheckpointError(
            f"{where} does not fit the architecture '{spec.arch.name}' of width {spec.width}: {len(missing)} keys "
            f"missing ({shortened(missing)}), {len(unknown)} unknown ({shortened(unknown)}), {len(wrong)} of another "
            f"shape ({shortened(wrong)})"
        )
    return model


def encoder_from_weights(
    weights: Mapping[str, Tensor], spec: ModelSpec, *, device: torch.device | str = "cpu"
) -> ImageEncoder:
    """DINOv3 from Meta's names, with the layers that the model was trained with.

    Raises:
        CheckpointError: the weights do not fit together or to the model.
    """
    encoder = dinov3_from_meta_state_dict(
        weights, name=spec.encoder or "dinov3:released", layers=spec.encoder_layers, device=device
    )
    if encoder.channels != spec.image_channels:
        raise CheckpointError(
            f"the image encoder gives {encoder.channels} channels, the model takes {spec.image_channels}"
        )
    return encoder


def shortened(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "none") + rest
