"""What training minimises, and what it watches on validation clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pointworld.errors import InputError
from pointworld.model import ModelInputs, WorldModel, collate
from pointworld.train.augment import TrainingSample
from pointworld.train.cache import CachedSample
from pointworld.train.config import TrainConfig
from pointworld.train.losses import flow_loss, loss_weights, weight_total
from pointworld.train.metrics import moved_mask
from pointworld.train.model_sample import forecasts
from pointworld.train.parallel import Ranks

Tensor = torch.Tensor

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
    share a lattice and would change one another.

    Args:
        network: what is called for the forward pass: the model, or the model wrapped for several processes.
    """
    ranks = ranks or Ranks()
    groups = [[item] for item in batch] if model.spec.mode == "released" else [batch]
    parts = [_joined(group, config, ranks.device) for group in groups]
    total = weight_total(ranks.total(torch.stack([part.weights.sum() for part in parts]).sum()))
    losses = []
    for part in parts:
        with torch.autocast(
            ranks.device.type, dtype=torch.bfloat16, enabled=config.precision == "bfloat16"
        ):
            outputs = (network or model)(part.inputs)
        losses.append(
            flow_loss(
                outputs.pred_norm.float(),
                outputs.log_var.float(),
                model.normalise_displacements(part.target, part.inputs.domain),
                part.weights / total,
                variance_power=config.loss.variance_power,
            )
        )
    return ranks.world * torch.stack(losses).sum()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """Samples that go through the network together.

    target: (samples, steps, points, 3) true displacements [m]. weights: (samples, steps, points).
    """

    inputs: ModelInputs
    target: Tensor
    weights: Tensor


def _joined(items: Sequence[TrainingSample], config: TrainConfig, device: torch.device) -> _Part:
    inputs = collate(
        [(item.scene, item.robot) for item in items], domain=[item.domain for item in items]
    )
    samples, points = inputs.scene_exists.shape
    target = torch.zeros(samples, inputs.robot_exists.shape[1], points, 3)
    valid = torch.zeros(target.shape[:-1], dtype=torch.bool)
    for row, item in enumerate(items):
        target[row, :, : len(item.scene)] = item.displacements
        valid[row, 1:, : len(item.scene)] = item.known()[1:]
    weights = loss_weights(target, valid, static_weight=config.loss.static_weight)
    return _Part(inputs=inputs.to(device), target=target.to(device), weights=weights.to(device))


@torch.no_grad()
def validate(model: WorldModel, samples: Sequence[CachedSample]) -> dict[str, float]:
    """Mover error over no motion, and error of points at rest [mm], on crops of a few clips.

    Raises:
        InputError: nothing moves in them, or they are not of the model's time base.
    """
    moved_error, moved_length, rest = [], [], []
    for item, predicted, _ in forecasts(model, samples, max_points=VALIDATION_POINTS, batch=8):
        error, length = (
            (predicted - item.displacements).norm(dim=-1),
            item.displacements.norm(dim=-1),
        )
        known = item.known()
        moved = moved_mask(item.displacements) & known
        still = (length.amax(0) < 1e-3) & known
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
