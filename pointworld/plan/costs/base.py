"""Costs of predicted motion: each maps a trajectory to (samples,), lower is better; a sum weighs them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from pointworld.errors import InputError
from pointworld.plan.trajectory import Trajectory

Tensor = torch.Tensor
#: How a cost per step becomes one number: at the last step, summed over all steps, or at the best step.
Reduction = Literal["last", "sum", "min"]


class Cost(Protocol):
    """Anything that judges candidates, also from outside this package (features, learned values, rendering)."""

    def __call__(self, trajectory: Trajectory) -> Tensor:
        """Costs (samples,); infinity = unusable."""
        ...


def reduce_time(values: Tensor, how: Reduction) -> Tensor:
    """Costs (samples,) of values (samples, steps) per step; step 0 is now and not counted."""
    future = values[:, 1:]
    if how == "last":
        return future[:, -1]
    if how == "sum":
        return future.sum(1)
    if how == "min":
        return future.amin(1)
    raise InputError(f"reduction over time '{how}', expected 'last', 'sum' or 'min'")


@dataclass(frozen=True, kw_only=True, eq=False)
class Term:
    """One weighted cost of a sum. name: for reports. weight: >= 0."""

    name: str
    cost: Cost
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and math.isfinite(self.weight)):
            raise InputError(
                f"weight of cost '{self.name}' is {self.weight}, expected a number >= 0"
            )


@dataclass(frozen=True, eq=False)
class CostSum:
    """The weighted sum of its terms."""

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        names = [term.name for term in self.terms]
        if not names or len(set(names)) != len(names):
            raise InputError(f"costs are named {names}, expected at least one, and different names")

    def parts(self, trajectory: Trajectory) -> dict[str, Tensor]:
        """Weighted cost (samples,) of every term.

        Raises:
            InputError: a cost gave another shape.
        """
        parts = {term.name: term.weight * term.cost(trajectory) for term in self.terms}
        for name, values in parts.items():
            if values.shape != (len(trajectory.actions),):
                raise InputError(
                    f"cost '{name}' gave shape {tuple(values.shape)}, expected ({len(trajectory.actions)},)"
                )
        return parts

    def __call__(self, trajectory: Trajectory) -> Tensor:
        """See `Cost`."""
        return torch.stack(list(self.parts(trajectory).values())).sum(0)


def take_points(trajectory: Trajectory, index: Tensor, purpose: str) -> Tensor:
    """Positions (samples, steps, chosen, 3) of the scene points at `index` (chosen,) int64.

    Raises:
        InputError: no index, or outside the scene.
    """
    points = trajectory.positions.shape[2]
    if index.ndim != 1 or len(index) == 0:
        raise InputError(f"{purpose}: no points chosen")
    if int(index.min()) < 0 or int(index.max()) >= points:
        raise InputError(
            f"{purpose}: point {int(index.max())} of a scene of {points}. Was the set made for another scene?"
        )
    return trajectory.positions[:, :, index.to(trajectory.positions.device)]
