"""Plans whose outcome the model does not know."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pointworld.plan.costs.base import Reduction, reduce_time, take_points
from pointworld.plan.trajectory import Trajectory

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Uncertainty:
    """Mean predicted variance [m^2] of the chosen points; zero for dynamics that predict none.

    index: (chosen,) scene points, usually the task points.
    """

    index: Tensor
    reduction: Reduction = "sum"

    def __call__(self, trajectory: Trajectory) -> Tensor:
        """Costs (samples,) [m^2]."""
        take_points(trajectory, self.index, "uncertainty")
        if trajectory.variance is None:
            return trajectory.positions.new_zeros(len(trajectory.actions))
        return reduce_time(trajectory.variance[:, :, self.index].mean(-1), self.reduction)
