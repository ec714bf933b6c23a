"""Planners for pushing: a search that is led to its contacts, and the baselines it has to beat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from pointworld.plan.actions import ToolPathSpace
from pointworld.plan.planners import Planner
from pointworld.plan.planners.loop import evaluate, seeded
from pointworld.plan.problem import PlanResult, Problem
from pointworld.plan.samplers import SplineNoise
from pointworld.plan.tasks.choice import Choice, PushChooser
from pointworld.plan.tasks.push_paths import (
    FLOOR as FLOOR,
)
from pointworld.plan.tasks.push_paths import (
    Push as Push,
)
from pointworld.plan.tasks.push_paths import at_contact, plan_push, push_plan
from pointworld.plan.tasks.seen import Seen

Tensor = torch.Tensor

#: A plan is worth carrying out when it lowers the cost of staying by this share; a new push when it lowers the
#: squared distance by that.
_WORTH, _WORTH_AGAIN = 0.15, 0.08


@dataclass
class _Memory:
    """Where a guided search stands. choice: the push under way. pushing: the hand has come to its contact.

    idle: looks in a row at which nothing was found that helps.
    """

    choice: Choice | None = None
    pushing: bool = False
    idle: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Guided:
    """Chooses a push, brings the hand behind the target by rule, and searches from there with a planner.

    The way through free air needs no prediction. At the target the search starts from the best of the last plan,
    shifted, and pushes by rule. When nothing it finds is worth doing, another push is chosen.

    planner: that searches. look: the last observation. chooser: None = the push by rule that looks best.
    spread: factor on the width of the first search.
    """

    planner: Planner
    space: ToolPathSpace
    look: Callable[[], Seen]
    table: float
    depth: float = 0.0
    spread: float = 0.3
    chooser: PushChooser | None = None
    memory: _Memory = field(default_factory=_Memory)

    @property
    def idle(self) -> int:
        """Looks in a row at which nothing was found that helps."""
        return self.memory.idle

    def plan(self, problem: Problem, *, seed: int, budget_s: float | None = None) -> PlanResult:
        """See `Planner.plan`."""
        seen, memory = self.look(), self.memory
        if memory.choice is None:
            self._choose(seen, seed)
        assert memory.choice is not None
        tool = self.space.body.robot.tool_pose(seen.state.joint_positions).numpy()[:3, 3]
        memory.pushing |= at_contact(tool, memory.choice.push)
        if not memory.pushing:
            return given_plan(push_plan(self.space, seen, memory.choice.push))
        result = given_plan(self.space.rest())
        if not memory.idle:
            result, worth = self._search(problem, seen, seed, budget_s)
            if worth:
                return result
        before = memory.choice
        self._choose(seen, seed + 1)
        better = memory.choice.after < (1 - _WORTH_AGAIN) * memory.choice.before
        memory.idle = 0 if better or self.chooser is None else memory.idle + 1
        if memory.idle:
            # Nothing is known to help: stay, and think of other pushes next time.
            memory.choice, memory.pushing = before, True
            return result
        return given_plan(push_plan(self.space, seen, memory.choice.push))

    def _choose(self, seen: Seen, seed: int) -> None:
        if self.chooser is not None:
            self.memory.choice = self.chooser.choose(seen, seed)
        else:
            push = plan_push(seen, self.table, depth=self.depth, turn=True)
            self.memory.choice = Choice(push=push, before=1.0, after=0.0)
        self.memory.pushing = False

    def _search(
        self, problem: Problem, seen: Seen, seed: int, budget_s: float | None
    ) -> tuple[PlanResult, bool]:
        """The planner's plan, and whether it is better than to stay."""
        assert self.memory.choice is not None
        chosen = self.memory.choice.push
        pushes = [
            plan_push(seen, self.table, depth=self.depth, turn=turn) for turn in (False, True)
        ]
        plans = [push_plan(self.space, seen, push) for push in pushes]
        plans.append(push_plan(self.space, seen, chosen, pushing=True))
        starts = [torch.zeros_like(problem.nominal), problem.nominal]
        starts += [plan.to(problem.nominal) for plan in plans]
        costs, _ = evaluate(problem, problem.clip(torch.stack(starts)))
        narrowed = replace(
            problem, nominal=starts[int(costs.argmin())], std=self.spread * problem.std
        )
        result = self.planner.plan(narrowed, seed=seed, budget_s=budget_s)
        return result, result.cost < (1 - _WORTH) * float(costs[0])


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
