"""An episode of a task in simulation, through the same safety filter, loop and chunks as on a real arm."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from pointworld.control.backends.mujoco_arm import MujocoArm
from pointworld.control.body import ArmBody, Space
from pointworld.control.clock import ManualClock
from pointworld.control.limits import read_joint_limits
from pointworld.control.loop import ControlLoop
from pointworld.control.recording import Recorder
from pointworld.control.safety import SafetyConfig, SafetyFilter
from pointworld.control.types import Chunk, ControlError, SafetyMode
from pointworld.data.families.tools import HeldTool
from pointworld.data.motions import CLEARANCE
from pointworld.data.simulator import import_mujoco
from pointworld.errors import InputError
from pointworld.plan.actions import Actions, Body, PathLimits, ToolPathSpace
from pointworld.plan.costs import (
    Approach,
    CostSum,
    Infeasible,
    KeepStill,
    PathLength,
    SceneCollision,
    TaskPoints,
    Term,
)
from pointworld.plan.dynamics import Dynamics, PlanState
from pointworld.plan.mpc import MpcSettings, MpcStep, run_mpc
from pointworld.plan.planners import Planner
from pointworld.plan.tasks import Judge, Task, Verdict
from pointworld.plan.tasks.pushing import FLOOR, plan_push
from pointworld.plan.tasks.seen import Seen
from pointworld.plan.tasks.task import HOLD, STILL
from pointworld.robot import RobotModel

#: The loop stops to see whether the goal holds at this share of the tolerance.
_REACHED = 0.75


class View(Protocol):
    """What looks at the task: `TrueView` or `CameraView`."""

    def see(self, data: Any, joints: np.ndarray) -> Seen:
        """The task now."""
        ...


class _Disturbed(Exception):
    """Something that should stay has moved too far: the episode is lost."""


class TaskWorld:
    """The simulated arm of a task behind control loop and safety filter, on a clock that stands while one plans."""

    def __init__(
        self,
        task: Task,
        robot: RobotModel,
        view: View,
        *,
        recorder: Recorder | None = None,
        dry_run: bool = False,
    ) -> None:
        self.task, self.view, self.dry_run = task, view, dry_run
        self.clock = ManualClock()
        self.judge = Judge(task)
        config = SafetyConfig(
            velocity=0.6, acceleration=0.8, jerk=0.3, tracking=0.2, ramp=0.2, space=_allowed(task)
        )
        self.arm = MujocoArm(
            task.model, task.tree, self.clock, data=task.restart(), period=config.period
        )
        safety = SafetyFilter(
            read_joint_limits(robot.source, self.arm.info.arm_joints),
            config,
            body=ArmBody.of(robot),
            max_width=self.arm.info.max_width,
        )
        self.loop = ControlLoop(self.arm, safety, self.clock, recorder=recorder)
        self.arm.connect()
        self._chunks = 0
        self._seen: Seen | None = None

    def look(self) -> Seen:
        """The last observation."""
        assert self._seen is not None
        return self._seen

    def observe(self) -> PlanState:
        """See `World`."""
        mujoco = import_mujoco()
        mujoco.mj_forward(self.task.model, self.arm.data)
        joints = self.arm.data.qpos[self.arm.index.arm].copy()
        self._seen = self.view.see(self.arm.data, joints)
        return self._seen.state

    def execute(self, actions: Actions, steps: int) -> None:
        """See `World`: one chunk through the loop; its rest is replaced by the next one.

        Raises:
            ControlError: the safety filter faulted.
        """
        if self.loop.status().mode is SafetyMode.DISARMED:
            self.loop.arm(dry_run=self.dry_run)
        self._chunks += 1
        width = actions.gripper_width[0].detach().double().numpy()
        chunk = Chunk(
            sequence=self._chunks,
            start_time=self.clock.now(),
            joint_positions=actions.joint_positions[0, :, :-1].detach().double().numpy(),
            step_dt=actions.step_dt,
            gripper_width=width,
        )
        self.loop.submit(chunk)
        self.run(steps * actions.step_dt)
        if self.verdict().moved >= STILL:
            raise _Disturbed

    def run(self, seconds: float) -> None:
        """Let the loop run.

        Raises:
            ControlError: the safety filter faulted.
        """
        period = self.loop.safety.config.period
        for _ in range(round(seconds / period)):
            self.clock.time += period
            self.loop.tick()
            status = self.loop.status()
            if status.mode is SafetyMode.FAULT:
                raise ControlError(status.reason, status.message)

    def hold(self) -> Verdict:
        """Come to rest and wait; the worst of what is judged on the way."""
        self.loop.disarm()
        worst = self.verdict()
        # The arm needs a moment to stand; the goal must hold from then on.
        self.run(0.5)
        for _ in range(5):
            self.run(HOLD / 5)
            now = self.verdict()
            worst = now if now.error >= worst.error or not worst.good else worst
        return worst

    def verdict(self) -> Verdict:
        """The truth now."""
        import_mujoco().mj_forward(self.task.model, self.arm.data)
        return self.judge(self.arm.data)


def held_depth(task: Task) -> float:
    """Length of the tool in the hand below the fingertips [m]; 0 without one."""
    return next((p.length for p in task.scene.props if isinstance(p, HeldTool)), 0.0)


def _allowed(task: Task) -> Space:
    table = task.scene.table_height
    return Space(lower=(0.2, -0.55, table), upper=(0.85, 0.55, 0.85), table=table, tool_speed=0.75)


def task_space(task: Task, robot: RobotModel, *, horizon: int = 10) -> ToolPathSpace:
    """What is searched over: paths of the upright hand above the table. Args: horizon: steps of 0.1 s."""
    depth = held_depth(task)
    low = task.scene.table_height + (depth + CLEARANCE if depth else FLOOR)
    limits = PathLimits(
        workspace_lower=(0.30, -0.45, low),
        workspace_upper=(0.80, 0.45, 0.7),
        speed=0.25,
        turn_speed=0.7,
    )
    body = Body.of(robot, step_dt=0.1, num_steps=horizon + 1, surface=96)
    return ToolPathSpace(
        body=body, limits=limits, translation=(0.3, 0.3, 0.3), rotation=(0.0, 0.0, 1.2)
    )


def task_cost(seen: Seen, table: float, *, depth: float = 0.0, uncertainty: float = 0.0) -> CostSum:
    """What is minimised: goals reached, hand behind the target, others left alone, a short and possible path."""
    points, places = seen.points[seen.grip], seen.places[seen.grip]
    push = plan_push(seen, table, depth=depth)
    behind = float(np.linalg.norm(push.contact[:2] - points.mean(0)[:2])) + 0.005
    goal = seen.goals.new_tensor(places.mean(0))
    terms = [
        Term(name="task", cost=TaskPoints(index=seen.index, goals=seen.goals)),
        Term(
            name="approach",
            cost=Approach(index=seen.grip_index, goal=goal, behind=behind),
            weight=0.05,
        ),
        Term(name="length", cost=PathLength(), weight=0.002),
        Term(name="feasible", cost=Infeasible(), weight=1.0),
        Term(
            name="table",
            cost=SceneCollision(index=seen.index[:0], floor=table + 0.002, margin=0.01),
            weight=0.01,
        ),
    ]
    if len(seen.still_index):
        terms.append(Term(name="still", cost=KeepStill(index=seen.still_index), weight=300.0))
    return CostSum(tuple(terms))


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """How an episode went.

    outcome: success, missed, disturbed (something that should stay has moved), lost (out of sight) or fault.
    error: of the truth at the end [m or rad]. distance: mean of the task points to their goals [m]. moved: of what
    should stay [m]. steps: of 0.1 s carried out. plans: made; plan_seconds: mean time of one. reason: of a fault.
    perceived: error that the last observation showed [m].
    """

    outcome: str
    error: float
    distance: float
    start_distance: float
    moved: float
    tolerance: float
    perceived: float
    steps: int
    plans: int
    plan_seconds: float
    seconds: float
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
    on_round: Callable[[MpcStep], None] | None = None,
) -> EpisodeResult:
    """Plan and act until the goal holds, time is up, or something goes wrong.

    Args:
        settings: `tolerance` is replaced by the task's.
        corrects: stop when the goal seems reached, and go on if it did not hold; False for a fixed motion.
    """
    started, task = time.perf_counter(), world.task
    start = world.verdict()
    table, depth = task.scene.table_height, held_depth(task)
    near = _REACHED * start.distance * task.tolerance / start.error
    rounds: list[MpcStep] = []
    outcome, reason, steps = "", "", 0

    def note(step: MpcStep) -> None:
        rounds.append(step)
        if on_round is not None:
            on_round(step)

    try:
        while not outcome:
            result = run_mpc(
                world,
                space,
                dynamics,
                planner,
                lambda state: task_cost(world.look(), table, depth=depth),
                lambda state: world.look().error,
                settings=replace(
                    settings,
                    tolerance=near if corrects else -1.0,
                    max_steps=settings.max_steps - steps,
                ),
                seed=seed + steps,
                on_round=note,
            )
            steps += result.steps
            verdict = world.hold()
            if verdict.good:
                outcome = "success"
            elif steps >= settings.max_steps or world.dry_run:
                outcome = "dry run" if world.dry_run else "missed"
            elif result.steps == 0:
                # It looks reached and is not: looking again would change nothing.
                outcome = "missed"
    except _Disturbed:
        outcome = "disturbed"
    except ControlError as error:
        outcome, reason = "fault", f"{error.reason.value}: {error}"
    except InputError as error:
        outcome, reason = "lost", str(error)
    verdict = world.verdict()
    spent = [r.plan_seconds for r in rounds]
    return EpisodeResult(
        outcome=outcome,
        error=verdict.error,
        distance=verdict.distance,
        start_distance=start.distance,
        moved=verdict.moved,
        tolerance=task.tolerance,
        perceived=world.look().error,
        steps=(rounds[-1].step + settings.execute) if rounds and outcome == "disturbed" else steps,
        plans=len(rounds),
        plan_seconds=float(np.mean(spent)) if spent else 0.0,
        seconds=time.perf_counter() - started,
        reason=reason,
    )
