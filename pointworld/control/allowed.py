"""What the safety filter would refuse, as a cost and as limits of planning: no plan should propose it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pointworld.control.limits import JointLimits
from pointworld.control.safety import SafetyFilter
from pointworld.plan.actions import Actions
from pointworld.plan.follow import JointBounds
from pointworld.plan.trajectory import Trajectory

Tensor = torch.Tensor
#: Distances kept beyond what the filter asks for: from the table, the workspace's sides and the arm itself [m].
_TABLE, _SIDE, _SELF = 0.003, 0.005, 0.005
#: Share of the tool's speed limit that is used: it is faster on the way from step to step than on average.
_FAST = 0.75
#: Distances and angles that cost one [m, rad].
_UNIT = 0.01


def joint_bounds(limits: JointLimits) -> JointBounds:
    """The filter's limits of position and speed, for the paths that plans are turned into."""
    return JointBounds(
        lower=torch.from_numpy(limits.lower.copy()),
        upper=torch.from_numpy(limits.upper.copy()),
        velocity=torch.from_numpy(limits.velocity.copy()),
        offset=torch.from_numpy(limits.offset.copy()),
        deceleration=torch.from_numpy(limits.deceleration.copy()),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Allowed:
    """Shortfalls of what a filter asks for, of the path and of the way to rest from each of its steps.

    Joints brake independently of each other, each as hard as it may, so that the way to rest leaves the path: a fast
    hand low over the table dips. fixed: added to every candidate with a shortfall, so that any allowed one is better.
    """

    safety: SafetyFilter
    fixed: float = 0.5

    def __call__(self, trajectory: Trajectory) -> Tensor:
        """Costs (samples,)."""
        short = self.shortfall(trajectory.actions)[:, 1:].sum(1)
        return (short / _UNIT + self.fixed * (short > 0)).to(trajectory.positions)

    def shortfall(self, actions: Actions) -> Tensor:
        """(samples, steps) of all that is asked for, added up [m and rad]; zero where a motion is allowed."""
        columns = len(self.safety.limits.names)
        q = actions.joint_positions[..., :columns].detach().double().cpu().numpy()
        return torch.from_numpy(self._shortfall(q, actions.step_dt))

    def _shortfall(self, q: np.ndarray, step_dt: float) -> np.ndarray:
        limits, body, space = self.safety.limits, self.safety.body, self.safety.config.space
        v = np.gradient(q, step_dt, axis=1)
        slowest, fastest = limits.velocity_range(q)
        fast = np.maximum(v - fastest, slowest - v).clip(0).max(-1) * step_dt
        delay = limits.acceleration / limits.jerk + 2 * self.safety.config.period
        way = v * np.abs(v) / (2 * limits.acceleration) + v * delay
        ends = np.maximum(limits.lower - (q + way), q + way - limits.upper).clip(0).max(-1)
        bent = np.zeros_like(q)
        bent[:, 1:-1] = np.abs(np.diff(q, n=2, axis=1)) / step_dt**2 - limits.acceleration
        total = fast + ends + bent.clip(0).max(-1) * step_dt**2
        if body is None:
            return np.asarray(total)
        for share in (0.0, 0.6, 1.0):
            frames = body.frames((q + share * way).reshape(-1, q.shape[-1]))
            tool = body.tool_points(frames)
            if share == 0.0:
                path = tool.reshape(*q.shape[:2], 3)
                pace = np.linalg.norm(np.gradient(path, step_dt, axis=1), axis=-1)
                total = total + (pace - _FAST * space.tool_speed).clip(0) * step_dt
            lower, upper = np.array(space.lower), np.array(space.upper)
            outside = np.maximum(lower + _SIDE - tool, tool - upper + _SIDE).clip(0).max(-1)
            # The floor of the box is the table's, which the gripper's own height looks after.
            near = (space.self_clearance + _SELF - body.clearances(frames)).clip(0)
            low = np.zeros(len(tool))
            if space.table is not None:
                clear = space.table_clearance + min(_TABLE, 1.5 * space.table_clearance)
                low = (space.table + clear - body.heights(frames)).clip(0)
            total = total + (outside + near + low).reshape(q.shape[:2])
        return np.asarray(total)
