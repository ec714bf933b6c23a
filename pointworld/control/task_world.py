"""The simulated arm of a task behind control loop and safety filter, on a clock that stands while one plans."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch

from pointworld.control.allowed import Allowed
from pointworld.control.backends.mujoco_arm import MujocoArm
from pointworld.control.body import ArmBody
from pointworld.control.clock import ManualClock
from pointworld.control.limits import read_joint_limits
from pointworld.control.loop import ControlLoop, LoopConfig
from pointworld.control.recording import Recorder
from pointworld.control.safety import SafetyFilter
from pointworld.control.task_setup import task_safety
from pointworld.control.types import Chunk, ControlError, Reason, SafetyMode
from pointworld.data.simulator import import_mujoco
from pointworld.plan.actions import Actions
from pointworld.plan.dynamics import PlanState
from pointworld.plan.tasks import Judge, Task, Verdict, worst
from pointworld.plan.tasks.seen import Seen
from pointworld.plan.tasks.task import HOLD, STILL
from pointworld.robot import RobotModel

#: Shares of its speed at which a chunk is rehearsed, until the safety filter lets it pass.
SLOWER = (1.0, 0.7, 0.45, 0.25)
#: A plan starts where the arm is commanded to be, or as near to that as this from where it is measured [rad].
_SLACK = 0.05
#: An arm that is held back this far presses against something and gives way [rad].
_GIVE_WAY = 0.06


class View(Protocol):
    """What looks at the task: `TrueView` or `SimulatedView`."""

    def see(self, data: Any, joints: np.ndarray) -> Seen:
        """The task now."""
        ...


class Disturbed(Exception):
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
        config = task_safety(task)
        self.arm = MujocoArm(
            task.model, task.tree, self.clock, data=task.restart(), period=config.period
        )
        safety = SafetyFilter(
            read_joint_limits(robot.source, self.arm.info.arm_joints),
            config,
            body=ArmBody.of(robot),
            max_width=self.arm.info.max_width,
        )
        self.loop = ControlLoop(
            self.arm,
            safety,
            self.clock,
            config=LoopConfig(give_way=_GIVE_WAY),
            recorder=recorder,
        )
        self.arm.connect()
        self.slowed, self.held = 0, 0
        self._chunks, self._gave_way, self._refused = 0, 0, False
        self._seen: Seen | None = None

    def look(self) -> Seen:
        """The last observation."""
        assert self._seen is not None
        return self._seen

    @property
    def perceived(self) -> float | None:
        """Mean distance to the goals in the last look [m], None before the first."""
        return None if self._seen is None else self._seen.error

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
        # Where the arm was held back, or was not let go at all, the same plan again would change nothing.
        seen = replace(seen, blocked=self._refused or status.gave_way > self._gave_way)
        self._seen, self._gave_way = seen, status.gave_way
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
                self._refused = False
                break
        else:
            self.held += 1
            self._refused = True
            self.loop.hold()
        self.run(seconds)
        if self.verdict().moved >= STILL:
            raise Disturbed

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
        """Come to rest and wait; the worst of what is judged while the arm stands."""
        self.loop.disarm()
        # The arm needs a moment to stand; the goal must hold from then on.
        self.run(0.5)
        verdicts = [self.verdict()]
        for _ in range(5):
            self.run(HOLD / 5)
            verdicts.append(self.verdict())
        return worst(verdicts)

    def verdict(self) -> Verdict:
        """The truth now."""
        import_mujoco().mj_forward(self.task.model, self.arm.data)
        return self.judge(self.arm.data)
