"""How good a predicted flow is, per clip and over clips, with the release's definitions and our own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from pointworld.train.losses import MOVING_STEP

Tensor = torch.Tensor

#: A static point predicted to move farther than this counts as a false motion [m].
FALSE_MOTION = 0.01


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Mean over clips, its standard error, and the number of clips that have a value."""

    mean: float | None
    standard_error: float | None
    count: int


def summarise(values: Iterable[float]) -> Summary:
    """Summary of the finite values; NaN marks a clip where the metric is not defined."""
    finite = [v for v in values if math.isfinite(v)]
    n = len(finite)
    if n == 0:
        return Summary(mean=None, standard_error=None, count=0)
    mean = sum(finite) / n
    spread = sum((v - mean) ** 2 for v in finite) / max(n - 1, 1)
    return Summary(mean=mean, standard_error=math.sqrt(spread / n), count=n)


def _mean(values: Tensor) -> float:
    return float(values.double().mean()) if values.numel() else math.nan


def moved_mask(displacements: Tensor) -> Tensor:
    """(steps, points) bool: moves farther than 5 mm in this step (the release's `moved`); never at step 0."""
    step = torch.diff(displacements, dim=0, prepend=displacements[:1])
    return step.norm(dim=-1) > MOVING_STEP


def flow_errors(predicted: Tensor, true: Tensor, never_moves: Tensor) -> dict[str, float]:
    """Errors of one clip [m], pooled over steps 1.. and points; NaN where nothing falls into a class.

    Args:
        predicted, true: (steps, points, 3) displacements [m].
        never_moves: (points,) bool: the point's body stays where it is during the whole clip.
    """
    error = (predicted - true).norm(dim=-1)[1:]
    moved = moved_mask(true)[1:]
    reach = predicted.norm(dim=-1)[:, never_moves]
    at_rest = error[:, never_moves]
    return {
        "l2": _mean(error),
        "l2_moved": _mean(error[moved]),
        "l2_static": _mean(error[~moved]),
        "l2_moved_last": _mean(error[-1][moved.any(0)]),
        "l2_never_moving": _mean(at_rest),
        "false_motion_share": _mean((reach.amax(0) > FALSE_MOTION).float())
        if never_moves.any()
        else math.nan,
    }


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation; NaN when either is constant or there are fewer than three values."""
    if a.numel() < 3:
        return math.nan
    ranks = [_ranks(x.flatten().double()) for x in (a, b)]
    centred = [r - r.mean() for r in ranks]
    scale = centred[0].norm() * centred[1].norm()
    return float((centred[0] * centred[1]).sum() / scale) if scale > 0 else math.nan


def _ranks(values: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[inverse]


def calibration(error: Tensor, sigma: Tensor, moved: Tensor) -> dict[str, float]:
    """How well the predicted spread describes the error of one clip.

    Args:
        error: (steps, points, 3) predicted - true [m]. sigma: (steps, points) per-axis standard deviation [m].
        moved: (steps, points) bool. Step 0 must be left out of all three.

    Returns:
        Spearman between sigma and error length among moved points, and the share of per-axis errors within one and
        two sigma of all points (68 % and 95 % for a Gaussian).
    """
    length = error.norm(dim=-1)
    ratio = error.abs() / sigma[..., None].clamp_min(1e-9)
    return {
        "spearman_moved": rank_correlation(sigma[moved], length[moved]),
        "coverage_68": _mean((ratio < 1.0).float()),
        "coverage_95": _mean((ratio < 1.959964).float()),
        "coverage_68_moved": _mean((ratio[moved] < 1.0).float()),
        "coverage_95_moved": _mean((ratio[moved] < 1.959964).float()),
    }


def table(rows: Iterable[Mapping[str, float]]) -> dict[str, Summary]:
    """Summaries per metric of per-clip values."""
    collected: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            collected.setdefault(name, []).append(value)
    return {name: summarise(values) for name, values in collected.items()}
