"""What must not be sent to the robot: outside the workspace, too fast, or too near to itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pointworld.plan.trajectory import Trajectory

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Infeasible:
    """Violations, each in units of what is tolerated, summed over the future steps; zero for a feasible motion.

    margin: distance the robot must keep from itself [m]. workspace [m], speed [m/s], clearance [m]: the units.
    fixed: added to every candidate that violates anything, so that any feasible motion is better than any other.
    """

    margin: float = 0.0
    workspace: float = 0.01
    speed: float = 0.05
    clearance: float = 0.01
    fixed: float = 1.0

    def __call__(self, trajectory: Trajectory) -> Tensor:
        """Costs (samples,)."""
        actions = trajectory.actions
        close = (self.margin - actions.self_clearance).clamp_min(0) / self.clearance
        outside = (actions.workspace_excess - 1e-3).clamp_min(0) / self.workspace
        fast = (actions.speed_excess - 1e-2).clamp_min(0) / self.speed
        total = (close + outside + fast)[:, 1:].sum(1)
        return (total + self.fixed * (total > 0)).to(trajectory.positions)
