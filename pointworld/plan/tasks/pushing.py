"""Planners for pushing: a search that is led to its contacts, and the baselines it has to beat."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from pointworld.plan.actions import ToolPathSpace
from pointworld.plan.planners import Planner
from pointworld.plan.planners.loop import evaluate, seeded
from pointworld.plan.problem import PlanResult, Problem
from pointworld.plan.samplers import SplineNoise
from pointworld.plan.tasks.choice import Choice, PushChooser
from pointworld.plan.tasks.push_paths import (
    Push,
    at_contact,
    plan_push,
    push_plan,
    rise_plan,
    travel_plan,
)
from pointworld.plan.tasks.seen import Seen

Tensor = torch.Tensor

#: A push is chosen anew when its target is this far from where it was seen then, and once the hand stands [m, rad/s].
_STALE, _STANDS = 0.008, 0.03
#: A sweep is over this near to its end, and the hand is up this near to where it should rise [m].
_SWEPT, _LOW = 0.01, 0.03
#: Share of the search's width for the hand's height.
_LEVEL = 0.1
#: What is left to do (squared distance) must go down by this share for a push to go on, to begin where the hand has
#: come for it, and to be chosen.
_WORTH, _WORTH_FIRST, _WORTH_AGAIN = 0.10, 0.03, 0.06
#: A planner that finds nothing that helps at so many looks in a row has done what it can.
_GIVE_UP = 6
#: An arm on its way that has moved less than this for so many looks cannot get there [rad].
_UNMOVED, _WAITS = 0.02, 2
#: A push keeps its promise while it lowers what is left to do by this share within so many looks; when it does not, or
#: at once when it has raised it by this share, another one is chosen.
_KEPT, _BROKEN_LOOKS, _WORSE = 0.1, 3, 0.25


@dataclass
class _Memory:
    """Where a guided search stands. choice: the push under way. pushing: the hand has come to its contact.

    points: (all, 3) of the targets when it was chosen. begun: a part of it was carried out. idle: looks in a row at
    which nothing was found that helps. clear: height to which the hand rises before another push is chosen [m].
    joints: where the arm was at the last look on its way to a push [rad], waits: looks since it last moved.
    left: least that was left to do (squared distance) since the push began, broken: looks since then. home: (2,) where
    the hand was at first [m]. owed: another push should have been chosen at the last look, and time was up.
    """

    choice: Choice | None = None
    points: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    pushing: bool = False
    begun: bool = False
    clear: float | None = None
    idle: int = 0
    joints: Tensor | None = None
    waits: int = 0
    left: float = np.inf
    broken: int = 0
    home: np.ndarray | None = None
    owed: bool = False

    def arrives(self, joints: Tensor) -> bool:
        """Whether the arm, at `joints` now, still gets on on its way to a push."""
        still = self.joints is not None and bool((joints - self.joints).abs().max() < _UNMOVED)
        self.joints, self.waits = joints, self.waits + 1 if still else 0
        return self.waits < _WAITS

    def keeps(self, left: float) -> bool:
        """Whether the push does what was predicted of it, from what is left to do now."""
        if left < (1 - _KEPT) * self.left:
            self.left, self.broken = left, 0
            return True
        self.broken += 1
        return self.broken < _BROKEN_LOOKS and left < (1 + _WORSE) * self.left


@dataclass(frozen=True, kw_only=True, eq=False)
class Guided:
    """Chooses a push, brings the hand behind the target by rule, and searches from there with a planner.

    The way through free air needs no prediction. At the target the search starts from the chosen push, and its result
    is compared with it. When nothing that is known is worth doing, another push is chosen. With a time budget a look is
    for one of the two, if it is not enough for both: the push just chosen is begun, another one is chosen at the next.

    planner: that searches. look: the last observation. spread: factor on the width of the first search.
    """

    planner: Planner
    space: ToolPathSpace
    look: Callable[[], Seen]
    table: float
    chooser: PushChooser
    depth: float = 0.0
    spread: float = 0.15
    memory: _Memory = field(default_factory=_Memory)

    @property
    def idle(self) -> int:
        """Looks in a row at which nothing was found that helps."""
        return self.memory.idle

    @property
    def between(self) -> bool:
        """Whether one push is over and the hand is not yet at the next."""
        return self.memory.choice is not None and not self.memory.pushing

    def plan(self, problem: Problem, *, seed: int, budget_s: float | None = None) -> PlanResult:
        """See `Planner.plan`."""
        deadline = _deadline(budget_s)
        seen, memory, fresh = self.look(), self.memory, False
        tool = self.space.body.robot.tool_pose(seen.state.joint_positions).numpy()[:3, 3]
        if memory.home is None:
            memory.home = tool[:2]
        low = memory.clear is not None and tool[2] < memory.clear - _LOW
        if memory.clear is not None and low and not seen.blocked:
            return given_plan(rise_plan(self.space, seen, memory.clear))
        if seen.blocked or memory.clear is not None or self._stale(seen):
            self._choose(seen, seed, deadline)
            if not self._reaches:
                return self._wait(seen)
            memory.idle, fresh = 0, True
        assert memory.choice is not None
        push = memory.choice.push
        memory.pushing |= at_contact(tool, push)
        if not memory.pushing:
            if not memory.arrives(seen.state.joint_positions):
                self._choose(seen, seed, deadline)
                if not self._reaches:
                    return self._wait(seen)
            return given_plan(push_plan(self.space, seen, memory.choice.push))
        if (self.depth or push.press) and not memory.idle:
            # A tool hides what it sweeps, a hand the cloth under it: all of it is done, then seen again from above.
            if float((push.end - tool)[:2] @ push.ahead) > _SWEPT:
                return given_plan(push_plan(self.space, seen, push, pushing=True))
            memory.clear = push.over
            return given_plan(rise_plan(self.space, seen, push.over))
        if fresh and time.perf_counter() >= deadline:
            return given_plan(push_plan(self.space, seen, push, pushing=True))
        if not (memory.idle or memory.owed):
            result, left, gain = self._search(problem, seen, seed, deadline)
            if memory.keeps(left) and gain > (_WORTH if memory.begun else _WORTH_FIRST):
                memory.begun = True
                return result
        result = given_plan(self.space.rest())
        if _moving(seen):
            # What is pushed goes on until the hand stands.
            return result
        memory.owed = not (memory.idle or memory.owed) and time.perf_counter() >= deadline
        if memory.owed:
            return result
        before = memory.choice
        self._choose(seen, seed + 1, deadline)
        better = memory.choice.after < (1 - _WORTH_AGAIN) * memory.choice.before
        memory.idle = 0 if better else memory.idle + 1
        if memory.idle:
            # Nothing is known to help: stay, and think of other pushes next time.
            memory.choice, memory.pushing = before, True
            return result
        return given_plan(push_plan(self.space, seen, memory.choice.push))

    def _stale(self, seen: Seen) -> bool:
        """Whether the target is no more where the push under way was chosen for, as seen from above it."""
        memory = self.memory
        if memory.choice is None or not self._reaches:
            return True
        height = float(self.space.body.robot.tool_pose(seen.state.joint_positions)[2, 3])
        if memory.pushing or height < memory.choice.push.over - _LOW:
            return False
        return bool(np.linalg.norm(seen.points - memory.points, axis=-1).mean() > _STALE)

    @property
    def _reaches(self) -> bool:
        """Whether a push is known that the hand can get to."""
        return self.memory.choice is not None and self.memory.choice.free

    def _wait(self, seen: Seen) -> PlanResult:
        """Up and back to where it began, until a push is found that the hand can get to."""
        memory = self.memory
        assert memory.choice is not None and memory.home is not None
        memory.idle += 1
        over = memory.choice.push.over
        tool = self.space.body.robot.tool_pose(seen.state.joint_positions).numpy()[:3, 3]
        if seen.blocked:
            return given_plan(self.space.rest())
        if tool[2] < over - _LOW:
            return given_plan(rise_plan(self.space, seen, over))
        return given_plan(travel_plan(self.space, seen, memory.home, max(over, tool[2])))

    def _choose(self, seen: Seen, seed: int, deadline: float) -> None:
        self.memory.choice = self.chooser.choose(seen, seed, deadline=deadline)
        self.memory.points = seen.points
        self.memory.pushing = self.memory.begun = self.memory.owed = False
        self.memory.clear, self.memory.joints, self.memory.waits = None, None, 0
        self.memory.left, self.memory.broken = np.inf, 0

    def _search(
        self, problem: Problem, seen: Seen, seed: int, deadline: float
    ) -> tuple[PlanResult, float, float]:
        """The best of the planner's plan and the chosen push, what is left to do, and by what share it lowers that.

        The planner has what is left of the time when both were judged and foreseen, which takes about as long; when
        that is nothing, the better one of standing still and the chosen push is its plan.
        """
        assert self.memory.choice is not None
        began = time.perf_counter()
        chosen = push_plan(self.space, seen, self.memory.choice.push, pushing=True)
        starts = [torch.zeros_like(problem.nominal), chosen.to(problem.nominal)]
        costs, _ = evaluate(problem, problem.clip(torch.stack(starts)))
        start = starts[int(costs.argmin())]
        now = time.perf_counter()
        room = deadline - now - (now - began)
        if room > 0:
            spread = self.spread * problem.std
            # A hand that rises leaves what it pushes.
            spread[2] *= _LEVEL
            narrowed = replace(problem, nominal=start, std=spread)
            budget = None if math.isinf(room) else room
            result = self.planner.plan(narrowed, seed=seed, budget_s=budget)
        else:
            result = replace(given_plan(problem.clip(start)), timed_out=True)
        both = torch.stack([result.actions, problem.clip(chosen.to(problem.nominal))])
        left = self.chooser.foresee(seen, both)
        best = int(left[:, 1:].amin(1).argmin())
        undone = float(left[best, 0])
        gain = 1.0 - float(left[best, 1:].min()) / max(undone, 1e-12)
        return result if best == 0 else given_plan(both[1]), undone, gain


class StraightPush:
    """The baseline: one straight push from where the target was at first towards the goal, never corrected.

    again: aim anew at every look, beside the centre where that turns the target as it should.
    """

    def __init__(
        self,
        space: ToolPathSpace,
        look: Callable[[], Seen],
        table: float,
        *,
        depth: float = 0.0,
        again: bool = False,
    ) -> None:
        self._space, self._look, self._table, self._depth = space, look, table, depth
        self._again = again
        self._push: Push | None = None
        self._pushing = False

    def plan(self, problem: Problem, *, seed: int, budget_s: float | None = None) -> PlanResult:
        """See `Planner.plan`."""
        seen = self._look()
        if self._push is None or self._again:
            self._push = plan_push(seen, self._table, depth=self._depth, turn=self._again)
            self._pushing = False
        tool = self._space.body.robot.tool_pose(seen.state.joint_positions).numpy()[:3, 3]
        self._pushing |= at_contact(tool, self._push)
        return given_plan(push_plan(self._space, seen, self._push, pushing=self._pushing))


def gives_up(planner: Planner) -> bool:
    """Whether a planner that says so has found nothing that helps for so long that looking again will not change it."""
    return int(getattr(planner, "idle", 0)) >= _GIVE_UP


class OpenLoop:
    """One push, chosen by prediction as `Guided` does and carried out to its end without a second look."""

    def __init__(
        self, space: ToolPathSpace, look: Callable[[], Seen], chooser: PushChooser
    ) -> None:
        self._space, self._look, self._chooser = space, look, chooser
        self._first: Seen | None = None
        self._push: Push | None = None
        self._pushing = False

    def plan(self, problem: Problem, *, seed: int, budget_s: float | None = None) -> PlanResult:
        """See `Planner.plan`."""
        seen = self._look()
        if self._first is None or self._push is None:
            choice = self._chooser.choose(seen, seed, deadline=_deadline(budget_s))
            self._first, self._push = seen, choice.push
        joints, speeds = seen.state.joint_positions, seen.state.joint_velocities
        state = replace(self._first.state, joint_positions=joints, joint_velocities=speeds)
        tool = self._space.body.robot.tool_pose(joints).numpy()[:3, 3]
        self._pushing |= at_contact(tool, self._push)
        known = replace(self._first, state=state)
        return given_plan(push_plan(self._space, known, self._push, pushing=self._pushing))


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


def _deadline(budget_s: float | None) -> float:
    """When time is up, on the clock of `time.perf_counter` [s]; infinite without a budget."""
    return math.inf if budget_s is None else time.perf_counter() + budget_s


def _moving(seen: Seen) -> bool:
    """Whether the arm moves."""
    speeds = seen.state.joint_velocities
    return speeds is not None and bool(speeds.abs().max() > _STANDS)
