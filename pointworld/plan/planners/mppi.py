"""Model predictive path integral control: the planner of the PointWorld paper."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch

from pointworld.errors import InputError
from pointworld.plan.planners.loop import require_count, run_search, seeded
from pointworld.plan.problem import PlanResult, Problem
from pointworld.plan.samplers import Noise, SplineNoise

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class MPPI:
    """Cubic-spline noise around the nominal plan; the new nominal is the mean weighted by exp(-J / beta).

    samples: plans per iteration. temperature: beta; with scale "spread" in units of the standard deviation of the
    usable costs of an iteration, with "absolute" in units of cost. noise: of the perturbations. decay: factor on
    the standard deviation per iteration.

    Source: PointWorld paper, section on MPC: weights and noise; J = sum over the horizon of mean squared distance of
    the task points to their goals plus path length plus reachability. Its sample count, beta, iterations, knots and
    noise scale are not in the text at hand: the values here are ours. Williams et al., ICRA 2017.
    """

    samples: int = 64
    iterations: int = 3
    temperature: float = 0.1
    scale: Literal["spread", "absolute"] = "spread"
    noise: Noise = field(default_factory=SplineNoise)
    decay: float = 1.0

    def __post_init__(self) -> None:
        require_count("samples", self.samples, 2)
        require_count("iterations", self.iterations, 1)
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise InputError(f"temperature is {self.temperature}, expected a positive number")

    def plan(self, problem: Problem, *, seed: int, budget_s: float | None = None) -> PlanResult:
        """See `Planner.plan`."""
        search = _Search(problem, self, seeded(seed))
        return run_search(problem, search, iterations=self.iterations, budget_s=budget_s)


def path_integral_weights(
    costs: Tensor, temperature: float, *, scale: Literal["spread", "absolute"] = "absolute"
) -> Tensor:
    """Weights (samples,) that sum to one, proportional to exp(-cost / temperature); zero for infinite costs.

    All zero when no cost is finite.
    """
    usable = torch.isfinite(costs)
    if not bool(usable.any()):
        return torch.zeros_like(costs)
    finite = costs[usable]
    beta = temperature
    if scale == "spread":
        spread = float(finite.std(correction=0))
        beta *= spread if spread > 0 else 1.0
    above = torch.where(usable, costs - finite.min(), torch.full_like(costs, math.inf))
    weights = torch.exp(-above / beta)
    return weights / weights.sum()


class _Search:
    needs_gradients = False

    def __init__(self, problem: Problem, settings: MPPI, generator: torch.Generator) -> None:
        self._settings, self._generator = settings, generator
        self.mean = problem.clip(problem.nominal).clone()
        self._std = problem.std.clone()

    def propose(self) -> Tensor:
        shape = (self._settings.samples, *self.mean.shape)
        noise = self._settings.noise.draw(shape, self._generator).to(self.mean)
        candidates = self.mean + self._std * noise
        candidates[0] = self.mean
        return candidates

    def update(self, candidates: Tensor, costs: Tensor, gradients: Tensor | None) -> None:
        settings = self._settings
        weights = path_integral_weights(costs, settings.temperature, scale=settings.scale)
        if bool((weights > 0).any()):
            self.mean = torch.einsum("s,sij->ij", weights.to(candidates), candidates)
        self._std = self._std * settings.decay
