"""An episode of a task in simulation, through the same safety filter, loop and chunks as on a real arm."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pointworld.control.task_setup import held_depth, task_cost
from pointworld.control.task_world import Disturbed, TaskWorld
from pointworld.control.types import ControlError
from pointworld.errors import InputError
from pointworld.plan.actions import ToolPathSpace
from pointworld.plan.dynamics import Dynamics
from pointworld.plan.mpc import MpcSettings, MpcStep, run_mpc
from pointworld.plan.planners import Planner
from pointworld.plan.tasks import Verdict
from pointworld.plan.tasks.pushing import gives_up
from pointworld.plan.tasks.task import REACHED, STILL

#: Where another push would be needed, this share of the tolerance is near enough.
_NEAR_ENOUGH = 0.85


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """How an episode went.

    outcome: success, missed, disturbed (something that should stay has moved), lost (out of sight) or fault.
    error: of the truth at the end [m or rad]. distance: mean of the task points to their goals [m]. moved: of what
    should stay [m]. steps: of 0.1 s carried out. plans: made; plan_seconds: mean time of one. reason: of a fault.
    perceived: error that the last observation showed [m], None where nothing was seen. slowed, held: chunks that the
    safety filter would have refused and that were sent more slowly, or not at all.
    """

    outcome: str
    error: float
    distance: float
    start_distance: float
    moved: float
    tolerance: float
    perceived: float | None
    steps: int
    plans: int
    plan_seconds: float
    seconds: float
    slowed: int = 0
    held: int = 0
    reason: str = ""


def run_episode(
    world: TaskWorld,
    space: ToolPathSpace,
    dynamics: Dynamics,
    planner: Planner,
    *,
    settings: MpcSettings,
    seed: int,
    corrects: bool = True,
    uncertainty: float = 0.0,
    on_round: Callable[[MpcStep], None] | None = None,
) -> EpisodeResult:
    """Plan and act until the goal holds, time is up, or something goes wrong.

    Args:
        settings: `tolerance` is replaced by the task's.
        corrects: stop when the goal seems reached, and go on if a second look says otherwise; False for a fixed motion.
        uncertainty: weight of the predicted variance in the cost.
    """
    started, start = time.perf_counter(), world.verdict()
    rounds: list[MpcStep] = []

    def note(step: MpcStep) -> None:
        rounds.append(step)
        if on_round is not None:
            on_round(step)

    reached = REACHED * start.distance * world.task.tolerance / start.error
    settings = replace(settings, tolerance=reached if corrects else -1.0)
    near = reached / REACHED if corrects else -1.0
    tries = _Tries(
        world,
        space,
        dynamics,
        planner,
        settings=settings,
        seed=seed,
        note=note,
        near=near,
        uncertainty=uncertainty,
    )
    outcome, reason = "", ""
    try:
        outcome = tries.run()
    except Disturbed:
        outcome = "disturbed"
    except ControlError as error:
        outcome, reason = "fault", f"{error.reason.value}: {error}"
    except InputError as error:
        outcome, reason = "lost", str(error)
    verdict = world.verdict()
    return EpisodeResult(
        outcome=outcome,
        error=verdict.error,
        distance=verdict.distance,
        start_distance=start.distance,
        moved=verdict.moved,
        tolerance=world.task.tolerance,
        perceived=world.perceived,
        steps=tries.steps,
        plans=len(rounds),
        plan_seconds=float(np.mean([r.plan_seconds for r in rounds])) if rounds else 0.0,
        seconds=time.perf_counter() - started,
        slowed=world.slowed,
        held=world.held,
        reason=reason,
    )


def _outcome(held: Verdict) -> str:
    if held.good:
        return "success"
    return "disturbed" if held.moved >= STILL else "missed"


class _Tries:
    """Plans and acts until the goal seems to hold; what does not at a second look is tried again."""

    def __init__(
        self,
        world: TaskWorld,
        space: ToolPathSpace,
        dynamics: Dynamics,
        planner: Planner,
        *,
        settings: MpcSettings,
        seed: int,
        note: Callable[[MpcStep], None],
        near: float,
        uncertainty: float,
    ) -> None:
        self._world, self._space, self._dynamics, self._planner = world, space, dynamics, planner
        self._settings, self._seed, self._tell, self._near = settings, seed, note, near
        self._uncertainty, self._modest = uncertainty, True
        self._done, self._begun = 0, 0

    @property
    def steps(self) -> int:
        """Carried out so far, with those of a plan that was interrupted."""
        return self._done + self._begun

    def run(self) -> str:
        """The outcome.

        Raises:
            ControlError: the safety filter faulted. InputError: the target is out of sight.
        """
        while True:
            taken = self._once(self._done)
            self._done, self._begun = self._done + taken, 0
            held = self._world.hold()
            if self._world.dry_run:
                return "dry run"
            over = self._done >= self._settings.max_steps
            # Where it looked reached at once and does not any more, looking again would change nothing.
            if over or (taken == 0 and not self._modest) or self._looks_reached():
                return _outcome(held)
            self._modest = False

    def _note(self, step: MpcStep) -> None:
        self._begun = step.step + self._settings.execute
        self._tell(step)

    def _looks_reached(self) -> bool:
        """Whether another look says so: what really is tells the outcome, never whether to go on."""
        if self._near < 0:
            return False
        self._world.observe()
        return self._world.look().error <= self._near

    def _once(self, steps: int) -> int:
        world, settings = self._world, self._settings
        table, depth = world.task.scene.table_height, held_depth(world.task)
        result = run_mpc(
            world,
            self._space,
            self._dynamics,
            self._planner,
            lambda state: task_cost(
                world.look(),
                table,
                depth=depth,
                allowed=world.allowed,
                uncertainty=self._uncertainty,
            ),
            lambda state: self._error(),
            settings=replace(settings, max_steps=settings.max_steps - steps),
            seed=self._seed + steps,
            on_round=self._note,
        )
        return result.steps

    def _error(self) -> float:
        """Of the last look; none where a planner that knows of nothing better is near enough, or gives up."""
        error, idle = self._world.look().error, int(getattr(self._planner, "idle", 0))
        done = gives_up(self._planner) or (idle > 0 and error <= self._near)
        if self._modest and getattr(self._planner, "between", False):
            done |= error <= _NEAR_ENOUGH * self._near
        return -np.inf if done else error
