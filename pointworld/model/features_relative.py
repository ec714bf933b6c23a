"""Raw point features of our own models: where the robot is, seen from every point and at every step.

Nothing depends on where the scene lies in the base frame: every vector is a difference of positions.
"""

from __future__ import annotations

import torch

Tensor = torch.Tensor

STEPS = 11


def relative_scene_channels(grippers: int) -> int:
    """Channels of `relative_scene_features`: colour, normal, vector and distance per step, gripper per step."""
    return 6 + STEPS * (4 + grippers)


def relative_robot_channels(grippers: int) -> int:
    """Channels of `relative_robot_features`: normal, place in the hand, motion from now, velocity, gripper."""
    return 12 + grippers


def relative_scene_features(
    points: Tensor,
    colors: Tensor,
    normals: Tensor,
    exists: Tensor,
    robot_positions: Tensor,
    robot_exists: Tensor,
    gripper_open: Tensor,
) -> Tensor:
    """Raw channels of the scene points at time 0.

    Args:
        points, colors, normals: (batch, points, 3). exists: (batch, points) bool.
        robot_positions: (batch, steps, robot points, 3) [m]. robot_exists: (batch, steps, robot points) bool.
        gripper_open: (batch, steps, grippers).

    Returns:
        (batch, points, relative_scene_channels); zero where a point does not exist.
    """
    batch, count = exists.shape
    vectors = torch.stack(
        [
            _to_nearest(points, robot_positions[:, step], robot_exists[:, step])
            for step in range(robot_positions.shape[1])
        ],
        2,
    )
    distances = vectors.norm(dim=-1)
    grip = gripper_open.flatten(1)[:, None].expand(batch, count, -1)
    columns = [colors, normals, vectors.flatten(2), distances, grip]
    return torch.where(exists[..., None], torch.cat(columns, -1), 0.0)


def _to_nearest(points: Tensor, robot: Tensor, robot_exists: Tensor) -> Tensor:
    """Vectors (batch, points, 3) from each point to the nearest existing robot point; zero where there is none."""
    with torch.no_grad():
        distance = torch.cdist(points, robot, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distance.masked_fill(~robot_exists[:, None], torch.inf).argmin(-1)
    found = robot.gather(1, nearest[..., None].expand(-1, -1, 3))
    return torch.where(robot_exists.any(-1)[:, None, None], found - points, 0.0)


def relative_robot_features(
    robot_positions: Tensor, robot_normals: Tensor, robot_exists: Tensor, gripper_open: Tensor
) -> Tensor:
    """Raw channels of the robot points at every step, (batch, steps, robot points, relative_robot_channels)."""
    weight = robot_exists[..., None].to(robot_positions.dtype)
    centre = (robot_positions * weight).sum(2, keepdim=True) / weight.sum(
        2, keepdim=True
    ).clamp_min(1.0)
    moved = robot_positions - robot_positions[:, :1]
    velocity = torch.diff(robot_positions, dim=1, append=robot_positions[:, -1:])
    grip = gripper_open[:, :, None].expand(*robot_positions.shape[:-1], -1)
    columns = [robot_normals, robot_positions - centre, moved, velocity, grip]
    return torch.where(robot_exists[..., None], torch.cat(columns, -1), 0.0)
