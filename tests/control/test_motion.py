"""Coming to rest: in time, within the limits, and never further than the cheap bound says."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from pointworld.control.limits import JointLimits
from pointworld.control.motion import (
    Motion,
    brake,
    clearly_stops,
    follow_acceleration,
    within,
)
from tests.control.conftest import HOME

DT = 0.01
#: Like an FR3's joints at half speed.
JOINTS = JointLimits(
    names=("a", "b", "c"),
    lower=np.array([-2.7, -1.8, -3.0]),
    upper=np.array([2.7, 1.8, -0.1]),
    velocity=np.array([1.3, 1.3, 2.6]),
    acceleration=np.array([5.0, 5.0, 5.0]),
    jerk=np.array([150.0, 100.0, 300.0]),
    offset=np.array([0.3, 0.2, 0.0]),
    deceleration=np.array([6.0, 2.6, np.inf]),
)


@pytest.mark.parametrize("share", [(0.3, 0.3, 0.03), (1.0, 1.0, 0.02), (0.5, 1.0, 1.0)])
def test_braking_keeps_acceleration_and_jerk_and_ends(
    fr3_limits: JointLimits, rng: np.random.Generator, share: tuple[float, float, float]
) -> None:
    limits = fr3_limits.scaled(velocity=share[0], acceleration=share[1], jerk=share[2])
    start = Motion(
        q=np.tile(HOME, (500, 1)),
        v=rng.uniform(-1, 1, (500, 7)) * limits.velocity,
        a=rng.uniform(-1, 1, (500, 7)) * limits.acceleration,
    )
    q, v, ended = brake(limits, start, DT, most=400)
    assert ended
    a = np.concatenate([start.a[None], np.diff(v, axis=0) / DT])
    assert (np.abs(a) <= limits.acceleration + 1e-6).all()
    assert (np.abs(np.diff(a, axis=0)) <= limits.jerk * DT + 1e-6).all()
    assert np.allclose(np.diff(q, axis=0), v[1:] * DT)
    longest = limits.velocity / limits.acceleration + 3 * limits.acceleration / limits.jerk
    assert len(q) <= longest.max() / DT + 4
    sure = clearly_stops(limits, start, DT)
    assert sure.mean() > 0.3
    allowed = within(limits, q, v, start.q)
    assert (allowed | ~sure).all(), "the bound promised what the way to rest does not keep"


def test_the_bound_also_holds_near_the_ends(
    fr3_limits: JointLimits, rng: np.random.Generator
) -> None:
    limits = fr3_limits.scaled(velocity=0.5, acceleration=0.5, jerk=0.03)
    q0 = rng.uniform(limits.lower, limits.upper, (4000, 7))
    end = np.where(rng.random(q0.shape) < 0.5, limits.lower, limits.upper)
    q0 = end + (q0 - end) * rng.random((4000, 1))
    scale = rng.random((4000, 1))
    start = Motion(
        q=q0,
        v=rng.uniform(-1, 1, q0.shape) * limits.velocity * scale,
        a=rng.uniform(-1, 1, q0.shape) * limits.acceleration * scale,
    )
    q, v, _ = brake(limits, start, DT, most=400)
    sure = clearly_stops(limits, start, DT)
    assert 0.05 < sure.mean() < 0.95
    assert (within(limits, q, v, start.q) | ~sure).all()


def test_a_moving_target_is_caught_and_then_met_exactly(fr3_limits: JointLimits) -> None:
    limits = fr3_limits.scaled(velocity=0.3, acceleration=0.3, jerk=0.03)
    motion, speed = Motion.at_rest(HOME), np.zeros(7)
    speed[0] = 0.2
    for k in range(1, 60):
        target = HOME + speed * k * DT
        a = follow_acceleration(limits, motion, target, speed, DT)
        motion = motion.advanced(a, DT)
    assert np.allclose(motion.q, target, atol=1e-9) and np.allclose(motion.v, speed, atol=1e-9)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), period=st.sampled_from([0.001, 0.002, 0.01, 0.02]))
def test_a_commanded_motion_given_as_target_comes_out_again(seed: int, period: float) -> None:
    rng = np.random.default_rng(seed)
    middle, half = (JOINTS.lower + JOINTS.upper) / 2, (JOINTS.upper - JOINTS.lower) / 2
    motion = Motion.at_rest(middle + rng.uniform(-0.9, 0.9, 3) * half)
    speed = rng.uniform(-1, 1, 3) * JOINTS.velocity
    target = motion.q + rng.uniform(-0.3, 0.3, 3)
    for _ in range(15):
        target = target + speed * period
        a = follow_acceleration(JOINTS, motion, target, speed, period)
        wanted = motion.advanced(a, period)
        again = follow_acceleration(JOINTS, motion, wanted.q, wanted.v, period)
        # Where the motion is past the shrinking speed limit it is not one to repeat.
        slowest, fastest = JOINTS.velocity_range(motion.q)
        kept = (slowest <= wanted.v) & (wanted.v <= fastest)
        assert np.abs(again - a)[kept].max(initial=0.0) < 1e-6
        step = JOINTS.jerk * period
        assert (np.abs(again) <= JOINTS.acceleration).all()
        assert (np.abs(again - motion.a) <= step * (1 + 1e-12)).all()
        motion = wanted
