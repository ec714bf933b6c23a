"""The safety filter: what it lets through, what it refuses and why, whatever comes in."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pointworld.control.body import ArmBody, Space
from pointworld.control.limits import JointLimits
from pointworld.control.safety import (
    Decision,
    FilterState,
    SafetyConfig,
    SafetyFilter,
    Target,
)
from pointworld.control.types import (
    ControlError,
    JointCommand,
    Reason,
    RobotMode,
    RobotState,
    SafetyMode,
)
from tests.control.conftest import HOME, measured

DT = 0.01
#: Of every property below; more with a profile that asks for more (pytest --hypothesis-profile nightly).
EXAMPLES = max(1000, settings().max_examples)
FAST = SafetyConfig(ramp=0.0, velocity=0.5, acceleration=0.5, jerk=0.05)


@pytest.fixture(scope="module")
def joint_filter(fr3_limits: JointLimits) -> SafetyFilter:
    """Joint limits only."""
    return SafetyFilter(fr3_limits, FAST, body=None, max_width=0.08)


@pytest.fixture(scope="module")
def brisk_filter(fr3_limits: JointLimits) -> SafetyFilter:
    """Joint limits only, with short ways to rest, so that a thousand attacks take seconds."""
    config = dataclasses.replace(FAST, velocity=0.3, acceleration=1.0, jerk=0.1)
    return SafetyFilter(fr3_limits, config, body=None, max_width=0.08)


@pytest.fixture(scope="module")
def whole_filter(fr3_limits: JointLimits, fr3_body: ArmBody) -> SafetyFilter:
    """With tool, table and self-collision."""
    space = Space(table=0.0, tool_speed=0.3)
    config = dataclasses.replace(FAST, space=space)
    return SafetyFilter(fr3_limits, config, body=fr3_body, max_width=0.08)


class Rig:
    """A filter with an arm that is exactly where it is sent; keeps every command."""

    def __init__(
        self, filter: SafetyFilter, q: np.ndarray = HOME, *, dry_run: bool = False
    ) -> None:
        self.filter, self.now, self.sequence = filter, 100.0, 1
        self.q = q
        self.sent: list[JointCommand] = []
        self.state = filter.arm(FilterState(), self.robot(), self.now, dry_run=dry_run)

    def robot(self, **changes: object) -> RobotState:
        state = measured(self.q, time=self.now, sequence=self.sequence)
        return dataclasses.replace(state, **changes)  # type: ignore[arg-type]

    def tick(
        self,
        target: np.ndarray | None,
        *,
        dt: float = DT,
        robot: RobotState | None = None,
        width: float | None = None,
        speed: np.ndarray | None = None,
    ) -> Decision:
        self.now += dt
        self.sequence += 1
        goal = None
        if target is not None:
            speed = np.zeros(7) if speed is None else speed
            goal = Target(joint_positions=target, joint_velocities=speed, gripper_width=width)
        self.state, decision = self.filter.step(
            self.state, self.now, self.robot() if robot is None else robot, goal
        )
        if decision.command is not None:
            self.sent.append(decision.command)
            self.q = decision.command.joint_positions
        return decision

    def check_joints(self, *, start: np.ndarray = HOME) -> None:
        """Every command kept the full set of joint limits."""
        limits, eps = self.filter.limits, 1e-6
        q = np.stack([start, start, start, *(c.joint_positions for c in self.sent)])
        assert np.isfinite(q).all()
        assert (q >= limits.lower - eps).all() and (q <= limits.upper + eps).all()
        v = np.diff(q, axis=0) / DT
        for place in (q[1:], q[:-1]):
            slowest, fastest = limits.velocity_range(place)
            assert (v >= slowest - eps).all() and (v <= fastest + eps).all()
        a = np.diff(v, axis=0) / DT
        assert (np.abs(a) <= limits.acceleration + 1e-5).all()
        jerk = np.diff(a, axis=0) / DT
        assert (np.abs(jerk) <= limits.jerk * (1 + 1e-6) + 1e-3).all()


def sine(t: float, size: float = 0.1, rate: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth path from HOME, and its speed."""
    q, v = HOME.copy(), np.zeros(7)
    q[0] += size * (1 - math.cos(rate * t))
    v[0] = size * rate * math.sin(rate * t)
    return q, v


def test_nothing_passes_before_arming(joint_filter: SafetyFilter) -> None:
    state = FilterState()
    for k in range(5):
        target = Target(joint_positions=HOME, joint_velocities=np.zeros(7))
        state, decision = joint_filter.step(state, k * DT, measured(time=k * DT), target)
        assert decision.command is None and decision.dry is None
    assert state.mode is SafetyMode.DISARMED


def test_a_path_within_the_limits_passes_unchanged(joint_filter: SafetyFilter) -> None:
    rig = Rig(joint_filter)
    for k in range(1, 200):
        q, v = sine(k * DT)
        decision = rig.tick(q, speed=v)
        assert decision.command is not None
        assert np.allclose(decision.command.joint_positions, q, atol=1e-9) or k < 20
    assert rig.state.mode is SafetyMode.ARMED
    rig.check_joints()


def test_dry_run_says_what_it_would_send_and_sends_nothing(joint_filter: SafetyFilter) -> None:
    wet, dry = Rig(joint_filter), Rig(joint_filter, dry_run=True)
    for k in range(1, 60):
        q, v = sine(k * DT)
        sent, shown = wet.tick(q, speed=v), dry.tick(q, speed=v)
        assert shown.command is None and sent.command is not None and shown.dry is not None
        assert np.array_equal(shown.dry.joint_positions, sent.command.joint_positions)
    assert not dry.sent


def test_the_ramp_limits_the_first_second(fr3_limits: JointLimits) -> None:
    config = dataclasses.replace(FAST, ramp=1.0, ramp_start=0.1, jump=1.0)
    rig = Rig(SafetyFilter(fr3_limits, config, body=None, max_width=0.08))
    for k in range(50):
        rig.tick(HOME + np.array([min(0.04 + 0.01 * k, 0.4), 0, 0, 0, 0, 0, 0]))
        speed = abs(rig.sent[-1].joint_velocities[0])
        assert speed <= rig.filter.limits.velocity[0] * config.ramp_share((k + 1) * DT) + 1e-9
    assert rig.state.mode is SafetyMode.ARMED


def test_the_first_target_must_be_where_the_arm_is(joint_filter: SafetyFilter) -> None:
    rig = Rig(joint_filter)
    assert rig.tick(HOME + 0.06).fault is Reason.START_MISMATCH
    assert all(np.array_equal(c.joint_positions, HOME) for c in rig.sent)


BAD_TARGETS = {
    "NaN": (np.full(7, np.nan), Reason.COMMAND_INVALID),
    "infinity": (np.full(7, np.inf), Reason.COMMAND_INVALID),
    "too few": (HOME[:6], Reason.COMMAND_INVALID),
    "integers": (np.zeros(7, dtype=int), Reason.COMMAND_INVALID),
    "degrees": (np.rad2deg(HOME), Reason.COMMAND_UNITS),
    "huge": (np.full(7, 1e308), Reason.COMMAND_LIMITS),
    "beyond a limit": (HOME + np.array([0, 0, 0, 2.2, 0, 0, 0]), Reason.COMMAND_LIMITS),
    "a jump": (HOME + np.array([0.4, 0, 0, 0, 0, 0, 0]), Reason.COMMAND_JUMP),
}


@pytest.mark.rejects_input
@pytest.mark.parametrize("name", BAD_TARGETS)
def test_bad_targets_stop_the_arm_with_their_reason(joint_filter: SafetyFilter, name: str) -> None:
    target, reason = BAD_TARGETS[name]
    rig = Rig(joint_filter)
    for k in range(1, 40):
        rig.tick(*sine(k * DT)[:1], speed=sine(k * DT)[1])
    assert rig.tick(target).fault is reason
    _comes_to_rest_and_stays(rig)


def _comes_to_rest_and_stays(rig: Rig) -> None:
    """Within the stated time, within the limits, silent afterwards, not to be armed without recovery."""
    for _ in range(math.ceil(rig.filter.stop_time / DT)):
        rig.tick(sine(0.5)[0])
    assert rig.state.mode is SafetyMode.FAULT and rig.state.standing
    count = len(rig.sent)
    for _ in range(20):
        rig.tick(rig.q)
    assert len(rig.sent) == count
    rig.check_joints()
    with pytest.raises(ControlError):
        rig.filter.arm(rig.state, rig.robot(), rig.now)
    with pytest.raises(ControlError, match="acknowledged"):
        rig.filter.recover(rig.state, acknowledged=False)
    assert rig.filter.recover(rig.state, acknowledged=True).mode is SafetyMode.DISARMED


def _moving(filter: SafetyFilter) -> Rig:
    rig = Rig(filter)
    for k in range(1, 40):
        q, v = sine(k * DT)
        rig.tick(q, speed=v)
    return rig


@pytest.mark.parametrize(
    "width,reason",
    [
        (85.0, Reason.COMMAND_UNITS),
        (0.2, Reason.COMMAND_LIMITS),
        (math.nan, Reason.COMMAND_INVALID),
    ],
)
def test_bad_gripper_widths(joint_filter: SafetyFilter, width: float, reason: Reason) -> None:
    rig = _moving(joint_filter)
    assert rig.tick(rig.q, width=width).fault is reason


def test_the_gripper_closes_no_faster_than_allowed(joint_filter: SafetyFilter) -> None:
    rig = Rig(joint_filter)
    for _ in range(50):
        rig.tick(HOME, width=0.0)
    widths = np.array([0.08, *(c.gripper_width for c in rig.sent)], dtype=float)
    assert np.abs(np.diff(widths)).max() <= FAST.gripper_speed * DT + 1e-12
    assert widths[-1] == pytest.approx(0.08 - 50 * FAST.gripper_speed * DT)


def test_old_states_stop_the_arm(joint_filter: SafetyFilter) -> None:
    rig = _moving(joint_filter)
    old, begun = rig.robot(), rig.now
    reason = Reason.NONE
    while reason is Reason.NONE:
        reason = rig.tick(rig.q, robot=old).fault
    assert reason is Reason.STATE_STALE
    assert rig.now - begun <= FAST.state_age + 2 * DT
    _comes_to_rest_and_stays(rig)


def test_out_of_order_and_repeated_states_are_passed_over(joint_filter: SafetyFilter) -> None:
    rig = _moving(joint_filter)
    wrong = rig.robot(sequence=3, joint_positions=HOME + 1.0)
    for k in range(6):
        assert rig.tick(rig.q, robot=wrong).fault is Reason.NONE, k
    assert rig.tick(rig.q).fault is Reason.NONE


@pytest.mark.parametrize("hours", [1, -1])
def test_clock_jumps_stop_the_arm(joint_filter: SafetyFilter, hours: int) -> None:
    rig = _moving(joint_filter)
    fault = rig.tick(rig.q, dt=3600.0 * hours).fault
    assert fault is (Reason.WATCHDOG if hours > 0 else Reason.CLOCK)
    count = len(rig.sent)
    rig.tick(rig.q)
    assert len(rig.sent) == count, "after a jump of the clock the arm's own stop is the only way"


def test_a_state_from_the_future_is_a_clock_fault(joint_filter: SafetyFilter) -> None:
    rig = _moving(joint_filter)
    assert rig.tick(rig.q, robot=rig.robot(time=rig.now + 1.0, sequence=999)).fault is Reason.CLOCK


def test_late_ticks_trip_the_watchdog(joint_filter: SafetyFilter) -> None:
    rig = _moving(joint_filter)
    assert rig.tick(rig.q, dt=0.09).fault is Reason.NONE
    assert rig.tick(rig.q, dt=0.11).fault is Reason.WATCHDOG


BAD_STATES: dict[str, tuple[dict[str, object], Reason]] = {
    "NaN": ({"joint_positions": np.full(7, np.nan)}, Reason.STATE_INVALID),
    "six joints": ({"joint_positions": HOME[:6]}, Reason.STATE_INVALID),
    "NaN time": ({"time": math.nan}, Reason.STATE_INVALID),
    "an error": ({"errors": ("joint_velocity_violation",)}, Reason.ROBOT_ERROR),
    "stopped": ({"mode": RobotMode.STOPPED}, Reason.ROBOT_ERROR),
    "elsewhere": ({"joint_positions": HOME + 0.3}, Reason.TRACKING),
}


@pytest.mark.parametrize("name", BAD_STATES)
def test_bad_states_stop_the_arm(joint_filter: SafetyFilter, name: str) -> None:
    changes, reason = BAD_STATES[name]
    rig = _moving(joint_filter)
    state = dataclasses.replace(rig.robot(sequence=999, time=rig.now + DT), **changes)  # type: ignore[arg-type]
    assert rig.tick(rig.q, robot=state).fault is reason
    assert rig.state.message


def test_the_first_fault_stays(joint_filter: SafetyFilter) -> None:
    rig = _moving(joint_filter)
    rig.tick(np.full(7, np.nan))
    rig.tick(rig.q, dt=10.0)
    assert rig.state.reason is Reason.COMMAND_INVALID


@pytest.mark.parametrize(
    "name", ["moving", "out of range", "in error", "outside the workspace", "old"]
)
def test_arming_is_refused(whole_filter: SafetyFilter, name: str) -> None:
    state = {
        "moving": dataclasses.replace(measured(), joint_velocities=np.full(7, 0.2)),
        "out of range": measured(HOME + np.array([0, 0, 0, 2.08, 0, 0, 0])),
        "in error": dataclasses.replace(measured(), errors=("reflex",)),
        "outside the workspace": measured(HOME + np.array([2.0, 0, 0, 0, 0, 0, 0])),
        "old": measured(time=-1.0),
    }[name]
    with pytest.raises(ControlError, match="not armed"):
        whole_filter.arm(FilterState(), state, 0.0)


def test_the_tool_stops_before_the_table(whole_filter: SafetyFilter) -> None:
    """Straight down at a steady pace: the arm stops above the table, and the reason says so."""
    rig = Rig(whole_filter)
    body = whole_filter.body
    assert body is not None
    q, reason = HOME.copy(), Reason.NONE
    for _ in range(600):
        q = q + DT * np.array([0, 0.25, 0, -0.1, 0, 0.1, 0])
        reason = rig.tick(q).fault
        if reason is not Reason.NONE:
            break
    assert reason is Reason.TABLE
    _comes_to_rest_and_stays(rig)
    path = np.stack([c.joint_positions for c in rig.sent])
    assert body.check(path, whole_filter.config.space, DT) is Reason.NONE
    lowest = body.lowest(body.frames(path[-1:]))
    assert 0.002 <= lowest < 0.03


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_whatever_comes_in_the_limits_hold(
    brisk_filter: SafetyFilter, seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    limits = brisk_filter.limits
    start = rng.uniform(limits.lower, limits.upper)
    if data.draw(st.booleans()):
        end = np.where(rng.random(7) < 0.5, limits.lower, limits.upper)
        start = start + (end - start) * rng.choice([0.9, 0.99, 1.0])
    rig = Rig(brisk_filter, start)
    _attack(rig, rng, data, ticks=8)
    rig.check_joints(start=start)


@pytest.fixture(scope="module")
def brisk_whole_filter(fr3_limits: JointLimits, fr3_body: ArmBody) -> SafetyFilter:
    """With tool, table and self-collision, and short ways to rest."""
    space = Space(table=0.0, tool_speed=0.3)
    config = dataclasses.replace(FAST, velocity=0.3, acceleration=1.0, jerk=0.1, space=space)
    return SafetyFilter(fr3_limits, config, body=fr3_body, max_width=0.08)


@pytest.fixture(scope="module")
def allowed_starts(brisk_whole_filter: SafetyFilter) -> np.ndarray:
    """(starts, 7) postures that the filter allows; the first half are the nearest to something that it does not."""
    limits, body = brisk_whole_filter.limits, brisk_whole_filter.body
    space = brisk_whole_filter.config.space
    assert body is not None and space.table is not None
    q = np.random.default_rng(5).uniform(HOME - 0.9, HOME + 0.9, (6000, 7))
    q = q[((q > limits.lower) & (q < limits.upper)).all(1)]
    frames = body.frames(q)
    tool = body.tool_points(frames)
    gaps = [
        (tool - space.lower).min(1),
        (space.upper - tool).min(1),
        body.heights(frames) - space.table - space.table_clearance,
        body.clearances(frames) - space.self_clearance,
    ]
    room = np.min(gaps, 0)
    order = np.argsort(room)
    allowed = q[order[room[order] > 0]]
    assert len(allowed) > 1000
    near = allowed[:400]
    return np.concatenate([near, allowed[400::9][:400]])


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_whatever_comes_in_space_is_respected(
    brisk_whole_filter: SafetyFilter, allowed_starts: np.ndarray, seed: int, data: st.DataObject
) -> None:
    rng, body = np.random.default_rng(seed), brisk_whole_filter.body
    assert body is not None
    start = allowed_starts[rng.integers(len(allowed_starts))]
    rig = Rig(brisk_whole_filter, start)
    _attack(rig, rng, data, ticks=8)
    rig.check_joints(start=start)
    path = np.stack([start, *(c.joint_positions for c in rig.sent)])
    assert body.check(path, brisk_whole_filter.config.space, DT) is Reason.NONE


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1), pace=st.sampled_from([0.02, 0.1, 0.4, 1.0, 4.0]))
def test_what_passed_passes_again_unchanged(
    brisk_filter: SafetyFilter, seed: int, pace: float
) -> None:
    """A command, asked for again as the target of the same tick, is the command.

    Where it goes to the very edge of a limit, rounding may count it as beyond: then less is given, never more.
    """
    rng, limits = np.random.default_rng(seed), brisk_filter.limits
    rig = Rig(brisk_filter, rng.uniform(HOME - 0.3, HOME + 0.3))
    direction = rng.uniform(-1, 1, 7)
    goal, width = rig.q.copy(), float(rng.uniform(0, 0.08))
    for _ in range(5):
        goal = goal + direction * pace * DT + rng.normal(size=7) * pace * 0.002
        before, robot = rig.state, rig.robot(sequence=rig.sequence + 1, time=rig.now + DT)
        passed = rig.tick(goal, speed=direction * pace, width=width, robot=robot)
        first = passed.command
        if first is None or passed.fault is not Reason.NONE:
            return
        target = Target(
            joint_positions=first.joint_positions,
            joint_velocities=first.joint_velocities,
            gripper_width=first.gripper_width,
        )
        state, decision = brisk_filter.step(before, rig.now, robot, target)
        second = decision.command
        assert second is not None and decision.fault is Reason.NONE
        assert second.gripper_width == pytest.approx(first.gripper_width, abs=1e-12)
        old, given, again = before.motion, rig.state.motion, state.motion
        assert old is not None and given is not None and again is not None
        slowest, fastest = limits.velocity_range(old.q)
        edge = np.abs(given.a) > limits.acceleration - 1e-6
        edge |= np.abs(given.a - old.a) > limits.jerk * DT - 1e-6
        edge |= (given.v < slowest + 1e-6) | (given.v > fastest - 1e-6)
        same = np.abs(second.joint_positions - first.joint_positions) < 1e-9
        assert (same | edge).all()
        assert (np.abs(again.v) <= np.maximum(np.abs(given.v), np.abs(old.v)) + 1e-9).all()


@st.composite
def _no_targets(draw: st.DrawFn) -> Target:
    """Something else than seven finite numbers of a floating type, in the positions, the speeds, or the width."""
    right = [HOME.copy(), np.zeros(7), 0.05]
    which = draw(st.integers(0, 2))
    if which == 2:
        right[2] = draw(st.sampled_from([math.nan, math.inf, -math.inf, "0.05", b"", [0.05]]))
    else:
        shape = draw(
            st.one_of(
                st.lists(st.integers(0, 9), max_size=3).filter(lambda s: s != [7]), st.just([7])
            )
        )
        kinds = ["i8", "i4", "u1", "?", "c16", "O", "U3", "M8[s]"]
        kind = draw(st.sampled_from(["f8", "f4", "f2", *kinds] if shape != [7] else kinds))
        value: object = np.zeros(shape, dtype=kind)
        if draw(st.booleans()) and kind[0] == "f":
            value = np.full(shape, math.nan, dtype=kind)
        if draw(st.integers(0, 4)) == 0:
            value = draw(st.sampled_from([None, [0.0] * 7, tuple(HOME), "joints", 0.5]))
        right[which] = value
    return Target(joint_positions=right[0], joint_velocities=right[1], gripper_width=right[2])  # type: ignore[arg-type]


@pytest.mark.rejects_input
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(target=_no_targets())
def test_what_is_no_target_is_refused_as_such(joint_filter: SafetyFilter, target: Target) -> None:
    rig = Rig(joint_filter)
    state, decision = joint_filter.step(rig.state, rig.now + DT, rig.robot(), target)
    assert decision.fault is Reason.COMMAND_INVALID and state.mode is SafetyMode.FAULT
    command = decision.command
    assert command is None or np.array_equal(command.joint_positions, HOME)


@pytest.mark.rejects_input
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32 - 1),
    factor=st.sampled_from([180 / math.pi, 1000.0, 100.0, 200 / math.pi]),
    joints=st.booleans(),
)
def test_other_units_never_move_the_arm(
    joint_filter: SafetyFilter, seed: int, factor: float, joints: bool
) -> None:
    """Degrees, thousandths, hundredths and gon of joints; millimetres and centimetres of a gripper."""
    rng = np.random.default_rng(seed)
    rig = Rig(joint_filter, HOME + rng.uniform(-0.2, 0.2, 7))
    start = rig.q.copy()
    near = start + rng.uniform(-0.02, 0.02, 7)
    if joints:
        fault = rig.tick(near * factor).fault
        expected = {Reason.COMMAND_LIMITS, Reason.COMMAND_JUMP, Reason.START_MISMATCH}
        expected.add(Reason.COMMAND_UNITS)
        if factor == 180 / math.pi:
            expected = {Reason.COMMAND_UNITS}
    else:
        width = float(rng.uniform(0.02, 0.08)) * (1000.0 if factor == 1000.0 else 100.0)
        fault = rig.tick(rig.q, width=width).fault
        expected = {Reason.COMMAND_UNITS}
    assert fault in expected
    assert all(np.array_equal(c.joint_positions, start) for c in rig.sent)


def _attack(rig: Rig, rng: np.random.Generator, data: st.DataObject, *, ticks: int) -> None:
    """A run of plausible targets towards somewhere, with anything thrown in; stops must end all commands."""
    direction = rng.normal(size=7)
    direction /= np.abs(direction).max()
    pace = data.draw(st.sampled_from([0.2, 1.0, 3.0, 10.0]))
    nasty = data.draw(st.integers(0, ticks * 2))
    value = data.draw(st.floats(allow_nan=True, allow_infinity=True, width=64))
    kind = data.draw(st.sampled_from(["target", "speed", "time", "state", "none", "jitter"]))
    goal = rig.q.copy()
    for k in range(ticks):
        goal = goal + direction * pace * DT + rng.normal(size=7) * pace * 0.002
        target, speed, robot, dt = goal.copy(), direction * pace, None, DT
        if k == nasty or kind == "jitter":
            which = int(rng.integers(7))
            if kind == "target":
                target[which] = value
            elif kind == "speed":
                speed = np.full(7, value)
            elif kind == "time":
                dt = value
            elif kind == "state":
                q = rig.q.copy()
                q[which] = value
                robot = rig.robot(joint_positions=q, sequence=10_000)
            elif kind == "jitter":
                dt = float(rng.uniform(0, 0.03))
            else:
                rig.tick(None)
        rig.tick(target, dt=dt, robot=robot, speed=speed)
        if not math.isfinite(rig.now):
            rig.now = 200.0
    for _ in range(200):
        if rig.state.mode is not SafetyMode.FAULT:
            rig.state = rig.filter.fault(rig.state, Reason.OPERATOR, "end of the test")
        if rig.state.standing:
            break
        rig.tick(rig.q)
    assert rig.state.standing
    count = len(rig.sent)
    rig.tick(rig.q)
    assert len(rig.sent) == count
