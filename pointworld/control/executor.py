"""Turns planned chunks into a target for every control period. Pure: each call returns a new executor.

A chunk is a joint path with times. Targets come from a cubic spline through it; where a new chunk takes over, the
difference to what the arm was doing fades out. A chunk that has run out is not stretched: the arm holds.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
from scipy.interpolate import CubicSpline

from pointworld.control.safety import Target
from pointworld.control.types import Chunk, ControlError, Reason


@dataclass(frozen=True, kw_only=True)
class ExecutorConfig:
    """blend: time over which a new chunk takes over [s]. mismatch: most it may differ there [rad].

    ahead: how far in the future a chunk may start [s]. longest: of a chunk [s].
    """

    blend: float = 0.3
    mismatch: float = 0.2
    ahead: float = 2.0
    longest: float = 10.0


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """Slow start: the path runs at a share of its speed that grows from `start` to 1 over `length` s after `since`."""

    since: float = -np.inf
    start: float = 1.0
    length: float = 0.0

    def share(self, now: float) -> float:
        """Share of full speed."""
        if self.length <= 0 or now - self.since >= self.length:
            return 1.0
        return self.start + (1 - self.start) * max(now - self.since, 0.0) / self.length

    def run(self, begin: float, now: float) -> float:
        """How far along its own time a path is at `now` that began at `begin` [s]."""
        if self.length <= 0 or begin - self.since >= self.length:
            return now - begin
        return self._area(now) - self._area(begin)

    def _area(self, now: float) -> float:
        t = now - self.since
        u = min(max(t, 0.0), self.length)
        ramped = self.start * u + (1 - self.start) * u * u / (2 * self.length)
        return ramped + max(t - self.length, 0.0)


NO_RAMP = Ramp()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Path:
    """A chunk as splines. offset, slip: (joints,) difference in position and speed at `since`, which fade out."""

    chunk: Chunk
    spline: CubicSpline
    offset: np.ndarray
    slip: np.ndarray
    since: float

    def sample(self, now: float, blend: float, ramp: Ramp) -> tuple[np.ndarray, np.ndarray]:
        """Position and speed (joints,) at a time; the first position before the chunk starts."""
        chunk = self.chunk
        begun = now >= chunk.start_time
        t = min(ramp.run(chunk.start_time, now), chunk.duration) if begun else 0.0
        q = self.spline(t)
        v = self.spline(t, 1) * ramp.share(now) if begun else np.zeros_like(q)
        x = (now - self.since) / blend if blend > 0 else 1.0
        if x >= 1:
            return q, v
        # Quintic fade of the offset; x (1 - x)^3 starts with slope 1 and ends flat.
        q = q + (1 - x**3 * (10 - 15 * x + 6 * x * x)) * self.offset
        q = q + blend * x * (1 - x) ** 3 * self.slip
        v = v - 30 * x**2 * (1 - x) ** 2 / blend * self.offset
        return q, v + (1 - x) ** 2 * (1 - 4 * x) * self.slip


@dataclass(frozen=True, kw_only=True, eq=False)
class Executor:
    """What is being executed. newest: highest chunk sequence seen, so that none is ever played twice.

    accepted_at: when the planner was last heard of [s], None before its first chunk.
    refuge: (joints,) where to rest without a path [rad], None = where it comes to rest.
    """

    config: ExecutorConfig = field(default_factory=ExecutorConfig)
    path: _Path | None = None
    refuge: np.ndarray | None = None
    newest: int = -1
    accepted_at: float | None = None

    def submit(
        self,
        chunk: Chunk,
        now: float,
        position: np.ndarray,
        speed: np.ndarray,
        *,
        ramp: Ramp = NO_RAMP,
    ) -> Executor:
        """Take over a chunk.

        Args:
            position, speed: (joints,) commanded now (measured, where nothing is commanded).

        Raises:
            ControlError: CHUNK_OLD (seen before, or run out already), CHUNK_INVALID, COMMAND_JUMP (starts elsewhere).
        """
        if chunk.sequence <= self.newest:
            raise ControlError(
                Reason.CHUNK_OLD, f"chunk {chunk.sequence} comes after chunk {self.newest}"
            )
        if chunk.end_time <= now:
            raise ControlError(
                Reason.CHUNK_OLD, f"chunk {chunk.sequence} ended {now - chunk.end_time:.3f} s ago"
            )
        if chunk.start_time > now + self.config.ahead or chunk.duration > self.config.longest:
            raise ControlError(
                Reason.CHUNK_INVALID,
                f"chunk {chunk.sequence} starts in {chunk.start_time - now:.3f} s and takes {chunk.duration:.3f} s",
            )
        if chunk.joint_positions.shape[1] != len(position):
            raise ControlError(
                Reason.CHUNK_INVALID,
                f"a chunk for {chunk.joint_positions.shape[1]} joints, the arm has {len(position)}",
            )
        times = chunk.step_dt * np.arange(len(chunk.joint_positions))
        spline = CubicSpline(times, chunk.joint_positions, axis=0, bc_type="natural")
        zero = np.zeros(len(position))
        path = _Path(chunk=chunk, spline=spline, offset=zero, slip=zero, since=now)
        there, pace = path.sample(now, 0.0, ramp)
        offset = np.asarray(position, dtype=np.float64) - there
        if np.abs(offset).max() > self.config.mismatch:
            raise ControlError(
                Reason.COMMAND_JUMP,
                f"chunk {chunk.sequence} is {np.abs(offset).max():.3f} rad from where the arm is now",
            )
        return dataclasses.replace(
            self,
            path=dataclasses.replace(path, offset=offset, slip=np.asarray(speed) - pace),
            refuge=None,
            newest=chunk.sequence,
            accepted_at=now,
        )

    def clear(self) -> Executor:
        """Forget the chunk, not its number."""
        return dataclasses.replace(self, path=None, refuge=None, accepted_at=None)

    def hold(self, now: float) -> Executor:
        """Forget the chunk, not its number, and that the planner was heard of now."""
        return dataclasses.replace(self, path=None, refuge=None, accepted_at=now)

    def retreat(self, measured: np.ndarray) -> Executor:
        """Forget the chunk and go to where the arm is: an arm that stays where it was sent goes on pressing."""
        return dataclasses.replace(self, path=None, refuge=np.array(measured, dtype=np.float64))

    def running(self, now: float) -> bool:
        """A chunk is there and has not run out."""
        return self.path is not None and not self.expired(now)

    def expired(self, now: float) -> bool:
        """A chunk was there and has run out."""
        return self.path is not None and now > self.path.chunk.end_time

    def target(self, now: float, *, ramp: Ramp = NO_RAMP) -> Target | None:
        """Where to be at `now`; None = come to rest and hold."""
        if self.path is None and self.refuge is not None:
            return Target(joint_positions=self.refuge, joint_velocities=np.zeros_like(self.refuge))
        if self.path is None or self.expired(now):
            return None
        q, v = self.path.sample(now, self.config.blend, ramp)
        return Target(
            joint_positions=q, joint_velocities=v, gripper_width=_width(self.path.chunk, now)
        )


def _width(chunk: Chunk, now: float) -> float | None:
    if chunk.gripper_width is None:
        return None
    times = chunk.start_time + chunk.step_dt * np.arange(len(chunk.gripper_width))
    return float(np.interp(now, times, chunk.gripper_width))
