"""Noise for candidate plans: white, coloured and cubic-spline, each with unit variance at every step.

Every sampler maps (samples, steps, dims) standard normal draws of one generator to correlated noise over the steps.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy.interpolate import CubicSpline

from pointworld.errors import InputError

Tensor = torch.Tensor


class Noise(Protocol):
    """Draws perturbations of a plan."""

    def draw(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """(samples, steps, dims) float64 on the CPU, zero mean, unit variance."""
        ...


def _check(shape: tuple[int, int, int]) -> None:
    if min(shape) < 1:
        raise InputError(
            f"noise of shape {shape}, expected (samples, steps, dims), each at least 1"
        )


@dataclass(frozen=True)
class WhiteNoise:
    """Independent at every step."""

    def draw(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """(samples, steps, dims) standard normal."""
        _check(shape)
        return torch.randn(shape, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class ColoredNoise:
    """Power spectrum proportional to 1 / frequency**exponent: 0 is white, 2 is Brownian (smooth).

    Source: Timmer & Koenig, Astron. Astrophys. 300 (1995) 707; for planning: Pinneri et al., CoRL 2020.
    """

    exponent: float = 2.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.exponent <= 10.0:
            raise InputError(f"noise exponent is {self.exponent}, expected 0 (white) to 10")

    def draw(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """(samples, steps, dims); all frequencies down to one period over all steps, and a constant."""
        _check(shape)
        samples, steps, dims = shape
        if steps == 1:
            return torch.randn(shape, generator=generator, dtype=torch.float64)
        frequency = torch.fft.rfftfreq(steps, dtype=torch.float64)
        frequency[0] = frequency[1]
        scale = frequency ** (-self.exponent / 2)
        normal = torch.randn(
            (2, samples, dims, len(frequency)), generator=generator, dtype=torch.float64
        )
        # The constant term and, for even counts, the highest frequency have no phase: twice the real variance.
        real = [0] if steps % 2 else [0, len(frequency) - 1]
        normal[0][..., real] *= 2**0.5
        normal[1][..., real] = 0.0
        spectrum = torch.complex(normal[0] * scale, normal[1] * scale)
        power = 2 * scale**2
        power[1 : (len(scale) if steps % 2 else -1)] *= 2
        sigma = power.sum().sqrt() / steps
        return (torch.fft.irfft(spectrum, n=steps, dim=-1) / sigma).transpose(1, 2)


@dataclass(frozen=True)
class SplineNoise:
    """White noise at `knots` evenly spaced times, joined by a natural cubic spline.

    Source: the time-correlated noise of the PointWorld paper's planner; the number of knots is ours.
    """

    knots: int = 4

    def __post_init__(self) -> None:
        if self.knots < 2:
            raise InputError(f"spline noise has {self.knots} knot(s), expected at least 2")

    def draw(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """(samples, steps, dims); white where there are no more steps than knots."""
        _check(shape)
        samples, steps, dims = shape
        knots = min(self.knots, steps)
        white = torch.randn((samples, knots, dims), generator=generator, dtype=torch.float64)
        if knots == steps:
            return white
        basis = spline_basis(knots, steps)
        return torch.einsum("tk,skd->std", basis / basis.norm(dim=1, keepdim=True), white)


@functools.lru_cache(maxsize=64)
def _basis(knots: int, steps: int, bounds: str) -> np.ndarray:
    places = np.linspace(0.0, 1.0, knots)
    spline = CubicSpline(places, np.eye(knots), bc_type=bounds)
    return np.asarray(spline(np.linspace(0.0, 1.0, steps)))


def spline_basis(knots: int, steps: int, *, bounds: str = "natural") -> Tensor:
    """Matrix (steps, knots) float64 from values at evenly spaced knots to values at evenly spaced steps.

    The first and last knot are the first and last step; the curve passes through all knots.

    Args:
        bounds: end conditions, "natural" (no bending) or "clamped" (no speed), as in SciPy.
    """
    if knots < 2 or steps < 2:
        raise InputError(
            f"a spline of {knots} knot(s) at {steps} step(s), expected at least 2 of each"
        )
    return torch.from_numpy(_basis(knots, steps, bounds).copy())
