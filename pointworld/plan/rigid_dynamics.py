"""Predictions of rigid things on a table, made to agree with each other: how much a push moves a thing, and turns it.

A network predicts every point for itself. Where a thing is larger than those it was trained with, the touched part is
predicted well and the turn of the whole far too small. A rigid thing that is dragged over a table by one point moves as
friction lets it: with the least work, which divides the way of that point between move and turn by its lever arm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from pointworld.plan.actions import Actions
from pointworld.plan.dynamics import Dynamics, PlanState
from pointworld.plan.trajectory import Trajectory

Tensor = torch.Tensor

#: The lever arm of turning friction in mean distances of the seen surface from its centre, and by how much the inner
#: edge of closed fingers is nearer to a thing's centre than their middle [m]; both fitted to simulated pushes.
_LEVER, _FLAT = 1.5, 0.01
#: A hand further than this from a thing's outline does not drag it by a point [m].
_REACH = 0.05
#: Ways shorter than this have no direction [m].
_STILL = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class RigidTargets:
    """Corrects the motion of the task points that lie on rigid things (`PlanState.bodies`); all others are kept.

    The motion predicted for the place where the hand touches a thing is kept. The whole follows it by the ellipsoidal
    limit surface: of a way `a` at the lever arm `l` the centre takes `a r^2 / (r^2 + l^2)`, the turn
    `a l / (r^2 + l^2)`, with `r` the lever arm of turning friction.

    Source: Howe & Cutkosky, Int. J. Robotics Research 15 (1996) 557; Lynch & Mason, ibid. 15 (1996) 533.
    """

    dynamics: Dynamics

    def rollout(self, state: PlanState, actions: Actions) -> Trajectory:
        """See `Dynamics`."""
        trajectory = self.dynamics.rollout(state, actions)
        if state.bodies is None or state.task_index is None or state.held is not None:
            return trajectory
        positions = trajectory.positions
        for body in state.bodies[state.bodies >= 0].unique():
            index = state.task_index[state.bodies == body].to(positions.device)
            if len(index) >= 3:
                moved = _dragged(positions[:, :, index], actions)
                positions = positions.index_copy(2, index, moved)
        return replace(trajectory, positions=positions)


def _dragged(points: Tensor, actions: Actions) -> Tensor:
    """Positions (samples, steps, points, 3) of one thing, as one."""
    tool = actions.tool_poses[..., :2, 3].to(points)
    centres = points[..., :2].mean(2)
    start = points[:, 0, :, :2] - centres[:, :1]
    turned = _turn(start[:, None], points[..., :2] - centres[:, :, None])
    distance = start.norm(dim=-1)
    lever, reach = _LEVER * distance.mean(-1), distance.amax(-1)
    centre, angle = centres[:, 0], torch.zeros_like(turned[:, 0])
    out = [points[:, 0]]
    for step in range(1, points.shape[1]):
        arm = tool[:, step] - centre
        way = centres[:, step] - centres[:, step - 1]
        by = turned[:, step] - turned[:, step - 1]
        way = way + by[:, None] * torch.stack([-arm[:, 1], arm[:, 0]], -1)
        length = way.norm(dim=-1)
        ahead = way / length.clamp_min(_STILL)[:, None]
        offset = _cross(arm, ahead)
        offset = offset.sign() * torch.minimum(offset.abs() - _FLAT, reach).clamp_min(0.0)
        share = 1.0 / (lever.square() + offset.square())
        touched = (arm.norm(dim=-1) < reach + _REACH) & (length > _STILL)
        moved = torch.where(
            touched[:, None],
            (length * lever.square() * share)[:, None] * ahead,
            centres[:, step] - centres[:, step - 1],
        )
        angle = angle + torch.where(touched, length * offset * share, by)
        centre = centre + moved
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        x, y = start[..., 0], start[..., 1]
        flat = torch.stack([cos * x - sin * y, sin * x + cos * y], -1) + centre[:, None]
        out.append(torch.cat([flat, points[:, step, :, 2:]], -1))
    return torch.stack(out, 1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _turn(start: Tensor, now: Tensor) -> Tensor:
    """Least-squares angle from `start` to `now` (*batch, points, 2), both about their centres [rad]."""
    return torch.atan2(_cross(start, now).sum(-1), (start * now).sum((-1, -2)))
