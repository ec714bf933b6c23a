"""Differential inverse kinematics: joint paths of many tool paths at once, within joint limits and speeds."""

from __future__ import annotations

import torch

from pointworld.plan.arm_chain import ArmChain
from pointworld.plan.rotations import rotation_log

Tensor = torch.Tensor

DAMPING = 0.02
#: Pull towards the starting posture in the directions that do not move the tool, per iteration.
POSTURE = 0.05
#: Distance kept from the joint limits where the start allows it [rad or m].
LIMIT_MARGIN = 0.01


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
) -> Tensor:
    """Arm joint paths that keep the tool as near to the targets as limits allow.

    Never fails: where a target is out of reach the arm stays as near as it gets, and the caller sees the distance.

    Args:
        start: (arm joints,) now. targets: (samples, steps, 4, 4) tool poses; step 0 is now and is not followed.
        step_dt: [s] between steps. iterations: Newton steps per target. speed: share of the joint speed limits used.

    Returns:
        (samples, steps, arm joints); step 0 is `start`. Differentiable in the targets.

    Source: damped least squares, Nakamura & Hanafusa, J. Dyn. Sys. 108 (1986) 163, with a null-space posture term.
    """
    q = start.to(targets).expand(len(targets), -1)
    lower = torch.minimum(chain.lower.to(q) + LIMIT_MARGIN, start.to(q))
    upper = torch.maximum(chain.upper.to(q) - LIMIT_MARGIN, start.to(q))
    most = speed * step_dt * chain.velocity.to(q)
    damping = DAMPING**2 * torch.eye(6, dtype=q.dtype, device=q.device)
    path = [q]
    for step in range(1, targets.shape[1]):
        low, high = torch.maximum(q - most, lower), torch.minimum(q + most, upper)
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
