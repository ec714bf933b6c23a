"""Plan and act on a rig until a goal holds: look, plan, hand a chunk over, look again before it has run out.

Where planning is quick, it overlaps the motion: the next plan starts from where the arm will be when it takes over.
Where it is slow, the arm comes to rest after every part of a plan and waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from pointworld.control.clock import Clock
from pointworld.control.filming import look_record, plan_record
from pointworld.control.recording import Recorder
from pointworld.control.rig import Look, Rig
from pointworld.control.task_world import SLOWER
from pointworld.control.types import Chunk, ControlError, Reason
from pointworld.plan.actions import Actions
from pointworld.plan.dynamics import Dynamics, PlanState
from pointworld.plan.mpc import MpcStep
from pointworld.plan.tasks.seen import Seen

#: After a part of a plan the arm stands this long after its time [s], where planning is slow.
SETTLE = 0.4
#: It may come this much later still [s].
LATE = 4.0
#: Planning overlaps the motion when it takes less than this share of it.
QUICK = 0.8
#: Oldest pictures to plan from [s]; of an arm that stands, older ones are taken again, so often at most: where newer
#: have been had, and where none ever were (the first looks of all take longer).
FRESH, AGAIN, NEVER = 0.3, 60, 10
#: A plan of a moving arm takes over this late at most [s].
PUNCTUAL = 0.03
#: Planning takes as long as the longest of so many rounds: now and then it begins with a new idea.
_MEMORY = 6
#: So often may one look at what an arm has done while it stands.
_WATCHED = 5
#: Times this near are the same [s].
_SAME = 1e-3


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
        oldest: float = FRESH,
    ) -> None:
        """Args:
        perceive: what a look shows of the task. dynamics: for the predictions that are recorded. oldest: pictures
            from which one plans for an arm that stands [s].
        """
        self.rig, self._perceive, self.dry_run = rig, perceive, dry_run
        self._recorder, self.dynamics, self._oldest = recorder, dynamics, oldest
        self._seen: Seen | None = None
        self._number, self._armed = 0, False
        self._chunk: Chunk | None = None
        self._handover = self._looked = self._asked = -np.inf
        #: Age of the newest pictures that were had so far [s].
        self._newest = np.inf
        self._spent: list[float] = []
        self._checking = 0.0
        #: Of the oldest picture of the last look when it had been perceived [s]; frame_ages: of those planned from.
        self.frame_age = 0.0
        self.look_seconds: list[float] = []
        self.frame_ages: list[float] = []
        self.overlapped, self.stale, self.late = 0, 0, 0
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
        again = 0
        while self._age(look) > (FRESH if self._moves(look) else self._oldest):
            if again == (AGAIN if self._newest <= self._oldest else NEVER):
                message = self._too_old(look, again)
                self.rig.stop(Reason.CAMERA_STALE, message)
                raise ControlError(Reason.CAMERA_STALE, message)
            again, self.stale = again + 1, self.stale + 1
            if self._moves(look):
                # By now the arm is elsewhere, and what it pushes too: it stops, and everything is looked at again.
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
        self.frame_age = self._age(look)
        self.look_seconds.append(time.perf_counter() - begun)
        self._asked = asked
        return state

    def _see(self) -> tuple[Look, Seen]:
        look = self.rig.look()
        try:
            seen = self._perceive(look)
        except ControlError as error:
            self.rig.stop(error.reason, str(error))
            raise
        self._looked = self.clock.now()
        self._newest = min(self._newest, self._age(look))
        return look, seen

    def _moves(self, look: Look) -> bool:
        """Whether the arm was carrying a chunk out then."""
        return look.time < self._handover - _SAME

    def _too_old(self, look: Look, again: int) -> str:
        found = f"pictures were {self._age(look):.2f} s old after {again} more looks, above {self._oldest} s"
        if self._newest <= self._oldest:
            return f"{found}, although newer have been had: end what else keeps this machine busy"
        return (
            f"{found}, and never newer than {self._newest:.2f} s, so long does this machine need to find everything in "
            "them. Use fewer cameras or smaller pictures, or plan from older ones of a standing arm (--max-frame-age)"
        )

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
        self.frame_ages.append(self.frame_age)
        planned, part = self.clock.now(), steps * actions.step_dt
        self._spent = [*self._spent[1 - _MEMORY :], planned - self._asked + self._checking]
        quick = self._ahead < QUICK * part and self.frame_age <= FRESH
        self._number += 1
        self._chunk = None if self._late() else self._fitting(actions, None if quick else steps)
        now = self.clock.now()
        self._checking, self._spent[-1] = now - planned, now - self._asked
        late = self._late()
        self._refused = self._chunk is None and not late
        if late:
            # By now the arm is not where this plan begins: it stops, and everything is looked at again.
            self.late, self._chunk, part = self.late + 1, None, 0.0
        if self._chunk is not None:
            # The check took its time, and an arm that stands can start whenever it is done.
            now = self._handover if self._early else self.clock.now()
            self._chunk = replace(self._chunk, start_time=now)
        if self._chunk is None or not self._hand_over(self._chunk):
            self.held += int(not late)
            self._chunk = None
            self.rig.hold()
        self._handover = now + part
        self._record()
        if quick and self._chunk is not None:
            self.rig.wait(self._handover - self._ahead)
        else:
            self._stand()
            self._chunk = None

    @property
    def _ahead(self) -> float:
        """How long before it takes over the next plan is begun [s]: looking, planning and checking take their time."""
        return 1.2 * max(self._spent) if self.rig.real_time else 0.0

    def _late(self) -> bool:
        """The arm moves and has gone on from where the plan begins."""
        return self._early and self.clock.now() > self._handover + PUNCTUAL

    def _hand_over(self, chunk: Chunk) -> bool:
        """False when the arm did not take it: it ran out before it arrived, or the arm gave way while it was made."""
        self.rig.wait(chunk.start_time)
        try:
            self.rig.submit(chunk)
        except ControlError as error:
            # A standing arm that is elsewhere was moved by somebody: that is a fault.
            elsewhere = self._early and error.reason is Reason.COMMAND_JUMP
            if elsewhere or error.reason is Reason.CHUNK_OLD:
                return False
            raise
        return True

    def _fitting(self, actions: Actions, steps: int | None) -> Chunk | None:
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
                start_time=self._handover if self._early else self.clock.now(),
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

    def hold(self, seconds: float, watch: Callable[[], None] = lambda: None) -> None:
        """Come to rest, stand for a while, and look. Args: watch: called now and then while the arm stands."""
        self.rest()
        self.rig.wait(self.clock.now() + SETTLE)
        for _ in range(_WATCHED):
            self.rig.wait(self.clock.now() + seconds / _WATCHED)
            watch()
        self.observe()
        if self._recorder is not None:
            self._recorder.plan(self._looked, look_record(self.look()))

    def rest(self) -> None:
        """Take no more plans until the next one."""
        if self._armed:
            self.rig.disarm()
        self._armed, self._chunk = False, None
