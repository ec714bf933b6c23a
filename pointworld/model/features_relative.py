"""Raw point features of our own models: where the robot is, seen from every point and at every step.

Nothing depends on where the scene lies in the base frame: every vector is a difference of positions. Vectors to the
robot saturate with distance, because what is far away does not push; close by, the signed clearance says how deep the
robot's surface will reach past the place where the point is now, which is what moves it. How far the robot sweeps past
a point, and where the point would go if the gripper carried it, are given as parts of the gripper's travel, as the
prediction is: a pushed or held object moves by a part of that. The two are also handed on as guesses of the motion
itself, which the network may take over in part. All of it is seen in the gripper's heading frame (see hand_frame.py),
into which the caller has turned positions and normals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from pointworld.geometry import SUPPORT, fit_rigid, transform_points
from pointworld.model.hand_frame import closing_step, gripper_centre, travelled
from pointworld.model.sliding import sliding_motion

Tensor = torch.Tensor

STEPS = 11
#: Distance at which the vector to the robot is half saturated [m].
VECTOR_RANGE = 0.15
#: Decay length of the contact channel [m].
CONTACT_RANGE = 0.02
#: Decay length of the carry channels with the least distance to the robot's path [m].
CARRY_RANGE = 0.1
#: Clearance is clipped to +- this [m].
CLEARANCE_RANGE = 0.05
#: Unit of places in the gripper's frame and of its path [m].
PLACE_RANGE = 0.1
#: A point whose cluster the robot comes nearer than about twice CONTACT_RANGE is wholly offered the gripper's motion;
#: beyond, ever less.
OFFERED_CONTACT = 0.15
#: Sideways distance within which the robot's surface pushes a point ahead [m].
SWEEP_WIDTH = 0.02
#: Every sample of the robot's surface stands for a disc of this radius [m].
SURFEL_RADIUS = 0.01
#: The largest float32 below the square of SWEEP_WIDTH; a factor that makes the least excess over it, or over a
#: minimum, larger than any index or distance; and less than what it makes.
_INSIDE, _HUGE, _FAR_AWAY = (
    float(np.nextafter(np.float32(SWEEP_WIDTH**2), np.float32(0))),
    1e38,
    1e15,
)
#: Pairs of points that are computed at once: few enough to stay in the cache.
_CACHED = 2**18


def relative_scene_channels(grippers: int, *, sliding: bool) -> int:
    """Channels of `relative_scene_features`.

    Colour, normal, place; per step the gripper's path, vector, contact, clearance, carry, sweep and opening; of the
    point's cluster whether there is one, its size, the point's place in it, and per step contact and sweep; with
    `sliding` also the cluster's sliding per step.
    """
    return 16 + STEPS * (14 + grippers + (2 if sliding else 0))


def relative_guesses(*, sliding: bool) -> int:
    """Guesses of the motion: carried by the gripper, pushed ahead of it; with `sliding` also pushed over a table."""
    return 3 if sliding else 2


def relative_robot_channels(grippers: int) -> int:
    """Channels of `relative_robot_features`: normal, place in the hand, motion from now, velocity, gripper."""
    return 12 + grippers


@dataclass(frozen=True, kw_only=True, eq=False)
class RelativeScene:
    """What the model reads of the scene points at time 0.

    features: (batch, points, relative_scene_channels) raw channels; zero where a point does not exist.
    guesses: (batch, guesses, steps, points, 3) motion from now, as parts of the gripper's travel, if the gripper
        carried the point's cluster rigidly, if it pushed it straight ahead and, with `sliding`, if the cluster gave
        way as a rigid thing on a table does; vanishing far from the robot's path.
    """

    features: Tensor
    guesses: Tensor


def relative_scene_features(
    points: Tensor,
    colors: Tensor,
    normals: Tensor,
    clusters: Tensor,
    exists: Tensor,
    robot_positions: Tensor,
    robot_normals: Tensor,
    robot_exists: Tensor,
    gripper_open: Tensor,
    *,
    sliding: bool,
) -> RelativeScene:
    """What the robot means to the scene points at time 0.

    Args:
        points, colors, normals: (batch, points, 3). exists: (batch, points) bool.
        clusters: (batch, points) int64, which points hang together; `SUPPORT` for none.
        robot_positions, robot_normals: (batch, steps, robot points, 3) [m], unit.
        robot_exists: (batch, steps, robot points) bool.
        gripper_open: (batch, steps, grippers).
        sliding: with what `sliding_motion` says.
    """
    batch, count = exists.shape
    centre = gripper_centre(robot_positions, robot_exists)
    travel = travelled(centre)[:, None]
    steps = range(robot_positions.shape[1])
    # Asked for on a CPU only: a GPU would have to be waited for.
    whole = robot_exists.device.type == "cpu" and bool(robot_exists.all())
    seen, ahead = zip(
        *(
            _seen_robot(
                points, robot_positions[:, t], robot_normals[:, t], robot_exists[:, t], whole=whole
            )
            for t in steps
        ),
        strict=True,
    )
    contact = torch.stack([step[..., 3] for step in seen], -1)
    swept = _swept(torch.stack(ahead, -1)) / travel
    group = torch.where(exists, clusters, SUPPORT)
    together = cluster_max(torch.cat([contact, swept], -1), group)
    closeness = torch.maximum(contact, together[..., :STEPS]).amax(-1)
    carried = _carried(points, robot_positions, robot_exists, closing_step(gripper_open))
    carried = carried.transpose(1, 2) / travel[..., None]
    carry = carried * closeness.pow(CONTACT_RANGE / CARRY_RANGE)[..., None, None]
    place = (points - centre[:, :1]) / PLACE_RANGE
    path = (centre - centre[:, :1]).flatten(1) / PLACE_RANGE
    columns = [
        colors,
        normals,
        torch.where(robot_exists.any((1, 2))[:, None, None], place, 0.0),
        path[:, None].expand(batch, count, -1),
        *seen,
        carry.flatten(2),
        swept,
        gripper_open.flatten(1)[:, None].expand(batch, count, -1),
        *_in_cluster(points, group),
        together,
    ]
    pushed = torch.zeros_like(carried)
    pushed[..., 0] = torch.maximum(swept, together[..., STEPS:])
    offered = (closeness / OFFERED_CONTACT).clamp_max(1.0)
    guesses = [carried * offered[..., None, None], pushed]
    if sliding:
        slid = sliding_motion(points, group, closeness, robot_positions, robot_exists)
        slid = functional.pad(slid.transpose(1, 2) / travel[..., None], (0, 1))
        columns.append(slid[..., :2].flatten(2))
        guesses.append(slid)
    return RelativeScene(
        features=torch.where(exists[..., None], torch.cat(columns, -1), 0.0),
        guesses=torch.where(exists[:, None, :, None, None], torch.stack(guesses, 1), 0.0).transpose(
            2, 3
        ),
    )


def cluster_max(values: Tensor, clusters: Tensor) -> Tensor:
    """Largest of each channel (batch, points, channels) over the points of a cluster; 0 on supporting surfaces."""
    batch, _, channels = values.shape
    groups = int(clusters.max()) + 2 if clusters.numel() else 1
    row = (clusters + 1)[..., None].expand_as(values)
    largest = values.new_full((batch, groups, channels), -torch.inf)
    largest = largest.scatter_reduce(1, row, values, "amax").gather(1, row)
    return torch.where(clusters[..., None] > SUPPORT, largest, 0.0)


def _in_cluster(points: Tensor, clusters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whether a point is in a cluster, half the cluster's extent, and where in its bounding box the point lies."""
    bounds = cluster_max(torch.cat([points, -points], -1), clusters)
    upper, lower = bounds[..., :3], -bounds[..., 3:]
    member = (clusters > SUPPORT)[..., None].to(points.dtype)
    offset = member * (points - (upper + lower) / 2)
    return member, (upper - lower) / 2 / PLACE_RANGE, offset / PLACE_RANGE


def _carried(
    points: Tensor, robot_positions: Tensor, robot_exists: Tensor, start: Tensor
) -> Tensor:
    """(batch, steps, points, 3) displacement of each point if the robot carried it rigidly from step `start` on."""
    batch, steps, count, _ = robot_positions.shape
    row = start[:, None, None, None].expand(batch, 1, count, 3)
    first = robot_positions.gather(1, row).expand_as(robot_positions)
    held = robot_exists.gather(1, row[..., 0])
    with torch.no_grad():
        motion = fit_rigid(first, robot_positions, (robot_exists & held).to(points.dtype))
    here = points[:, None]
    moved = transform_points(motion, here.expand(-1, steps, -1, -1)) - here
    begun = torch.arange(steps, device=points.device) >= start[:, None]
    return torch.where(begun[:, :, None, None], moved, 0.0)


def _swept(ahead: Tensor) -> Tensor:
    """How far the robot comes past each point: `ahead` (batch, points, steps), but for what it has already passed."""
    return torch.where(ahead[..., :1] <= SWEEP_WIDTH, ahead.clamp_min(0.0), 0.0)


def _nearest_robot(
    points: Tensor, robot: Tensor, normals: Tensor, *, missing: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Which disc of the robot's surface is nearest to each point, and how far the surface reaches ahead of it.

    Args:
        points: (batch, points, 3). robot, normals: (batch, robot points, 3). missing: (batch, 1, robot points) which of
            these do not exist; None = all do.

    Returns:
        (batch, points) index and, along x [m], the largest of what is within SWEEP_WIDTH sideways, else minus infinity.
    """
    square = torch.cdist(points, robot, compute_mode="donot_use_mm_for_euclid_dist").square_()
    ahead = robot[..., 0].contiguous()[:, None] - points[..., :1]
    aside = square - ahead.square()
    if missing is None:
        # Arithmetic in place of masks, which a CPU fills one value at a time.
        hit = ahead.sub_((aside - _INSIDE).clamp_min_(0.0).mul_(_HUGE)).amax(-1)
        hit = hit.masked_fill_(hit < -_FAR_AWAY, -torch.inf)
    else:
        hit = ahead.masked_fill_((aside >= SWEEP_WIDTH**2) | missing, -torch.inf).amax(-1)
    height = (points @ normals.mT).sub_((robot * normals).sum(-1)[:, None]).square_()
    aside = torch.sub(square, height, out=aside).clamp_min_(0.0).sqrt_()
    gap = height.add_(aside.sub_(SURFEL_RADIUS).clamp_min_(0.0).square_())
    if missing is not None:
        return gap.masked_fill_(missing, torch.inf).argmin(-1), hit
    places = torch.arange(gap.shape[-1], dtype=gap.dtype, device=gap.device)
    gap = gap.sub_(gap.amin(-1, keepdim=True)).mul_(_HUGE).add_(places)
    # Places that are not finite have no nearest disc; any will do.
    return gap.amin(-1).long().clamp_(min=0), hit


def _seen_robot(
    points: Tensor, robot: Tensor, robot_normals: Tensor, robot_exists: Tensor, *, whole: bool
) -> tuple[Tensor, Tensor]:
    """What a point sees of the robot's surface in one step. Args: whole: all of the robot's points exist.

    Returns:
        (batch, points, 5): saturated vector to the nearest disc, contact and clearance; zero without a robot.
        (batch, points): how far the surface reaches ahead of the point along x, of what is within SWEEP_WIDTH
            sideways; minus infinity where nothing is.
    """
    with torch.no_grad():
        if whole:
            rows = max(_CACHED // max(points.shape[1] * robot.shape[1], 1), 1)
            p, r, n = points.split(rows), robot.split(rows), robot_normals.split(rows)
            found = [_nearest_robot(*part, missing=None) for part in zip(p, r, n, strict=True)]
            nearest, hit = (torch.cat(values) for values in zip(*found, strict=True))
        else:
            nearest, hit = _nearest_robot(
                points, robot, robot_normals, missing=~robot_exists[:, None]
            )
    index = nearest[..., None].expand(-1, -1, 3)
    normal, vector = robot_normals.gather(1, index), robot.gather(1, index) - points
    clearance = -(vector * normal).sum(-1, keepdim=True)
    # From the disc's centre to the place on the disc that is nearest to the point.
    along = vector + clearance * normal
    vector = vector - along * (
        SURFEL_RADIUS / along.norm(dim=-1, keepdim=True).clamp_min(SURFEL_RADIUS)
    )
    distance = vector.norm(dim=-1, keepdim=True)
    seen = torch.cat(
        [
            vector / (distance + VECTOR_RANGE),
            torch.exp(-distance / CONTACT_RANGE),
            clearance.clamp(-CLEARANCE_RANGE, CLEARANCE_RANGE) / CLEARANCE_RANGE,
        ],
        -1,
    )
    return torch.where(robot_exists.any(-1)[:, None, None], seen, 0.0), hit


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
