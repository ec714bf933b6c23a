"""Raw point features of the released model, in its binding channel order.

Robot point at a step: xyz (3), colour (3) = magenta, normal (3), gripper_open (grippers), velocity (3),
acceleration (3). Scene point at time 0: xyz (3), colour (3), normal (3), gripper_open over all steps (steps x
grippers, step-major), distance to the nearest robot point at each step (steps). Positions are in the shifted
(centred) frame; velocities are per step, not per second.

Source: channel lists of the PointWorld release; checked by tests/golden/world_model.npz.
"""

from __future__ import annotations

import torch

from pointworld.model.inputs import ModelInputs

Tensor = torch.Tensor

#: Every robot point of the release has this colour (magenta).
ROBOT_COLOR = (1.0, 0.0, 1.0)

#: Distances are taken over slices of this many scene x robot pairs, to bound memory.
MAX_PAIRS = 1 << 24


def time_difference(values: Tensor) -> Tensor:
    """Rate of change per step along axis -3 of (..., steps, points, 3).

    Forward difference at the first step, central inside, backward at the last.
    """
    if values.shape[-3] < 2:
        return torch.zeros_like(values)
    step = values[..., 1:, :, :] - values[..., :-1, :, :]
    inside = 0.5 * (values[..., 2:, :, :] - values[..., :-2, :, :])
    return torch.cat([step[..., :1, :, :], inside, step[..., -1:, :, :]], -3)


def released_robot_features(inputs: ModelInputs) -> Tensor:
    """(batch, steps, robot points, 15 + grippers); rows of padding are zero."""
    positions = inputs.robot_positions
    color = positions.new_tensor(ROBOT_COLOR).expand_as(positions)
    grip = inputs.gripper_open[:, :, None, :].expand(*positions.shape[:-1], -1)
    velocity = time_difference(positions)
    columns = [positions, color, inputs.robot_normals, grip, velocity, time_difference(velocity)]
    return torch.where(inputs.robot_exists[..., None], torch.cat(columns, -1), 0.0)


def released_scene_features(inputs: ModelInputs) -> Tensor:
    """(batch, points, 9 + steps x (grippers + 1)); rows of padding are zero."""
    points = inputs.scene_points
    grip = inputs.gripper_open.flatten(1)[:, None, :].expand(*points.shape[:-1], -1)
    distance = robot_distance(points, inputs.robot_positions, inputs.robot_exists)
    columns = [points, inputs.scene_colors, inputs.scene_normals, grip, distance]
    return torch.where(inputs.scene_exists[..., None], torch.cat(columns, -1), 0.0)


def robot_distance(points: Tensor, robot_positions: Tensor, robot_exists: Tensor) -> Tensor:
    """Distance from each scene point at time 0 to the nearest robot point of each step.

    Args:
        points: (batch, points, 3) [m].
        robot_positions: (batch, steps, robot points, 3) [m]. robot_exists: (batch, steps, robot points) bool.

    Returns:
        (batch, points, steps) [m]; zero at steps without a robot point.
    """
    batch, steps, count = robot_exists.shape
    rows = max(1, MAX_PAIRS // max(1, batch * steps * count))
    slices = []
    for start in range(0, points.shape[1], rows):
        part = points[:, None, start : start + rows]
        pairs = torch.cdist(part, robot_positions, compute_mode="donot_use_mm_for_euclid_dist")
        pairs = pairs.masked_fill(~robot_exists[:, :, None, :], torch.inf)
        slices.append(pairs.amin(-1).transpose(1, 2))
    nearest = torch.cat(slices, 1) if slices else points.new_zeros(batch, 0, steps)
    return torch.where(torch.isinf(nearest), 0.0, nearest)
