"""Chunks as targets: on time, never twice, never beyond their end."""

from __future__ import annotations

import numpy as np
import pytest

from pointworld.control.executor import Executor, Ramp
from pointworld.control.types import Chunk, ControlError, Reason

ZERO = np.zeros(2)


def chunk(
    sequence: int = 0, start: float = 10.0, *, value: float = 0.1, **changes: object
) -> Chunk:
    """Two joints, 0.5 s from 0 to `value`."""
    path = np.linspace(0, 1, 6)[:, None] * np.array([value, -value])
    values: dict[str, object] = {"joint_positions": path, "step_dt": 0.1, **changes}
    return Chunk(sequence=sequence, start_time=start, **values)  # type: ignore[arg-type]


def test_targets_follow_the_chunk_and_end_with_it() -> None:
    executor = Executor().submit(chunk(), 10.0, ZERO, ZERO)
    assert np.allclose(executor.target(10.0).joint_positions, 0)  # type: ignore[union-attr]
    for t in (10.3, 10.4, 10.5):
        target = executor.target(t)
        assert target is not None
        assert np.allclose(target.joint_positions, [0.2 * (t - 10), -0.2 * (t - 10)], atol=1e-9)
        assert np.allclose(target.joint_velocities, [0.2, -0.2], atol=1e-9)
    assert executor.target(10.501) is None and executor.expired(10.501)


def test_speed_is_the_slope_of_the_position() -> None:
    first = Executor().submit(chunk(0), 10.0, ZERO, ZERO, ramp=Ramp(since=10, start=0.1, length=1))
    ramp = Ramp(since=10, start=0.1, length=1)
    second = first.submit(chunk(1, 10.2), 10.25, np.full(2, 0.03), np.full(2, 0.1), ramp=ramp)
    for executor, times in ((first, (10.05, 10.2, 10.4)), (second, (10.26, 10.4, 10.54, 10.6))):
        for t in times:
            h = 1e-5
            a, b = (executor.target(t + d, ramp=ramp) for d in (-h, h))
            now = executor.target(t, ramp=ramp)
            assert a is not None and b is not None and now is not None
            slope = (b.joint_positions - a.joint_positions) / (2 * h)
            assert np.allclose(slope, now.joint_velocities, atol=1e-5)


def test_a_new_chunk_takes_over_without_a_jump() -> None:
    executor = Executor().submit(chunk(0), 10.0, ZERO, ZERO)
    at = executor.target(10.4)
    assert at is not None
    later = executor.submit(
        chunk(1, 10.35, value=-0.1), 10.4, at.joint_positions, at.joint_velocities
    )
    now = later.target(10.4)
    assert now is not None
    assert np.allclose(now.joint_positions, at.joint_positions)
    assert np.allclose(now.joint_velocities, at.joint_velocities)
    end = later.target(10.8)
    assert end is not None and np.allclose(end.joint_positions, [-0.09, 0.09], atol=1e-6)


def test_the_slow_start_does_not_stretch_the_chunk() -> None:
    ramp = Ramp(since=10.0, start=0.1, length=1.0)
    executor = Executor().submit(chunk(), 10.0, ZERO, ZERO, ramp=ramp)
    end = executor.target(10.5, ramp=ramp)
    assert end is not None and end.joint_positions[0] == pytest.approx(0.2 * (0.05 + 0.9 * 0.125))
    assert executor.expired(10.51)
    assert ramp.share(11.5) == 1.0 and ramp.run(11.5, 11.7) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "case,reason",
    [
        ("same", Reason.CHUNK_OLD),
        ("older", Reason.CHUNK_OLD),
        ("over", Reason.CHUNK_OLD),
        ("far", Reason.CHUNK_INVALID),
        ("elsewhere", Reason.COMMAND_JUMP),
        ("joints", Reason.CHUNK_INVALID),
    ],
)
def test_chunks_that_are_not_taken(case: str, reason: Reason) -> None:
    executor = Executor().submit(chunk(5), 10.0, ZERO, ZERO)
    offered = {
        "same": chunk(5, 10.1),
        "older": chunk(4, 10.1),
        "over": chunk(6, 9.4),
        "far": chunk(6, 20.0),
        "elsewhere": chunk(6, 10.1, joint_positions=np.full((6, 2), 0.9)),
        "joints": chunk(6, 10.1, joint_positions=np.zeros((6, 3))),
    }[case]
    with pytest.raises(ControlError) as caught:
        executor.submit(offered, 10.1, ZERO, ZERO)
    assert caught.value.reason is reason
    assert executor.clear().newest == 5, "a chunk is not played again after a stop"


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    "changes",
    [
        {"joint_positions": np.full((3, 2), np.nan)},
        {"joint_positions": np.zeros((1, 2))},
        {"joint_positions": np.zeros((3, 2), dtype=int)},
        {"step_dt": 0.0},
        {"step_dt": float("nan")},
        {"gripper_width": np.zeros(3)},
    ],
)
def test_broken_chunks_cannot_be_made(changes: dict[str, object]) -> None:
    with pytest.raises(ControlError) as caught:
        chunk(**changes)  # type: ignore[arg-type]
    assert caught.value.reason is Reason.CHUNK_INVALID


def test_the_gripper_is_interpolated() -> None:
    executor = Executor().submit(chunk(gripper_width=np.linspace(0.08, 0.03, 6)), 10.0, ZERO, ZERO)
    target = executor.target(10.25)
    assert target is not None and target.gripper_width == pytest.approx(0.055)
