"""Gradient descent through the dynamics, with Adam, from several starts at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from pointworld.errors import InputError
from pointworld.plan.planners.loop import require_count, run_search, seeded
from pointworld.plan.problem import PlanResult, Problem
from pointworld.plan.samplers import Noise, SplineNoise

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """Adam on `starts` plans; the first starts at the nominal, the others at draws around it.

    learning_rate: in units of the problem's standard deviation, so that it means the same for metres and radians.
    A start whose cost is not finite takes no step. After every step the plans are clipped to the bounds.

    Source: Kingma & Ba, ICLR 2015 (torch.optim.Adam does the step).
    """

    starts: int = 8
    iterations: int = 30
    learning_rate: float = 0.1
    noise: Noise = field(default_factory=SplineNoise)

    def __post_init__(self) -> None:
        require_count("starts", self.starts, 1)
        require_count("iterations", self.iterations, 1)
        if self.learning_rate <= 0:
            raise InputError(f"learning_rate is {self.learning_rate}, expected a positive number")

    def plan(self, problem: Problem, *, seed: int, budget_s: float | None = None) -> PlanResult:
        """See `Planner.plan`."""
        search = _Search(problem, self, seeded(seed))
        return run_search(problem, search, iterations=self.iterations, budget_s=budget_s)


class _Search:
    needs_gradients = True

    def __init__(self, problem: Problem, settings: Gradient, generator: torch.Generator) -> None:
        self._problem = problem
        nominal = problem.clip(problem.nominal)
        noise = settings.noise.draw((settings.starts, *nominal.shape), generator).to(nominal)
        noise[0] = 0.0
        self._unit = problem.std
        plans = problem.clip(nominal + self._unit * noise)
        self._offsets = ((plans - nominal) / self._safe_unit()).requires_grad_(True)
        self._nominal = nominal
        self._optimizer = torch.optim.Adam([self._offsets], lr=settings.learning_rate)
        self._best = 0

    def _safe_unit(self) -> Tensor:
        return torch.where(self._unit > 0, self._unit, torch.ones_like(self._unit))

    def _plans(self) -> Tensor:
        return self._nominal + self._unit * self._offsets.detach()

    @property
    def mean(self) -> Tensor:
        """The start that had the lowest cost, where it stands now."""
        return self._plans()[self._best]

    def propose(self) -> Tensor:
        return self._plans()

    def update(self, candidates: Tensor, costs: Tensor, gradients: Tensor | None) -> None:
        if gradients is None:
            raise InputError("the gradient planner was run without gradients")
        self._best = int(costs.argmin())
        usable = torch.isfinite(costs)[:, None, None]
        self._offsets.grad = torch.where(usable, gradients * self._unit, 0.0)
        self._optimizer.step()
        with torch.no_grad():
            clipped = (self._problem.clip(self._plans()) - self._nominal) / self._safe_unit()
            self._offsets.copy_(clipped)
