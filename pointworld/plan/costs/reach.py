"""Whether the arm can follow, and how well it can still move where it goes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pointworld.plan.trajectory import Trajectory

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Shortfalls of the arm, each in units of what is tolerated, squared and averaged over the future steps.

    position [m], rotation [rad]: distance to the wanted tool pose. manipulability: below this, sqrt(det J J^T) is
    too small. An Actions made from joints has no wanted pose and pays for manipulability alone.

    Source: reachability is part of c_ctrl in the PointWorld paper; manipulability: Yoshikawa, IJRR 4 (1985) 3.
    """

    position: float = 0.01
    rotation: float = 0.1
    manipulability: float = 0.03

    def __call__(self, trajectory: Trajectory) -> Tensor:
        """Costs (samples,)."""
        actions = trajectory.actions
        missed = (actions.position_error / self.position).square()
        turned = (actions.rotation_error / self.rotation).square()
        stiff = (1 - actions.manipulability / self.manipulability).clamp_min(0).square()
        return (missed + turned + stiff)[:, 1:].mean(1).to(trajectory.positions)
