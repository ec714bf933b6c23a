"""Model predictive control: observe, plan, carry out the first part, repeat."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from pointworld.errors import InputError
from pointworld.plan.actions import Actions, ActionSpace
from pointworld.plan.costs.base import Cost
from pointworld.plan.dynamics import Dynamics, PlanState, make_problem
from pointworld.plan.planners import Planner
from pointworld.plan.problem import PlanResult

Tensor = torch.Tensor
Outcome = Literal["reached", "steps used up"]


class World(Protocol):
    """What the loop acts on: a simulator, or cameras and an arm behind their safety filter."""

    def observe(self) -> PlanState:
        """The state now."""
        ...

    def execute(self, actions: Actions, steps: int) -> None:
        """Carry out the first `steps` of one motion (a batch of one)."""
        ...


@dataclass(frozen=True, kw_only=True)
class MpcSettings:
    """How the loop runs.

    execute: steps of each plan that are carried out before the next one. max_steps: of the whole episode.
    tolerance: the task counts as reached at this error or below. budget_s: time to plan, None = no bound.
    chunk: most candidates rolled out together, 0 for no bound. warm_start: continue the last plan.
    """

    execute: int = 5
    max_steps: int = 100
    tolerance: float = 0.02
    budget_s: float | None = None
    chunk: int = 0
    warm_start: bool = True

    def __post_init__(self) -> None:
        if self.execute < 1 or self.max_steps < 1:
            raise InputError("execute and max_steps must be at least 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class MpcStep:
    """One round. step: of the episode, when it was planned. error: of the task then. plan_seconds: spent planning."""

    step: int
    error: float
    plan: PlanResult
    actions: Actions
    plan_seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class MpcResult:
    """How an episode went. steps: carried out. error: of the task at the end. rounds: all plans."""

    outcome: Outcome
    steps: int
    error: float
    rounds: tuple[MpcStep, ...]


def run_mpc(
    world: World,
    space: ActionSpace,
    dynamics: Dynamics,
    planner: Planner,
    cost: Callable[[PlanState], Cost],
    error: Callable[[PlanState], float],
    *,
    settings: MpcSettings,
    seed: int,
    on_round: Callable[[MpcStep], None] | None = None,
) -> MpcResult:
    """Run the loop until the task is reached or the steps are used up.

    Args:
        cost: what to minimise from a state (the indices of task points may change with every observation).
        error: of a state, in the unit of the tolerance.
        on_round: called after each plan, before it is carried out (for recording and display).
    """
    rounds: list[MpcStep] = []
    step, nominal, seeds = 0, None, _seeds(seed)
    while True:
        state = world.observe()
        now = error(state)
        if now <= settings.tolerance or step >= settings.max_steps:
            outcome: Outcome = "reached" if now <= settings.tolerance else "steps used up"
            return MpcResult(outcome=outcome, steps=step, error=now, rounds=tuple(rounds))
        start = time.perf_counter()
        problem = make_problem(
            space, dynamics, cost(state), state, nominal=nominal, chunk=settings.chunk
        )
        plan = planner.plan(problem, seed=next(seeds), budget_s=settings.budget_s)
        with torch.no_grad():
            actions = space.decode(
                state.joint_positions, plan.actions[None], speeds=state.joint_velocities
            )
        spent = time.perf_counter() - start
        rounds.append(MpcStep(step=step, error=now, plan=plan, actions=actions, plan_seconds=spent))
        if on_round is not None:
            on_round(rounds[-1])
        taken = min(settings.execute, settings.max_steps - step, actions.num_steps - 1)
        world.execute(actions, taken)
        step += taken
        nominal = space.shift(plan.actions, taken) if settings.warm_start else None


def _seeds(seed: int) -> Iterator[int]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield int(torch.randint(2**31, (1,), generator=generator))


def mean_distance(state: PlanState, index: Tensor, goals: Tensor) -> float:
    """Mean distance of the task points to their goals (chosen, 3) [m]."""
    points = state.scene.points[index]
    return float((points - goals.to(points)).norm(dim=-1).mean())
