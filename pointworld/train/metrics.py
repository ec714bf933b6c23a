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
#: A body has come to rest when none of its points moves farther than REST in any of the last REST_STEPS steps [m].
REST, REST_STEPS = 1e-3, 3
#: Bins of the error of points on bodies that never move, for percentiles over many clips [m]; beyond: the last bin.
REST_BIN, REST_BINS = 1e-4, 5000
#: Limits in standard deviations, by the per cent of Gaussian errors within them, and that share.
WITHIN = {68: (1.0, 0.682689), 95: (1.959964, 0.95)}


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


def came_to_rest(displacements: Tensor, body_ids: Tensor) -> Tensor:
    """(points,) bool: the point's body has moved and lies still over the last steps.

    Args:
        displacements: (steps, points, 3) true motion [m]. body_ids: (points,).
    """
    step = torch.diff(displacements, dim=0).norm(dim=-1)
    _, group = torch.unique(body_ids, return_inverse=True)
    largest = torch.zeros(2, int(group.max()) + 1 if len(group) else 0, dtype=step.dtype)
    for row, values in enumerate((step.amax(0), step[-REST_STEPS:].amax(0))):
        largest[row].scatter_reduce_(0, group, values, "amax")
    return ((largest[0] > MOVING_STEP) & (largest[1] < REST))[group]


def flow_errors(
    predicted: Tensor,
    true: Tensor,
    never_moves: Tensor,
    *,
    held: Tensor | None = None,
    rested: Tensor | None = None,
) -> dict[str, float]:
    """Errors of one clip [m], pooled over steps 1.. and points; NaN where nothing falls into a class.

    Args:
        predicted, true: (steps, points, 3) displacements [m].
        never_moves: (points,) bool: the point's body stays where it is during the whole clip.
        held: (points,) bool: on a tool that is fixed to the hand, whose motion is known; counted in `l2_held` alone.
        rested: (points,) bool: from `came_to_rest`.

    Returns:
        See "Evaluation" in docs/training.md. `l2_moved@3` is `l2_moved` of step 3 alone.
    """
    nothing = torch.zeros_like(never_moves)
    held = nothing if held is None else held
    rested = nothing if rested is None else rested & ~held
    error = (predicted - true).norm(dim=-1)[1:]
    moved = moved_mask(true)[1:] & ~held
    still = never_moves & ~held
    false = (predicted[:, still].norm(dim=-1).amax(0) > FALSE_MOTION).float()
    scores = {
        "l2": _mean(error[:, ~held]),
        "l2_moved": _mean(error[moved]),
        "l2_static": _mean(error[~moved & ~held]),
        "l2_moved_last": _mean(error[-1][moved.any(0)]),
        "l2_never_moving": _mean(error[:, still]),
        "false_motion_share": _mean(false),
        "l2_came_to_rest": _mean(error[-REST_STEPS:, rested]),
        "l2_held": _mean(error[:, held]),
    }
    steps = {f"l2_moved@{t + 1}": _mean(row[moved[t]]) for t, row in enumerate(error)}
    return scores | steps


def rest_histogram(predicted: Tensor, true: Tensor, never_moves: Tensor) -> Tensor:
    """(REST_BINS,) float64 counts of the errors (steps 1.., points on bodies that never move)."""
    error = (predicted - true).norm(dim=-1)[1:, never_moves].flatten()
    index = (error / REST_BIN).long().clamp_max(REST_BINS - 1)
    return torch.bincount(index, minlength=REST_BINS).double()


def histogram_quantile(counts: Tensor, share: float) -> float:
    """Upper edge [m] of the bin below which `share` of the counts lie; NaN without any."""
    total = float(counts.sum())
    if total == 0:
        return math.nan
    reached = counts.cumsum(0) >= share * total
    return REST_BIN * (int(reached.long().argmax()) + 1)


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


def calibration(
    error: Tensor, sigma: Tensor, moved: Tensor, looked_at: Tensor | None = None
) -> dict[str, float]:
    """How well the predicted spread describes the error of one clip.

    Args:
        error: (steps, points, 3) predicted - true [m]. sigma: (steps, points) per-axis standard deviation [m].
        moved: (steps, points) bool. Step 0 must be left out of all three.
        looked_at: (points,) bool: points that the network looks at; None = all.

    Returns:
        Spearman between sigma and error length among moved points, and the share of per-axis errors within 1 and 1.96
        sigma of all points (68 % and 95 % for a Gaussian), of those looked at (`_near`) and of movers (`_moved`).
    """
    length = error.norm(dim=-1)
    ratio = error.abs() / sigma[..., None].clamp_min(1e-9)
    near = torch.ones_like(moved) if looked_at is None else looked_at.expand_as(moved)
    scores = {"spearman_moved": rank_correlation(sigma[moved], length[moved])}
    for name, chosen in (("", torch.ones_like(moved)), ("_near", near), ("_moved", moved)):
        for percent, (limit, _) in WITHIN.items():
            scores[f"coverage_{percent}{name}"] = _mean((ratio[chosen] < limit).float())
    return scores


def table(rows: Iterable[Mapping[str, float]]) -> dict[str, Summary]:
    """Summaries per metric of per-clip values."""
    collected: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            collected.setdefault(name, []).append(value)
    return {name: summarise(values) for name, values in collected.items()}
