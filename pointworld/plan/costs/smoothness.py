"""How unevenly the joints move."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pointworld.plan.trajectory import Trajectory

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Smoothness:
    """Squared joint acceleration, summed over joints and averaged over the path [(rad/s^2)^2]."""

    def __call__(self, trajectory: Trajectory) -> Tensor:
        """Costs (samples,); zero for fewer than three steps."""
        q, dt = trajectory.actions.joint_positions, trajectory.actions.step_dt
        if q.shape[1] < 3:
            return q.new_zeros(len(q)).to(trajectory.positions)
        acceleration = q.diff(n=2, dim=1) / dt**2
        return acceleration.square().sum(-1).mean(1).to(trajectory.positions)
