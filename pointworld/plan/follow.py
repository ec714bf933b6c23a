"""Differential inverse kinematics: joint paths of many tool paths at once, within joint limits and speeds."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pointworld.plan.arm_chain import ArmChain
from pointworld.plan.rotations import rotation_log

Tensor = torch.Tensor

DAMPING = 0.02
#: Pull towards the starting posture in the directions that do not move the tool, per iteration.
POSTURE = 0.05
#: Distance kept from the joint limits where the start allows it [rad or m].
LIMIT_MARGIN = 0.01


#: Time in which a path takes over the speed that the arm has already [s], and the shares of it at the first steps.
_TAKE_OVER = 0.3


@dataclass(frozen=True, kw_only=True, eq=False)
class JointBounds:
    """What the arm's joints may do, as its safety filter sees it: (arm joints,) each, rad or m and seconds.

    offset, deceleration: of speed limits that shrink towards the ends of the range,
    v(q) = min(velocity, max(0, sqrt(2 deceleration (limit - q)) - offset)); 0 and infinity where there are none.
    """

    lower: Tensor
    upper: Tensor
    velocity: Tensor
    offset: Tensor
    deceleration: Tensor

    def speeds(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Lowest and highest speed (..., arm joints) allowed at q (..., arm joints)."""
        most, off, dec = (
            v.to(q) for v in (self.velocity, self.offset, self.deceleration.clamp(max=1e9))
        )
        up = (2 * dec * (self.upper.to(q) - q).clamp_min(0)).sqrt() - off
        down = (2 * dec * (q - self.lower.to(q)).clamp_min(0)).sqrt() - off
        return -torch.minimum(most, down.clamp_min(0)), torch.minimum(most, up.clamp_min(0))


def take_over(path: Tensor, speeds: Tensor, step_dt: float) -> Tensor:
    """Joint paths (samples, steps, arm joints) that start at `speeds` (arm joints,) and are on their own after 0.3 s.

    The same fade as that of the executor, which runs what is planned: what is predicted is then what is done.
    """
    slip = speeds.to(path) - (path[:, 1] - path[:, 0]) / step_dt
    x = (step_dt * torch.arange(path.shape[1]).to(path) / _TAKE_OVER).clamp(max=1.0)
    return path + (_TAKE_OVER * x * (1 - x) ** 3)[:, None] * slip[:, None]


def pose_error(target: Tensor, pose: Tensor) -> Tensor:
    """(..., 6) from pose to target, both (..., 4, 4): translation [m] and rotation vector [rad], base axes."""
    R = target[..., :3, :3] @ pose[..., :3, :3].transpose(-1, -2)
    return torch.cat([target[..., :3, 3] - pose[..., :3, 3], rotation_log(R)], -1)


def follow_path(
    chain: ArmChain,
    start: Tensor,
    targets: Tensor,
    *,
    step_dt: float,
    iterations: int = 3,
    speed: float = 0.9,
    bounds: JointBounds | None = None,
) -> Tensor:
    """Arm joint paths that keep the tool as near to the targets as limits allow.

    Never fails: where a target is out of reach the arm stays as near as it gets, and the caller sees the distance.

    Args:
        start: (arm joints,) now, or (samples, arm joints).
        targets: (samples, steps, 4, 4) tool poses; step 0 is now and is not followed.
        step_dt: [s] between steps. iterations: Newton steps per target. speed: share of the joint speed limits used.
        bounds: stricter limits than the chain's own, which may shrink the speed near the ends of a range.

    Returns:
        (samples, steps, arm joints); step 0 is `start`. Differentiable in the targets.

    Source: damped least squares, Nakamura & Hanafusa, J. Dyn. Sys. 108 (1986) 163, with a null-space posture term.
    """
    q = start.to(targets).expand(len(targets), -1)
    ends = (chain.lower, chain.upper) if bounds is None else (bounds.lower, bounds.upper)
    lower = torch.minimum(ends[0].to(q) + LIMIT_MARGIN, start.to(q))
    upper = torch.maximum(ends[1].to(q) - LIMIT_MARGIN, start.to(q))
    velocity = chain.velocity.to(q)
    slow, fast = -velocity, velocity
    damping = DAMPING**2 * torch.eye(6, dtype=q.dtype, device=q.device)
    path = [q]
    for step in range(1, targets.shape[1]):
        if bounds is not None:
            slow, fast = bounds.speeds(q)
        reach = speed * step_dt
        low, high = torch.maximum(q + reach * slow, lower), torch.minimum(q + reach * fast, upper)
        for _ in range(iterations):
            pose, J = chain.tool_and_jacobian(q)
            error = pose_error(targets[:, step], pose)
            posture = POSTURE * (start.to(q) - q)
            wanted = (error - (J @ posture[..., None])[..., 0])[..., None]
            gram = J @ J.transpose(-1, -2) + damping
            change = posture + (J.transpose(-1, -2) @ torch.linalg.solve(gram, wanted))[..., 0]
            q = torch.minimum(torch.maximum(q + change, low), high)
        path.append(q)
    return torch.stack(path, 1)
