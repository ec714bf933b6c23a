"""Mean squared distance of the task points to their goals."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pointworld.errors import InputError
from pointworld.plan.costs.base import Reduction, reduce_time, take_points
from pointworld.plan.trajectory import Trajectory

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskPoints:
    """Every task point has its own goal.

    index: (chosen,) scene points. goals: (chosen, 3) in the base frame [m].

    Source: c_task of the PointWorld paper, (1/|I|) sum over i in I of |p_i - g_i|^2, summed over the horizon.
    """

    index: Tensor
    goals: Tensor
    reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        if tuple(self.goals.shape) != (len(self.index), 3):
            raise InputError(
                f"goals are {tuple(self.goals.shape)}, expected ({len(self.index)}, 3): one per task point"
            )

    def __call__(self, trajectory: Trajectory) -> Tensor:
        """Costs (samples,) [m^2]."""
        points = take_points(trajectory, self.index, "task points")
        square = (points - self.goals.to(points)).square().sum(-1).mean(-1)
        return reduce_time(square, self.reduction)


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskSurface:
    """The task points should lie on target points without a pairing: mean squared distance to the nearest target.

    index: (chosen,) scene points. targets: (targets, 3) [m].
    """

    index: Tensor
    targets: Tensor
    reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        if self.targets.ndim != 2 or self.targets.shape[1] != 3 or len(self.targets) == 0:
            raise InputError(f"targets are {tuple(self.targets.shape)}, expected (targets, 3)")

    def __call__(self, trajectory: Trajectory) -> Tensor:
        """Costs (samples,) [m^2]."""
        points = take_points(trajectory, self.index, "task points")
        between = points[..., None, :] - self.targets.to(points)
        return reduce_time(between.square().sum(-1).amin(-1).mean(-1), self.reduction)
