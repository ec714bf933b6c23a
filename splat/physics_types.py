"""What a simulation of Gaussians is told: materials, options, and what pushes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from pointworld.errors import InputError

Tensor = torch.Tensor
Kind = Literal["elastic", "plastic", "granular"]

#: Acceleration of free fall [m/s^2].
FREE_FALL = 9.81
#: No limit: a stress that nothing in a scene reaches [Pa].
UNBREAKABLE = 1e12


@dataclass(frozen=True, kw_only=True)
class Material:
    """What an object is made of.

    kind: elastic springs back, plastic keeps its dents, granular flows. density [kg/m^3]. young_modulus [Pa].
    poisson_ratio: below 0.5. yield_stress: shear stress from which plastic material flows [Pa]. friction: of grains on
    grains, the tangent of their angle of repose. damping: time in which elastic swings relax [s].
    """

    kind: Kind
    density: float
    young_modulus: float
    poisson_ratio: float = 0.3
    yield_stress: float = UNBREAKABLE
    friction: float = 0.0
    damping: float = 0.0

    def __post_init__(self) -> None:
        good = self.density > 0 and self.young_modulus > 0 and -1 < self.poisson_ratio < 0.5
        if not good or min(self.yield_stress, self.friction, self.damping) < 0:
            raise InputError(
                f"{self}: expected density and Young's modulus above 0, Poisson's ratio between -1 and 0.5, "
                "yield stress, friction and damping not below 0"
            )


#: Jelly, modelling clay, dry sand.
MATERIALS: dict[Kind, Material] = {
    "elastic": Material(kind="elastic", density=1000.0, young_modulus=1e4),
    "plastic": Material(kind="plastic", density=1800.0, young_modulus=2e5, yield_stress=1.5e3),
    "granular": Material(kind="granular", density=1600.0, young_modulus=1e7, friction=0.62),
}


@dataclass(frozen=True, kw_only=True)
class PhysicsOptions:
    """How a simulation is run.

    particles: at most so many (their spacing follows from it; more are slower in proportion). frame_dt: between the
    states that are kept [s]. seconds: how long. max_step: the longest step of the solver [s]. floor_friction,
    push_friction: Coulomb, against the support and against what pushes. gravity: strength, against the support's
    normal [m/s^2]. device: of the solver, cpu or cuda.
    """

    particles: int = 4000
    frame_dt: float = 1 / 30
    seconds: float = 1.0
    max_step: float = 1 / 240
    floor_friction: float = 0.5
    push_friction: float = 0.4
    gravity: float = FREE_FALL
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not (
            self.particles >= 8 and self.max_step > 0 and 0 < self.frame_dt <= self.seconds <= 60
        ):
            raise InputError(
                f"{self}: expected 8 or more particles, 0 < frame_dt <= seconds <= 60, and max_step above 0"
            )
        if min(self.floor_friction, self.push_friction) < 0 or not np.isfinite(self.gravity):
            raise InputError(f"{self}: expected frictions not below 0 and a finite gravity")


@dataclass(frozen=True, kw_only=True, eq=False)
class PushPath:
    """Points that push, such as a robot's surface.

    positions: (steps, points, 3) in the scene's frame [m]. step_dt: between steps [s]; afterwards they stand still.
    radius: every point is a ball of this size [m].
    """

    positions: Tensor
    step_dt: float
    radius: float = 0.008

    def __post_init__(self) -> None:
        shape = tuple(self.positions.shape)
        if len(shape) != 3 or shape[2] != 3 or shape[0] < 1:
            raise InputError(f"the pushing points are {shape}, expected (steps, points, 3)")
        if not bool(torch.isfinite(self.positions).all()):
            raise InputError("the pushing points are not all finite")
        if not (self.step_dt > 0 and self.radius > 0):
            raise InputError(
                f"step_dt is {self.step_dt} s and radius {self.radius} m; both must be above 0"
            )

    def at(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities (points, 3) at `time` [s]."""
        last = len(self.positions) - 1
        index = min(max(time, 0.0) / self.step_dt, float(last))
        low = min(int(index), max(last - 1, 0))
        now, then = self.positions[low].numpy(), self.positions[min(low + 1, last)].numpy()
        place = now + (index - low) * (then - now)
        moving = time < last * self.step_dt
        speed = (then - now) / self.step_dt if moving else np.zeros_like(now)
        return place.astype(np.float64), speed.astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Of all particles [J]: of motion, of height above the support, and of elastic strain."""

    kinetic: float
    height: float
    elastic: float

    @property
    def total(self) -> float:
        """Their sum; it can only fall while nothing pushes."""
        return self.kinetic + self.height + self.elastic
