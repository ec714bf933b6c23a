"""The safety filter: decides tick by tick what may be sent to an arm. Pure: a state and inputs give the next state.

Everything it lets through keeps the limits of position, velocity, acceleration and jerk, the workspace, the table, the
arm's distance to itself and the tool's speed, because a command is let through only if the whole way from it to rest
keeps them too. When the next command is refused, that way to rest is known to be free, and it is what is sent.

This is software on an ordinary computer: it is not a certified safety system.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pointworld.control.body import ArmBody
from pointworld.control.filter_state import Decision as Decision
from pointworld.control.filter_state import FilterState as FilterState
from pointworld.control.filter_state import SafetyConfig as SafetyConfig
from pointworld.control.filter_state import Target as Target
from pointworld.control.limits import JointLimits
from pointworld.control.motion import (
    Motion,
    brake,
    brake_acceleration,
    clearly_stops,
    follow_acceleration,
    within,
)
from pointworld.control.types import (
    ControlError,
    JointCommand,
    Reason,
    RobotMode,
    RobotState,
    SafetyMode,
)

#: Faults after which the arm's own stop is the only way: what it does is not known any more, or it stands already.
_DROP = frozenset({Reason.CLOCK, Reason.WATCHDOG, Reason.ROBOT_ERROR, Reason.ROBOT_LINK})
_LONGEST_BRAKE = 400


class SafetyFilter:
    """The rules for one arm. Holds no state of its own."""

    def __init__(
        self,
        limits: JointLimits,
        config: SafetyConfig,
        *,
        body: ArmBody | None,
        max_width: float | None = None,
    ) -> None:
        """Args: limits: of the arm, full ones. body: None turns the checks of space off (for arms without meshes)."""
        self.config, self.body, self.max_width = config, body, max_width
        self.limits = limits.narrowed(config.position_margin).scaled(
            velocity=config.velocity, acceleration=config.acceleration, jerk=config.jerk
        )

    @property
    def stop_time(self) -> float:
        """Longest time from a fault to standing still, from full speed [s]."""
        limits = self.limits
        ramps = 3 * limits.acceleration / limits.jerk
        times = limits.velocity / limits.acceleration + ramps
        return float(times.max()) + 4 * self.config.period

    def arm(
        self, state: FilterState, robot: RobotState, now: float, *, dry_run: bool = False
    ) -> FilterState:
        """Let commands through from here on. Only from DISARMED, with the arm fresh, standing, in its limits.

        Raises:
            ControlError: with what is wrong; nothing has changed then.
        """
        if state.mode is not SafetyMode.DISARMED:
            raise ControlError(
                Reason.NOT_ARMED, f"cannot arm in mode {state.mode.value}; recover or disarm first"
            )
        reason, message = self._check_robot(robot, now)
        q = np.asarray(robot.joint_positions, dtype=np.float64)
        if reason is Reason.NONE and np.abs(robot.joint_velocities).max() > self.config.resting:
            reason, message = Reason.STATE_INVALID, "the arm moves; arm it while it stands still"
        if reason is Reason.NONE and not within(self.limits, q[None], 0 * q[None], q).all():
            reason, message = Reason.COMMAND_LIMITS, "a joint is at the end of its range"
        if reason is Reason.NONE and self.body is not None:
            reason = self.body.check(q[None], self.config.space, self.config.period)
            message = "the arm stands where it may not be; guide it back by hand"
        if reason is not Reason.NONE:
            raise ControlError(reason, f"not armed: {message} ({reason.value})")
        return FilterState(
            mode=SafetyMode.DRY_RUN if dry_run else SafetyMode.ARMED,
            live=not dry_run,
            motion=Motion.at_rest(q),
            width=robot.gripper_width,
            armed_at=now,
            ticked_at=now,
            slot=now - self.config.period,
            measured=robot,
            sequence=state.sequence,
        )

    def disarm(self, state: FilterState) -> FilterState:
        """Let nothing new through; what moves is brought to rest. A fault stays a fault."""
        if state.mode is SafetyMode.FAULT:
            return state
        return dataclasses.replace(state, mode=SafetyMode.DISARMED, reason=Reason.NONE, message="")

    def fault(self, state: FilterState, reason: Reason, message: str) -> FilterState:
        """Latch a fault; the first one stays."""
        if state.mode is SafetyMode.FAULT:
            return state
        motion = state.motion
        if reason in _DROP and motion is not None:
            motion = Motion.at_rest(motion.q)
        return dataclasses.replace(
            state, mode=SafetyMode.FAULT, reason=reason, message=message, motion=motion
        )

    def recover(self, state: FilterState, *, acknowledged: bool) -> FilterState:
        """Back to DISARMED (never to ARMED) after an operator has acknowledged the fault.

        Raises:
            ControlError: not acknowledged, not in fault, or still moving.
        """
        if state.mode is not SafetyMode.FAULT:
            raise ControlError(
                Reason.NOT_ARMED, f"nothing to recover from in mode {state.mode.value}"
            )
        if not acknowledged:
            raise ControlError(
                state.reason, f"the fault '{state.reason.value}' must be acknowledged to recover"
            )
        if state.live and not state.standing:
            raise ControlError(state.reason, "the arm is still coming to rest")
        return FilterState(sequence=state.sequence, ticked_at=state.ticked_at)

    def step(
        self, state: FilterState, now: float, robot: RobotState | None, target: Target | None
    ) -> tuple[FilterState, Decision]:
        """One tick.

        Args:
            now: on the loop's clock [s]. robot: newest measurement, None when there is none.
            target: None to come to rest and hold.
        """
        active = state.mode in (SafetyMode.ARMED, SafetyMode.DRY_RUN)
        before, fault = state, (Reason.NONE, "")
        if active:
            fault = self._check_time(state, now)
            if fault[0] is Reason.NONE:
                state, fault = self._take_state(state, robot, now)
            if fault[0] is Reason.NONE and target is not None:
                fault = self._check_target(state, target)
        elif (
            state.motion is not None
            and not state.standing
            and self._check_time(state, now)[0] is not Reason.NONE
        ):
            # Coming to rest, and time broke off: what was left of the motion is out of date.
            state = dataclasses.replace(state, motion=Motion.at_rest(state.motion.q))
        if fault[0] is not Reason.NONE:
            state = self.fault(state, *fault)
        if np.isfinite(now):
            state = dataclasses.replace(state, ticked_at=now)
        period = self.config.period
        late = now - state.slot
        if state.motion is None or 0 <= late < 0.75 * period or not np.isfinite(now):
            decision = Decision()
        else:
            slot = max(state.slot + period, now - 0.25 * period) if late > 0 else now
            state = dataclasses.replace(state, slot=slot)
            moving = state.mode in (SafetyMode.ARMED, SafetyMode.DRY_RUN)
            state, decision = self._advance(state, now, target if moving else None)
        new = state.mode is SafetyMode.FAULT and before.mode is not SafetyMode.FAULT
        return state, dataclasses.replace(decision, fault=state.reason if new else Reason.NONE)

    def _advance(
        self, state: FilterState, now: float, target: Target | None
    ) -> tuple[FilterState, Decision]:
        """The next command: towards the target if the way to rest from there is free, else along the way to rest."""
        assert state.motion is not None
        period, limited, reason = self.config.period, False, Reason.NONE
        motion = state.motion.advanced(
            brake_acceleration(self.limits, state.motion, period), period
        )
        if target is not None:
            wanted = np.asarray(target.joint_positions, dtype=np.float64)
            wanted = np.clip(wanted, self.limits.lower, self.limits.upper)
            candidate, reason = self._try(state, now, wanted, np.asarray(target.joint_velocities))
            if candidate is not None:
                motion = candidate
                limited = bool((np.abs(motion.q - wanted) > 1e-6).any())
                if (np.abs(motion.q - wanted) > self.config.jump).any():
                    reason = Reason.LIMITED_TOO_FAR
        elif state.mode not in (SafetyMode.ARMED, SafetyMode.DRY_RUN) and state.standing:
            return state, Decision()
        width = self._width(state, target)
        sequence = state.sequence + 1
        state = dataclasses.replace(
            state,
            motion=motion,
            width=width,
            sequence=sequence,
            moved=state.moved or target is not None,
        )
        if reason is not Reason.NONE:
            state = self.fault(state, reason, f"the target was refused: {reason.value}")
        command = JointCommand(
            joint_positions=motion.q,
            joint_velocities=motion.v,
            gripper_width=width,
            sequence=sequence,
        )
        if state.live:
            return state, Decision(command=command, limited=limited)
        return state, Decision(dry=command, limited=limited)

    def _try(
        self, state: FilterState, now: float, target: np.ndarray, speed: np.ndarray
    ) -> tuple[Motion | None, Reason]:
        """The motion towards a target from which rest can be reached freely, or None and why not."""
        assert state.motion is not None
        period = self.config.period
        share = self.config.ramp_share(now - state.armed_at)
        slow = dataclasses.replace(self.limits, velocity=self.limits.velocity * share)
        stop = brake_acceleration(self.limits, state.motion, period)
        wanted = follow_acceleration(slow, state.motion, target, speed, period)
        candidate = state.motion.advanced(wanted, period)
        if self.body is None and clearly_stops(slow, candidate, period).all():
            return candidate, Reason.NONE
        both = Motion(
            q=np.stack([state.motion.q] * 2),
            v=np.stack([state.motion.v] * 2),
            a=np.stack([state.motion.a] * 2),
        ).advanced(np.stack([wanted, stop]), period)
        q, v, ends = brake(self.limits, both, period, most=_LONGEST_BRAKE)
        good = within(slow, q[:, 0], v[:, 0], state.motion.q)
        if not ends:
            return None, Reason.COMMAND_LIMITS
        # Joints are independent of each other here: each takes its own way, wished for or to rest.
        a = np.where(good, wanted, stop)
        if self.body is not None:
            path = np.concatenate([state.motion.q[None], np.where(good, q[:, 0], q[:, 1])])
            reason = self.body.check(path, self.config.space, period)
            if reason is not Reason.NONE:
                return None, reason
        return state.motion.advanced(a, period), Reason.NONE

    def _width(self, state: FilterState, target: Target | None) -> float | None:
        if target is None or target.gripper_width is None or state.width is None:
            return state.width
        most = self.config.gripper_speed * self.config.period
        change = min(max(target.gripper_width - state.width, -most), most)
        return float(min(max(state.width + change, 0.0), self.max_width or 0.0))

    def _check_time(self, state: FilterState, now: float) -> tuple[Reason, str]:
        if not np.isfinite(now) or now < state.ticked_at:
            return Reason.CLOCK, f"the clock went from {state.ticked_at:.3f} s to {now:.3f} s"
        if now - state.ticked_at > self.config.watchdog:
            gap = now - state.ticked_at
            return (
                Reason.WATCHDOG,
                f"{gap:.3f} s between ticks, at most {self.config.watchdog} s are allowed",
            )
        return Reason.NONE, ""

    def _take_state(
        self, state: FilterState, robot: RobotState | None, now: float
    ) -> tuple[FilterState, tuple[Reason, str]]:
        """Accept a measurement if it is newer than the last one; then judge the newest."""
        newest = state.measured
        if robot is not None and (newest is None or _newer(robot, newest)):
            newest = robot
        if newest is None:
            return state, (Reason.ROBOT_LINK, "the arm has not reported a state")
        state = dataclasses.replace(state, measured=newest)
        reason, message = self._check_robot(newest, now)
        if reason is Reason.NONE and state.live and state.motion is not None:
            off = np.abs(np.asarray(newest.joint_positions) - state.motion.q)
            if off.max() > self.config.tracking:
                joint = self.limits.names[int(off.argmax())]
                reason = Reason.TRACKING
                message = f"{joint} is {off.max():.3f} from where it was sent"
        return state, (reason, message)

    def _check_robot(self, robot: RobotState, now: float) -> tuple[Reason, str]:
        count = len(self.limits.names)
        values = [robot.joint_positions, robot.joint_velocities]
        if any(not _is_vector(v, count) for v in values) or not _finite(robot.time):
            return Reason.STATE_INVALID, f"the arm reported {values} at {robot.time}"
        if robot.gripper_width is not None and not _finite(robot.gripper_width):
            return Reason.STATE_INVALID, f"the gripper reported {robot.gripper_width}"
        if robot.time > now + self.config.future:
            return Reason.CLOCK, f"the arm's state is from {robot.time - now:.3f} s in the future"
        if robot.errors or robot.mode in (RobotMode.ERROR, RobotMode.STOPPED):
            listed = ", ".join(robot.errors) or robot.mode.value
            return Reason.ROBOT_ERROR, f"the arm reports: {listed}"
        age = now - robot.time
        if age > self.config.state_age:
            return (
                Reason.STATE_STALE,
                f"the arm's state is {age:.3f} s old, at most {self.config.state_age} s are allowed",
            )
        return Reason.NONE, ""

    def _check_target(self, state: FilterState, target: Target) -> tuple[Reason, str]:
        assert state.motion is not None and state.measured is not None
        count = len(self.limits.names)
        q, v, width = target.joint_positions, target.joint_velocities, target.gripper_width
        if not (_is_vector(q, count) and _is_vector(v, count)):
            return (
                Reason.COMMAND_INVALID,
                f"a target of {q} at {v}, expected {count} finite numbers",
            )
        if width is not None:
            if not _finite(width) or state.width is None or self.max_width is None:
                return Reason.COMMAND_INVALID, f"a gripper width of {width}"
            if width > 1.0:
                return Reason.COMMAND_UNITS, f"a gripper width of {width} m: is it in millimetres?"
            if not -1e-3 <= width <= self.max_width + 1e-3:
                return Reason.COMMAND_LIMITS, f"a gripper width of {width:.4f} m"
        q = np.asarray(q, dtype=np.float64)
        off = np.abs(q - state.motion.q)
        converted = np.abs(np.deg2rad(np.clip(q, -1e6, 1e6)) - state.motion.q)
        if off.max() > self.config.jump and converted.max() < self.config.jump:
            return Reason.COMMAND_UNITS, f"a target of {q}: is it in degrees?"
        excess = np.maximum(self.limits.lower - q, q - self.limits.upper)
        if excess.max() > 1e-3:
            joint = self.limits.names[int(excess.argmax())]
            return Reason.COMMAND_LIMITS, f"{joint} would go {excess.max():.3f} beyond its range"
        if not state.moved:
            start = np.abs(q - np.asarray(state.measured.joint_positions)).max()
            if start > self.config.start:
                return Reason.START_MISMATCH, f"the first target is {start:.3f} rad from the arm"
        if off.max() > self.config.jump:
            joint = self.limits.names[int(off.argmax())]
            return Reason.COMMAND_JUMP, f"{joint} would jump by {off.max():.3f}"
        return Reason.NONE, ""


def _newer(robot: RobotState, than: RobotState) -> bool:
    """A later measurement; one with a broken time counts, so that it is judged and not passed over."""
    return robot.sequence > than.sequence and not robot.time < than.time


def _finite(value: object) -> bool:
    return isinstance(value, int | float | np.number) and bool(np.isfinite(value))


def _is_vector(value: object, count: int) -> bool:
    return (
        isinstance(value, np.ndarray)
        and value.shape == (count,)
        and bool(np.issubdtype(value.dtype, np.floating))
        and bool(np.isfinite(value).all())
    )
