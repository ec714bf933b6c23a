"""What the safety filter is set to, is given, remembers and decides."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from pointworld.control.body import Space
from pointworld.control.motion import Motion
from pointworld.control.types import JointCommand, Reason, RobotState, SafetyMode
from pointworld.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SafetyConfig:
    """How strict the filter is.

    period: between commands [s]. velocity, acceleration, jerk: shares of the arm's limits. position_margin: kept from
    the ends of the joints' ranges [rad]. state_age: oldest measurement to act on [s]. watchdog: longest gap between
    ticks [s]. future: how far ahead of the clock a measurement may claim to be [s].
    tracking: most between the commanded and measured position [rad]. start: most between the first target and the
    measured position [rad]. jump: most between a target and the last command [rad]. ramp: time to full speed after
    arming [s], from `ramp_start` of it. gripper_speed: [m/s]. resting: speed that counts as standing [rad/s].
    """

    period: float = 0.01
    velocity: float = 0.3
    acceleration: float = 0.3
    jerk: float = 0.03
    position_margin: float = 0.02
    state_age: float = 0.1
    watchdog: float = 0.1
    future: float = 0.02
    tracking: float = 0.12
    start: float = 0.05
    jump: float = 0.25
    ramp: float = 1.0
    ramp_start: float = 0.1
    gripper_speed: float = 0.1
    resting: float = 0.05
    space: Space = field(default_factory=Space)

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, float) and not 0 <= value < np.inf:
                raise InputError(f"safety: {entry.name} is {value}, expected a number >= 0")
        if not 0.002 <= self.period <= 0.05:
            raise InputError(f"safety: a period of {self.period} s, expected 0.002 to 0.05 s")
        if not 0 < self.ramp_start <= 1:
            raise InputError(f"safety: ramp_start is {self.ramp_start}, expected (0, 1]")

    def ramp_share(self, since: float) -> float:
        """Share of full speed `since` seconds after arming."""
        if self.ramp == 0:
            return 1.0
        share = self.ramp_start + (1 - self.ramp_start) * since / self.ramp
        return float(min(max(share, self.ramp_start), 1.0))


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """Where the executor wants the arm one period from now: (joints,) positions and speeds, and a gripper width."""

    joint_positions: np.ndarray
    joint_velocities: np.ndarray
    gripper_width: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class FilterState:
    """What the filter remembers. mode, reason, message: for people. live: commands reach an arm (else a dry run).

    motion: what was commanded last. width: commanded last [m]. armed_at, ticked_at, slot: times of arming, of the last
    tick, of the last command [s]. measured: newest accepted measurement. sequence: of the last command.
    moved: a command was given since arming.
    """

    mode: SafetyMode = SafetyMode.DISARMED
    reason: Reason = Reason.NONE
    message: str = ""
    live: bool = False
    motion: Motion | None = None
    width: float | None = None
    armed_at: float = -np.inf
    ticked_at: float = -np.inf
    slot: float = -np.inf
    measured: RobotState | None = None
    sequence: int = 0
    moved: bool = False

    @property
    def standing(self) -> bool:
        """Nothing that was commanded still moves."""
        return self.motion is None or self.motion.resting


@dataclass(frozen=True, kw_only=True, eq=False)
class Decision:
    """What a tick came to. command: to be sent, or None. dry: what would be sent in a dry run.

    limited: the target was out of reach of the limits, the command only goes towards it. fault: latched just now.
    """

    command: JointCommand | None = None
    dry: JointCommand | None = None
    limited: bool = False
    fault: Reason = Reason.NONE
