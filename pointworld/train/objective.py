"""What training minimises, and what it watches on validation clips."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pointworld.errors import InputError
from pointworld.model import WorldModel, collate
from pointworld.train.augment import TrainingSample, whole
from pointworld.train.cache import CachedSample
from pointworld.train.config import TrainConfig
from pointworld.train.losses import flow_loss, loss_weights, weight_total
from pointworld.train.metrics import moved_mask
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

    Args:
        network: what is called for the forward pass: the model, or the model wrapped for several processes.
    """
    ranks = ranks or Ranks()
    inputs = collate(
        [(item.scene, item.robot) for item in batch], domain=[item.domain for item in batch]
    ).to(ranks.device)
    target = torch.zeros(
        *inputs.scene_exists.shape[:1], model.spec.num_steps, inputs.scene_exists.shape[1], 3
    )
    for row, item in enumerate(batch):
        target[row, :, : len(item.scene)] = item.displacements
    target = target.to(ranks.device)
    valid = inputs.scene_exists[:, None].expand(target.shape[:-1]).clone()
    for row, item in enumerate(batch):
        if item.supervised is not None:
            valid[row, :, : len(item.scene)] &= item.supervised.to(ranks.device)
    valid[:, 0] = False
    with torch.autocast(
        ranks.device.type, dtype=torch.bfloat16, enabled=config.precision == "bfloat16"
    ):
        outputs = (network or model)(inputs)
    weights = loss_weights(target, valid, static_weight=config.loss.static_weight)
    mine = weights.sum()
    total = weight_total(ranks.total(mine))
    return ranks.world * flow_loss(
        outputs.pred_norm.float(),
        outputs.log_var.float(),
        model.normalise_displacements(target, inputs.domain),
        weights / total,
        variance_power=config.loss.variance_power,
    )


@torch.no_grad()
def validate(model: WorldModel, samples: Sequence[CachedSample]) -> dict[str, float]:
    """Mover error over no motion, and error of points at rest [mm], on crops of a few clips."""
    moved_error, moved_length, rest = [], [], []
    for start in range(0, len(samples), 8):
        batch = [
            whole(s, step_dt=model.spec.step_dt, max_points=VALIDATION_POINTS)
            for s in samples[start : start + 8]
        ]
        inputs = collate(
            [(item.scene, item.robot) for item in batch], domain=[item.domain for item in batch]
        )
        displacements = model(inputs.to(model.device)).displacements.cpu()
        for row, item in enumerate(batch):
            error = (displacements[row, :, : len(item.scene)] - item.displacements).norm(dim=-1)
            known = item.known()
            moved = moved_mask(item.displacements) & known
            still = (item.displacements.norm(dim=-1).amax(0) < 1e-3) & known
            rest.append(error[1:][still[1:]].mean())
            if moved.any():
                moved_error.append(error[moved].mean())
                moved_length.append(item.displacements.norm(dim=-1)[moved].mean())
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
