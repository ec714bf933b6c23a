"""What should stay where it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pointworld.plan.costs.base import Reduction, reduce_time, take_points
from pointworld.plan.trajectory import Trajectory

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class KeepStill:
    """Mean squared motion of the chosen points beyond a tolerance.

    index: (chosen,) scene points. tolerance: motion that costs nothing [m].
    """

    index: Tensor
    tolerance: float = 0.005
    reduction: Reduction = "last"

    def __call__(self, trajectory: Trajectory) -> Tensor:
        """Costs (samples,) [m^2]."""
        points = take_points(trajectory, self.index, "keep-still points")
        # The tiny number keeps the gradient finite where nothing moves.
        moved = ((points - points[:, :1]).square().sum(-1) + 1e-16).sqrt()
        return reduce_time((moved - self.tolerance).clamp_min(0).square().mean(-1), self.reduction)
