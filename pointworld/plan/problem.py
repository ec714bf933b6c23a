"""What a planner minimises, and what it gives back. Nothing here knows of robots."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from pointworld.errors import InputError

Tensor = torch.Tensor
Objective = Callable[[Tensor], Tensor]

#: Plans that are judged together where time is short: a deadline is looked at between two such groups.
TIMED_GROUP = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Minimise `evaluate` over plans within a box.

    evaluate: (samples, steps, dims) to costs (samples,), lower is better; infinity or NaN = unusable.
    nominal: (steps, dims) where the search starts. lower, upper: bounds that broadcast to it. std: initial
    standard deviation of the search, likewise. chunk: most samples per call of `evaluate`, 0 for no bound (with a
    time budget `TIMED_GROUP`).
    """

    evaluate: Objective
    nominal: Tensor
    lower: Tensor
    upper: Tensor
    std: Tensor
    chunk: int = 0

    def __post_init__(self) -> None:
        if self.nominal.ndim != 2 or not bool(torch.isfinite(self.nominal).all()):
            raise InputError(
                f"nominal plan is {tuple(self.nominal.shape)}, expected finite (steps, dims)"
            )
        shape = self.nominal.shape
        for name in ("lower", "upper", "std"):
            value = getattr(self, name).to(self.nominal)
            try:
                object.__setattr__(self, name, value.expand(shape))
            except RuntimeError as error:
                raise InputError(
                    f"{name} is {tuple(value.shape)}, expected to broadcast to {tuple(shape)}"
                ) from error
        if not bool((self.lower <= self.upper).all()):
            raise InputError("a lower bound is above its upper bound (or NaN)")
        if not bool(((self.std >= 0) & torch.isfinite(self.std)).all()):
            raise InputError("std has a negative or non-finite entry")
        if self.chunk < 0:
            raise InputError(f"chunk is {self.chunk}, expected 0 (no bound) or more")

    def group(self, count: int, *, deadline: float = math.inf) -> int:
        """How many of `count` plans to evaluate together. Args: deadline: infinite where time does not matter."""
        if self.chunk:
            return self.chunk
        return max(count, 1) if math.isinf(deadline) else TIMED_GROUP

    def clip(self, plans: Tensor) -> Tensor:
        """Plans (..., steps, dims) inside the bounds."""
        return torch.minimum(torch.maximum(plans, self.lower), self.upper)


@dataclass(frozen=True, kw_only=True, eq=False)
class PlanResult:
    """The best plan that was evaluated.

    actions: (steps, dims) within bounds. cost: of `actions`. nominal_cost: of the (clipped) nominal plan.
    mean: (steps, dims) where the search stood at the end, the start of the next one.
    history: best cost so far after each iteration. iterations, evaluations: completed and in plans.
    seconds: spent. timed_out: the time budget ended the search.
    """

    actions: Tensor
    cost: float
    nominal_cost: float
    mean: Tensor
    history: tuple[float, ...] = field(default=())
    iterations: int
    evaluations: int
    seconds: float
    timed_out: bool


def shift_plan(plan: Tensor, steps: int) -> Tensor:
    """Warm start: the plan (total, dims) after its first `steps` were carried out; the last entry is repeated."""
    total = plan.shape[0]
    if steps < 0:
        raise InputError(f"cannot shift a plan by {steps} steps")
    kept = plan[min(steps, total - 1) :]
    return torch.cat([kept, kept[-1:].expand(total - len(kept), -1)])
