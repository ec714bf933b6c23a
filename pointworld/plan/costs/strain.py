"""The arm should not press against what does not give way."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pointworld.errors import InputError
from pointworld.plan.costs.base import Reduction, reduce_time
from pointworld.plan.trajectory import Trajectory

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Strain:
    """Squared distance of the arm from where it was sent, beyond what free motion shows; zero where it is unknown.

    allowed: costs nothing [rad]. unit: beyond that, costs one per step [rad].
    """

    allowed: float = 0.06
    unit: float = 0.05
    reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        if not (self.allowed >= 0 and self.unit > 0):
            raise InputError(
                f"strain: allowed {self.allowed}, unit {self.unit}, expected >= 0 and > 0"
            )

    def __call__(self, trajectory: Trajectory) -> Tensor:
        """Costs (samples,)."""
        if trajectory.strain is None:
            return trajectory.positions.new_zeros(len(trajectory.actions))
        over = (trajectory.strain.to(trajectory.positions) - self.allowed).clamp_min(0) / self.unit
        return reduce_time(over.square(), self.reduction)
