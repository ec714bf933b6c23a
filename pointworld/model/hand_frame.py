"""The gripper's heading frame, in which our own models describe motion, and where the gripper goes.

A push to the left is learned from a push ahead, and a slow one from a fast one: vectors are given along the gripper's
heading, and motion is predicted as a part of its travel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

Tensor = torch.Tensor

#: Horizontal motion below which the gripper has no heading [m].
STILL = 1e-3
#: Added to the gripper's travel, so that things may move a little when it does not [m].
TRAVEL_OFFSET = 0.01
#: Opening above the least one at which a gripper still counts as closed (share of its range).
CLOSED = 0.03


@dataclass(frozen=True, kw_only=True, eq=False)
class HandFrame:
    """Where the gripper is heading and how far it goes.

    rotation: (batch, 3, 3) about z; its x axis is the gripper's horizontal heading over the whole motion (the base's
        x axis where it does not move sideways).
    travel: (batch, steps) the farthest that the gripper's centre has come from anywhere it was before, plus
        TRAVEL_OFFSET [m]. A hand that goes down, grasps and comes up again has travelled when it is back.
    """

    rotation: Tensor
    travel: Tensor

    def turn(self, vectors: Tensor) -> Tensor:
        """Vectors or positions (batch, ..., 3) in this frame's axes."""
        return vectors @ self._over(vectors)

    def turn_back(self, vectors: Tensor) -> Tensor:
        """Inverse of `turn`."""
        return vectors @ self._over(vectors).transpose(-1, -2)

    def _over(self, vectors: Tensor) -> Tensor:
        return self.rotation.view(len(self.rotation), *[1] * (vectors.ndim - 3), 3, 3)


def gripper_centre(robot_positions: Tensor, robot_exists: Tensor) -> Tensor:
    """(batch, steps, 3) mean of the existing surface points (batch, steps, robot points, 3) [m]."""
    weight = robot_exists[..., None].to(robot_positions.dtype)
    return (robot_positions * weight).sum(2) / weight.sum(2).clamp_min(1.0)


def travelled(centre: Tensor) -> Tensor:
    """`HandFrame.travel` of a path of centres (batch, steps, 3) [m]."""
    gaps = (centre[:, :, None] - centre[:, None]).norm(dim=-1)
    return gaps.tril().amax(-1) + TRAVEL_OFFSET


def hand_frame(robot_positions: Tensor, robot_exists: Tensor) -> HandFrame:
    """The frame of a robot flow (batch, steps, robot points, 3)."""
    centre = gripper_centre(robot_positions, robot_exists)
    heading = (centre[:, -1] - centre[:, 0])[:, :2]
    length = heading.norm(dim=-1, keepdim=True)
    forward = torch.tensor([1.0, 0.0], dtype=heading.dtype, device=heading.device)
    x = torch.where(length > STILL, heading / length.clamp_min(STILL), forward)
    zero, one = torch.zeros_like(x[:, 0]), torch.ones_like(x[:, 0])
    columns = [
        torch.stack([x[:, 0], x[:, 1], zero], -1),
        torch.stack([-x[:, 1], x[:, 0], zero], -1),
        torch.stack([zero, zero, one], -1),
    ]
    return HandFrame(rotation=torch.stack(columns, -1), travel=travelled(centre))


def closing_step(gripper_open: Tensor) -> Tensor:
    """First step (batch,) in which every gripper is as closed as it gets: from there on it may hold something.

    Step 0 for a gripper that keeps its opening, or that opens.

    Args:
        gripper_open: (batch, steps, grippers) in [0, 1].
    """
    least = gripper_open.amin(1, keepdim=True)
    return (gripper_open <= least + CLOSED).all(-1).to(torch.int64).argmax(1)
