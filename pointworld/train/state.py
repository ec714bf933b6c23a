"""What a training run needs to go on exactly where it stopped, in one safetensors file."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pointworld.errors import CheckpointError, InputError
from pointworld.files import atomic_path
from pointworld.model import WorldModel
from pointworld.model.spec import LATER
from pointworld.train.graph_model import GraphModel

Tensor = torch.Tensor

FILE = "state.safetensors"
#: What is trained: each has a `spec` that says how to build it.
Trained = TypeVar("Trained", WorldModel, GraphModel)


@dataclass(eq=False)
class TrainState:
    """Progress of a run: the only mutable record of the trainer.

    step: optimiser steps done. elapsed: [s] over all sessions.
    average: averaged parameters and buffers by name. curve: rows of the learning curve.
    """

    step: int
    elapsed: float
    average: dict[str, Tensor]
    curve: list[dict[str, float]]

    @classmethod
    def start(cls, model: WorldModel | GraphModel) -> TrainState:
        """A run that has not begun."""
        average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        return cls(step=0, elapsed=0.0, average=average, curve=[])

    @torch.no_grad()
    def average_in(self, model: WorldModel | GraphModel, decay: float) -> None:
        """Move the averaged weights towards the current ones; faster at the start, when they are far off."""
        share = 1 - min(decay, (1 + self.step) / (10 + self.step))
        for name, value in model.state_dict().items():
            self.average[name].lerp_(value, share)

    def averaged_model(self, like: Trained) -> Trained:
        """A copy of `like` with the averaged weights, for evaluation."""
        model = copy.deepcopy(like)
        model.load_state_dict(self.average)
        return model.eval()


def _config_json(config: Any) -> dict[str, Any]:
    return dataclasses.asdict(config)


def write_state(
    folder: Path,
    model: WorldModel | GraphModel,
    optimizer: torch.optim.Optimizer,
    state: TrainState,
    config: Any,
    *,
    inputs: Mapping[str, str] | None = None,
) -> None:
    """Save everything `read_state` needs, atomically.

    Args:
        inputs: what the run was given beside its settings, each named by a few words or a fingerprint.
    """
    tensors = {f"model.{name}": value.detach() for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in state.average.items()}
    moments = optimizer.state_dict()["state"]
    for index, entry in moments.items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(v) for name, v in entry.items()}
    record = {
        "step": state.step,
        "elapsed": state.elapsed,
        "curve": state.curve,
        "config": _config_json(config),
        "spec": model.spec.to_json(),
        "inputs": dict(inputs or {}),
    }
    with atomic_path(folder / FILE) as temporary:
        save_file(
            {name: value.contiguous().clone() for name, value in tensors.items()},
            temporary,
            metadata={"record": json.dumps(record)},
        )


def read_state(
    folder: Path,
    model: WorldModel | GraphModel,
    optimizer: torch.optim.Optimizer,
    config: Any,
    *,
    inputs: Mapping[str, str] | None = None,
) -> TrainState | None:
    """Load a saved run into `model` and `optimizer`; None when the folder holds none.

    Raises:
        InputError: the run has another architecture or configuration (budgets may differ), or was given other inputs.
        CheckpointError: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as archive:
            record = json.loads((archive.metadata() or {})["record"])
            tensors = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}). Delete it to start the run again."
        ) from error
    _check_same_run(path, record, model, config, inputs or {})
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}}
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        if kind == "optimizer":
            index, _, name = name.partition(".")
            moments.setdefault(int(index), {})[name] = value
        else:
            groups[kind][name] = value
    model.load_state_dict(groups["model"])
    layout = optimizer.state_dict()
    optimizer.load_state_dict({"state": moments, "param_groups": layout["param_groups"]})
    average = {
        name: groups["average"][name].to(value.device) for name, value in model.state_dict().items()
    }
    return TrainState(
        step=record["step"],
        elapsed=record["elapsed"],
        average=average,
        curve=record["curve"],
    )


def _filled(found: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """`found`, also inside it, with what it lacks of `usual`."""
    filled = {**usual, **found}
    for name, value in filled.items():
        inside = usual.get(name)
        if isinstance(value, dict) and isinstance(inside, dict):
            filled[name] = _filled(value, inside)
    return filled


def _trained_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """What matters in training: not the corrections that are fitted at its end, nor what came after the run began."""
    return {k: v for k, v in {**LATER, **spec}.items() if k not in ("spread", "still_below")}


def _check_same_run(
    path: Path,
    record: dict[str, Any],
    model: WorldModel | GraphModel,
    config: Any,
    inputs: Mapping[str, str],
) -> None:
    budgets = {"minutes", "steps", "save_every", "validate_every"}
    wanted = json.loads(json.dumps(_config_json(config)))
    # Settings that came after a run began had their default's effect.
    usual = json.loads(json.dumps(_config_json(type(config)())))
    there = _filled(record["config"], usual)
    different = [
        f"{name}: {there.get(name)} there, {wanted[name]} here"
        for name in wanted
        if name not in budgets and there.get(name) != wanted[name]
    ]
    # Runs of before inputs were recorded tell nothing of them.
    for name, given in record.get("inputs", {}).items():
        if name in inputs and inputs[name] != given:
            different.append(f"{name}: {given} there, {inputs[name]} here")
    if _trained_spec(record["spec"]) != _trained_spec(json.loads(json.dumps(model.spec.to_json()))):
        different.append("the model's architecture")
    if different:
        raise InputError(
            f"{path} belongs to a run with other settings ({'; '.join(different)}). "
            "Choose another --out folder, or use the same settings to continue it."
        )
