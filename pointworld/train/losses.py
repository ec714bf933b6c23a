"""The training loss: movement-weighted, heteroscedastic Huber on normalised displacements.

Source: the PointWorld release (constants and formula); what `LossConfig` adds is ours, and `RELEASED` is without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

Tensor = torch.Tensor

#: A point counts as moving in a step when it moves farther than this [m].
MOVING_STEP = 0.005
#: Slope of the soft selector [1/m]: 5 / MOVING_STEP.
SELECTOR_SLOPE = 1000.0
#: A point has left its place when it is farther from it than this [m], and how softly [1/m].
DISPLACED, DISPLACED_SLOPE = 0.01, 500.0
HUBER_DELTA = 5.0
TARGET_CLIP = 0.5
VARIANCE_FLOOR, VARIANCE_CEILING = 1e-6, 1e2


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss.

    static_weight: weight of a (step, point) that does not move, beside 1 for one that does. The release gives them
        next to nothing, which leaves a bed of small false motions.
    variance_power: every term is multiplied by its own predicted variance (not differentiated) to this power, so that
        points of large uncertainty, the movers, keep a say (beta-NLL: Seitzer et al., ICLR 2022).
    displaced_weight: weight of a (step, point) that rests now but has left its place, beside 1 for one that moves. The
        release takes it for one at rest, so that where things end is hardly learned.
    held_weight: factor of points on tools that the hand holds, whose motion is known.
    clip_balance: 0 weighs clips by how much moves in them, 1 all clips that have movers alike, as the metrics do; a
        power in between.
    movers_first: share of the training budget that begins without the weights of rest and of variance, as the released
        loss is, so that motion is learned first and rest afterwards.
    """

    static_weight: float = 0.05
    variance_power: float = 0.5
    displaced_weight: float = 0.0
    held_weight: float = 1.0
    clip_balance: float = 0.0
    movers_first: float = 0.0

    def at(self, progress: float) -> LossConfig:
        """The weights at a share of the budget in [0, 1]."""
        if progress < self.movers_first:
            return replace(self, static_weight=0.0, variance_power=0.0)
        return self


#: The release's loss.
RELEASED = LossConfig(static_weight=0.0, variance_power=0.0)

#: Movers of a clip, over its steps, that `clip_balance` leaves alone, and the largest factor it gives.
_BALANCED, _LARGEST = 1000.0, 10.0


def movement_selector(displacements: Tensor) -> Tensor:
    """Soft share in [0, 1] of moving in each step: (..., steps, points) from displacements (..., steps, points, 3)."""
    step = torch.diff(displacements, dim=-3, prepend=displacements[..., :1, :, :])
    return torch.sigmoid(SELECTOR_SLOPE * (step.norm(dim=-1) - MOVING_STEP))


def loss_weights(
    displacements: Tensor, valid: Tensor, config: LossConfig, *, held: Tensor | None = None
) -> Tensor:
    """Weights (batch, steps, points) of every term, not yet divided by their sum (see `weight_total`).

    Args:
        displacements: (batch, steps, points, 3) true motion [m].
        valid: (batch, steps, points) bool: exists, supervised, and not step 0.
        held: (batch, points) bool: on a tool that the hand holds; None for nowhere.
    """
    selector = movement_selector(displacements)
    rest = config.static_weight * (1 - selector)
    if config.displaced_weight:
        away = torch.sigmoid(DISPLACED_SLOPE * (displacements.norm(dim=-1) - DISPLACED))
        selector = torch.maximum(selector, config.displaced_weight * away)
    if held is not None and config.held_weight != 1:
        selector = torch.where(held[:, None], config.held_weight * selector, selector)
    selector = torch.where(valid, selector, 0.0)
    if config.clip_balance:
        movers = selector.sum((-2, -1), keepdim=True).clamp_min(1.0)
        selector = selector * ((_BALANCED / movers) ** config.clip_balance).clamp_max(_LARGEST)
    return torch.where(valid, selector + rest, 0.0)


def weight_total(weights: Tensor) -> Tensor:
    """What a batch's weights are divided by: their sum, or 1 when hardly anything moves."""
    return weights.sum().clamp_min(1.0)


def flow_loss(
    pred_norm: Tensor,
    log_var: Tensor,
    target_norm: Tensor,
    weights: Tensor,
    *,
    variance_power: float,
) -> Tensor:
    """Scalar loss.

    Args:
        pred_norm, target_norm: (batch, steps, points, 3) normalised displacement.
        log_var: (batch, steps, points, 1).
        weights: (batch, steps, points).
    """
    log_var = log_var.clamp(math.log(VARIANCE_FLOOR), math.log(VARIANCE_CEILING))
    error = torch.nn.functional.huber_loss(
        pred_norm, target_norm, reduction="none", delta=HUBER_DELTA
    )
    terms = 0.5 * (error * torch.exp(-log_var) + log_var)
    if variance_power:
        terms = terms * torch.exp(variance_power * log_var.detach())
    return (weights * terms.mean(-1)).sum()
