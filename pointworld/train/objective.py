"""What training minimises, and what it watches on validation clips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pointworld.errors import InputError
from pointworld.model import ModelInputs, WorldModel, collate
from pointworld.train.augment import TrainingSample
from pointworld.train.config import TrainConfig
from pointworld.train.losses import TARGET_CLIP, flow_loss, loss_weights, weight_total
from pointworld.train.metrics import moved_mask
from pointworld.train.model_sample import forecasts
from pointworld.train.parallel import Ranks
from pointworld.train.released_metrics import SIMULATED_VARIANCE
from pointworld.train.source import Source

Tensor = torch.Tensor

#: Points that validation looks at, of a model that looks at all.
VALIDATION_POINTS = 600


def batch_loss(
    model: WorldModel,
    batch: Sequence[TrainingSample],
    config: TrainConfig,
    *,
    network: nn.Module | None = None,
    ranks: Ranks | None = None,
) -> Tensor:
    """Loss of this process's share of a batch; the mean over the processes is the loss of the whole batch.

    In `released` mode every sample goes through the network alone, as in prediction: there the samples of a batch
    share a lattice and would change one another. Targets are clipped to +-0.5 m there, and simulated domains state a
    constant variance, as in the release.

    Args:
        network: what is called for the forward pass: the model, or the model wrapped for several processes.
    """
    ranks = ranks or Ranks()
    groups = [[item] for item in batch] if model.spec.mode == "released" else [batch]
    limit = TARGET_CLIP if model.spec.mode == "released" else math.inf
    parts = [_joined(group, config, ranks.device, limit) for group in groups]
    total = weight_total(ranks.total(torch.stack([part.weights.sum() for part in parts]).sum()))
    outputs = []
    for part in parts:
        with torch.autocast(
            ranks.device.type, dtype=torch.bfloat16, enabled=config.precision == "bfloat16"
        ):
            outputs.append((network or model)(part.inputs))
    log_vars = [found.log_var.float() for found in outputs]
    if model.spec.mode == "released" and model.spec.simulated_domains:
        log_vars = _simulated(model, parts, log_vars)
    losses = [
        flow_loss(
            found.pred_norm.float(),
            log_var,
            model.normalise_displacements(part.target, part.inputs.domain),
            part.weights / total,
            variance_power=config.loss.variance_power,
        )
        for part, found, log_var in zip(parts, outputs, log_vars, strict=True)
    ]
    return ranks.world * torch.stack(losses).sum()


def _simulated(
    model: WorldModel, parts: Sequence[_Part], log_vars: Sequence[Tensor]
) -> list[Tensor]:
    """Log variances (1, steps, points, 1) of parts of one sample each; those of simulated domains become a constant.

    It is the logarithm of the mean variance of this process's real samples, or of 1e-3 without any. The network's own
    stays in the graph, with no gradient, because every process waits for one.
    """
    rows = {model.spec.domain_index(name) for name in model.spec.simulated_domains}
    simulated = [int(part.inputs.domain[0]) in rows for part in parts]
    real = [
        log_var.detach()[..., 0][part.weights > 0]
        for part, log_var, constant in zip(parts, log_vars, simulated, strict=True)
        if not constant
    ]
    variance = torch.cat(real).exp().mean() if real else log_vars[0].new_tensor(SIMULATED_VARIANCE)
    return [
        torch.where(torch.tensor(constant, device=log_var.device), variance.log(), log_var)
        for log_var, constant in zip(log_vars, simulated, strict=True)
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """Samples that go through the network together.

    target: (samples, steps, points, 3) true displacements, perhaps clipped [m]. weights: (samples, steps, points).
    """

    inputs: ModelInputs
    target: Tensor
    weights: Tensor


def _joined(
    items: Sequence[TrainingSample], config: TrainConfig, device: torch.device, limit: float
) -> _Part:
    inputs = collate(
        [(item.scene, item.robot) for item in items], domain=[item.domain for item in items]
    )
    samples, points = inputs.scene_exists.shape
    target = torch.zeros(samples, inputs.robot_exists.shape[1], points, 3)
    valid = torch.zeros(target.shape[:-1], dtype=torch.bool)
    held = torch.zeros(samples, points, dtype=torch.bool)
    for row, item in enumerate(items):
        target[row, :, : len(item.scene)] = item.displacements
        valid[row, 1:, : len(item.scene)] = item.known()[1:]
        held[row, : len(item.scene)] = ~item.free()
    weights = loss_weights(target, valid, config.loss, held=held)
    target = target.clamp(-limit, limit)
    return _Part(inputs=inputs.to(device), target=target.to(device), weights=weights.to(device))


@torch.no_grad()
def validate(model: WorldModel, samples: Sequence[Source]) -> dict[str, float]:
    """Mover error over no motion, and error of points at rest [mm], on crops of a few clips, without held tools.

    A crop has as many points as the model looks at in use.
    Points rest that stay within a millimetre; of a clip of which none is known to, as under tracking noise, those that
    move less than 5 mm in every step.

    Raises:
        InputError: nothing moves in them, or they are not of the model's time base.
    """
    moved_error, moved_length, rest = [], [], []
    seen = model.spec.context_points or VALIDATION_POINTS
    for item, predicted, _ in forecasts(model, samples, max_points=seen, batch=8):
        error, length = (
            (predicted - item.displacements).norm(dim=-1),
            item.displacements.norm(dim=-1),
        )
        known = item.known() & item.free()
        moved = moved_mask(item.displacements) & known
        still = (length.amax(0) < 1e-3) & known
        if not still[1:].any():
            still = ~moved_mask(item.displacements).any(0) & known
        rest.append(error[1:][still[1:]].mean())
        if moved.any():
            moved_error.append(error[moved].mean())
            moved_length.append(length[moved].mean())
    if not moved_error:
        raise InputError(
            "nothing moves in the validation clips, so there is no error of movers to watch: take more or other clips"
        )
    ratio = torch.stack(moved_error).mean() / torch.stack(moved_length).mean()
    return {"moved_ratio": float(ratio), "rest_mm": float(torch.stack(rest).nanmean()) * 1e3}


def prepare_heads(model: WorldModel) -> None:
    """Start with unit variance: the release's start, ln(0.005^2), would let the first steps see static points only."""
    last = model.dynamics_predictor.log_var_head[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.bias.zero_()
        last.weight.mul_(0.1)
