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

    index: (chosen,) scene points. goals: (chosen, 3) in the base frame [m]. weights: (chosen,) of the points, None =
    all the same. bodies: (chosen,) which rigid thing each lies on, None = unknown; move: what the distance of a whole
    thing counts against that of its points from there, which is its turn. A thing that is to be turned by pushes has
    to be moved out of its way first: with 1 no single push of a hand helps where only a turn is left to do.

    Source: c_task of the PointWorld paper, (1/|I|) sum over i in I of |p_i - g_i|^2, summed over the horizon.
    """

    index: Tensor
    goals: Tensor
    reduction: Reduction = "sum"
    weights: Tensor | None = None
    bodies: Tensor | None = None
    move: float = 1.0

    def __post_init__(self) -> None:
        if tuple(self.goals.shape) != (len(self.index), 3):
            raise InputError(
                f"goals are {tuple(self.goals.shape)}, expected ({len(self.index)}, 3): one per task point"
            )

    def __call__(self, trajectory: Trajectory) -> Tensor:
        """Costs (samples,) [m^2]."""
        return reduce_time(self.squares(trajectory), self.reduction)

    def squares(self, trajectory: Trajectory) -> Tensor:
        """(samples, steps) mean squared distance [m^2]."""
        points = take_points(trajectory, self.index, "task points")
        off = points - self.goals.to(points)
        share = _shares(self.weights, off)
        if self.bodies is None or self.move == 1.0:
            return (off.square().sum(-1) * share).sum(-1)
        total = off.new_zeros(off.shape[:2])
        for body in self.bodies.unique():
            mine = (self.bodies == body).to(off.device)
            away, part = off[:, :, mine], share[mine]
            whole = (away * part[:, None]).sum(2, keepdim=True) / part.sum().clamp_min(1e-12)
            rest = ((away - whole).square().sum(-1) * part).sum(-1)
            total = total + rest + self.move * whole[:, :, 0].square().sum(-1) * part.sum()
        return total


def _shares(weights: Tensor | None, off: Tensor) -> Tensor:
    """(chosen,) that add up to one."""
    if weights is None:
        return off.new_full((off.shape[2],), 1.0 / off.shape[2])
    share = weights.to(off)
    return share / share.sum().clamp_min(1e-12)


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
