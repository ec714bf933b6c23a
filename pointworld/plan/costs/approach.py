"""Distance of the hand to the task points: leads the hand to what it should move, before any contact is in sight."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pointworld.plan.costs.base import Reduction, reduce_time, take_points
from pointworld.plan.trajectory import Trajectory

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Approach:
    """Squared distance of the tool to a place behind the task points, seen from their goal.

    index: (chosen,) scene points. goal: (3,) mean of their goals [m]. behind: distance from their centre at which the
    hand should be, on the side away from the goal [m].
    """

    index: Tensor
    goal: Tensor
    behind: float = 0.08
    reduction: Reduction = "sum"

    def __call__(self, trajectory: Trajectory) -> Tensor:
        """Costs (samples,) [m^2]."""
        centre = take_points(trajectory, self.index, "task points").mean(2)
        way = self.goal.to(centre) - centre
        way = way / way.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        tool = trajectory.actions.tool_poses[..., :3, 3].to(centre)
        return reduce_time((tool - (centre - self.behind * way)).square().sum(-1), self.reduction)
