"""Joint positions that bring the tool where it should be: damped least squares on the robot's own kinematics."""

from __future__ import annotations

import numpy as np
import torch

from pointworld.errors import InputError
from pointworld.robot.model import RobotModel

Tensor = torch.Tensor

DAMPING = 0.02
ITERATIONS = 150


def _pose_error(robot: RobotModel, q: Tensor, target: Tensor) -> Tensor:
    """(6,) position [m] and rotation [rad, halved sines of the axes' angles] of the tool against the target."""
    T = robot.tool_pose(q)
    position = target[:3, 3] - T[:3, 3]
    rotation = sum(
        (torch.linalg.cross(T[:3, i], target[:3, i]) for i in range(3)), torch.zeros_like(position)
    )
    return torch.cat([position, 0.5 * rotation])


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
        J = torch.autograd.functional.jacobian(lambda x: -_pose_error(robot, x, target), q)
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
    # Tool axes: z down, y (the fingers' axis) across the motion; of the two such poses the one with less twist.
    yaw = (yaw + np.pi / 2) % np.pi - np.pi / 2
    c, s = np.cos(yaw), np.sin(yaw)
    T = np.eye(4)
    T[:3, :3] = np.array([[c, s, 0.0], [s, -c, 0.0], [0.0, 0.0, -1.0]])
    q, path = robot.home, []
    for share in np.linspace(0, 1, steps):
        T[:3, 3] = (1 - share) * np.asarray(start) + share * np.asarray(stop)
        q = solve_ik(robot, T, q)
        path.append(q)
    joints = torch.from_numpy(np.stack(path))
    return robot.with_gripper_width(joints, gripper_width).numpy()
