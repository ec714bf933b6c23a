"""What a prediction must beat: nothing moves, points near the hand move with it, touched objects move with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pointworld.geometry import invert, transform_points

Tensor = torch.Tensor

#: Radii tried for rigid carry [m].
RADII = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15)
#: An object counts as touched when the hand comes this near to one of its points [m].
TOUCH = 0.005
#: Distances beyond this are not measured [m]; more than any radius tried.
NEAR = 0.16


@dataclass(frozen=True, kw_only=True, eq=False)
class HandMotion:
    """The gripper, and the tool that it holds, as the baselines see them.

    surface: (steps, surface, 3) dense points on them [m]. normals: the same, outward; zero where none is known.
    pose: (steps, 4, 4) T_base_tcp.
    """

    surface: Tensor
    normals: Tensor
    pose: Tensor

    def carry(self, start: int, step: int) -> Tensor:
        """(4, 4) motion of the hand from `start` to `step`."""
        return self.pose[step] @ invert(self.pose[start])

    def holding(self, points: Tensor) -> HandMotion:
        """This hand with a tool in it, of which `points` (n, 3) are seen at step 0 [m]."""
        carried = torch.stack(
            [transform_points(self.carry(0, step), points) for step in range(len(self.pose))]
        )
        return HandMotion(
            surface=torch.cat([self.surface, carried], 1),
            normals=torch.cat([self.normals, torch.zeros_like(carried)], 1),
            pose=self.pose,
        )

    def gap(self, points: Tensor, step: int) -> Tensor:
        """Distance of points (n, 3) to the hand's surface at `step` [m]; 0 inside, infinite beyond NEAR."""
        surface = self.surface[step]
        low, high = surface.amin(0) - NEAR, surface.amax(0) + NEAR
        near = ((points >= low) & (points <= high)).all(-1)
        distance, nearest = torch.cdist(points[near], surface).min(-1)
        outward = ((points[near] - surface[nearest]) * self.normals[step][nearest]).sum(-1)
        # The nearest surface point's plane decides inside or outside; trusted within a finger's thickness.
        gap = torch.full_like(points[:, 0], torch.inf)
        gap[near] = torch.where((outward < 0) & (distance < 0.012), 0.0, distance)
        return gap


def no_motion(points: Tensor, steps: int) -> Tensor:
    """(steps, points, 3) zero displacement."""
    return points.new_zeros(steps, len(points), 3)


def rigid_carry(points: Tensor, hand: HandMotion, *, radius: float) -> Tensor:
    """Points that come within `radius` of the hand move rigidly with it from that step on."""
    steps = len(hand.pose)
    current = points.clone()
    attached = torch.zeros(len(points), dtype=torch.bool)
    displacements = [torch.zeros_like(points)]
    for step in range(1, steps):
        attached |= hand.gap(current, step - 1) <= radius
        attached |= hand.gap(current, step) <= radius
        moved = transform_points(hand.carry(step - 1, step), current)
        current = torch.where(attached[:, None], moved, current)
        displacements.append(current - points)
    return torch.stack(displacements)


def object_carry(
    points: Tensor,
    body_ids: Tensor,
    objects: Sequence[int],
    hand: HandMotion,
    *,
    dense_points: Tensor,
    dense_bodies: Tensor,
) -> Tensor:
    """Whole objects, known by true segmentation, move rigidly with the hand from the step in which it touches them.

    Args:
        points, body_ids: (points, 3) [m], (points,).
        objects: body ids that can move.
        dense_points, dense_bodies: every depth pixel, so that a touch is seen on the finest sampling there is.
    """
    displacements = torch.zeros(len(hand.pose), len(points), 3)
    for body in objects:
        mine = body_ids == body
        surface = dense_points[dense_bodies == body]
        if not mine.any() or not len(surface):
            continue
        current, start = surface.clone(), None
        for step in range(len(hand.pose)):
            if start is None and bool((hand.gap(current, step) <= TOUCH).any()):
                start = max(step - 1, 0)
            if start is not None:
                moved = transform_points(hand.carry(start, step), points[mine])
                displacements[step, mine] = moved - points[mine]
    return displacements
