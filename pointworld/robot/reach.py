"""Joint positions that bring the tool where it should be: damped least squares on the robot's own kinematics."""

from __future__ import annotations

import numpy as np
import torch

from pointworld.errors import InputError
from pointworld.robot.model import RobotModel

Tensor = torch.Tensor

DAMPING = 0.02
ITERATIONS = 150
#: Step of the differences [rad or m]; kinematics are smooth and run in float64.
DIFFERENCE = 1e-5


def _pose_error(robot: RobotModel, q: Tensor, target: Tensor) -> Tensor:
    """(..., 6) position [m] and rotation vector [rad] from the tool at q to the target."""
    T = robot.tool_pose(q)
    position = target[:3, 3] - T[..., :3, 3]
    R = target[:3, :3] @ T[..., :3, :3].transpose(-1, -2)
    skew = R - R.transpose(-1, -2)
    sine = 0.5 * torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], -1)
    length = sine.norm(dim=-1, keepdim=True)
    cosine = (R.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - 1) / 2
    angle = torch.atan2(length, cosine)
    return torch.cat([position, sine * angle / length.clamp_min(1e-12)], -1)


def _jacobian(robot: RobotModel, q: Tensor, target: Tensor) -> Tensor:
    """(6, joints) central differences of the negative pose error, in one batched forward pass."""
    steps = DIFFERENCE * torch.eye(len(q), dtype=q.dtype)
    errors = _pose_error(robot, torch.cat([q + steps, q - steps]), target)
    return -((errors[: len(q)] - errors[len(q) :]) / (2 * DIFFERENCE)).T


def solve_ik(
    robot: RobotModel, T_base_tcp: np.ndarray, start: np.ndarray, *, tolerance: float = 2e-3
) -> np.ndarray:
    """Joint positions near `start` whose tool pose is `T_base_tcp`, within the joint limits.

    Args:
        T_base_tcp: (4, 4) wanted tool pose [m].
        start: (joints,) in the robot's order.
        tolerance: accepted position error [m].

    Raises:
        InputError: the pose cannot be reached from there.

    Source: damped least squares, Nakamura & Hanafusa, J. Dyn. Sys. 108 (1986) 163.
    """
    target = torch.from_numpy(np.asarray(T_base_tcp, np.float64))
    lower, upper = torch.from_numpy(robot.lower), torch.from_numpy(robot.upper)
    q = torch.from_numpy(np.asarray(start, np.float64)).clone()
    error = _pose_error(robot, q, target)
    for _ in range(ITERATIONS):
        if float(error.norm()) < tolerance / 4:
            break
        J = _jacobian(robot, q, target)
        step = J.T @ torch.linalg.solve(J @ J.T + DAMPING**2 * torch.eye(6, dtype=J.dtype), error)
        q = (q + step.clamp(-0.3, 0.3)).clamp(lower, upper)
        error = _pose_error(robot, q, target)
    if float(error[:3].norm()) > tolerance or float(error[3:].norm()) > 0.05:
        where = ", ".join(f"{v:.2f}" for v in target[:3, 3].tolist())
        raise InputError(
            f"'{robot.name}' cannot reach ({where}) m in its base frame in the wanted orientation "
            f"({float(error[:3].norm()) * 1e3:.0f} mm short). Check the base pose."
        )
    return q.numpy()


def straight_path(
    robot: RobotModel,
    start: np.ndarray,
    stop: np.ndarray,
    *,
    steps: int,
    gripper_width: float,
) -> np.ndarray:
    """Joint path (steps, joints) of a straight line of the tool, pointing down, fingers across the motion.

    Args:
        start, stop: (3,) tool positions in the base frame [m].

    Raises:
        InputError: part of the line is out of reach.
    """
    heading = np.asarray(stop, float) - np.asarray(start, float)
    yaw = float(np.arctan2(heading[1], heading[0]))
    T = np.eye(4)
    # Tool axes: z down, y (the fingers' axis) across the motion; of the two such poses the nearer one.
    at_home = robot.tool_pose(torch.from_numpy(robot.home))[:3, :3].numpy()
    both = [_pointing_down(yaw), _pointing_down(yaw + np.pi)]
    T[:3, :3] = max(both, key=lambda R: float((R * at_home).sum()))
    q, path = robot.home, []
    for share in np.linspace(0, 1, steps):
        T[:3, 3] = (1 - share) * np.asarray(start) + share * np.asarray(stop)
        q = solve_ik(robot, T, q)
        path.append(q)
    joints = torch.from_numpy(np.stack(path))
    return robot.with_gripper_width(joints, gripper_width).numpy()


def _pointing_down(yaw: float) -> np.ndarray:
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, s, 0.0], [s, -c, 0.0], [0.0, 0.0, -1.0]])
