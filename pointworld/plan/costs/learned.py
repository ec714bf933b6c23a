"""Costs from features or learned models, handed in as objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from pointworld.errors import InputError
from pointworld.plan.costs.base import Reduction, reduce_time
from pointworld.plan.trajectory import Trajectory

Tensor = torch.Tensor


class Energy(Protocol):
    """Judges every predicted state: a learned value, a distance between rendered and goal features, ..."""

    def __call__(self, trajectory: Trajectory) -> Tensor:
        """Energies (samples, steps), lower is better."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class LearnedCost:
    """An energy of states as a cost of plans."""

    energy: Energy
    reduction: Reduction = "last"

    def __call__(self, trajectory: Trajectory) -> Tensor:
        """Costs (samples,).

        Raises:
            InputError: the energy has another shape than (samples, steps).
        """
        values = self.energy(trajectory)
        wanted = tuple(trajectory.positions.shape[:2])
        if tuple(values.shape) != wanted:
            raise InputError(
                f"the energy gave shape {tuple(values.shape)}, expected {wanted} (samples, steps)"
            )
        return reduce_time(values, self.reduction)
