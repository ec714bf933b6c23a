"""Per-domain statistics of features and displacements, held as buffers of the world model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

Tensor = torch.Tensor

#: Variances below this count as this [source: the release]; a constant channel becomes (x - mean) / 1e-3.
VARIANCE_FLOOR = 1e-6
#: Ceiling of a predicted variance [source: the release].
VARIANCE_CEILING = 1e2
#: Variance that the released model states for every point of a simulated domain [source: the release].
SIMULATED_VARIANCE = 1e-3


def normalise(values: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """(values - mean) / sqrt(max(variance, 1e-6)); all broadcast."""
    return (values - mean) / variance.clamp_min(VARIANCE_FLOOR).sqrt()


def unnormalise(values: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Inverse of `normalise`."""
    return values * variance.clamp_min(VARIANCE_FLOOR).sqrt() + mean


@dataclass
class RunningMoments:
    """Mean and variance over rows that arrive in batches, without keeping them (exact, in float64).

    Source: Chan, Golub and LeVeque 1979, pairwise update.
    """

    count: float = 0.0
    mean: Tensor | None = None
    squares: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        """Add (rows, *shape) samples of the channels `shape`."""
        if rows.shape[0] == 0:
            return
        values = rows.detach().to("cpu", torch.float64)
        count, mean = float(values.shape[0]), values.mean(0)
        squares = ((values - mean) ** 2).sum(0)
        if self.mean is None or self.squares is None:
            self.count, self.mean, self.squares = count, mean, squares
            return
        total = self.count + count
        delta = mean - self.mean
        self.mean = self.mean + delta * (count / total)
        self.squares = self.squares + squares + delta**2 * (self.count * count / total)
        self.count = total

    def result(self) -> tuple[Tensor, Tensor]:
        """(mean, variance), float64, of the channel shape."""
        if self.mean is None or self.squares is None:
            raise ValueError("no rows were added")
        return self.mean, self.squares / self.count


def moments(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance over the first axis of all batches together."""
    running = RunningMoments()
    for batch in batches:
        running.add(batch)
    return running.result()
