"""The loss against the release's formula written as loops, and what its two own settings do."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from pointworld.train import LossConfig, flow_loss, loss_weights
from pointworld.train.losses import RELEASED, movement_selector, weight_total


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
    weights = loss_weights(displacements, valid, RELEASED)
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
        loss_weights(displacements, valid, config) for config in (RELEASED, LossConfig())
    )
    released, ours = released / weight_total(released), ours / weight_total(ours)
    assert released[..., 1:].sum() < 0.75
    assert ours[..., 1:].sum() > 0.9
    assert ours.sum().item() == pytest.approx(1.0)


def _case(movers: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips of 400 points, of which so many move by 2 cm in each of the first five steps and rest afterwards."""
    displacements = torch.zeros(len(movers), 11, 400, 3, dtype=torch.float64)
    path = 0.02 * torch.arange(11).clamp_max(5)
    for row, count in enumerate(movers):
        displacements[row, :, :count, 0] = path[:, None]
    valid = torch.ones(displacements.shape[:-1], dtype=torch.bool)
    valid[:, 0] = False
    return displacements, valid


def test_what_left_its_place_and_rests_counts_with_its_weight() -> None:
    displacements, valid = _case([3])
    config = replace(RELEASED, displaced_weight=0.3)
    released = loss_weights(displacements, valid, RELEASED)
    ours = loss_weights(displacements, valid, config)
    assert torch.allclose(ours[:, 1:6, :3], released[:, 1:6, :3], atol=1e-4)
    assert released[:, 6:, :3].max() < 0.01
    assert torch.allclose(ours[:, 6:, :3], torch.tensor(0.3, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(ours[..., 3:], released[..., 3:], atol=0.01)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_clips_are_balanced_by_a_power_of_what_moves_in_them(power: float) -> None:
    displacements, valid = _case([320, 80, 0])
    plain = loss_weights(displacements, valid, RELEASED).sum((1, 2))
    found = loss_weights(displacements, valid, replace(RELEASED, clip_balance=power)).sum((1, 2))
    assert (found[0] / found[1]).item() == pytest.approx(4 ** (1 - power), rel=0.1)
    assert found[2] <= 10 * plain[2], "nothing is made of nothing"
    rest = LossConfig(static_weight=0.05, clip_balance=power)
    still = loss_weights(displacements, valid, rest)[2].sum() - found[2]
    assert still.item() == pytest.approx(0.05 * 10 * 400, rel=0.01), "points at rest keep theirs"


def test_held_tools_count_less() -> None:
    displacements, valid = _case([20])
    held = torch.zeros(1, 400, dtype=torch.bool)
    held[0, :10] = True
    plain = loss_weights(displacements, valid, LossConfig(), held=held)
    config = replace(LossConfig(), held_weight=0.2)
    ours = loss_weights(displacements, valid, config, held=held)
    assert torch.equal(ours[:, :, 10:], plain[:, :, 10:])
    assert ours[0, 1:6, :10].sum().item() == pytest.approx(
        0.2 * plain[0, 1:6, :10].sum().item(), rel=0.02
    )


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
