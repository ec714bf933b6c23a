"""The cross-entropy method, plain and improved (iCEM)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from pointworld.errors import InputError
from pointworld.plan.planners.loop import require_count, run_search, seeded
from pointworld.plan.problem import PlanResult, Problem
from pointworld.plan.samplers import ColoredNoise, Noise, WhiteNoise

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class CEM:
    """Refit a normal distribution to the best plans.

    elites: how many plans it is refitted to. momentum: share of the old mean and deviation that is kept.
    min_std: the deviation never falls below this share of the initial one.

    Source: Rubinstein & Kroese 2004; sample 0 is the mean as in current latent planners.
    """

    samples: int = 64
    iterations: int = 5
    elites: int = 8
    momentum: float = 0.1
    min_std: float = 0.02
    noise: Noise = field(default_factory=WhiteNoise)

    def __post_init__(self) -> None:
        _check(self)

    def plan(self, problem: Problem, *, seed: int, budget_s: float | None = None) -> PlanResult:
        """See `Planner.plan`."""
        search = _Search(problem, self, seeded(seed))
        return run_search(problem, search, iterations=self.iterations, budget_s=budget_s)


@dataclass(frozen=True, kw_only=True)
class ICEM:
    """CEM with coloured noise, elites kept between iterations and fewer samples each time.

    keep: elites that compete again in the next iteration. shrink: the sample count is divided by this each time,
    but never below twice the elites. noise: exponent 2 by default.

    Source: Pinneri et al., CoRL 2020 (momentum 0.1, growth of the elites by kept ones, decay 1.25).
    """

    samples: int = 96
    iterations: int = 5
    elites: int = 8
    momentum: float = 0.1
    min_std: float = 0.02
    noise: Noise = field(default_factory=ColoredNoise)
    keep: int = 5
    shrink: float = 1.25

    def __post_init__(self) -> None:
        _check(self)
        require_count("keep", self.keep, 0)
        if self.shrink < 1.0:
            raise InputError(f"shrink is {self.shrink}, expected at least 1")

    def plan(self, problem: Problem, *, seed: int, budget_s: float | None = None) -> PlanResult:
        """See `Planner.plan`."""
        search = _Search(problem, self, seeded(seed), keep=self.keep, shrink=self.shrink)
        return run_search(problem, search, iterations=self.iterations, budget_s=budget_s)


def _check(settings: CEM | ICEM) -> None:
    require_count("samples", settings.samples, 2)
    require_count("iterations", settings.iterations, 1)
    require_count("elites", settings.elites, 1)
    if settings.elites >= settings.samples:
        raise InputError(
            f"{settings.elites} elites of {settings.samples} samples, expected fewer elites than samples"
        )
    if not (0 <= settings.momentum < 1 and settings.min_std >= 0):
        raise InputError(
            f"momentum {settings.momentum}, min_std {settings.min_std}: expected 0 <= momentum < 1 and min_std >= 0"
        )


class _Search:
    needs_gradients = False

    def __init__(
        self,
        problem: Problem,
        settings: CEM | ICEM,
        generator: torch.Generator,
        *,
        keep: int = 0,
        shrink: float = 1.0,
    ) -> None:
        self._settings, self._generator = settings, generator
        self._keep, self._shrink, self._samples = keep, shrink, float(settings.samples)
        self.mean = problem.clip(problem.nominal).clone()
        self._std = problem.std.clone()
        self._least = settings.min_std * problem.std
        self._kept = self.mean[None, :0].new_zeros(0, *self.mean.shape)

    def propose(self) -> Tensor:
        shape = (round(self._samples), *self.mean.shape)
        noise = self._settings.noise.draw(shape, self._generator).to(self.mean)
        candidates = self.mean + self._std * noise
        candidates[0] = self.mean
        return torch.cat([candidates, self._kept])

    def update(self, candidates: Tensor, costs: Tensor, gradients: Tensor | None) -> None:
        settings = self._settings
        order = costs.argsort(stable=True)[: settings.elites]
        order = order[torch.isfinite(costs[order])]
        if len(order) > 0:
            elites, old = candidates[order], settings.momentum
            self.mean = (1 - old) * elites.mean(0) + old * self.mean
            spread = elites.std(0, correction=0)
            self._std = torch.maximum((1 - old) * spread + old * self._std, self._least)
            self._kept = elites[: self._keep]
        self._samples = max(self._samples / self._shrink, 2.0 * settings.elites)
