"""An episode of a task in simulation, through the same safety filter, loop and chunks as on a real arm."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from pointworld.control.allowed import Allowed, joint_bounds
from pointworld.control.backends.mujoco_arm import MujocoArm
from pointworld.control.body import ArmBody, Space
from pointworld.control.clock import ManualClock
from pointworld.control.limits import read_joint_limits
from pointworld.control.loop import ControlLoop
from pointworld.control.recording import Recorder
from pointworld.control.safety import SafetyConfig, SafetyFilter
from pointworld.control.types import Chunk, ControlError, Reason, SafetyMode
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
    Strain,
    TaskPoints,
    Term,
)
from pointworld.plan.dynamics import Dynamics, PlanState
from pointworld.plan.mpc import MpcSettings, MpcStep, run_mpc
from pointworld.plan.planners import Planner
from pointworld.plan.tasks import Judge, Task, Verdict
from pointworld.plan.tasks.push_paths import FLOOR, PRESS, THIN, plan_push
from pointworld.plan.tasks.seen import Seen
from pointworld.plan.tasks.task import HOLD, STILL
from pointworld.robot import RobotModel

#: The loop stops to see whether the goal holds at this share of the tolerance.
_REACHED = 0.75
#: A planner that finds nothing that helps at so many looks in a row has done what it can.
_GIVE_UP = 6
#: Shares of its speed at which a chunk is rehearsed, until the safety filter lets it pass.
SLOWER = (1.0, 0.7, 0.45, 0.25)
#: A plan starts where the arm is commanded to be, or as near to that as this from where it is measured [rad].
_SLACK = 0.05


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
        self.slowed, self.held = 0, 0
        self._chunks = 0
        self._seen: Seen | None = None

    def look(self) -> Seen:
        """The last observation."""
        assert self._seen is not None
        return self._seen

    @property
    def allowed(self) -> Allowed:
        """What the safety filter asks of plans."""
        return Allowed(safety=self.loop.safety)

    def observe(self) -> PlanState:
        """See `World`. The joints are those that are commanded, where the arm follows: a plan goes on from there."""
        mujoco = import_mujoco()
        mujoco.mj_forward(self.task.model, self.arm.data)
        joints = self.arm.data.qpos[self.arm.index.arm].copy()
        seen, status = self.view.see(self.arm.data, joints), self.loop.status()
        if status.commanded is not None and status.pace is not None:
            measured = joints[:-1]
            near = np.clip(status.commanded, measured - _SLACK, measured + _SLACK)
            state = replace(
                seen.state,
                joint_positions=torch.from_numpy(np.append(near, joints[-1])),
                joint_velocities=torch.from_numpy(np.append(status.pace, 0.0)),
            )
            seen = replace(seen, state=state)
        self._seen = seen
        return seen.state

    def execute(self, actions: Actions, steps: int) -> None:
        """See `World`: one chunk through the loop; its rest is replaced by the next one.

        What the filter would refuse is not sent but slowed down; where that does not help, the arm comes to rest.

        Raises:
            ControlError: the safety filter faulted.
        """
        if self.loop.status().mode is SafetyMode.DISARMED:
            self.loop.arm(dry_run=self.dry_run)
        self._chunks += 1
        seconds = steps * actions.step_dt
        for share in SLOWER:
            chunk = self._chunk(actions, share)
            if self._passes(chunk, seconds):
                self.slowed += int(share < 1.0)
                self.loop.submit(chunk)
                break
        else:
            self.held += 1
            self.loop.hold()
        self.run(seconds)
        if self.verdict().moved >= STILL:
            raise _Disturbed

    def _chunk(self, actions: Actions, share: float) -> Chunk:
        """A motion at a share of its speed."""
        return Chunk(
            sequence=self._chunks,
            start_time=self.clock.now(),
            joint_positions=actions.joint_positions[0, :, :-1].detach().double().numpy(),
            step_dt=actions.step_dt / share,
            gripper_width=actions.gripper_width[0].detach().double().numpy(),
        )

    def _passes(self, chunk: Chunk, seconds: float) -> bool:
        try:
            return self.loop.rehearse(chunk, seconds)[0] is Reason.NONE
        except ControlError:
            return False

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


def held_width(task: Task) -> float:
    """Half width of the tool in the hand [m]; 0 without one."""
    return next((p.half_width for p in task.scene.props if isinstance(p, HeldTool)), 0.0)


def _presses(task: Task) -> bool:
    """Whether the task is a cloth, which is dragged by pressing it onto the table."""
    return task.kind == "deformable" and bool(np.ptp(task.points[:, 2]) < THIN)


def _allowed(task: Task) -> Space:
    table = task.scene.table_height
    return Space(
        lower=(0.2, -0.55, table),
        upper=(0.85, 0.55, 0.85),
        table=table,
        table_clearance=0.0 if _presses(task) else 0.002,
        tool_speed=0.75,
    )


def task_space(
    task: Task, robot: RobotModel, *, horizon: int = 10, safety: SafetyFilter | None = None
) -> ToolPathSpace:
    """What is searched over: paths of the upright hand above the table.

    Args:
        horizon: steps of 0.1 s. safety: the filter whose limits of the joints the paths should keep.
    """
    depth = held_depth(task)
    lowest = PRESS if _presses(task) else FLOOR
    low = task.scene.table_height + (depth + CLEARANCE if depth else lowest)
    limits = PathLimits(
        workspace_lower=(0.30, -0.45, low),
        workspace_upper=(0.80, 0.45, 0.7),
        speed=0.35,
        turn_speed=0.7,
    )
    body = Body.of(robot, step_dt=0.1, num_steps=horizon + 1, surface=96)
    return ToolPathSpace(
        body=body,
        limits=limits,
        translation=(0.3, 0.3, 0.3),
        rotation=(0.0, 0.0, 1.2),
        bounds=None if safety is None else joint_bounds(safety.limits),
    )


def task_cost(
    seen: Seen, table: float, *, depth: float = 0.0, allowed: Allowed | None = None
) -> CostSum:
    """What is minimised: goals reached, hand behind the target, others left alone, a short and possible path.

    Args:
        allowed: what the arm's safety filter asks for; it also knows the table. None = the table alone.
    """
    points, places = seen.points[seen.focus], seen.places[seen.focus]
    push = plan_push(seen, table, depth=depth)
    behind = float(np.linalg.norm(push.contact[:2] - points.mean(0)[:2])) + 0.005
    goal = seen.goals.new_tensor(places.mean(0))
    terms = [
        Term(name="task", cost=TaskPoints(index=seen.index, goals=seen.goals)),
        Term(name="length", cost=PathLength(), weight=0.002),
        Term(name="feasible", cost=Infeasible(), weight=1.0),
        Term(name="strain", cost=Strain(), weight=0.02),
    ]
    if not (seen.owner > 0).any() and not push.press:
        # Of several targets the hand is at one after the other; on a cloth it may be anywhere.
        approach = Approach(index=seen.grip_index, goal=goal, behind=behind)
        terms.append(Term(name="approach", cost=approach, weight=0.05))
    if allowed is not None:
        terms.append(Term(name="allowed", cost=allowed, weight=0.1))
    else:
        floor = SceneCollision(index=seen.index[:0], floor=table + 0.002, margin=0.01)
        terms.append(Term(name="table", cost=floor, weight=0.01))
    if len(seen.still_index):
        terms.append(Term(name="still", cost=KeepStill(index=seen.still_index), weight=300.0))
    return CostSum(tuple(terms))


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """How an episode went.

    outcome: success, missed, disturbed (something that should stay has moved), lost (out of sight) or fault.
    error: of the truth at the end [m or rad]. distance: mean of the task points to their goals [m]. moved: of what
    should stay [m]. steps: of 0.1 s carried out. plans: made; plan_seconds: mean time of one. reason: of a fault.
    perceived: error that the last observation showed [m]. slowed, held: chunks that the safety filter would have
    refused and that were sent more slowly, or not at all.
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
    on_round: Callable[[MpcStep], None] | None = None,
) -> EpisodeResult:
    """Plan and act until the goal holds, time is up, or something goes wrong.

    Args:
        settings: `tolerance` is replaced by the task's.
        corrects: stop when the goal seems reached, and go on if it did not hold; False for a fixed motion.
    """
    started, start = time.perf_counter(), world.verdict()
    rounds: list[MpcStep] = []

    def note(step: MpcStep) -> None:
        rounds.append(step)
        if on_round is not None:
            on_round(step)

    reached = _REACHED * start.distance * world.task.tolerance / start.error
    settings = replace(settings, tolerance=reached if corrects else -1.0)
    near = reached / _REACHED if corrects else -1.0
    tries = _Tries(
        world, space, dynamics, planner, settings=settings, seed=seed, note=note, near=near
    )
    outcome, reason, steps = "", "", 0
    try:
        outcome, steps = tries.run()
    except _Disturbed:
        outcome, steps = "disturbed", rounds[-1].step + settings.execute if rounds else 0
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
        perceived=world.look().error,
        steps=steps,
        plans=len(rounds),
        plan_seconds=float(np.mean([r.plan_seconds for r in rounds])) if rounds else 0.0,
        seconds=time.perf_counter() - started,
        slowed=world.slowed,
        held=world.held,
        reason=reason,
    )


class _Tries:
    """Plans and acts until the goal holds; what only seemed reached is tried again."""

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
    ) -> None:
        self._world, self._space, self._dynamics, self._planner = world, space, dynamics, planner
        self._settings, self._seed, self._note, self._near = settings, seed, note, near

    def run(self) -> tuple[str, int]:
        """Outcome and steps.

        Raises:
            ControlError: the safety filter faulted. InputError: the target is out of sight.
        """
        steps, most = 0, self._settings.max_steps
        while True:
            taken = self._once(steps)
            steps += taken
            if self._world.hold().good:
                return "success", steps
            if self._world.dry_run:
                return "dry run", steps
            # Where it looks reached at once and is not, looking again would change nothing.
            if steps >= most or taken == 0:
                return "missed", steps

    def _once(self, steps: int) -> int:
        world, settings = self._world, self._settings
        table, depth = world.task.scene.table_height, held_depth(world.task)
        result = run_mpc(
            world,
            self._space,
            self._dynamics,
            self._planner,
            lambda state: task_cost(world.look(), table, depth=depth, allowed=world.allowed),
            lambda state: self._error(),
            settings=replace(settings, max_steps=settings.max_steps - steps),
            seed=self._seed + steps,
            on_round=self._note,
        )
        return result.steps

    def _error(self) -> float:
        """Of the last look; none where a planner that knows of nothing better is near enough, or gives up."""
        error, idle = self._world.look().error, int(getattr(self._planner, "idle", 0))
        done = idle >= _GIVE_UP or (idle > 0 and error <= self._near)
        return -np.inf if done else error
