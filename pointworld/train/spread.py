"""Correct the spread that a model predicts, so that as many errors lie within it as should.

A network that is trained on a loss which favours movers states too much spread for points that stay and too little for
those that move. One increasing map from stated to real spread, fitted on validation clips, mends both; it keeps the
order of points, and so every rank correlation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pointworld.errors import InputError
from pointworld.train.metrics import WITHIN

Tensor = torch.Tensor

#: Knots of a fitted map; factors tried for each, and the fewest errors that count as a class of their own.
KNOTS, _LOWEST, _HIGHEST, _TRIED, _FEWEST = 8, 0.05, 20.0, 300, 200


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
        x = torch.tensor(self.sigma, dtype=torch.float64).log()
        y = torch.tensor(self.factor, dtype=torch.float64).log()
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


def fit_spread(clips: Iterable[tuple[Tensor, Tensor, Tensor]], *, knots: int = KNOTS) -> SpreadMap:
    """The map under which coverage is nearest to what a Gaussian has, for all points and for movers alike.

    Args:
        clips: per clip stated sigma (values,) [m], error per axis (values, 3) [m] and moved (values,) bool.

    Raises:
        InputError: there is nothing to fit.
    """
    rows = list(clips)
    if not rows or not sum(len(sigma) for sigma, _, _ in rows):
        raise InputError("there are no predictions to fit a spread map to")
    sigma, error, moved = (torch.cat(parts) for parts in zip(*rows, strict=True))
    ratio = error.abs() / sigma.clamp_min(1e-9)[:, None]
    place = sigma.clamp_min(1e-9).log()
    found: list[tuple[float, float]] = []
    for chosen in _groups(place, moved, knots):
        middle = math.exp(float(place[chosen].mean()))
        factor = _best_factor(ratio[chosen], ratio[chosen & moved])
        if found and middle * factor < found[-1][0] * found[-1][1]:
            factor = found[-1][0] * found[-1][1] / middle
        found.append((middle, factor))
    return SpreadMap(sigma=tuple(m for m, _ in found), factor=tuple(f for _, f in found))


def _groups(place: Tensor, moved: Tensor, knots: int) -> list[Tensor]:
    """Masks of neighbouring values of `place`: half of the knots follow all points, half the movers."""
    shares = torch.linspace(0, 1, knots // 2 + 1, dtype=place.dtype)[1:]
    edges = {float(place.max())}
    for values in (place, place[moved]):
        if len(values) >= _FEWEST:
            ordered = values.sort().values
            edges |= {float(ordered[int(share * (len(ordered) - 1))]) for share in shares}
    masks: list[Tensor] = []
    lower = -math.inf
    for edge in sorted(edges):
        chosen = (place > lower) & (place <= edge)
        if int(chosen.sum()) >= _FEWEST or (edge == max(edges) and not masks):
            masks.append(chosen)
            lower = edge
    return masks


def _best_factor(everything: Tensor, movers: Tensor) -> float:
    """The factor with the smallest deviation from nominal coverage, over both limits and both classes."""
    tried = torch.linspace(math.log(_LOWEST), math.log(_HIGHEST), _TRIED).exp()
    worst = torch.zeros(_TRIED)
    for ratios in (everything, movers):
        values = ratios.flatten().sort().values
        if len(values) < _FEWEST and ratios is movers:
            continue
        for limit, nominal in WITHIN.values():
            inside = torch.searchsorted(values, (tried * limit).to(values)) / max(len(values), 1)
            worst = torch.maximum(worst, (inside - nominal).abs())
    return float(tried[worst.argmin()])
