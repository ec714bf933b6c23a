"""Pushes by rule: where every search may start from, and the baselines it has to beat."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from pointworld.data.motions import CLEARANCE, TIP
from pointworld.plan.actions import ToolPathSpace
from pointworld.plan.planners import Planner
from pointworld.plan.planners.loop import evaluate, seeded
from pointworld.plan.problem import PlanResult, Problem
from pointworld.plan.samplers import SplineNoise
from pointworld.plan.tasks.seen import Seen

Tensor = torch.Tensor

#: Half the thickness of closed fingers, the gap before contact, and how far above everything the hand travels [m].
_FINGER, _GAP, _OVER = 0.012, 0.02, 0.04
#: The gap where the hand acts on a handle: there is little room behind one [m].
_HANDLE_GAP = 0.003
_SPEED = 0.2
#: Fingertips stay this far above the table, more than the safety filter asks for [m].
FLOOR = TIP + 0.010


@dataclass(frozen=True, kw_only=True, eq=False)
class Push:
    """A straight push on the table.

    contact: (3,) tool place where it touches. ahead: (2,) unit direction. way: length [m]. over: height to travel at.
    gap: how far behind the contact the hand comes down [m].
    """

    contact: np.ndarray
    ahead: np.ndarray
    way: float
    over: float
    gap: float = _GAP

    @property
    def behind(self) -> np.ndarray:
        """(3,) where the hand comes down."""
        step = np.append(self.gap * self.ahead, 0.0)
        return np.asarray(self.contact - step)

    @property
    def end(self) -> np.ndarray:
        """(3,) where the hand stops."""
        return np.asarray(self.contact + np.append(self.way * self.ahead, 0.0))


def plan_push(seen: Seen, table: float, *, depth: float = 0.0, turn: bool = False) -> Push:
    """The push that carries the target's centre to its goal.

    Args:
        table: height of the table [m]. depth: length of a tool in the hand, below the fingertips [m].
        turn: touch beside the centre, on the side that also turns the target as it should.
    """
    points, goals = seen.points[seen.grip], seen.places[seen.grip]
    centre, way = points.mean(0), (goals - points).mean(0)[:2]
    length = float(np.linalg.norm(way))
    ahead = way / length if length > 1e-6 else np.array([1.0, 0.0])
    side = np.array([-ahead[1], ahead[0]])
    flat = points[:, :2] - centre[:2]
    offset = 0.0
    if turn:
        wide = float(np.abs(flat @ side).max())
        # Touching right of the centre turns to the left.
        offset = -0.5 * wide * float(np.clip(_yaw_left(points, goals) / 0.4, -1.0, 1.0))
    near = np.abs(flat @ side - offset) < 0.015
    back = float((flat[near] @ ahead).min()) if near.any() else float((flat @ ahead).min())
    low = table + depth + (CLEARANCE if depth else FLOOR)
    height = low if depth else max(low, 0.5 * float(points[:, 2].min() + points[:, 2].max()))
    xy = centre[:2] + (back - _FINGER) * ahead + offset * side
    over = min(max(seen.top + depth + _OVER, height + 0.05), table + depth + 0.28)
    gap = _GAP if seen.grip.all() else _HANDLE_GAP
    return Push(contact=np.append(xy, height), ahead=ahead, way=length, over=over, gap=gap)


def _yaw_left(points: np.ndarray, goals: np.ndarray) -> float:
    """Angle about the vertical that is still to be turned [rad]."""
    p, q = (v[:, :2] - v[:, :2].mean(0) for v in (points, goals))
    return float(np.arctan2((p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum(), (p * q).sum()))


def waypoints(tool: np.ndarray, push: Push, *, pushing: bool = False) -> list[np.ndarray]:
    """Places (3,) that the tool should pass on its way: up, over, down behind the target, ahead.

    Args:
        pushing: the hand is known to be at the target already.
    """
    gap = tool[:2] - push.contact[:2]
    along = float(gap @ push.ahead)
    beside = abs(float(gap @ np.array([-push.ahead[1], push.ahead[0]])))
    down = tool[2] < push.contact[2] + 0.02
    if pushing or (down and beside < 0.012 and -2.5 * push.gap - 0.01 < along < 0.012):
        return [push.end]
    above = np.append(push.behind[:2], push.over)
    if beside < 0.015 and abs(along + push.gap) < 0.015:
        return [push.behind, push.end]
    if tool[2] < push.over - 0.02:
        return [np.append(tool[:2], push.over), above, push.behind, push.end]
    return [above, push.behind, push.end]


def path_plan(
    space: ToolPathSpace, pose: np.ndarray, stops: list[np.ndarray], yaw: float
) -> Tensor:
    """Knots (knots, dims) that follow the stops at an even speed while the hand turns towards `yaw`.

    Args:
        pose: (4, 4) tool now. yaw: heading of the fingers' flat side [rad]; half turns make no difference.
    """
    horizon = space.body.step_dt * (space.body.num_steps - 1)
    places = np.stack([pose[:3, 3], *stops])
    travelled = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(places, axis=0), axis=-1)))
    times = horizon * (np.arange(space.knots) + 1) / space.knots
    plan = space.rest()
    for axis in range(3):
        reached = np.interp(_SPEED * times, travelled, places[:, axis])
        plan[:, axis] = torch.from_numpy(reached - pose[axis, 3])
    now = math.atan2(pose[1, 0], pose[0, 0])
    left = (yaw - now + math.pi / 2) % math.pi - math.pi / 2
    # The wrist would reach its limit beyond a quarter turn from straight ahead.
    left = float(np.clip(now + left, -1.5, 1.5)) - now
    plan[:, 5] = torch.from_numpy(np.sign(left) * np.minimum(abs(left), 0.6 * times))
    return torch.minimum(torch.maximum(plan, space.lower), space.upper)


@dataclass(frozen=True, kw_only=True, eq=False)
class Guided:
    """A planner whose search starts from the better of the last plan, shifted, and a push by rule.

    look: the last observation. spread: factor on the width of the first search.
    """

    planner: Planner
    space: ToolPathSpace
    look: Callable[[], Seen]
    table: float
    depth: float = 0.0
    spread: float = 0.3

    def plan(self, problem: Problem, *, seed: int, budget_s: float | None = None) -> PlanResult:
        """See `Planner.plan`."""
        seen = self.look()
        starts = [problem.nominal]
        for turn in (False, True):
            push = plan_push(seen, self.table, depth=self.depth, turn=turn)
            starts.append(push_plan(self.space, seen, push).to(problem.nominal))
        costs, _ = evaluate(problem, problem.clip(torch.stack(starts)))
        best = starts[int(costs.argmin())]
        narrowed = replace(problem, nominal=best, std=self.spread * problem.std)
        return self.planner.plan(narrowed, seed=seed, budget_s=budget_s)


def push_plan(space: ToolPathSpace, seen: Seen, push: Push, *, pushing: bool = False) -> Tensor:
    """Knots of the next second of a push."""
    pose = space.body.robot.tool_pose(seen.state.joint_positions).numpy()
    yaw = math.atan2(push.ahead[1], push.ahead[0])
    return path_plan(space, pose, waypoints(pose[:3, 3], push, pushing=pushing), yaw)


class StraightPush:
    """The baseline: one straight push from where the target was at first towards the goal, never corrected."""

    def __init__(
        self, space: ToolPathSpace, look: Callable[[], Seen], table: float, *, depth: float = 0.0
    ) -> None:
        self._space, self._look, self._table, self._depth = space, look, table, depth
        self._push: Push | None = None
        self._pushing = False

    def plan(self, problem: Problem, *, seed: int, budget_s: float | None = None) -> PlanResult:
        """See `Planner.plan`."""
        seen = self._look()
        if self._push is None:
            self._push = plan_push(seen, self._table, depth=self._depth)
        tool = self._space.body.robot.tool_pose(seen.state.joint_positions).numpy()[:3, 3]
        # Every push begins above: once low, the hand is at it.
        self._pushing |= bool(tool[2] < self._push.contact[2] + 0.02)
        return given_plan(push_plan(self._space, seen, self._push, pushing=self._pushing))


@dataclass(frozen=True, kw_only=True, eq=False)
class RandomMotion:
    """The other baseline: smooth random paths within the bounds."""

    space: ToolPathSpace

    def plan(self, problem: Problem, *, seed: int, budget_s: float | None = None) -> PlanResult:
        """See `Planner.plan`."""
        rest = self.space.rest()
        noise = SplineNoise().draw((1, *rest.shape), seeded(seed))[0]
        return given_plan(problem.clip(self.space.std * noise.to(rest)))


def given_plan(plan: Tensor) -> PlanResult:
    """A plan that nobody searched for."""
    return PlanResult(
        actions=plan,
        cost=0.0,
        nominal_cost=0.0,
        mean=plan,
        iterations=0,
        evaluations=0,
        seconds=0.0,
        timed_out=False,
    )
