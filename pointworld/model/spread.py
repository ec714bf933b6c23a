"""The map from the spread that a network states to the one its errors have.

A network that is trained on a loss which favours movers states too much spread for points that stay and too little for
those that move. One increasing map, fitted on validation clips (pointworld.train.spread), mends both; it keeps the
order of points, and so every rank correlation.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pointworld.errors import InputError

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class SpreadMap:
    """What a stated standard deviation is multiplied by: between knots linear in its logarithm, constant beyond them.

    sigma: knots, per-axis standard deviation [m], increasing. factor: at each knot, such that sigma * factor does not
    decrease.
    """

    sigma: tuple[float, ...]
    factor: tuple[float, ...]

    def __post_init__(self) -> None:
        scaled = [s * f for s, f in zip(self.sigma, self.factor, strict=False)]
        if (
            not self.sigma
            or len(self.sigma) != len(self.factor)
            or min(*self.sigma, *self.factor) <= 0
            or list(self.sigma) != sorted(set(self.sigma))
            or any(b < a * (1 - 1e-6) for a, b in itertools.pairwise(scaled))
        ):
            raise InputError(
                f"spread map: knots {self.sigma} with factors {self.factor}, expected as many of both, positive, knots "
                "increasing and their products not decreasing"
            )

    def __call__(self, sigma: Tensor) -> Tensor:
        """Corrected standard deviations, any shape."""
        if len(self.sigma) == 1:
            return sigma * self.factor[0]
        x = torch.tensor(self.sigma, dtype=torch.float64, device=sigma.device).log()
        y = torch.tensor(self.factor, dtype=torch.float64, device=sigma.device).log()
        at = sigma.double().clamp_min(1e-12).log()
        right = torch.bucketize(at, x).clamp(1, len(x) - 1)
        share = ((at - x[right - 1]) / (x[right] - x[right - 1])).clamp(0.0, 1.0)
        return (sigma * torch.lerp(y[right - 1], y[right], share).exp()).to(sigma.dtype)

    def to_json(self) -> dict[str, list[float]]:
        """Plain lists, for a JSON file."""
        return {"sigma_m": list(self.sigma), "factor": list(self.factor)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SpreadMap:
        """Inverse of `to_json`.

        Raises:
            InputError: keys are missing, or the map is none.
        """
        try:
            return cls(
                sigma=tuple(float(v) for v in values["sigma_m"]),
                factor=tuple(float(v) for v in values["factor"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"spread map: expected lists sigma_m and factor ({error})") from error
