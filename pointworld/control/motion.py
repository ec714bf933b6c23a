"""Commanded motion in discrete time: following a target, and coming to rest, within speed, acceleration and jerk.

A motion at tick k is (q, v, a) with v = (q_k - q_{k-1}) / dt and a = (v_k - v_{k-1}) / dt; the jerk is the change of
a over dt. All arrays are (..., joints).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pointworld.control.limits import JointLimits

_REST = 1e-9
#: What rounding does to an acceleration that is taken from positions [rad/s2 or m/s2].
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class Motion:
    """Commanded joint positions, velocities and accelerations."""

    q: np.ndarray
    v: np.ndarray
    a: np.ndarray

    @staticmethod
    def at_rest(q: np.ndarray) -> Motion:
        """Standing at q."""
        zero = np.zeros_like(q, dtype=np.float64)
        return Motion(q=np.array(q, dtype=np.float64), v=zero, a=zero)

    @property
    def resting(self) -> bool:
        """No speed and no acceleration left."""
        return bool((np.abs(self.v) < _REST).all() and (np.abs(self.a) < _REST).all())

    def advanced(self, a: np.ndarray, dt: float) -> Motion:
        """One tick later under the acceleration a."""
        v = self.v + a * dt
        return Motion(q=self.q + v * dt, v=v, a=a)


def brake_acceleration(limits: JointLimits, motion: Motion, dt: float) -> np.ndarray:
    """Acceleration of the next tick on the way to rest: the strongest from which the jerk can still end it in time.

    With a ramp of n ticks from a to zero by steps of jerk * dt the speed changes by a (a + jerk dt) / (2 jerk); set
    equal to the speed that is left and solved for a. Where the next tick can end the motion exactly, it does.
    """
    v, a = motion.v, motion.a
    step = limits.jerk * dt
    size = np.sqrt(step * step / 4 + 2 * limits.jerk * np.abs(v)) - step / 2
    wanted = -np.sign(v) * np.minimum(size, limits.acceleration)
    ending = -v / dt
    ends = (np.abs(ending) <= np.minimum(step, limits.acceleration)) & (np.abs(ending - a) <= step)
    return np.where(ends, ending, np.minimum(np.maximum(wanted, a - step), a + step))


def brake(
    limits: JointLimits, motion: Motion, dt: float, *, most: int
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Positions and velocities (ticks, ..., joints) on the way to rest, this tick first; True when it gets there."""
    positions, velocities = [motion.q], [motion.v]
    for _ in range(most):
        if motion.resting:
            return np.stack(positions), np.stack(velocities), True
        motion = motion.advanced(brake_acceleration(limits, motion, dt), dt)
        positions.append(motion.q)
        velocities.append(motion.v)
    return np.stack(positions), np.stack(velocities), motion.resting


def clearly_stops(limits: JointLimits, motion: Motion, dt: float) -> np.ndarray:
    """Joints (..., joints) whose way to rest keeps position and velocity limits by a bound on its length and speed.

    Cheap and on the safe side: where it says no, `brake` and `within` may still say yes.
    """
    ramp = limits.acceleration / limits.jerk
    peak = np.abs(motion.v) + motion.a * motion.a / (2 * limits.jerk) + np.abs(motion.a) * dt
    peak = peak + 2 * limits.jerk * dt * dt
    far = peak * peak / (2 * limits.acceleration) + peak * (2 * ramp + 4 * dt)
    low, high = motion.q - far, motion.q + far
    inside = (low >= limits.lower) & (high <= limits.upper)
    fastest = np.minimum(limits.velocity_range(high)[1], -limits.velocity_range(low)[0])
    return np.asarray(inside & (peak <= fastest))


def follow_acceleration(
    limits: JointLimits, motion: Motion, target: np.ndarray, speed: np.ndarray, dt: float
) -> np.ndarray:
    """Acceleration (joints,) of the next tick towards a target that is due then and moves at `speed`.

    Exactly onto the target where the limits allow it, else as near as a motion goes that can still stop on it. A motion
    of this function, given as target with its own speed, comes out again.
    """
    step = limits.jerk * dt
    low = np.maximum(-limits.acceleration, motion.a - step)
    high = np.minimum(limits.acceleration, motion.a + step)
    slowest, fastest = limits.velocity_range(motion.q)
    exact = ((target - motion.q) / dt - motion.v) / dt
    v = motion.v + exact * dt
    # What lies on a limit must not fall out of it by rounding: the other way below is a much weaker one.
    eps = _ROUNDING
    reachable = (low - eps <= exact) & (exact <= high + eps)
    reachable &= (slowest - eps * dt <= v) & (v <= fastest + eps * dt)
    exact = np.minimum(np.maximum(exact, low), high)
    # Onto the target at another speed than its own, the next ticks would only swing about it.
    reachable &= np.abs(v - speed) <= step * dt
    if reachable.all():
        return exact
    # What would be left of the error if this tick already ran at the target's speed.
    error = target - motion.q - np.minimum(np.maximum(speed, slowest), fastest) * dt
    pull = np.sign(error) * np.minimum(
        np.abs(error) / (5 * dt), np.sqrt(limits.acceleration * np.abs(error))
    )
    goal = np.minimum(np.maximum(speed + pull, slowest), fastest)
    wanted = np.minimum(np.maximum((goal - motion.v) / (2 * dt), low), high)
    # Room for the speed limit: what the acceleration adds while the jerk takes it back to zero.
    rising = wanted * np.abs(wanted) / (2 * limits.jerk)
    over = (motion.v + wanted * dt + rising > fastest) & (wanted > 0)
    under = (motion.v + wanted * dt + rising < slowest) & (wanted < 0)
    wanted = np.where(over | under, np.minimum(np.maximum(0.0, low), high), wanted)
    return np.where(reachable, exact, wanted)


def within(
    limits: JointLimits, positions: np.ndarray, velocities: np.ndarray, before: np.ndarray
) -> np.ndarray:
    """Which joints keep position and velocity limits on a path (ticks, ..., joints) that leaves from `before`."""
    eps = 1e-9
    inside = (positions >= limits.lower - eps) & (positions <= limits.upper + eps)
    slowest, fastest = limits.velocity_range(positions)
    allowed = (velocities >= slowest - eps) & (velocities <= fastest + eps)
    # The limit shrinks towards the ends of the range, so along one tick it is least at one of the tick's ends.
    earlier = np.concatenate([np.broadcast_to(before, positions[:1].shape), positions[:-1]])
    slowest, fastest = limits.velocity_range(earlier)
    allowed &= (velocities >= slowest - eps) & (velocities <= fastest + eps)
    return np.asarray((inside & allowed).all(axis=0))
