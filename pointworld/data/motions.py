"""Random one-second motions of the hand: pushes, nudges, grasps, topples, near misses, empty ones.

A motion is a tool path sampled every WAYPOINT_DT from `-lead` (before time 0, so that the hand may already move at
time 0) to the end of the clip, with a commanded finger opening.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pointworld.data.ik import ArmKinematics
from pointworld.data.shapes import rotation_about
from pointworld.data.tabletop import ObjectSpec, SceneSpec, graspable_yaw

Rng = np.random.Generator

WAYPOINT_DT = 0.05
#: Motion before time 0, so that the hand may already move at time 0 [s].
LEAD = 0.2
#: Finger opening of the Franka hand [m].
MAX_WIDTH = 0.08
#: Tool positions that the arm reaches comfortably: radius from the base axis and |y| [m].
_REACH = (0.30, 0.78)
_MAX_SIDE = 0.45
#: Distance from the tool centre point to the lowest fingertip when pointing down, and the clearance kept [m].
TIP = 0.012
CLEARANCE = 0.004


@dataclass(frozen=True, kw_only=True, eq=False)
class Motion:
    """family; poses (waypoints, 4, 4) T_base_tool; widths (waypoints,) [m]; lead [s] before time 0.

    grip: when the fingertips take hold of the cloth between them [s]; None: never.
    """

    family: str
    poses: np.ndarray
    widths: np.ndarray
    lead: float
    grip: float | None = None


def smooth_step(x: np.ndarray) -> np.ndarray:
    """Minimum-jerk ramp from 0 to 1 for x in 0..1, clipped outside."""
    x = np.clip(x, 0.0, 1.0)
    return x**3 * (10 - 15 * x + 6 * x**2)


def tool_rotation(yaw: float, tilt: float, tilt_direction: float) -> np.ndarray:
    """(3, 3) tool pointing down, turned by `yaw`, then tilted by `tilt` about a horizontal axis [rad]."""
    down = rotation_about(2, yaw) @ np.diag([1.0, -1.0, -1.0])
    turn = rotation_about(2, tilt_direction)
    return turn @ rotation_about(0, tilt) @ turn.T @ down


def waypoint_times(lead: float, duration: float) -> np.ndarray:
    """Times (waypoints,) from `-lead` to `duration` [s]; 0 is now."""
    return np.arange(round((lead + duration) / WAYPOINT_DT) + 1) * WAYPOINT_DT - lead


def in_reach(points: np.ndarray) -> bool:
    """Whether the arm reaches all of (waypoints, 3) [m, base frame] comfortably."""
    radius = np.hypot(points[:, 0], points[:, 1])
    return bool(
        (radius > _REACH[0]).all()
        and (radius < _REACH[1]).all()
        and (points[:, 0] > 0.2).all()
        and (np.abs(points[:, 1]) < _MAX_SIDE).all()
    )


def draw_travel(rng: Rng, times: np.ndarray, speed: float) -> np.ndarray:
    """Distance along a path (waypoints,) [m]: constant speed, speeding up or slowing down, from the first waypoint."""
    span = times[-1] - times[0]
    x = (times - times[0]) / span
    kind = rng.integers(3)
    if kind == 0:
        profile = x
    elif kind == 1:
        start = rng.uniform(0.3, 1.0)
        profile = start * x + (1 - start) * x**2
    else:
        profile = smooth_step(x)
    return speed * span * profile


def bent_line(
    rng: Rng, start: np.ndarray, heading: float, travel: np.ndarray, bend: float
) -> np.ndarray:
    """Points (waypoints, 3) at arc lengths `travel` along a horizontal arc of curvature `bend` [1/m]."""
    if abs(bend) < 1e-6:
        along, across = travel, np.zeros_like(travel)
    else:
        along, across = np.sin(bend * travel) / bend, (1 - np.cos(bend * travel)) / bend
    c, s = np.cos(heading), np.sin(heading)
    xy = start[:2] + np.stack([c * along - s * across, s * along + c * across], -1)
    return np.concatenate([xy, np.full((len(travel), 1), start[2])], -1)


def tool_poses(
    points: np.ndarray, yaw: np.ndarray, tilt: float, tilt_direction: float
) -> np.ndarray:
    """Tool poses (waypoints, 4, 4) at points (waypoints, 3) [m] with yaw (waypoints,), pointing down but for a tilt."""
    poses = np.tile(np.eye(4), (len(points), 1, 1))
    poses[:, :3, 3] = points
    for pose, angle in zip(poses, yaw, strict=True):
        pose[:3, :3] = tool_rotation(float(angle), tilt, tilt_direction)
    return poses


def hand_yaw(rng: Rng, heading: float) -> float:
    """Yaw of the hand: facing the heading, side-on, or any, folded into the wrist's comfortable range."""
    choice = rng.random()
    yaw = (
        heading
        if choice < 0.35
        else heading + np.pi / 2
        if choice < 0.7
        else rng.uniform(-np.pi, np.pi)
    )
    return float((yaw + np.pi / 2) % np.pi - np.pi / 2)


def push(
    rng: Rng,
    scene: SceneSpec,
    lead: float,
    duration: float,
    *,
    family: str,
    speed: tuple[float, float],
    height: tuple[float, float],
    offset: tuple[float, float],
    gap: tuple[float, float],
    heading: float | None = None,
) -> Motion | None:
    """A sweep at the target. height: fraction of its height; offset: sideways miss as a fraction of its half width."""
    target = scene.objects[scene.target]
    lower, upper = target.lower, target.upper
    if heading is None:
        heading = float(rng.uniform(-np.pi, np.pi))
    along = np.array([np.cos(heading), np.sin(heading), 0.0])
    across = np.array([-along[1], along[0], 0.0])
    low, _ = target.shape.width_along(target.rotation, along)
    side = max(abs(v) for v in target.shape.width_along(target.rotation, across))
    sign = -1.0 if rng.random() < 0.5 else 1.0
    start = (
        target.position
        + (low - rng.uniform(*gap)) * along
        + sign * rng.uniform(*offset) * side * across
    )
    z = lower[2] + rng.uniform(*height) * (upper[2] - lower[2])
    start[2] = max(z, scene.table_height + TIP + CLEARANCE)
    times = waypoint_times(lead, duration)
    travel = draw_travel(rng, times, float(rng.uniform(*speed)))
    bend = float(rng.normal(0, 1.0)) if rng.random() < 0.5 else 0.0
    points = bent_line(rng, start, heading, travel, bend)
    if rng.random() < 0.3:
        points[:, 2] += rng.uniform(-0.02, 0.06) * smooth_step(
            (times - times[0]) / (times[-1] - times[0])
        )
    if not in_reach(points):
        return None
    width = float(rng.choice([0.0, MAX_WIDTH, rng.uniform(0, MAX_WIDTH)], p=[0.5, 0.25, 0.25]))
    yaw = hand_yaw(rng, heading) + rng.normal(0, 0.3) * (times - times[0]) * (rng.random() < 0.4)
    tilt = abs(float(rng.normal(0, 0.2)))
    return Motion(
        family=family,
        poses=tool_poses(points, yaw, tilt, float(rng.uniform(-np.pi, np.pi))),
        widths=np.full(len(times), width),
        lead=lead,
    )


def _grasp(rng: Rng, scene: SceneSpec, lead: float, duration: float) -> Motion | None:
    """Descend around the target, close, lift and carry; time 0 falls anywhere from the descent to the lift."""
    target = scene.objects[scene.target]
    found = graspable_yaw(target)
    if found is None:
        return None
    finger_axis, width = found
    times = waypoint_times(lead, duration)
    begin = float(rng.choice([0.0, 0.35, 0.8], p=[0.3, 0.45, 0.25])) + rng.uniform(-0.05, 0.05)
    phase = times + begin
    opening = min(MAX_WIDTH, width + rng.uniform(0.008, 0.03))
    close = smooth_step((phase - 0.4) / 0.35)
    widths = opening + (max(width - 0.02, 0.0) - opening) * close
    lift = smooth_step((phase - 0.85) / 0.8)
    descent = 1 - smooth_step(phase / 0.35)
    grip = _grip_point(rng, target, scene.table_height)
    carry = rng.normal(0, 0.06, 2)
    points = np.tile(grip, (len(times), 1))
    points[:, 2] += descent * rng.uniform(0.05, 0.1) + lift * rng.uniform(0.06, 0.2)
    points[:, :2] += lift[:, None] * carry
    if not in_reach(points):
        return None
    yaw = finger_axis - np.pi / 2
    yaw = float((yaw + np.pi / 2) % np.pi - np.pi / 2)
    turn = yaw + rng.normal(0, 0.3) * lift
    return Motion(
        family="grasp_lift", poses=tool_poses(points, turn, 0.0, 0.0), widths=widths, lead=lead
    )


def _grip_point(rng: Rng, target: ObjectSpec, table_height: float) -> np.ndarray:
    """Tool position between the fingers: over the middle of the object's box, deep enough to hold it."""
    lower, upper = target.lower, target.upper
    point = target.position.copy()
    point[2] = max(upper[2] - rng.uniform(0.012, 0.032), table_height + TIP + CLEARANCE)
    point[2] = max(point[2], lower[2] + 0.01)
    return point


def _wander(rng: Rng, scene: SceneSpec, lead: float, duration: float) -> Motion | None:
    """A smooth path through free space, away from what is on the table."""
    times = waypoint_times(lead, duration)
    knots = np.stack(
        [
            rng.uniform(0.35, 0.7, 3),
            rng.uniform(-0.35, 0.35, 3),
            scene.table_height + rng.uniform(0.03, 0.35, 3),
        ],
        -1,
    )
    length = np.linalg.norm(np.diff(knots, axis=0), axis=-1).sum()
    reach = min(1.0, rng.uniform(0.1, 0.5) * (times[-1] - times[0]) / max(length, 1e-6))
    t = reach * smooth_step((times - times[0]) / (times[-1] - times[0]))[:, None]
    points = (1 - t) ** 2 * knots[0] + 2 * t * (1 - t) * knots[1] + t**2 * knots[2]
    if not in_reach(points):
        return None
    widths = np.linspace(rng.uniform(0, MAX_WIDTH), rng.uniform(0, MAX_WIDTH), len(times))
    yaw = rng.uniform(-1.2, 1.2) + rng.normal(0, 0.3) * (times - times[0])
    tilt = abs(float(rng.normal(0, 0.25)))
    return Motion(
        family="empty",
        poses=tool_poses(points, yaw, tilt, float(rng.uniform(-np.pi, np.pi))),
        widths=widths,
        lead=lead,
    )


def pushing(
    family: str,
    *,
    speed: tuple[float, float],
    height: tuple[float, float],
    offset: tuple[float, float],
    gap: tuple[float, float],
    heading: float | None = None,
) -> Callable[[Rng, SceneSpec, float], Motion | None]:
    """A kind of sweep at the target; see `push` for the ranges."""

    def draw(rng: Rng, scene: SceneSpec, duration: float) -> Motion | None:
        return push(
            rng,
            scene,
            LEAD,
            duration,
            family=family,
            speed=speed,
            height=height,
            offset=offset,
            gap=gap,
            heading=heading,
        )

    return draw


def grasping(rng: Rng, scene: SceneSpec, duration: float) -> Motion | None:
    """A random grasp of the target."""
    return _grasp(rng, scene, LEAD, duration)


def wandering(rng: Rng, scene: SceneSpec, duration: float) -> Motion | None:
    """A random motion through free space."""
    return _wander(rng, scene, LEAD, duration)


def joint_path(arm: ArmKinematics, motion: Motion, table_height: float) -> np.ndarray | None:
    """Joint positions (waypoints, joints) that follow `motion`; None where the arm cannot, or would hit the table.

    Raises the whole path when a tilted hand would come closer to the table than 4 mm.
    """
    poses = motion.poses.copy()
    if arm.tree.tool_turn:
        poses[:, :3, :3] = poses[:, :3, :3] @ rotation_about(2, arm.tree.tool_turn)
    q = arm.follow(poses, motion.widths)
    if q is None:
        return None
    sunk = table_height + CLEARANCE - min(arm.lowest_gripper_point(row) for row in q[::4])
    if sunk > 0:
        poses[:, 2, 3] += sunk + 0.001
        q = arm.follow(poses, motion.widths)
    if q is None:
        return None
    speed = np.abs(np.diff(q, axis=0)).max(0) / WAYPOINT_DT
    return (
        q
        if bool((speed[: arm.arm_joints] < 0.9 * arm.tree.velocity[: arm.arm_joints]).all())
        else None
    )
