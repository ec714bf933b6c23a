"""How far the tool travels and turns."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pointworld.plan.rotations import rotation_log
from pointworld.plan.trajectory import Trajectory

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class PathLength:
    """Length of the tool's path [m] plus `turn` metres per radian turned.

    Source: part of c_ctrl in the PointWorld paper; the weight of turning is ours.
    """

    turn: float = 0.1

    def __call__(self, trajectory: Trajectory) -> Tensor:
        """Costs (samples,) [m]."""
        T = trajectory.actions.tool_poses
        R = T[..., :3, :3]
        steps = T[..., :3, 3].diff(dim=1).square().sum(-1)
        turns = rotation_log(R[:, 1:] @ R[:, :-1].transpose(-1, -2)).square().sum(-1)
        # The tiny number keeps the gradient finite where nothing moves.
        length = (steps + 1e-16).sqrt().sum(1) + self.turn * (turns + 1e-16).sqrt().sum(1)
        return length.to(trajectory.positions)
