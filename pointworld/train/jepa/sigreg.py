"""LeJEPA's loss: invariance between views, and SIGReg, which keeps embeddings an isotropic Gaussian.

Source: Balestriero & LeCun, LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics, 2025.
"""

from __future__ import annotations

import torch

from pointworld.errors import InputError

Tensor = torch.Tensor

#: Quadrature of the Epps-Pulley statistic: 17 points on 0..3.
POINTS, LAST = 17, 3.0
#: Directions on which embeddings are tested.
SLICES = 256


def sigreg(embeddings: Tensor, *, generator: torch.Generator, slices: int = SLICES) -> Tensor:
    """How far embeddings are from a standard normal distribution, on random directions.

    Along every unit direction a, T = N * integral of |phi_N(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt over the real line,
    with phi_N the empirical characteristic function of the N projections. The integrand is even: the integral is twice
    that over 0..3, by the trapezoid rule on 17 points. The result is the mean of T over directions (and views).

    Args:
        embeddings: (N, dim), or (views, N, dim): each view is tested by itself.
        generator: draws the directions; give another state at every step.
        slices: number of directions.

    Raises:
        InputError: embeddings have another shape or no samples.
    """
    if embeddings.ndim not in (2, 3) or embeddings.shape[-2] < 2:
        raise InputError(
            f"sigreg: embeddings are {tuple(embeddings.shape)}, expected (samples, dim) or (views, samples, dim) "
            "with 2 or more samples"
        )
    z = embeddings.float()
    directions = torch.randn(z.shape[-1], slices, generator=generator).to(z.device)
    directions = directions / directions.norm(dim=0)
    t, weights, target = _quadrature(z.device)
    angles = (z @ directions)[..., None] * t
    difference = (angles.cos().mean(-3) - target).square() + angles.sin().mean(-3).square()
    return (difference @ weights).mean() * z.shape[-2]


def _quadrature(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Points t, trapezoid weights (doubled for the other half line) times the window, and the target's transform."""
    t = torch.linspace(0, LAST, POINTS, device=device)
    step = LAST / (POINTS - 1)
    weights = torch.full_like(t, 2 * step)
    weights[0] = weights[-1] = step
    target = torch.exp(-t.square() / 2)
    return t, weights * target, target


def invariance(embeddings: Tensor) -> Tensor:
    """Mean squared distance of (views, N, dim) embeddings to the mean of their views, per dimension."""
    z = embeddings.float()
    return (z - z.mean(0)).square().mean()


def lejepa_loss(
    embeddings: Tensor, *, weight: float, generator: torch.Generator, slices: int = SLICES
) -> tuple[Tensor, Tensor, Tensor]:
    """weight * SIGReg + (1 - weight) * invariance of (views, N, dim) embeddings.

    Returns:
        The loss, and its two parts without their weights (no gradient). Without weight SIGReg is not computed: NaN.
    """
    alike = invariance(embeddings)
    if weight == 0:
        return alike, torch.full_like(alike.detach(), float("nan")), alike.detach()
    spread = sigreg(embeddings, generator=generator, slices=slices)
    return weight * spread + (1 - weight) * alike, spread.detach(), alike.detach()
