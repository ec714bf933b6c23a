"""Plan and act on a rig until a goal holds: look, plan, hand a chunk over, look again before it has run out.

Where planning is quick, it overlaps the motion: the next plan starts from where the arm will be when it takes over.
Where it is slow, the arm comes to rest after every part of a plan and waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from pointworld.control.allowed import Allowed
from pointworld.control.clock import Clock
from pointworld.control.filming import look_record, plan_record
from pointworld.control.planning import planning
from pointworld.control.recording import Recorder
from pointworld.control.rig import Look, Rig
from pointworld.control.task_setup import task_cost
from pointworld.control.task_world import SLOWER
from pointworld.control.types import Chunk, ControlError, Reason
from pointworld.errors import InputError
from pointworld.plan.actions import Actions, ToolPathSpace
from pointworld.plan.dynamics import Dynamics, PlanState
from pointworld.plan.mpc import MpcSettings, MpcStep, run_mpc
from pointworld.plan.planners import Planner
from pointworld.plan.problem import PlanResult, Problem
from pointworld.plan.tasks.pushing import gives_up
from pointworld.plan.tasks.seen import Seen

#: After a part of a plan the arm stands this long after its time [s], where planning is slow.
SETTLE = 0.4
#: It may come this much later still [s].
LATE = 4.0
#: Planning overlaps the motion when it takes less than this share of it.
QUICK = 0.8
#: Oldest pictures to plan from while the arm moves [s].
FRESH = 0.3
#: Times this near are the same [s].
_SAME = 1e-3
#: A goal must hold this long [s].
HOLD = 1.0


@dataclass(frozen=True, kw_only=True)
class RigResult:
    """How a run on a rig went.

    outcome: success, missed, lost (out of sight), fault or dry run. distance: mean of the chosen surfaces to their
    goals at the end as the cameras see them [m], start_distance: before; None where nothing was seen. steps: of 0.1 s
    carried out. plans: made; plan_seconds, look_seconds: mean time of one. frame_age: oldest frame that a plan was
    made from, when planning started [s]. overlapped: plans made while the arm moved, stale: looks that took too long
    for that, so that the arm stopped and was looked at again.
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
    reason: str = ""


class RigWorld:
    """See `World`. Turns looks into what a planner knows, and its plans into timed chunks."""

    def __init__(
        self,
        rig: Rig,
        perceive: Callable[[Look], Seen],
        *,
        dry_run: bool = False,
        recorder: Recorder | None = None,
        dynamics: Dynamics,
    ) -> None:
        """Args: perceive: what a look shows of the task. dynamics: for the predictions that are recorded."""
        self.rig, self._perceive, self.dry_run = rig, perceive, dry_run
        self._recorder, self.dynamics = recorder, dynamics
        self._seen: Seen | None = None
        self._number, self._armed = 0, False
        self._chunk: Chunk | None = None
        self._handover = self._looked = self._asked = -np.inf
        self._spent: list[float] = []
        self.look_seconds: list[float] = []
        self.frame_ages: list[float] = []
        self.overlapped, self.stale = 0, 0
        self.slowed, self.held, self.gave_way = 0, 0, 0
        self._refused = False
        self._early = False
        self._plan: MpcStep | None = None

    @property
    def clock(self) -> Clock:
        return self.rig.clock

    def look(self) -> Seen:
        """The last observation."""
        assert self._seen is not None
        return self._seen

    @property
    def error(self) -> float | None:
        """Mean distance to the goals in the last look [m], None before the first."""
        return None if self._seen is None else self._seen.error

    def note(self, step: MpcStep) -> None:
        """A plan was made: to be called before it is carried out."""
        self._plan = step

    def observe(self) -> PlanState:
        """See `World`.

        Raises:
            ControlError: a frame or the arm's state is not fit to plan from.
        """
        begun, asked = time.perf_counter(), self.clock.now()
        look, seen = self._see()
        if self._age(look) > FRESH and look.time < self._handover - _SAME:
            # By now the arm is elsewhere, and what it pushes too: it stops, and everything is looked at again.
            self.stale += 1
            self._stand()
            asked = self.clock.now()
            look, seen = self._see()
        gave_way = look.gave_way > self.gave_way
        self.gave_way = look.gave_way
        if gave_way:
            # The arm has forgotten that chunk and stands: the next one starts from there.
            self._chunk = None
        joints, pace = self._start(look)
        state = replace(
            seen.state,
            joint_positions=torch.from_numpy(joints),
            joint_velocities=torch.from_numpy(pace),
        )
        # Where the arm was held back, or was not let go at all, the same plan again would change nothing.
        self._seen = replace(seen, state=state, blocked=gave_way or self._refused)
        self.frame_ages.append(self._age(look))
        self.look_seconds.append(time.perf_counter() - begun)
        self._asked = asked
        return state

    def _see(self) -> tuple[Look, Seen]:
        look = self.rig.look()
        seen = self._perceive(look)
        self._looked = self.clock.now()
        return look, seen

    def _age(self, look: Look) -> float:
        """Of the oldest picture of a look, now that it has been perceived [s]."""
        return self._looked - min((f.timestamp for f in look.frames), default=self._looked)

    def _stand(self) -> None:
        """Until the part of the chunk that was wanted is over and the arm stands."""
        self.rig.wait(self._handover + (SETTLE if self.rig.real_time else 0.0))
        self.rig.settle(LATE)

    def _start(self, look: Look) -> tuple[np.ndarray, np.ndarray]:
        """Joints and speeds (joints,) of the arm where the next chunk takes over."""
        chunk = self._chunk
        self._early = chunk is not None and look.time < self._handover - _SAME
        if chunk is None or not self._early:
            return look.ahead, look.pace
        self.overlapped += 1
        times = chunk.start_time + chunk.step_dt * np.arange(len(chunk.joint_positions))
        joints, pace = look.ahead.copy(), np.zeros_like(look.ahead)
        for i, column in enumerate(chunk.joint_positions.T):
            joints[i] = np.interp(self._handover, times, column)
            pace[i] = np.interp(self._handover, times, np.gradient(column, chunk.step_dt))
        return joints, pace

    def execute(self, actions: Actions, steps: int) -> None:
        """See `World`: hands the chunk over and waits until it is time to look again.

        What the filter would refuse is not sent but slowed down; where that does not help, the arm comes to rest.

        Raises:
            ControlError: the chunk was refused, or the safety filter faulted.
        """
        if not self._armed:
            self.rig.arm(dry_run=self.dry_run)
            self._armed = True
        now, part = self.clock.now(), steps * actions.step_dt
        self._spent = [*self._spent[-2:], now - self._asked]
        ahead = 1.2 * max(self._spent) if self.rig.real_time else 0.0
        # Pictures may be this old at most when a plan is made from them while the arm moves.
        quick = ahead < QUICK * part and self.frame_ages[-1] <= FRESH
        if self._early:
            self.rig.wait(self._handover)
            now = self.clock.now()
        self._number += 1
        self._chunk = self._fitting(actions, now, None if quick else steps)
        if self._chunk is not None and not self._early:
            # The check took its time, and an arm that stands can start whenever it is done.
            now = self.clock.now()
            self._chunk = replace(self._chunk, start_time=now)
        self._refused = self._chunk is None
        if self._chunk is None or not self._hand_over(self._chunk):
            self.held += 1
            self._chunk = None
            self.rig.hold()
        self._handover = now + part
        self._record()
        if quick and self._chunk is not None:
            self.rig.wait(self._handover - ahead)
        else:
            self._stand()
            self._chunk = None

    def _hand_over(self, chunk: Chunk) -> bool:
        """False when the chunk ran out before it arrived, as on a machine that is far too busy."""
        try:
            self.rig.submit(chunk)
        except ControlError as error:
            if error.reason is Reason.CHUNK_OLD:
                return False
            raise
        return True

    def _fitting(self, actions: Actions, start: float, steps: int | None) -> Chunk | None:
        """The motion as a chunk, as fast as the filter lets it pass; None where it never does.

        Args:
            steps: of it after which the arm should come to rest, None = it goes on with the next plan. A real arm
                starts from rest as gently as its filter asks, and comes late: its target waits for it at the end.
        """
        count = actions.num_steps if steps is None else steps + 1
        wait = 0 if steps is None or not self.rig.real_time else round(SETTLE / actions.step_dt)
        path, width = (
            np.concatenate([values[:count], np.repeat(values[count - 1 : count], wait, 0)])
            for values in (
                actions.joint_positions[0, :, :-1].detach().double().numpy(),
                actions.gripper_width[0].detach().double().numpy(),
            )
        )
        for share in SLOWER:
            chunk = Chunk(
                sequence=self._number,
                # Refused attempts took their time: what an arm does that stands starts now.
                start_time=start if self._early else self.clock.now(),
                joint_positions=path,
                step_dt=actions.step_dt / share,
                gripper_width=width if self.rig.grips else None,
            )
            # All of it: the next plan may come late, or never.
            if self.rig.passes(chunk, chunk.duration):
                self.slowed += int(share < 1.0)
                return chunk
        return None

    def _record(self) -> None:
        """The last plan with its prediction, after it was handed over: nobody waits for it."""
        if self._recorder is None or self._plan is None:
            return
        arrays = plan_record(
            self._plan, self.look(), self.dynamics, look_seconds=self.look_seconds[-1]
        )
        self._recorder.plan(self._looked, arrays)

    def hold(self, seconds: float) -> None:
        """Come to rest, stand for a while, and look."""
        self.rest()
        self.rig.wait(self.clock.now() + SETTLE + seconds)
        self.observe()
        if self._recorder is not None:
            self._recorder.plan(self._looked, look_record(self.look()))

    def rest(self) -> None:
        """Take no more plans until the next one."""
        if self._armed:
            self.rig.disarm()
        self._armed, self._chunk = False, None


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
) -> RigResult:
    """Plan and act until the goal holds, the steps are used up, or something goes wrong.

    Args:
        allowed: what the safety filter asks of plans. table: its height [m]. settings: `tolerance` is the mean
            distance at which the goal counts as reached [m]. depth, uncertainty: see `task_cost`.
    """
    began, rounds, steps = time.perf_counter(), list[MpcStep](), 0
    outcome, reason = "", ""

    def note(step: MpcStep) -> None:
        rounds.append(step)
        world.note(step)

    try:
        while not outcome:
            result = run_mpc(
                world,
                space,
                world.dynamics,
                planner,
                lambda state: task_cost(
                    world.look(), table, depth=depth, allowed=allowed, uncertainty=uncertainty
                ),
                lambda state: -np.inf if gives_up(planner) else world.look().error,
                settings=replace(settings, max_steps=settings.max_steps - steps),
                seed=seed + steps,
                on_round=note,
            )
            steps += result.steps
            world.hold(HOLD)
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
    return _result(world, rounds, outcome, reason, steps, settings, time.perf_counter() - began)


def _result(
    world: RigWorld,
    rounds: list[MpcStep],
    outcome: str,
    reason: str,
    steps: int,
    settings: MpcSettings,
    seconds: float,
) -> RigResult:
    # A fault or a lost target comes before the steps of its plan are counted.
    done = rounds[-1].step + settings.execute if rounds and reason else steps
    return RigResult(
        outcome=outcome,
        distance=world.error,
        start_distance=rounds[0].error if rounds else world.error,
        tolerance=settings.tolerance,
        steps=done,
        plans=len(rounds),
        plan_seconds=_mean([r.plan_seconds for r in rounds]),
        look_seconds=_mean(world.look_seconds),
        frame_age=max(world.frame_ages, default=0.0),
        overlapped=world.overlapped,
        stale=world.stale,
        slowed=world.slowed,
        held=world.held,
        gave_way=world.gave_way,
        seconds=seconds,
        reason=reason,
    )


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0
