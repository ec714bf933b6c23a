"""Plan and act on a rig until the goal holds, the steps are used up, or something goes wrong."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from pointworld.control.allowed import Allowed
from pointworld.control.planning import planning
from pointworld.control.rig import Rig
from pointworld.control.rig_truth import HeldTruth
from pointworld.control.rig_world import RigWorld
from pointworld.control.task_setup import task_cost
from pointworld.control.types import ControlError, Reason
from pointworld.errors import InputError
from pointworld.plan.actions import ToolPathSpace
from pointworld.plan.mpc import MpcSettings, MpcStep, run_mpc
from pointworld.plan.planners import Planner
from pointworld.plan.problem import PlanResult, Problem
from pointworld.plan.tasks.pushing import gives_up
from pointworld.plan.tasks.task import HOLD, REACHED


@dataclass(frozen=True, kw_only=True)
class RigResult:
    """How a run on a rig went.

    outcome: success, missed, lost (out of sight), fault or dry run. distance: mean of the chosen surfaces to their
    goals at the end as the cameras see them [m], start_distance: before; None where nothing was seen. steps: of 0.1 s
    carried out. plans: made; plan_seconds, look_seconds: mean time of one. frame_age: oldest frame that a plan was
    made from, when planning started [s]. overlapped: plans made while the arm moved. stale: looks whose pictures were
    too old by then, so that the arm stopped, if it moved, and was looked at again. late: plans that were not carried
    out, because the arm had gone on from where they begin.
    slowed, held: chunks that the filter would have refused and that were sent more slowly, or not at all. gave_way:
    chunks forgotten because the arm was held back. reason: of a fault.
    """

    outcome: str
    distance: float | None
    start_distance: float | None
    tolerance: float
    steps: int
    plans: int
    plan_seconds: float
    look_seconds: float
    frame_age: float
    overlapped: int
    slowed: int
    held: int
    seconds: float
    gave_way: int = 0
    stale: int = 0
    late: int = 0
    reason: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class WatchedPlanner:
    """A planner whose failure stops the arm: see `planning`. deadline: ten times this is too long [s]."""

    planner: Planner
    rig: Rig
    deadline: float

    @property
    def idle(self) -> int:
        """Looks in a row at which the planner found nothing that helps; 0 for one that does not say."""
        return int(getattr(self.planner, "idle", 0))

    def plan(self, problem: Problem, *, seed: int, budget_s: float | None = None) -> PlanResult:
        """See `Planner.plan`."""
        with planning(self.rig, self.rig.clock, deadline=self.deadline):
            return self.planner.plan(problem, seed=seed, budget_s=budget_s)


def run_on_rig(
    world: RigWorld,
    space: ToolPathSpace,
    planner: Planner,
    *,
    allowed: Allowed,
    table: float,
    settings: MpcSettings,
    seed: int,
    depth: float = 0.0,
    uncertainty: float = 0.0,
    judge: HeldTruth | None = None,
) -> RigResult:
    """Plan and act until the goal holds, the steps are used up, or something goes wrong.

    Args:
        allowed: what the safety filter asks of plans. table: its height [m]. settings: `tolerance` is the mean
            distance at which the goal counts as reached, once the arm stands [m]; it stops at `REACHED` of that.
            depth, uncertainty: see `task_cost`.
        judge: watches while the arm stands at the end; it has no say in when that is.
    """
    began, rounds, steps, begun = time.perf_counter(), list[MpcStep](), 0, 0
    outcome, reason = "", ""

    def note(step: MpcStep) -> None:
        nonlocal begun
        rounds.append(step)
        world.note(step)
        begun = step.step + settings.execute

    def left() -> float:
        """Of the last look; none where a planner that knows of nothing better is near enough, or gives up."""
        error, idle = world.look().error, int(getattr(planner, "idle", 0))
        done = gives_up(planner) or (idle > 0 and error <= settings.tolerance)
        return -np.inf if done else error

    try:
        while not outcome:
            if judge is not None:
                judge.begin()
            result = run_mpc(
                world,
                space,
                world.dynamics,
                planner,
                lambda state: task_cost(
                    world.look(), table, depth=depth, allowed=allowed, uncertainty=uncertainty
                ),
                lambda state: left(),
                settings=replace(
                    settings,
                    tolerance=REACHED * settings.tolerance,
                    max_steps=settings.max_steps - steps,
                ),
                seed=seed + steps,
                on_round=note,
            )
            steps, begun = steps + result.steps, 0
            if judge is None:
                world.hold(HOLD)
            else:
                world.hold(HOLD, judge.note)
            if world.dry_run:
                outcome = "dry run"
            elif world.look().error <= settings.tolerance:
                outcome = "success"
            elif steps >= settings.max_steps or result.steps == 0:
                outcome = "missed"
    except ControlError as error:
        outcome, reason = "fault", f"{error.reason.value}: {error}"
    except InputError as error:
        world.rig.stop(Reason.PLANNER_ERROR, str(error))
        outcome, reason = "lost", str(error)
    # A fault or a lost target comes before the steps of its plan are counted.
    steps += begun
    return _result(world, rounds, outcome, reason, steps, settings, time.perf_counter() - began)


def lost(world: RigWorld, settings: MpcSettings, reason: str) -> RigResult:
    """A run that saw nothing of what it should move."""
    return _result(world, [], "lost", reason, 0, settings, 0.0)


def _result(
    world: RigWorld,
    rounds: list[MpcStep],
    outcome: str,
    reason: str,
    steps: int,
    settings: MpcSettings,
    seconds: float,
) -> RigResult:
    return RigResult(
        outcome=outcome,
        distance=world.error,
        start_distance=rounds[0].error if rounds else world.error,
        tolerance=settings.tolerance,
        steps=steps,
        plans=len(rounds),
        plan_seconds=_mean([r.plan_seconds for r in rounds]),
        look_seconds=_mean(world.look_seconds),
        frame_age=max(world.frame_ages, default=0.0),
        overlapped=world.overlapped,
        stale=world.stale,
        late=world.late,
        slowed=world.slowed,
        held=world.held,
        gave_way=world.gave_way,
        seconds=seconds,
        reason=reason,
    )


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0
