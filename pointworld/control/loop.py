"""The control loop: measure, look up the target, filter, send; 50 to 100 times a second.

One object for simulated and real arms, for a test's clock and the machine's. Calls from other threads (arm, submit,
stop, ...) are safe at any time; none of them waits for the arm.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pointworld.control.clock import Clock
from pointworld.control.executor import NO_RAMP, Executor, ExecutorConfig, Ramp
from pointworld.control.protocols import Robot
from pointworld.control.recording import Recorder
from pointworld.control.safety import Decision, FilterState, SafetyFilter, Target
from pointworld.control.types import Chunk, ControlError, Reason, RobotState, SafetyMode

log = logging.getLogger(__name__)

#: Faults after which the arm is told to stop at once and not only when it has come to rest.
_AT_ONCE = frozenset({Reason.CLOCK, Reason.WATCHDOG, Reason.ROBOT_ERROR, Reason.ROBOT_LINK})


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When ticks come in a rehearsal.

    first: the first one, in periods from now. late: every sixth is so much later than a period after the one before
    [s]; what has to be caught up with leads farther.
    """

    first: float = 1.0
    late: float = 0.0


#: A real clock: a chunk that the filter just about lets pass may be refused when its ticks come a few milliseconds
#: earlier or later.
REAL_TIME = (Timing(), Timing(first=1 / 3), Timing(first=2 / 3), Timing(first=2 / 3, late=0.04))


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """planner_timeout: longest time without a new chunk or a `hold` once a chunk was given, while armed [s].

    give_way: a joint that is held back this far from where it was sent presses against something: the chunk is
    forgotten and the arm goes back to where it is, before the safety filter's `tracking` fault [rad]; infinity =
    never.
    rehearsals: a chunk has to pass with each of these.
    """

    planner_timeout: float = 5.0
    give_way: float = float("inf")
    rehearsals: tuple[Timing, ...] = (Timing(),)
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)


@dataclass(frozen=True, kw_only=True, eq=False)
class LoopStatus:
    """The loop after its last tick.

    time: of that tick [s]. state: newest measurement, None before the first. commanded, pace: (joints,) last command
    while armed and its speed. holding: armed without a running chunk. chunk: highest sequence taken. limited: commands
    that fell short of their target. worst_gap: longest time between ticks while armed [s]. gave_way: chunks forgotten
    because the arm was held back.
    """

    time: float
    mode: SafetyMode
    reason: Reason
    message: str
    state: RobotState | None
    commanded: np.ndarray | None
    holding: bool
    chunk: int
    ticks: int
    limited: int
    worst_gap: float
    pace: np.ndarray | None = None
    gave_way: int = 0


class ControlLoop:
    """Owns a robot and everything between it and the planner."""

    def __init__(
        self,
        robot: Robot,
        safety: SafetyFilter,
        clock: Clock,
        *,
        config: LoopConfig | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.robot, self.safety, self.clock = robot, safety, clock
        self.config, self.recorder = config or LoopConfig(), recorder
        self._lock = threading.RLock()
        self._filter = FilterState()
        self._executor = Executor(config=self.config.executor)
        self._state: RobotState | None = None
        self._silent = True
        self._ticks, self._limited, self._worst, self._last = 0, 0, 0.0, -np.inf
        self._gave_way = 0

    def status(self) -> LoopStatus:
        """A snapshot."""
        with self._lock:
            armed = self._filter.mode in (SafetyMode.ARMED, SafetyMode.DRY_RUN)
            motion = self._filter.motion
            return LoopStatus(
                time=self._last,
                mode=self._filter.mode,
                reason=self._filter.reason,
                message=self._filter.message,
                state=self._state,
                commanded=None if motion is None else motion.q,
                holding=armed and not self._executor.running(self.clock.now()),
                chunk=self._executor.newest,
                ticks=self._ticks,
                limited=self._limited,
                worst_gap=self._worst,
                pace=None if motion is None else motion.v,
                gave_way=self._gave_way,
            )

    def arm(self, *, dry_run: bool = False) -> None:
        """Let plans move the arm (or, in a dry run, be logged).

        Raises:
            ControlError: why not; the mode has not changed then.
        """
        with self._lock:
            state = self.robot.get_state()
            now = self.clock.now()
            self._filter = self.safety.arm(self._filter, state, now, dry_run=dry_run)
            self._executor, self._state, self._last = self._executor.clear(), state, now
            self._silent = False
            self._note("armed" if not dry_run else "dry run", Reason.NONE, "")

    def disarm(self) -> None:
        """Come to rest and take no more plans. A fault stays a fault."""
        with self._lock:
            self._filter = self.safety.disarm(self._filter)
            self._executor = self._executor.clear()
            self._note("disarmed", Reason.NONE, "")

    def stop(self, reason: Reason = Reason.OPERATOR, message: str = "stopped by hand") -> None:
        """Latch a fault: the arm comes to rest, and only `recover` lets it go again."""
        with self._lock:
            before = self._filter
            self._filter = self.safety.fault(self._filter, reason, message)
            if self._filter is not before:
                self._faulted()

    def recover(self, *, acknowledged: bool) -> None:
        """After a fault: back to disarmed. Args: acknowledged: a person has seen the reason and the arm.

        Raises:
            ControlError: not acknowledged, still moving, or the arm stays in error.
        """
        with self._lock:
            state = self.safety.recover(self._filter, acknowledged=acknowledged)
            self.robot.recover()
            self._filter = state
            self._note("recovered", Reason.NONE, "")

    def submit(self, chunk: Chunk) -> None:
        """Take over a planned chunk from now on.

        Raises:
            ControlError: not armed, or the chunk is old, broken or starts elsewhere. The arm goes on with what it has.
        """
        with self._lock:
            motion = self._filter.motion
            if self._filter.mode not in (SafetyMode.ARMED, SafetyMode.DRY_RUN) or motion is None:
                raise ControlError(
                    Reason.NOT_ARMED, f"a chunk came in mode {self._filter.mode.value}"
                )
            now = self.clock.now()
            self._executor = self._executor.submit(
                chunk, now, motion.q, motion.v, ramp=self._ramp()
            )
            if self.recorder is not None:
                self.recorder.chunk(chunk, now)

    def rehearse(self, chunk: Chunk, seconds: float) -> tuple[Reason, str]:
        """What the filter would say to the first `seconds` of a chunk, if the arm followed exactly; nothing changes.

        With ticks at each of the times of `LoopConfig.rehearsals`. A chunk that starts later is rehearsed as if it were
        submitted then: until its start the arm goes on with what it has.

        Raises:
            ControlError: as `submit`.
        """
        with self._lock:
            state, now = self._filter, self.clock.now()
            if state.motion is None or state.measured is None:
                raise ControlError(Reason.NOT_ARMED, "only an armed loop can rehearse")
            executor, ramp = self._executor, self._ramp()
        for timing in self.config.rehearsals:
            told = self._play(executor, state, now, chunk, seconds, ramp=ramp, timing=timing)
            if told[0] is not Reason.NONE:
                return told
        return Reason.NONE, ""

    def _play(
        self,
        executor: Executor,
        state: FilterState,
        now: float,
        chunk: Chunk,
        seconds: float,
        *,
        ramp: Ramp,
        timing: Timing,
    ) -> tuple[Reason, str]:
        """What the filter says to an executor's targets from now on, which takes the chunk over when that starts."""
        period, tick, taken = self.safety.config.period, 0, False
        takeover = max(now, chunk.start_time)
        now -= (1 - timing.first) * period
        # As if the ticks so far had come in the same rhythm.
        state = dataclasses.replace(state, slot=now, ticked_at=min(state.ticked_at, now))
        while now + 0.5 * period < takeover + seconds:
            tick += 1
            now += period + (timing.late if tick % 6 == 0 else 0.0)
            assert state.motion is not None and state.measured is not None
            if not taken and now >= takeover:
                q, v = state.motion.q, state.motion.v
                executor, taken = executor.submit(chunk, takeover, q, v, ramp=ramp), True
            measured = dataclasses.replace(
                state.measured,
                time=now,
                sequence=state.measured.sequence + 1,
                joint_positions=state.motion.q,
                joint_velocities=state.motion.v,
            )
            target = executor.target(now + period, ramp=ramp)
            state, _ = self.safety.step(state, now, measured, target)
            if state.mode is SafetyMode.FAULT:
                return state.reason, state.message
        return Reason.NONE, ""

    def hold(self) -> None:
        """Forget the chunk: come to rest along the way that was found free, and wait for the next one."""
        with self._lock:
            # A planner that hangs from now on must still be missed.
            self._executor = self._executor.hold(self.clock.now())

    def _ramp(self) -> Ramp:
        safety = self.safety.config
        if safety.ramp <= 0:
            return NO_RAMP
        return Ramp(since=self._filter.armed_at, start=safety.ramp_start, length=safety.ramp)

    def tick(self) -> Decision:
        """One period: measure, decide, send."""
        with self._lock:
            # Measured first: a process that is put aside in between must not take a state to be from the future.
            state = self._measure()
            now = self.clock.now()
            self._watch(now)
            target = self._target(now)
            before = self._filter
            self._filter, decision = self.safety.step(before, now, state, target)
            if decision.command is not None:
                self._send(decision)
            if decision.fault is not Reason.NONE:
                self._faulted()
            self._yield()
            self._quieten()
            if before.mode in (SafetyMode.ARMED, SafetyMode.DRY_RUN):
                self._worst = max(self._worst, now - self._last)
            self._last, self._ticks = now, self._ticks + 1
            self._limited += int(decision.limited)
            if self.recorder is not None:
                self.recorder.tick(now, self._filter, state, target, decision)
            return decision

    def run(self, until: Callable[[], bool]) -> None:
        """Tick at the filter's period until `until()`; then come to rest and tell the arm to stop."""
        try:
            self._run(until)
        except Exception as error:
            # An error of this program: nobody watches the arm any more.
            self.stop(Reason.WATCHDOG, f"the control loop failed: {error}")
            self.robot.stop()
            raise

    def _run(self, until: Callable[[], bool]) -> None:
        due = self.clock.now()
        while not until():
            self.tick()
            due = max(due + self.safety.config.period, self.clock.now())
            self.clock.sleep_until(due)
        self.disarm()
        limit = self.clock.now() + self.safety.stop_time
        while not self._filter.standing and self.clock.now() < limit:
            self.tick()
            self.clock.sleep_until(self.clock.now() + self.safety.config.period)
        self.robot.stop()

    def _watch(self, now: float) -> None:
        """Faults that the filter cannot see: a planner that is silent, a record that cannot be written."""
        if self._filter.mode not in (SafetyMode.ARMED, SafetyMode.DRY_RUN):
            return
        if not 0 <= now - self._last <= self.safety.config.watchdog:
            return  # the clock is wrong or a tick was late, which the filter tells apart
        accepted = self._executor.accepted_at
        if accepted is not None and now - accepted > self.config.planner_timeout:
            self.stop(Reason.PLANNER_LATE, f"no new plan for {now - accepted:.2f} s")
        elif self.recorder is not None and self.recorder.error is not None:
            self.stop(Reason.RECORDING, f"the record cannot be written: {self.recorder.error}")

    def _measure(self) -> RobotState | None:
        try:
            self._state = self.robot.get_state()
        except ControlError as error:
            if self._filter.mode in (SafetyMode.ARMED, SafetyMode.DRY_RUN):
                self.stop(error.reason, str(error))
            return None
        return self._state

    def _target(self, now: float) -> Target | None:
        if self._executor.expired(now):
            self._note("holding", Reason.CHUNK_EXPIRED, f"chunk {self._executor.newest} ran out")
            self._executor = dataclasses.replace(self._executor, path=None)
        return self._executor.target(now + self.safety.config.period, ramp=self._ramp())

    def _send(self, decision: Decision) -> None:
        assert decision.command is not None
        try:
            self.robot.send_action(decision.command)
        except ControlError as error:
            self.stop(error.reason, str(error))

    def _faulted(self) -> None:
        self._executor = self._executor.clear()
        self._note("fault", self._filter.reason, self._filter.message)
        if self._filter.reason in _AT_ONCE:
            self._silent = True
            self.robot.stop()

    def _quieten(self) -> None:
        """Tell the arm to stop once after a fault or disarming, when nothing moves any more."""
        over = self._filter.mode in (SafetyMode.FAULT, SafetyMode.DISARMED)
        if over and not self._silent and self._filter.standing:
            self._silent = True
            self.robot.stop()
            if self._filter.mode is SafetyMode.DISARMED:
                self._release()

    def _yield(self) -> None:
        """Stop pressing against what does not give way; a chunk that leads away from it is carried out."""
        back = self._held_back()
        if self._executor.path is None or self._filter.mode is not SafetyMode.ARMED:
            return
        if back > self.config.give_way:
            assert self._state is not None
            self._executor = self._executor.retreat(self._state.joint_positions)
            self._gave_way += 1
            self._note("gave way", Reason.NONE, f"held back by {back:.3f} rad")

    def _held_back(self) -> float:
        """Most that a joint is from where it was sent [rad]."""
        motion, state = self._filter.motion, self._state
        if motion is None or state is None:
            return 0.0
        return float(np.abs(motion.q - state.joint_positions[: len(motion.q)]).max())

    def _release(self) -> None:
        """After an ordinary end the arm's stop needs nobody's acknowledgement."""
        try:
            self.robot.recover()
        except ControlError as error:
            self._note("not ready", error.reason, str(error))

    def _note(self, what: str, reason: Reason, message: str) -> None:
        level = logging.WARNING if what == "fault" else logging.INFO
        log.log(level, "%s%s", what, f" ({reason.value}): {message}" if message else "")
        if self.recorder is not None:
            self.recorder.event(self.clock.now(), what, reason, message)
