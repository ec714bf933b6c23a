"""What dynamics predict for candidate motions, and what costs judge."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pointworld.errors import InputError
from pointworld.plan.actions import Actions

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """Motion of every scene point under each candidate; index 0 = now.

    positions: (samples, steps, points, 3) in the base frame [m]; the points are those of the state's scene.
    variance: (samples, steps, points) predicted variance per axis [m^2], zero at step 0; None where dynamics know none.
    actions: the candidates. strain: (samples, steps) most that a joint of the arm is away from where it was sent
    [rad], because it presses against something; None where dynamics know none.
    """

    positions: Tensor
    variance: Tensor | None
    actions: Actions
    strain: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.positions.shape)
        wanted = (len(self.actions), self.actions.num_steps)
        if len(shape) != 4 or shape[:2] != wanted or shape[3] != 3:
            raise InputError(
                f"trajectory positions are {shape}, expected {wanted} + (points, 3) for these actions"
            )
        if self.strain is not None and tuple(self.strain.shape) != shape[:2]:
            raise InputError(
                f"trajectory strain is {tuple(self.strain.shape)}, expected {shape[:2]}"
            )
        if self.variance is not None and tuple(self.variance.shape) != shape[:3]:
            raise InputError(
                f"trajectory variance is {tuple(self.variance.shape)}, expected {shape[:3]}"
            )
