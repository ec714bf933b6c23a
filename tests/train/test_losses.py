"""The loss against the release's formula written as loops, and what its two own settings do."""

from __future__ import annotations

import math

import pytest
import torch

from pointworld.train import LossConfig, flow_loss, loss_weights
from pointworld.train.losses import movement_selector, weight_total


def random_case(seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 11, 7)
    displacements = torch.randn(*shape, 3, generator=generator, dtype=torch.float64) * 0.01
    displacements[:, 0] = 0
    pred = torch.randn(*shape, 3, generator=generator, dtype=torch.float64) * 4
    target = torch.randn(*shape, 3, generator=generator, dtype=torch.float64) * 4
    log_var = torch.randn(*shape, 1, generator=generator, dtype=torch.float64) * 12
    valid = torch.rand(*shape, generator=generator) < 0.7
    valid[:, 0] = False
    return displacements, pred, target, log_var, valid


def huber(x: float) -> float:
    return 0.5 * x * x if abs(x) < 5 else 5 * (abs(x) - 2.5)


@pytest.mark.parametrize("seed", range(3))
def test_released_loss_equals_the_formula_in_loops(seed: int) -> None:
    displacements, pred, target, log_var, valid = random_case(seed)
    raw, total = [], 0.0
    for b in range(2):
        for t in range(11):
            for n in range(7):
                if not valid[b, t, n]:
                    continue
                step = (displacements[b, t, n] - displacements[b, t - 1, n]).norm().item()
                weight = 1 / (1 + math.exp(-1000 * (step - 0.005)))
                s = min(max(log_var[b, t, n, 0].item(), math.log(1e-6)), math.log(1e2))
                axes = [
                    0.5 * (huber((pred - target)[b, t, n, a].item()) / math.exp(s) + s)
                    for a in range(3)
                ]
                raw.append((weight, sum(axes) / 3))
    total = sum(w * e for w, e in raw) / max(1.0, sum(w for w, _ in raw))
    weights = loss_weights(displacements, valid, static_weight=0.0)
    weights = weights / weight_total(weights)
    ours = flow_loss(pred, log_var, target, weights, variance_power=0.0)
    assert ours.item() == pytest.approx(total, rel=1e-10)


def test_selector_is_half_at_five_millimetres_a_step() -> None:
    displacements = torch.zeros(3, 1, 3, dtype=torch.float64)
    displacements[1:, 0, 0] = 0.005
    assert movement_selector(displacements)[1, 0].item() == pytest.approx(0.5)
    assert movement_selector(displacements)[2, 0].item() < 0.01
    assert movement_selector(displacements)[0, 0].item() < 0.01


def test_static_weight_lets_points_at_rest_count() -> None:
    displacements = torch.zeros(1, 11, 400, 3)
    displacements[:, :, 0, 0] = 0.02 * torch.arange(11)
    valid = torch.ones(1, 11, 400, dtype=torch.bool)
    valid[:, 0] = False
    released, ours = (
        loss_weights(displacements, valid, static_weight=weight)
        for weight in (0.0, LossConfig().static_weight)
    )
    released, ours = released / weight_total(released), ours / weight_total(ours)
    assert released[..., 1:].sum() < 0.75
    assert ours[..., 1:].sum() > 0.9
    assert ours.sum().item() == pytest.approx(1.0)


def test_variance_power_gives_uncertain_points_the_gradient_back() -> None:
    """With power 1 the gradient on the prediction is that of plain Huber, whatever variance is predicted."""
    _, pred, target, log_var, valid = random_case(1)
    weights = valid.double()
    pred.requires_grad_(True)
    (weighted,) = torch.autograd.grad(
        flow_loss(pred, log_var, target, weights, variance_power=1.0), pred
    )
    plain = (weights[..., None] / 3 * 0.5 * (pred - target).clamp(-5, 5)).detach()
    assert (weighted - plain).abs().max() < 1e-12
