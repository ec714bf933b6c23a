"""The loop that all planners share: sample, evaluate, update."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Protocol

import torch

from pointworld.errors import InputError
from pointworld.plan.problem import PlanResult, Problem

Tensor = torch.Tensor


class Planner(Protocol):
    """Finds a plan of low cost."""

    def plan(self, problem: Problem, *, seed: int, budget_s: float | None = None) -> PlanResult:
        """Search until the iterations or the time are used up.

        Args:
            seed: the result depends on the problem, the settings and this alone (while time does not run out).
            budget_s: seconds after which the best plan so far is returned, with what one group of candidates takes
                in addition: at least the group with the nominal is evaluated.
        """
        ...


class Search(Protocol):
    """One run of a planner: where the search stands between two iterations."""

    @property
    def mean(self) -> Tensor:
        """(steps, dims) the current nominal plan."""
        ...

    @property
    def needs_gradients(self) -> bool:
        """Whether `update` wants the gradient of the costs."""
        ...

    def propose(self) -> Tensor:
        """Candidates (samples, steps, dims); the loop clips them. The first one is the current nominal plan."""
        ...

    def update(self, candidates: Tensor, costs: Tensor, gradients: Tensor | None) -> None:
        """Learn from the (clipped) candidates; unusable ones have infinite cost."""
        ...


@dataclass
class _Best:
    plan: Tensor
    cost: float = math.inf
    evaluations: int = 0

    def see(self, candidates: Tensor, costs: Tensor) -> None:
        self.evaluations += len(costs)
        index = int(costs.argmin())
        if float(costs[index]) < self.cost:
            self.plan, self.cost = candidates[index].clone(), float(costs[index])


def run_search(
    problem: Problem, search: Search, *, iterations: int, budget_s: float | None = None
) -> PlanResult:
    """Run `search` on `problem`; the returned plan is the best of all that were evaluated.

    After the last update the mean itself is evaluated, so that what the search converged to is a candidate.
    """
    start = time.perf_counter()
    deadline = math.inf if budget_s is None else start + budget_s
    best, history = _Best(plan=problem.clip(problem.nominal)), []
    nominal_cost, timed_out = math.inf, False
    for iteration in range(iterations):
        candidates = problem.clip(search.propose()).detach()
        if iteration == 0:
            candidates[0] = problem.clip(problem.nominal)
        costs, gradients = evaluate(
            problem, candidates, gradients=search.needs_gradients, deadline=deadline
        )
        best.see(candidates[: len(costs)], costs)
        if iteration == 0:
            nominal_cost = float(costs[0])
        timed_out = len(costs) < len(candidates)
        if timed_out:
            break
        search.update(candidates, costs, gradients)
        history.append(best.cost)
        timed_out = time.perf_counter() >= deadline
        if timed_out:
            break
    mean = problem.clip(search.mean).detach()
    if not timed_out:
        best.see(mean[None], evaluate(problem, mean[None])[0])
    return PlanResult(
        actions=best.plan,
        cost=best.cost,
        nominal_cost=nominal_cost,
        mean=mean,
        history=tuple(history),
        iterations=len(history),
        evaluations=best.evaluations,
        seconds=time.perf_counter() - start,
        timed_out=timed_out,
    )


def evaluate(
    problem: Problem, candidates: Tensor, *, gradients: bool = False, deadline: float = math.inf
) -> tuple[Tensor, Tensor | None]:
    """Costs (evaluated,) of the candidates (samples, steps, dims), chunk by chunk, with gradients if asked for.

    Stops between chunks once the deadline has passed; the first chunk always runs. NaN becomes infinity. A problem
    without a chunk is evaluated at once, and in small groups where there is a deadline.

    Raises:
        InputError: costs of the wrong shape, or without a gradient where one is needed.
    """
    size = problem.group(len(candidates), deadline=deadline)
    costs: list[Tensor] = []
    slopes: list[Tensor] = []
    for first in range(0, len(candidates), size):
        if first > 0 and time.perf_counter() >= deadline:
            break
        part = candidates[first : first + size]
        with torch.set_grad_enabled(gradients):
            part = part.clone().requires_grad_(gradients)
            values = problem.evaluate(part)
        if values.shape != (len(part),):
            raise InputError(
                f"the objective gave costs of shape {tuple(values.shape)} for {len(part)} plans, expected "
                f"({len(part)},)"
            )
        if gradients:
            slopes.append(_gradient(values, part))
        costs.append(torch.nan_to_num(values.detach(), nan=math.inf, posinf=math.inf))
    return torch.cat(costs), torch.cat(slopes) if gradients else None


def _gradient(costs: Tensor, plans: Tensor) -> Tensor:
    if not costs.requires_grad:
        raise InputError(
            "the gradient planner needs costs that are differentiable in the plan, and these are not. Use dynamics "
            "with gradients (the world model, not the simulator), or another planner"
        )
    total = torch.where(torch.isfinite(costs), costs, torch.zeros_like(costs)).sum()
    (slope,) = torch.autograd.grad(total, plans)
    return torch.nan_to_num(slope, nan=0.0, posinf=0.0, neginf=0.0)


def require_count(name: str, value: int, least: int) -> None:
    """Raise InputError unless the setting `name` is at least `least`."""
    if value < least:
        raise InputError(f"{name} is {value}, expected at least {least}")


def seeded(seed: int) -> torch.Generator:
    """The generator of one search."""
    return torch.Generator().manual_seed(seed)
