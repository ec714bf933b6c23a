"""Raw point features of our own models: where the robot is, seen from every point and at every step.

Nothing depends on where the scene lies in the base frame: every vector is a difference of positions. Vectors to the
robot saturate with distance, because what is far away does not push; close by, the signed clearance says how deep the
robot's surface will reach past the place where the point is now, which is what moves it. The carry channels are where
the point would go if it were fixed to the gripper from now on: a pushed or held object moves by a part of that.
Vectors are given, and motion is predicted, in the gripper's heading frame and as a part of its travel, so that a push
to the left is learned from a push ahead, and a slow one from a fast one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pointworld.geometry import fit_rigid, transform_points

Tensor = torch.Tensor

STEPS = 11
#: Distance at which the vector to the robot is half saturated [m].
VECTOR_RANGE = 0.15
#: Decay length of the contact channel [m].
CONTACT_RANGE = 0.02
#: Decay length of the carry channels with the least distance to the robot's path [m].
CARRY_RANGE = 0.1
#: Horizontal motion below which the gripper has no heading [m].
STILL = 1e-3
#: Added to the gripper's travel, so that things may move a little when it does not [m].
TRAVEL_OFFSET = 0.01
#: Clearance is clipped to +- this [m].
CLEARANCE_RANGE = 0.05


def relative_scene_channels(grippers: int) -> int:
    """Channels of `relative_scene_features`: colour, normal; per step vector, contact, clearance, carry, gripper."""
    return 6 + STEPS * (8 + grippers)


def relative_robot_channels(grippers: int) -> int:
    """Channels of `relative_robot_features`: normal, place in the hand, motion from now, velocity, gripper."""
    return 12 + grippers


def relative_scene_features(
    points: Tensor,
    colors: Tensor,
    normals: Tensor,
    exists: Tensor,
    robot_positions: Tensor,
    robot_normals: Tensor,
    robot_exists: Tensor,
    gripper_open: Tensor,
) -> Tensor:
    """Raw channels of the scene points at time 0.

    Args:
        points, colors, normals: (batch, points, 3). exists: (batch, points) bool.
        robot_positions, robot_normals: (batch, steps, robot points, 3) [m], unit.
        robot_exists: (batch, steps, robot points) bool.
        gripper_open: (batch, steps, grippers).

    Returns:
        (batch, points, relative_scene_channels); zero where a point does not exist.
    """
    batch, count = exists.shape
    per_step = [
        _seen_robot(points, robot_positions[:, t], robot_normals[:, t], robot_exists[:, t])
        for t in range(robot_positions.shape[1])
    ]
    contact = torch.stack([seen[..., 3] for seen in per_step]).amax(0)
    carry = _carried(points, robot_positions, robot_exists)
    carry = carry * contact.pow(CONTACT_RANGE / CARRY_RANGE)[:, None, :, None]
    grip = gripper_open.flatten(1)[:, None].expand(batch, count, -1)
    columns = [colors, normals, *per_step, carry.transpose(1, 2).flatten(2), grip]
    return torch.where(exists[..., None], torch.cat(columns, -1), 0.0)


def _carried(points: Tensor, robot_positions: Tensor, robot_exists: Tensor) -> Tensor:
    """(batch, steps, points, 3) displacement of each point if the robot's surface carried it rigidly from step 0 on."""
    first = robot_positions[:, :1].expand_as(robot_positions)
    weights = (robot_exists & robot_exists[:, :1]).to(points.dtype)
    with torch.no_grad():
        motion = fit_rigid(first, robot_positions, weights)
    here = points[:, None]
    return transform_points(motion, here.expand(-1, motion.shape[1], -1, -1)) - here


def _seen_robot(
    points: Tensor, robot: Tensor, robot_normals: Tensor, robot_exists: Tensor
) -> Tensor:
    """Saturated vector to the nearest robot point, contact and clearance, (batch, points, 5); zero without a robot."""
    with torch.no_grad():
        distances = torch.cdist(points, robot, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = distances.masked_fill_(~robot_exists[:, None], torch.inf).argmin(-1)
    index = nearest[..., None].expand(-1, -1, 3)
    vector = robot.gather(1, index) - points
    distance = vector.norm(dim=-1, keepdim=True)
    clearance = -(vector * robot_normals.gather(1, index)).sum(-1, keepdim=True)
    seen = torch.cat(
        [
            vector / (distance + VECTOR_RANGE),
            torch.exp(-distance / CONTACT_RANGE),
            clearance.clamp(-CLEARANCE_RANGE, CLEARANCE_RANGE) / CLEARANCE_RANGE,
        ],
        -1,
    )
    return torch.where(robot_exists.any(-1)[:, None, None], seen, 0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class HandFrame:
    """Where the gripper is heading and how far it goes, in which motion is described.

    rotation: (batch, 3, 3) about z; its x axis is the gripper's horizontal heading over the whole motion (the base's
        x axis where it does not move sideways).
    travel: (batch, steps) distance of the gripper's centre from where it is now, plus TRAVEL_OFFSET [m].
    """

    rotation: Tensor
    travel: Tensor

    def turn(self, vectors: Tensor) -> Tensor:
        """Vectors or positions (batch, ..., 3) in this frame's axes."""
        R = self.rotation.view(len(self.rotation), *[1] * (vectors.ndim - 3), 3, 3)
        return vectors @ R

    def turn_back(self, vectors: Tensor) -> Tensor:
        """Inverse of `turn`."""
        R = self.rotation.view(len(self.rotation), *[1] * (vectors.ndim - 3), 3, 3)
        return vectors @ R.transpose(-1, -2)


def hand_frame(robot_positions: Tensor, robot_exists: Tensor) -> HandFrame:
    """The frame of a robot flow (batch, steps, robot points, 3)."""
    weight = robot_exists[..., None].to(robot_positions.dtype)
    centre = (robot_positions * weight).sum(2) / weight.sum(2).clamp_min(1.0)
    moved = centre - centre[:, :1]
    heading = moved[:, -1, :2]
    length = heading.norm(dim=-1, keepdim=True)
    forward = torch.tensor([1.0, 0.0], dtype=heading.dtype, device=heading.device)
    x = torch.where(length > STILL, heading / length.clamp_min(STILL), forward)
    zero, one = torch.zeros_like(x[:, 0]), torch.ones_like(x[:, 0])
    columns = [
        torch.stack([x[:, 0], x[:, 1], zero], -1),
        torch.stack([-x[:, 1], x[:, 0], zero], -1),
        torch.stack([zero, zero, one], -1),
    ]
    return HandFrame(rotation=torch.stack(columns, -1), travel=moved.norm(dim=-1) + TRAVEL_OFFSET)


def relative_robot_features(
    robot_positions: Tensor, robot_normals: Tensor, robot_exists: Tensor, gripper_open: Tensor
) -> Tensor:
    """Raw channels of the robot points at every step, (batch, steps, robot points, relative_robot_channels)."""
    weight = robot_exists[..., None].to(robot_positions.dtype)
    total = weight.sum(2, keepdim=True).clamp_min(1.0)
    centre = (robot_positions * weight).sum(2, keepdim=True) / total
    moved = robot_positions - robot_positions[:, :1]
    velocity = torch.diff(robot_positions, dim=1, append=robot_positions[:, -1:])
    grip = gripper_open[:, :, None].expand(*robot_positions.shape[:-1], -1)
    columns = [robot_normals, robot_positions - centre, moved, velocity, grip]
    return torch.where(robot_exists[..., None], torch.cat(columns, -1), 0.0)


def farthest_robot_points(positions: Tensor, exists: Tensor, count: int) -> Tensor:
    """Spread `count` robot points over the surface by farthest-point sampling at time 0.

    The choice depends on positions alone, never on input order or padding. Where a sample has fewer points than
    `count`, its last rows repeat chosen ones.

    Args:
        positions: (batch, robot points, 3) [m]. exists: (batch, robot points) bool.

    Returns:
        (batch, count) indices.
    """
    weight = exists[..., None].to(positions.dtype)
    centre = (positions * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1.0)
    gap = (positions - centre).square().sum(-1).masked_fill(~exists, -1.0)
    chosen = [gap.argmax(-1)]
    nearest = torch.full_like(gap, torch.inf).masked_fill(~exists, -1.0)
    for _ in range(count - 1):
        last = positions.gather(1, chosen[-1][:, None, None].expand(-1, 1, 3))
        nearest = torch.minimum(nearest, (positions - last).square().sum(-1))
        chosen.append(nearest.argmax(-1))
    return torch.stack(chosen, 1)
