"""Reads the `.pt` files of the PointWorld release without running anything in them.

The file holds the weights, the frozen DINOv3 under Meta's names, the optimizer state and an `argparse.Namespace`. It is
opened memory-mapped with `weights_only=True`; besides tensors and plain containers only the classes in `ALLOWED` may
occur. What is needed is checked against the contract inside, and can be written as safetensors and JSON.
"""

from __future__ import annotations

import argparse
import pathlib
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pointworld.encoders import ImageEncoder, default_layers
from pointworld.errors import CheckpointError
from pointworld.model.checkpoint_io import (
    build_model,
    check_layout,
    count_elements,
    encoder_from_weights,
    encoder_parameters,
    write_checkpoint,
)
from pointworld.model.released_contract import (
    NEEDED_KEYS,
    OTHER_KEYS,
    RELEASED_SIZES,
    ReleasedContract,
    Sizes,
    contract_spec,
    read_contract,
)
from pointworld.model.spec import ModelSpec
from pointworld.model.world_model import WorldModel

Tensor = torch.Tensor

#: Plain data classes that the release pickles beside its tensors.
ALLOWED: tuple[type, ...] = (argparse.Namespace, pathlib.PurePosixPath, pathlib.PosixPath)
ENCODER_PREFIX = "scene_feature_encoder.scene_encoder.dinov3."


@dataclass(frozen=True, kw_only=True, eq=False)
class ReleasedCheckpoint:
    """A released file, opened and checked; tensors are memory-mapped.

    spec: the architecture. weights: everything but the image encoder, under the released names (also ours).
    encoder_weights: DINOv3 under Meta's names. counters: training progress. optimizer_bytes: left out by conversion.
    ignored: top-level entries of the file that the release does not have.
    """

    path: Path
    spec: ModelSpec
    contract: ReleasedContract
    weights: dict[str, Tensor]
    encoder_weights: dict[str, Tensor]
    counters: dict[str, float]
    optimizer_bytes: int
    exp_name: str
    ignored: tuple[str, ...]

    def encoder(self, device: torch.device | str = "cpu") -> ImageEncoder:
        """The frozen DINOv3."""
        return encoder_from_weights(self.encoder_weights, self.spec, device=device)

    def provenance(self) -> dict[str, Any]:
        """What a converted checkpoint remembers of the file."""
        contract = asdict(self.contract)
        contract["domains"] = list(self.contract.domains)
        return {
            "source": self.path.name,
            "experiment": self.exp_name,
            "counters": self.counters,
            "contract": contract,
            "licence": "weights: NVIDIA Open Model License; image encoder: DINOv3 License",
        }


def read_released(path: str | Path, *, sizes: Sizes = RELEASED_SIZES) -> ReleasedCheckpoint:
    """Open a released `.pt` and check it.

    Args:
        sizes: architectures that the contract may name.

    Raises:
        CheckpointError: truncated, code inside, another schema, or names and shapes that do not fit.
    """
    source = Path(path)
    content = _open(source)
    where = str(source)
    contract = read_contract(content, where=where)
    state = _state_dict(content["model"], where)
    encoder = {
        name.removeprefix(ENCODER_PREFIX): value
        for name, value in state.items()
        if name.startswith(ENCODER_PREFIX)
    }
    weights = {name: value for name, value in state.items() if not name.startswith(ENCODER_PREFIX)}
    spec = contract_spec(
        contract,
        image_channels=_width(
            weights, "scene_feature_encoder.scene_encoder.feat_proj.weight", where
        ),
        encoder_layers=default_layers(_encoder_depth(encoder)),
        robot_channels=_width(weights, "robot_proj.fc1.weight", where),
        sizes=sizes,
        where=where,
    )
    check_layout(spec, weights, where=where)
    return ReleasedCheckpoint(
        path=source,
        spec=spec,
        contract=contract,
        weights=weights,
        encoder_weights=encoder,
        counters={
            name: float(content[name]) for name in ("batch_count", "epoch_count", "sample_count")
        },
        optimizer_bytes=_tensor_bytes(content.get("optimizer")),
        exp_name=str(content.get("exp_name", "")),
        ignored=tuple(sorted(str(k) for k in content if k not in (*NEEDED_KEYS, *OTHER_KEYS))),
    )


def load_released(path: str | Path, *, device: torch.device | str = "cpu") -> WorldModel:
    """A released `.pt` as a model in evaluation mode, with its image encoder at hand."""
    checkpoint = read_released(path)
    model = build_model(checkpoint.spec, checkpoint.weights, where=str(path)).to(device)
    model.encoder_source = checkpoint.encoder
    return model


def convert_released(
    path: str | Path, folder: str | Path, *, sizes: Sizes = RELEASED_SIZES
) -> ReleasedCheckpoint:
    """Write a released `.pt` as a checkpoint folder: weights, image encoder and description, without the optimizer.

    Raises:
        CheckpointError: see `read_released`; also when a weight is NaN or the image encoder does not fit.
    """
    checkpoint = read_released(path, sizes=sizes)
    checkpoint.encoder()
    build_model(checkpoint.spec, checkpoint.weights, where=str(path))
    write_checkpoint(
        folder,
        checkpoint.spec,
        {name: value.contiguous() for name, value in checkpoint.weights.items()},
        training=checkpoint.provenance(),
        encoder_weights={
            name: value.contiguous() for name, value in checkpoint.encoder_weights.items()
        },
    )
    return checkpoint


def _open(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with torch.serialization.safe_globals(list(ALLOWED)):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()
        named = next(
            (line.strip() for line in reason if "GLOBAL" in line), reason[0] if reason else ""
        )
        raise CheckpointError(
            f"{path} holds something else than weights and plain settings, which could run code when loaded: {named} "
            f"Allowed besides tensors: {', '.join(kind.__name__ for kind in ALLOWED)}. It was not loaded"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path} is not a readable PyTorch file ({first}). Is the download complete?"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, expected a released checkpoint (a mapping)"
        )
    return content


def _state_dict(value: Any, where: str) -> dict[str, Tensor]:
    if not isinstance(value, Mapping) or not all(isinstance(v, Tensor) for v in value.values()):
        raise CheckpointError(f"{where}: 'model' is not a mapping of names to tensors")
    return dict(value)


def _width(weights: Mapping[str, Tensor], name: str, where: str) -> int:
    if name not in weights or weights[name].ndim != 2:
        wrapped = any(key.startswith("module.") for key in weights)
        hint = " Every name starts with 'module.': strip that prefix first" if wrapped else ""
        raise CheckpointError(f"{where}: the weights have no matrix '{name}'.{hint}")
    return int(weights[name].shape[1])


def _encoder_depth(encoder_weights: Mapping[str, Tensor]) -> int:
    """Number of blocks of the image encoder; the release's ViT-L has 24."""
    return len({key.split(".")[1] for key in encoder_weights if key.startswith("blocks.")})


def _tensor_bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(_tensor_bytes(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(_tensor_bytes(item) for item in value)
    return 0


def summary(checkpoint: ReleasedCheckpoint) -> dict[str, Any]:
    """What `pointworld checkpoint inspect` reports."""
    buffers = sum(
        value.numel()
        for name, value in checkpoint.weights.items()
        if name == "time_steps"
        or name.rsplit("_", 1)[0] in ("norm_stats_per_step", "robot_norm", "scene_norm")
    )
    elements = count_elements(checkpoint.weights)
    return {
        "kind": "released",
        "file": str(checkpoint.path),
        "bytes": checkpoint.path.stat().st_size,
        "keys": len(checkpoint.weights) + len(checkpoint.encoder_weights),
        "trainable_parameters": elements - buffers,
        "encoder_parameters": encoder_parameters(checkpoint.encoder_weights),
        "optimizer_bytes": checkpoint.optimizer_bytes,
        "ignored_keys": list(checkpoint.ignored),
        "spec": checkpoint.spec.to_json(),
        **checkpoint.provenance(),
    }
