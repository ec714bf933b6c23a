"""Joint limits of an arm, with velocity limits that shrink near the ends of a joint's range.

Positions, velocities and the constants of the shrinking limits are read from one URDF, as it is written and not as a
loader cleaned it up. Accelerations and jerks are in no URDF; they are the makers' published ones, or cautious guesses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lxml import etree

from pointworld.errors import AssetError, InputError

#: How far below the shrinking limit libfranka itself stays [rad/s].
VELOCITY_TOLERANCE = 1e-3

#: Acceleration [rad/s2] and jerk [rad/s3] of known arms, by the prefix of their first joint's name. Franka: as
#: published for its control interface. UR: not published, a cautious guess.
KNOWN_DYNAMICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "fr3": ((10.0,) * 7, (5000.0,) * 7),
    "panda": (
        (15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0),
        (7500.0, 3750.0, 5000.0, 6250.0, 7500.0, 10000.0, 10000.0),
    ),
}
CAUTIOUS_ACCELERATION, CAUTIOUS_JERK = 5.0, 500.0


@dataclass(frozen=True, kw_only=True, eq=False)
class JointLimits:
    """Limits (arm joints,) in rad or m and seconds.

    offset, deceleration: of v(q) = min(velocity, max(0, sqrt(2 deceleration (limit - q)) - offset)); where a joint
    has none, offset is 0 and deceleration infinite.
    """

    names: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray
    offset: np.ndarray
    deceleration: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.names)
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            if value.shape != (count,) or np.isnan(value).any():
                raise InputError(f"joint limits: {field.name} is {value}, expected {count} numbers")
        if not (self.lower < self.upper).all() or not np.isfinite([self.lower, self.upper]).all():
            raise InputError(f"position limits {self.lower} .. {self.upper} are not finite ranges")
        for name in ("velocity", "acceleration", "jerk"):
            value = getattr(self, name)
            if not ((value > 0) & np.isfinite(value)).all():
                raise InputError(f"joint limits: {name} is {value}, expected positive numbers")
        if not ((self.offset >= 0) & (self.deceleration > 0)).all():
            raise InputError("velocity offsets must be >= 0 and decelerations > 0")

    def velocity_range(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest velocity at q (..., joints), each (..., joints); an empty range never comes out."""
        return (
            -self._towards(q - self.lower),
            self._towards(self.upper - q),
        )

    def _towards(self, distance: np.ndarray) -> np.ndarray:
        shrinking = np.isfinite(self.deceleration)
        braking = np.where(shrinking, self.deceleration, 0.0)
        root = np.sqrt(np.maximum(2.0 * braking * distance, 0.0))
        near = np.minimum(self.velocity, np.maximum(root - self.offset, 0.0))
        return np.where(shrinking, near, self.velocity)

    def scaled(self, *, velocity: float, acceleration: float, jerk: float) -> JointLimits:
        """The same ranges at a share in (0, 1] of speed, acceleration and jerk; the shrinking part stays as it is."""
        for share in (velocity, acceleration, jerk):
            if not 0 < share <= 1:
                raise InputError(f"a share of the limits is {share}, expected a number in (0, 1]")
        return dataclasses.replace(
            self,
            velocity=self.velocity * velocity,
            acceleration=self.acceleration * acceleration,
            jerk=self.jerk * jerk,
        )

    def narrowed(self, margin: float) -> JointLimits:
        """Position limits `margin` [rad or m] further in (the shrinking velocity limits move in with them)."""
        if not 0 <= margin < float((self.upper - self.lower).min()) / 2:
            raise InputError(f"a margin of {margin} leaves no range of some joint")
        return dataclasses.replace(self, lower=self.lower + margin, upper=self.upper - margin)


def read_joint_limits(
    urdf: str | Path,
    joints: Sequence[str],
    *,
    acceleration: Sequence[float] | None = None,
    jerk: Sequence[float] | None = None,
) -> JointLimits:
    """Limits of `joints` from the text of a URDF.

    Args:
        acceleration, jerk: (joints,) [rad/s2, rad/s3]; by default those known for the arm, else cautious ones.

    Raises:
        AssetError: the file cannot be read, or a joint or a limit is missing.
    """
    root = _parse(Path(urdf))
    elements = {e.get("name"): e for e in root.findall("joint")}
    rows = [_read_joint(elements.get(name), name, Path(urdf)) for name in joints]
    lower, upper, velocity, offset, deceleration = np.array(rows, dtype=np.float64).T
    known = _known_dynamics(joints)
    return JointLimits(
        names=tuple(joints),
        lower=lower,
        upper=upper,
        velocity=velocity,
        acceleration=np.array(known[0] if acceleration is None else acceleration, dtype=np.float64),
        jerk=np.array(known[1] if jerk is None else jerk, dtype=np.float64),
        offset=offset,
        deceleration=deceleration,
    )


def _parse(file: Path) -> etree._Element:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        return etree.fromstring(file.read_bytes(), parser)
    except (OSError, etree.XMLSyntaxError) as error:
        raise AssetError(f"cannot read the joint limits of {file}: {error}") from error


def _read_joint(element: etree._Element | None, name: str, file: Path) -> tuple[float, ...]:
    if element is None:
        raise AssetError(f"{file}: no joint '{name}'")
    limit = element.find("limit")
    shrinking = element.find("position_based_velocity_limits")
    try:
        if limit is None:
            raise KeyError("limit")
        values = tuple(float(limit.attrib[key]) for key in ("lower", "upper", "velocity"))
        if shrinking is None:
            return (*values, 0.0, np.inf)
        return (
            *values,
            float(shrinking.attrib["velocity_offset"]),
            float(shrinking.attrib["deceleration_limit"]),
        )
    except (KeyError, ValueError) as error:
        raise AssetError(
            f"{file}: joint '{name}': {error} is missing or no number; an arm to be moved needs lower, upper and "
            "velocity of every joint"
        ) from error


def _known_dynamics(joints: Sequence[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    for prefix, known in KNOWN_DYNAMICS.items():
        if len(joints) == len(known[0]) and all(name.startswith(prefix) for name in joints):
            return known
    return (CAUTIOUS_ACCELERATION,) * len(joints), (CAUTIOUS_JERK,) * len(joints)
