"""The box in the base frame that the scene is cropped to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pointworld.errors import InputError

USAGE = "Expected six numbers in metres in the base frame: x0,y0,z0,x1,y1,z1."


@dataclass(frozen=True)
class Workspace:
    """An axis-aligned box in the robot base frame [m]; points on its faces are inside.

    The default reaches from behind the base to the end of a tabletop arm's reach, and from below a base that stands
    on a pedestal to above the arm.
    """

    lower: tuple[float, float, float] = (-0.3, -0.9, -0.3)
    upper: tuple[float, float, float] = (1.2, 0.9, 1.2)

    def __post_init__(self) -> None:
        values = np.array([self.lower, self.upper], dtype=np.float64)
        if (
            values.shape != (2, 3)
            or not np.isfinite(values).all()
            or (values[0] >= values[1]).any()
        ):
            raise InputError(
                f"workspace from {self.lower} to {self.upper} is not a box: every lower bound must be a number "
                f"below its upper bound. {USAGE}"
            )

    @classmethod
    def parse(cls, text: str) -> Workspace:
        """Read "x0,y0,z0,x1,y1,z1"."""
        try:
            values = [float(part) for part in text.split(",")]
        except ValueError as error:
            raise InputError(f"workspace '{text}' cannot be read. {USAGE}") from error
        if len(values) != 6:
            raise InputError(f"workspace '{text}' has {len(values)} numbers. {USAGE}")
        return cls((values[0], values[1], values[2]), (values[3], values[4], values[5]))

    @property
    def center(self) -> np.ndarray:
        """Centre of the box, (3,) [m]."""
        return (np.array(self.lower) + np.array(self.upper)) / 2

    def contains(self, points: torch.Tensor) -> torch.Tensor:
        """Which of the points (..., 3) lie in the box, bool (...)."""
        lower = torch.tensor(self.lower, dtype=points.dtype, device=points.device)
        upper = torch.tensor(self.upper, dtype=points.dtype, device=points.device)
        return ((points >= lower) & (points <= upper)).all(-1)

    def __str__(self) -> str:
        return ",".join(f"{value:g}" for value in (*self.lower, *self.upper))
