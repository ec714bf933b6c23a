"""Where a hand has to be and go to push something on a table; plans of the next second of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial import ConvexHull

from pointworld.data.motions import CLEARANCE, TIP
from pointworld.plan.actions import ToolPathSpace
from pointworld.plan.tasks.seen import THIN, Seen

Tensor = torch.Tensor

#: Half the thickness of closed fingers, the gap before contact, and how far above everything the hand travels [m].
FINGER, _GAP, _OVER = 0.012, 0.02, 0.04
#: The gap where the hand acts on a handle: there is little room behind one [m].
_HANDLE_GAP = 0.003
#: A finger reaches this far down behind the upper edge of a handle [m].
_HOOK = 0.014
#: Half width of what comes down with the fingers [m].
_HAND = 0.04
#: Speed of a push, and of the way there and down to it [m/s].
PUSH_SPEED, _TRAVEL_SPEED, _DOWN_SPEED = 0.15, 0.3, 0.2
#: Fingertips stay this far above the table, more than the safety filter asks for [m].
FLOOR = TIP + 0.010
#: The hand turns at this speed on its way [rad/s].
_TURN_SPEED = 1.0
#: Shares of its speed at which a path is tried, until the tool keeps nearer to it than this [m].
_SHARES, _ASTRAY = (1.0, 0.7, 0.45, 0.25), 0.008
#: A cloth is pressed onto the table and dragged: height of the tool [m], and speed [m/s].
PRESS, _DRAG_SPEED = 0.012, 0.1
#: Points that are on average nearer to their goals than this are pushed slowly, and from near by [m, m/s, m].
_NEAR, _NEAR_SPEED, _NEAR_GAP = 0.045, 0.06, 0.012
#: A hand that pushes is at most this fast for every metre that the target is from its goal [1/s].
_SLOWING = 1.2
#: The hand waits above for its turn when it is further than this from its yaw [rad].
_TURNED = 0.2


@dataclass(frozen=True, kw_only=True, eq=False)
class Push:
    """A straight push on the table.

    contact: (3,) tool place where it touches. ahead: (2,) unit direction. way: length [m]. over: height to travel at.
    gap: how far behind the contact the hand comes down [m]. press: it presses from above and drags. speed: [m/s].
    """

    contact: np.ndarray
    ahead: np.ndarray
    way: float
    over: float
    gap: float = _GAP
    press: bool = False
    speed: float = PUSH_SPEED

    @property
    def behind(self) -> np.ndarray:
        """(3,) where the hand comes down."""
        step = np.append(self.gap * self.ahead, 0.0)
        return np.asarray(self.contact - step)

    @property
    def end(self) -> np.ndarray:
        """(3,) where the hand stops."""
        return np.asarray(self.contact + np.append(self.way * self.ahead, 0.0))

    @property
    def yaw(self) -> float:
        """Heading [rad]."""
        return math.atan2(self.ahead[1], self.ahead[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class Aim:
    """What a push needs to know of its target. points, goals: (points, 3), of what the hand should act on.

    low: lowest height of the tool over the table [m]. top: height of what stands around. depth: of a held tool.
    """

    points: np.ndarray
    goals: np.ndarray
    table: float
    depth: float
    top: float
    gap: float

    @staticmethod
    def of(seen: Seen, table: float, depth: float, chosen: np.ndarray | None = None) -> Aim:
        """Args: chosen: (all,) which points of the targets to act on, None = those of the target farthest off."""
        where = seen.focus if chosen is None else chosen
        whole = np.isin(seen.owner, seen.owner[where])
        return Aim(
            points=seen.points[where],
            goals=seen.places[where],
            table=table,
            depth=depth,
            top=seen.top,
            gap=_GAP if seen.grip[whole].all() else _HANDLE_GAP,
        )

    @property
    def way(self) -> np.ndarray:
        """(2,) from the centre to its goal."""
        return np.asarray((self.goals - self.points).mean(0)[:2])

    @property
    def left(self) -> float:
        """Angle about the vertical that is still to be turned [rad]."""
        p, q = (v[:, :2] - v[:, :2].mean(0) for v in (self.points, self.goals))
        return float(np.arctan2((p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum(), (p * q).sum()))

    @property
    def near(self) -> bool:
        """Little is left to do."""
        return float(np.linalg.norm(self.goals - self.points, axis=-1).mean()) < _NEAR

    def half_width(self, ahead: np.ndarray) -> float:
        """Of the target across a heading (2,) [m]."""
        side = np.array([-ahead[1], ahead[0]])
        return float(np.abs((self.points[:, :2] - self.points[:, :2].mean(0)) @ side).max())

    def shot(self, *, turn: bool = False) -> Shot:
        """Straight towards the goal. Args: turn: beside the centre, where that also turns the target as it should."""
        length = float(np.linalg.norm(self.way))
        ahead = self.way / length if length > 1e-6 else np.array([1.0, 0.0])
        # Touching right of the centre turns to the left.
        share = -0.5 * float(np.clip(self.left / 0.4, -1.0, 1.0)) if turn else 0.0
        heading = math.atan2(ahead[1], ahead[0])
        return Shot(aim=self, heading=heading, offset=share * self.half_width(ahead), way=length)

    def around(self, rng: np.random.Generator, *, spread: float) -> Shot:
        """Somewhere on the target, about towards the goal. Args: spread: of the heading [rad]."""
        heading = math.atan2(self.way[1], self.way[0]) + spread * rng.standard_normal()
        half = 0.85 * self.half_width(np.array([math.cos(heading), math.sin(heading)]))
        offset, along = half * rng.uniform(-1, 1), half * rng.uniform(-1, 1)
        return Shot(aim=self, heading=heading, offset=offset, along=along, way=self._least)

    def at_side(self, rng: np.random.Generator) -> Shot:
        """Square onto a place of the outline, any of all sides."""
        flat = self.points[:, :2]
        corners = flat[ConvexHull(flat).vertices]
        edges = np.roll(corners, -1, 0) - corners
        length = np.linalg.norm(edges, axis=-1)
        side = int(rng.choice(len(edges), p=length / length.sum()))
        place = corners[side] + rng.uniform(0.05, 0.95) * edges[side]
        # Corners go around to the left, so that the inside is to the left of an edge.
        heading = math.atan2(edges[side, 0], -edges[side, 1]) + 0.2 * rng.standard_normal()
        across = np.array([-math.sin(heading), math.cos(heading)])
        offset = float((place - flat.mean(0)) @ across)
        return Shot(aim=self, heading=heading, offset=offset, way=self._least)

    @property
    def _least(self) -> float:
        return max(float(np.linalg.norm(self.way)), 0.03)

    @property
    def thin(self) -> bool:
        """A cloth, which has no side to push against."""
        return self.depth == 0 and float(np.ptp(self.points[:, 2])) < THIN

    def push(self, ahead: np.ndarray, offset: float, way: float, *, along: float = 0.0) -> Push:
        """A push through a place of the target.

        Args:
            ahead: (2,) unit. offset: of the contact from the centre, to the left [m]. way: of the push [m].
            along: where a thing that is pressed and dragged is touched, ahead of its centre [m].
        """
        points = self.points
        centre, side = points.mean(0), np.array([-ahead[1], ahead[0]])
        over = self.top + self.depth + _OVER
        most = self.table + self.depth + 0.32
        if self.thin:
            xy = centre[:2] + along * ahead + offset * side
            return Push(
                contact=np.append(xy, self.table + PRESS),
                ahead=ahead,
                way=way,
                over=min(max(over, self.table + 0.1), most),
                gap=0.0,
                press=True,
                speed=_DRAG_SPEED,
            )
        flat = points[:, :2] - centre[:2]
        near = np.abs(flat @ side - offset) < 0.015
        back = float((flat[near] @ ahead).min()) if near.any() else float((flat @ ahead).min())
        # The hand is wider than what it touches: it must not come down on what stands out beside the contact.
        room = np.abs(flat @ side - offset) < _HAND
        out = max(back - float((flat[room] @ ahead).min()), 0.0) if room.any() else 0.0
        low = self.table + self.depth + (CLEARANCE if self.depth else FLOOR)
        top = float(points[:, 2].max())
        middle = 0.5 * float(points[:, 2].min() + top)
        if self.gap == _HANDLE_GAP:
            # What carries a handle is behind its middle: a finger goes only as deep as it must.
            middle = max(middle, top - _HOOK)
        height = low if self.depth else max(low, middle)
        xy = centre[:2] + (back - FINGER) * ahead + offset * side
        return Push(
            contact=np.append(xy, height),
            ahead=ahead,
            way=way,
            over=min(max(over, height + 0.05), most),
            gap=out + (min(self.gap, _NEAR_GAP) if self.near else self.gap),
            speed=_NEAR_SPEED if self.near else PUSH_SPEED,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Shot:
    """A push as it is drawn. heading: [rad]. offset, along, way: see `Aim.push` [m]."""

    aim: Aim
    heading: float
    offset: float
    way: float
    along: float = 0.0

    def push(self) -> Push:
        """Where it touches the target."""
        ahead = np.array([math.cos(self.heading), math.sin(self.heading)])
        return self.aim.push(ahead, self.offset, self.way, along=self.along)

    def near(self, rng: np.random.Generator) -> Shot:
        """Another one like it."""
        return replace(
            self,
            heading=self.heading + 0.15 * rng.standard_normal(),
            offset=self.offset + 0.01 * rng.standard_normal(),
            along=self.along + 0.01 * rng.standard_normal(),
        )


def plan_push(seen: Seen, table: float, *, depth: float = 0.0, turn: bool = False) -> Push:
    """The push that carries the target's centre to its goal.

    Args:
        table: height of the table [m]. depth: length of a tool in the hand, below the fingertips [m].
        turn: touch beside the centre, on the side that also turns the target as it should.
    """
    return Aim.of(seen, table, depth).shot(turn=turn).push()


def at_contact(tool: np.ndarray, push: Push) -> bool:
    """Whether a tool at (3,) is low and right behind the target."""
    gap = tool[:2] - push.contact[:2]
    along = float(gap @ push.ahead)
    beside = abs(float(gap @ np.array([-push.ahead[1], push.ahead[0]])))
    down = tool[2] < push.contact[2] + (0.003 if push.press else 0.02)
    return bool(down and beside < 0.012 and -2.5 * push.gap - 0.01 < along < 0.012)


def waypoints(tool: np.ndarray, push: Push, *, pushing: bool = False) -> list[np.ndarray]:
    """Places (3,) that the tool should pass next: up and over; from there down behind the target; from there ahead.

    No corner is cut: what is beyond one comes when the hand is there.

    Args:
        pushing: the hand is known to be at the target already.
    """
    if pushing or at_contact(tool, push):
        return [push.end]
    above = np.append(push.behind[:2], push.over)
    exact = 0.004 if 0 < push.gap < 0.01 else 0.012
    if float(np.linalg.norm(tool[:2] - push.behind[:2])) < exact:
        # A little deeper, so that it gets there and does not only get near.
        return [push.behind - (0.0, 0.0, 0.002 if push.press else 0.0)]
    if tool[2] < push.over - 0.02:
        return [np.append(tool[:2], push.over)]
    return [above]


def turn_left(pose: np.ndarray, yaw: float) -> float:
    """Angle by which a hand at (4, 4) should turn so that its flat side faces `yaw`; half turns make no difference."""
    now = math.atan2(pose[1, 0], pose[0, 0])
    left = (yaw - now + math.pi / 2) % math.pi - math.pi / 2
    # The wrist would reach its limit beyond a quarter turn from straight ahead.
    return float(np.clip(now + left, -1.5, 1.5)) - now


def path_plan(
    space: ToolPathSpace,
    joints: Tensor,
    stops: list[np.ndarray],
    yaw: float,
    speed: float,
    *,
    speeds: Tensor | None = None,
) -> Tensor:
    """Knots (knots, dims) that follow the stops at an even speed while the hand turns towards `yaw`.

    A hand that is sent faster than its joints can go leaves its path, and comes down on what it should pass over: the
    plan is the fastest at which the arm keeps to it.

    Args:
        joints: (joints,) now. yaw: heading of the fingers' flat side [rad]. speed: [m/s]. speeds: (joints,) of the
            joints now.
    """
    pose = space.body.robot.tool_pose(joints).numpy()
    plans = torch.stack([_path(space, pose, stops, yaw, speed, share) for share in _SHARES])
    actions = space.decode(joints, plans, speeds=speeds)
    astray = actions.position_error.amax(1)
    kept = torch.nonzero(astray < torch.clamp(astray.min(), min=_ASTRAY) + 1e-9)
    return plans[int(kept[0])]


def _path(
    space: ToolPathSpace,
    pose: np.ndarray,
    stops: list[np.ndarray],
    yaw: float,
    speed: float,
    share: float,
) -> Tensor:
    """`path_plan` from `pose` (4, 4) at a share of its speed."""
    horizon = space.body.step_dt * (space.body.num_steps - 1)
    places = np.stack([pose[:3, 3], *stops])
    travelled = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(places, axis=0), axis=-1)))
    times = share * horizon * (np.arange(space.knots) + 1) / space.knots
    plan = space.rest()
    for axis in range(3):
        reached = np.interp(speed * times, travelled, places[:, axis])
        plan[:, axis] = torch.from_numpy(reached - pose[axis, 3])
    left = turn_left(pose, yaw)
    plan[:, 5] = torch.from_numpy(np.sign(left) * np.minimum(abs(left), _TURN_SPEED * times))
    return torch.minimum(torch.maximum(plan, space.lower), space.upper)


def push_plan(space: ToolPathSpace, seen: Seen, push: Push, *, pushing: bool = False) -> Tensor:
    """Knots of the next second of a push."""
    pose = space.body.robot.tool_pose(seen.state.joint_positions).numpy()
    tool = pose[:3, 3]
    stops = waypoints(tool, push, pushing=pushing)
    speed = _TRAVEL_SPEED
    if np.allclose(stops[0], push.end):
        speed = min(push.speed, max(_NEAR_SPEED, _SLOWING * seen.error))
    elif np.allclose(stops[0][:2], push.behind[:2]) and stops[0][2] < push.over - 0.02:
        speed = _DOWN_SPEED
        if abs(turn_left(pose, push.yaw)) > _TURNED:
            stops = [np.append(push.behind[:2], max(push.over, tool[2]))]
    state = seen.state
    return path_plan(
        space, state.joint_positions, stops, push.yaw, speed, speeds=state.joint_velocities
    )


def rise_plan(space: ToolPathSpace, seen: Seen, height: float) -> Tensor:
    """Knots of the way straight up to a height [m]."""
    tool = space.body.robot.tool_pose(seen.state.joint_positions).numpy()[:2, 3]
    return travel_plan(space, seen, tool, height)


def travel_plan(space: ToolPathSpace, seen: Seen, place: np.ndarray, height: float) -> Tensor:
    """Knots of the straight way to a place (2,) at a height [m]; the hand does not turn."""
    state = seen.state
    pose = space.body.robot.tool_pose(state.joint_positions).numpy()
    stop, yaw = np.append(place, height), math.atan2(pose[1, 0], pose[0, 0])
    speeds = state.joint_velocities
    return path_plan(space, state.joint_positions, [stop], yaw, _TRAVEL_SPEED, speeds=speeds)
