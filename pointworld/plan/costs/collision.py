"""The gripper should keep away from what is not its business."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pointworld.plan.costs.base import Reduction, reduce_time
from pointworld.plan.trajectory import Trajectory

Tensor = torch.Tensor
#: Most obstacle points and robot points that are compared; more are thinned evenly.
MOST_POINTS = 400
MOST_SURFACE = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneCollision:
    """Squared shortfall of the distance between gripper surface and obstacle points, at their predicted places.

    index: (obstacles,) scene points to keep away from; none is allowed. margin: wanted distance [m]. floor: height
    of the table [m], below which the gripper pays for every centimetre; None = no table.
    """

    index: Tensor
    margin: float = 0.02
    floor: float | None = None
    reduction: Reduction = "sum"

    def __call__(self, trajectory: Trajectory) -> Tensor:
        """Costs (samples,), in units of the squared margin."""
        surface = trajectory.actions.robot_flow.positions.to(trajectory.positions)
        depth = surface.new_zeros(surface.shape[:2])
        if len(self.index) > 0:
            obstacles = trajectory.positions[:, :, _thin(self.index, MOST_POINTS)]
            nearby = surface[:, :, _thin(torch.arange(surface.shape[2]), MOST_SURFACE)]
            gap = torch.cdist(nearby, obstacles).flatten(2).amin(-1)
            depth = depth + (1 - gap / self.margin).clamp_min(0).square()
        if self.floor is not None:
            below = (self.floor - surface[..., 2].amin(-1)).clamp_min(0)
            depth = depth + (below / self.margin).square()
        return reduce_time(depth, self.reduction)


def _thin(index: Tensor, most: int) -> Tensor:
    if len(index) <= most:
        return index
    return index[torch.linspace(0, len(index) - 1, most).round().long()]
