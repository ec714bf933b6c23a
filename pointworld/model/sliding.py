"""Where things slide when a gripper pushes them: quasi-static pushing of what hangs together, as a guess of the motion.

Every cluster of points near the gripper's path is taken for a rigid thing that stands on a table: seen from above its
outline is the convex hull of its points, and it slides without inertia. Wherever a point of the gripper gets into the
outline, the thing gives way by just so much. Friction against the table divides a push between way and turn (an
ellipsoidal limit surface), friction at the contact says whether it sticks or slips along the outline.

What topples, rolls on, is jointed to something or pushed by another thing moves otherwise: it is a guess, of which the
network says how far to trust it.

Source: ellipsoidal limit surface and its motion under sticking and sliding contact as in Lynch, Maekawa and Tanie,
"Manipulation and active sensing by pushing using tactile feedback" (1992).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pointworld.geometry import SUPPORT

Tensor = torch.Tensor

#: Clusters that are looked at: those that the gripper's path comes nearest to.
THINGS = 3
#: Directions in which an outline's extent is known.
DIRECTIONS = 24
#: Points of the gripper that may push: the lowest.
PUSHERS = 96
#: Parts of a step; in each a hand moves by less than the things are wide, so that it is clear where it came from.
PARTS = 4
#: What the gripper's sampled points and the seen points leave out around themselves [m].
MARGIN = 0.006
#: Coefficient of friction between gripper and things.
CONTACT_FRICTION = 0.5
#: Torque over force that friction with the table can bear, as a part of the outline's mean radius. A disc of even
#: pressure has 0.67; pushed things of the training clips are told best with about twice that.
TURN_RESISTANCE = 1.3
#: Least such length [m].
LEAST_TURN_RESISTANCE = 0.004
#: How far below the lowest seen point of a thing the gripper still meets it [m].
BELOW = 0.02
#: A cluster that the path stays farther from has less than this of `closeness`, and is none to be pushed.
LEAST_CLOSENESS = 1e-4
#: Least part of a slipping contact's motion that goes along its normal.
LEAST_NORMAL = 0.2
_FAR = 1e3


@dataclass(frozen=True, kw_only=True, eq=False)
class _Things:
    """Clusters as rigid things on a table.

    member: (batch, things, points) bool. exists: (batch, things). centre: (batch, things, 2) [m].
    extent: (batch, things, directions) of the outline about the centre [m]. bottom, top: (batch, things) [m].
    resistance: (batch, things) squared torque over force [m^2].
    """

    member: Tensor
    exists: Tensor
    centre: Tensor
    extent: Tensor
    bottom: Tensor
    top: Tensor
    resistance: Tensor


@torch.no_grad()
def sliding_motion(
    points: Tensor,
    clusters: Tensor,
    closeness: Tensor,
    robot_positions: Tensor,
    robot_exists: Tensor,
) -> Tensor:
    """Horizontal displacement of each point (batch, steps, points, 2) [m] if its cluster slides; zero for other points.

    Args:
        points: (batch, points, 3) [m], z upwards. clusters: (batch, points) int64; `SUPPORT` for what never slides.
        closeness: (batch, points) in [0, 1], how near the gripper's path comes.
        robot_positions: (batch, steps, robot points, 3) [m]. robot_exists: (batch, steps, robot points) bool.
    """
    things = _things(points, clusters, closeness)
    gripper, exists = _lowest(robot_positions, robot_exists)
    way = torch.zeros_like(things.centre)
    turn = torch.zeros_like(things.bottom)
    last = gripper[:, 0]
    # What is inside at the start is held, or was cut wrongly: it pushes nothing.
    depth, _ = _depth(things, _local(things, way, turn, last)[0])
    may_push = ~((depth > 0) & _at_height(things, last)) & exists.all(1)[:, None]
    offset = points[:, None, :, :2] - things.centre[:, :, None]
    moved = [torch.zeros_like(points[..., :2])]
    for step in range(1, gripper.shape[1]):
        for part in range(1, PARTS + 1):
            now = torch.lerp(gripper[:, step - 1], gripper[:, step], part / PARTS)
            way, turn = _give_way(things, way, turn, last, now, may_push)
            last = now
        here = _rotate(offset, turn[..., None]) - offset + way[:, :, None]
        moved.append((here * things.member[..., None]).sum(1))
    return torch.stack(moved, 1)


def _directions(like: Tensor) -> Tensor:
    angle = torch.arange(DIRECTIONS, dtype=like.dtype, device=like.device)
    angle = angle * (2 * math.pi / DIRECTIONS)
    return torch.stack([angle.cos(), angle.sin()], -1)


def _things(points: Tensor, clusters: Tensor, closeness: Tensor) -> _Things:
    row = clusters - SUPPORT
    groups = max(int(row.max()) + 1 if row.numel() else 1, THINGS + 1)
    nearest = closeness.new_full((len(points), groups), -1.0)
    nearest = nearest.scatter_reduce(1, row, closeness, "amax")
    nearest[:, 0] = -1.0
    value, index = nearest.topk(THINGS, 1)
    member = (row[:, None] == index[..., None]) & (value > LEAST_CLOSENESS)[..., None]
    exists = member.any(-1)
    directions = _directions(points)
    along = points[..., None, 0] * directions[:, 0] + points[..., None, 1] * directions[:, 1]
    extent = along[:, None].masked_fill(~member[..., None], -_FAR).amax(2)
    extent = torch.where(exists[..., None], extent, 0.0)
    # The mean of the extents, each along its direction, lies inside the outline and moves and turns with it.
    centre = 2 * (extent[..., None] * directions).mean(2)
    extent = extent - (centre[:, :, None] * directions).sum(-1)
    reach = (TURN_RESISTANCE * extent.mean(-1)).clamp_min(LEAST_TURN_RESISTANCE)
    height = points[:, None, :, 2]
    return _Things(
        member=member,
        exists=exists,
        centre=centre,
        extent=extent + MARGIN,
        bottom=height.masked_fill(~member, _FAR).amin(-1) - BELOW,
        top=height.masked_fill(~member, -_FAR).amax(-1),
        resistance=reach.square(),
    )


def _lowest(positions: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
    """The `PUSHERS` robot points that come lowest."""
    if positions.shape[2] <= PUSHERS:
        return positions, exists
    height = positions[..., 2].masked_fill(~exists, _FAR).amin(1)
    index = height.topk(PUSHERS, 1, largest=False).indices[:, None].expand(-1, len(exists[0]), -1)
    return positions.gather(2, index[..., None].expand(-1, -1, -1, 3)), exists.gather(2, index)


def _rotate(vectors: Tensor, angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    x, y = vectors[..., 0], vectors[..., 1]
    return torch.stack([cos * x - sin * y, sin * x + cos * y], -1)


def _local(things: _Things, way: Tensor, turn: Tensor, gripper: Tensor) -> tuple[Tensor, Tensor]:
    """Gripper points (batch, things, robot points, 2) about each thing's centre, along its own and the world's axes."""
    arm = gripper[:, None, :, :2] - (things.centre + way)[:, :, None]
    return _rotate(arm, -turn[..., None]), arm


def _at_height(things: _Things, gripper: Tensor) -> Tensor:
    height = gripper[:, None, :, 2]
    return (height > things.bottom[..., None]) & (height < things.top[..., None])


def _depth(things: _Things, local: Tensor) -> tuple[Tensor, Tensor]:
    """How far points (batch, things, points, 2) are inside the outline [m], and which way out is the shortest."""
    directions = _directions(local)
    along = local[..., :1] * directions[:, 0] + local[..., 1:] * directions[:, 1]
    depth, face = (things.extent[:, :, None] - along).min(-1)
    return depth, face


def _give_way(
    things: _Things, way: Tensor, turn: Tensor, last: Tensor, now: Tensor, may_push: Tensor
) -> tuple[Tensor, Tensor]:
    """Every thing's way and turn after its deepest intruder has pushed it out of its way."""
    local, arm = _local(things, way, turn, now)
    depth, face = _depth(things, local)
    pushes = may_push & _at_height(things, now) & things.exists[..., None]
    depth, deepest = depth.masked_fill(~pushes, -1.0).max(-1)
    hit = depth > 0
    # On a GPU, asking would cost more than it saves.
    if hit.device.type == "cpu" and not bool(hit.any()):
        return way, turn
    outward = _directions(local)[face.gather(2, deepest[..., None])[..., 0]]
    normal = -_rotate(outward, turn)
    tangent = torch.stack([-normal[..., 1], normal[..., 0]], -1)
    pick = deepest[..., None, None].expand(-1, -1, 1, 2)
    arm = arm.gather(2, pick)[:, :, 0]
    went = (now - last)[:, None, :, :2].expand(-1, deepest.shape[1], -1, -1)
    went = went.gather(2, pick)[:, :, 0]
    lever = torch.stack([-arm[..., 1], arm[..., 0]], -1)
    # Sticking: the contact goes with the gripper.
    wanted = normal * depth[..., None] + tangent * (went * tangent).sum(-1, keepdim=True)
    share = (lever * wanted).sum(-1) / (things.resistance + lever.square().sum(-1))
    stuck = wanted - lever * share[..., None]
    press, drag = (stuck * normal).sum(-1), (stuck * tangent).sum(-1)
    # Slipping: the push lies on the edge of the friction cone, and the contact goes out of the way along the normal.
    edge = normal + tangent * (CONTACT_FRICTION * drag.sign())[..., None]
    contact = edge + lever * ((lever * edge).sum(-1) / things.resistance)[..., None]
    slid = edge * (depth / (contact * normal).sum(-1).clamp_min(LEAST_NORMAL))[..., None]
    sticks = drag.abs() <= CONTACT_FRICTION * press
    push = torch.where(sticks[..., None], stuck, slid)
    push = torch.where(hit[..., None], push, 0.0)
    return way + push, turn + (lever * push).sum(-1) / things.resistance
