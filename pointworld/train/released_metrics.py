"""The release's evaluation, by its own definitions, so that numbers can be compared with published ones.

Every batch (at evaluation: every clip) gives one scalar per metric, pooled over its steps 1.. and points; the result is
the mean of these scalars weighted by the number of clips, batches without a value left out. That is a mean over clips
of per-clip means, not a mean over points.

Two modes. `compat` reproduces what the released code computes: membership in the expert's low-confidence voxels through
`numpy.isin(..., assume_unique=True)` on points that are not unique, which for lists above 10 n^0.145 entries also drops
every point that shares its voxel with a later one; and confidences in float32, where small variances tie. `exact` is
what was meant: membership, and confidence ranked by the variance in float64.

Source: metric definitions of the PointWorld release.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from pointworld.errors import InputError
from pointworld.train.losses import (
    TARGET_CLIP,
    VARIANCE_CEILING,
    VARIANCE_FLOOR,
    movement_selector,
)

Tensor = torch.Tensor
Mode = Literal["compat", "exact"]

#: Share of predictions that the `_conf` metrics keep.
CONFIDENCE_KEEP = 0.8
#: Constant variance of simulated domains when a batch holds no real clip.
SIMULATED_VARIANCE = 1e-3
#: The published headline per domain.
HEADLINE = {"droid": "filtered_l2_moved/mean", "behavior": "l2_moved/mean"}
_QUANTILE_LIMIT = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """Over batches: weighted mean, standard deviation and error, extremes, and the number of batches with a value."""

    mean: float
    std: float
    std_err: float
    min: float
    max: float
    count: int


def valid_mask(supervised: Tensor, exists: Tensor | None = None) -> Tensor:
    """Predictions that count (..., steps, points): supervised, existing, later than step 0.

    Args:
        exists: (..., points) bool; None = all.
    """
    valid = supervised.clone() if exists is None else supervised & exists[..., None, :]
    valid[..., 0, :] = False
    return valid


def moved_mask(positions: Tensor) -> Tensor:
    """(..., steps, points) bool from true positions (..., steps, points, 3): over 5 mm in this one step."""
    return movement_selector(positions) > 0.5


def point_weights(positions: Tensor, valid: Tensor) -> Tensor:
    """The released loss's weights (..., steps, points): the soft selector of movement, zero where not valid.

    Divided by their sum over the whole batch, or by 1 when hardly anything moves.
    """
    selected = torch.where(valid, movement_selector(positions), 0.0)
    return selected / selected.sum().clamp_min(1.0)


def clipped_target(positions: Tensor) -> Tensor:
    """Displacements from step 0 (..., steps, points, 3), clipped to 0.5 m per axis; the loss's target."""
    return (positions - positions[..., :1, :, :]).clamp(-TARGET_CLIP, TARGET_CLIP)


def simulated_log_var(log_var: Tensor, simulated: Tensor, valid: Tensor) -> Tensor:
    """Log variances with those of simulated clips replaced by a constant.

    The constant is the logarithm of the mean variance of the batch's real clips, or of 1e-3 without any.

    Args:
        log_var: (batch, steps, points). simulated: (batch,) bool.
        valid: (batch, steps, points) bool, over which the mean is taken.
    """
    if not simulated.any():
        return log_var
    real = log_var[~simulated][valid[~simulated]].exp()
    constant = math.log(float(real.mean()) if real.numel() else SIMULATED_VARIANCE)
    return torch.where(simulated[:, None, None], constant, log_var)


def confidence(log_var: Tensor, mode: Mode) -> Tensor:
    """Confidence from log variances, any shape: one minus the variance's place between its floor and ceiling.

    In `compat` mode in the dtype given (float32 as released); in `exact` mode in float64.
    """
    values = log_var if _check(mode) == "compat" else log_var.double()
    variance = values.clamp(math.log(VARIANCE_FLOOR), math.log(VARIANCE_CEILING)).exp()
    return 1.0 - (variance - VARIANCE_FLOOR) / (VARIANCE_CEILING - VARIANCE_FLOOR)


def confident_mask(confidences: Tensor, valid: Tensor, *, keep: float = CONFIDENCE_KEEP) -> Tensor:
    """Valid predictions whose confidence reaches the (1 - keep) quantile of the valid ones of this batch.

    Args:
        confidences, valid: (..., steps, points).
    """
    chosen = confidences[valid]
    if chosen.numel() == 0:
        return torch.zeros_like(valid)
    return valid & (confidences >= _quantile(chosen, 1.0 - keep))


def _quantile(values: Tensor, share: float) -> Tensor:
    """Linear quantile of a vector; torch's own where it takes as many values, so that ties round as in the release."""
    if values.numel() <= _QUANTILE_LIMIT:
        return torch.quantile(values, share)
    ordered = values.sort().values
    rank = share * (len(ordered) - 1)
    low = int(rank)
    return ordered[low] + (rank - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


def filter_mask(
    base_points: Tensor, voxels: Sequence[np.ndarray | Tensor], *, grid_size: float, mode: Mode
) -> Tensor:
    """Predictions of one clip that its confidence file keeps.

    Args:
        base_points: (points, 3) at step 0 in the robot base frame [m]; the release places a point of every step by
            where it was at step 0.
        voxels: per step (voxels, 3) cells of low confidence.
        mode: see the module.

    Returns:
        (steps, points) bool, True = kept.
    """
    cells = torch.floor(base_points / grid_size).to(torch.int64)
    dropped = _dropped_compat if _check(mode) == "compat" else _member
    listed = [torch.as_tensor(v).to(cells.device, torch.int64).reshape(-1, 3) for v in voxels]
    return torch.stack([~dropped(cells, row) for row in listed])


def _member(cells: Tensor, listed: Tensor) -> Tensor:
    """(points,) bool: the cell (points, 3) is one of `listed` (entries, 3)."""
    _, group = torch.unique(torch.cat([cells, listed]), dim=0, return_inverse=True)
    return torch.isin(group[: len(cells)], group[len(cells) :])


def _dropped_compat(cells: Tensor, listed: Tensor) -> Tensor:
    """What `numpy.isin(assume_unique=True)` says: beyond short lists, also whoever shares a cell with a later point."""
    member = _member(cells, listed)
    if len(listed) < 10 * len(cells) ** 0.145:
        return member
    _, group = torch.unique(cells, dim=0, return_inverse=True)
    order = torch.argsort(group, stable=True)
    same = group[order][1:] == group[order][:-1]
    shared = torch.zeros_like(member)
    shared[order[:-1]] = same
    return member | shared


def released_metrics(
    predicted: Tensor,
    true: Tensor,
    *,
    supervised: Tensor,
    exists: Tensor | None = None,
    log_var: Tensor | None = None,
    kept: Tensor | None = None,
    mode: Mode = "compat",
) -> dict[str, float]:
    """The release's scalars of one batch, or of one clip; NaN where nothing falls into a class.

    Args:
        predicted, true: (..., steps, points, 3) positions [m]; the truth is not clipped.
        supervised: (..., steps, points) bool. exists: (..., points) bool, None = all.
        log_var: (..., steps, points) log variance of the normalised error; None leaves out `_conf` and confidence
            metrics. Replace that of simulated clips with `simulated_log_var` first.
        kept: (..., steps, points) bool from `filter_mask`; None leaves out the filtered metrics.

    Returns:
        `l2`, `l2_moved`, `l2_static`, the same with `_conf` and with `filtered_`, each `/mean` [m]; percentages of the
        valid predictions; confidence, uncertainty and loss-weight statistics.

    Raises:
        InputError: shapes that do not fit.
    """
    _check(mode)
    _check_shapes(predicted, true, supervised, log_var, kept)
    valid = valid_mask(supervised, exists)
    moved = moved_mask(true)
    classes = {"": valid, "_moved": valid & moved, "_static": valid & ~moved}
    error = (predicted - true).norm(dim=-1)
    metrics = {f"l2{name}/mean": _mean(error[mask]) for name, mask in classes.items()}
    if kept is not None:
        for name, mask in classes.items():
            metrics[f"filtered_l2{name}/mean"] = _mean(error[mask & kept])
    if log_var is not None:
        confidences = confidence(log_var, mode)
        sure = confident_mask(confidences, valid)
        for name, mask in classes.items():
            metrics[f"l2{name}_conf/mean"] = _mean(error[mask & sure])
        metrics |= _spread(confidences[valid], log_var[valid])
    return metrics | _shares(true, valid, classes["_moved"], exists)


def _shares(true: Tensor, valid: Tensor, moved: Tensor, exists: Tensor | None) -> dict[str, float]:
    """Percentages, and statistics of the released loss's weights."""
    count = int(valid.sum())
    everywhere = torch.ones_like(valid)
    candidates = int(valid_mask(everywhere, exists).sum())
    share = 100.0 * int(moved.sum()) / count if count else math.nan
    weights = point_weights(true, valid)
    return {
        "moved_percentage": share,
        "static_percentage": 100.0 - share,
        "supervised_percentage": 100.0 * count / candidates if candidates else math.nan,
        "weights/mean": _mean(weights[valid]),
        "weights/sum": float(weights.double().sum()),
    }


def _spread(confidences: Tensor, log_var: Tensor) -> dict[str, float]:
    if confidences.numel() == 0:
        return dict.fromkeys(
            (*(f"confidence/{s}" for s in ("mean", "std", "min", "max")), "uncertainty/mean"),
            math.nan,
        )
    values = confidences.double()
    limits = math.log(VARIANCE_FLOOR), math.log(VARIANCE_CEILING)
    return {
        "confidence/mean": float(values.mean()),
        "confidence/std": float(values.std(correction=0)),
        "confidence/min": float(values.min()),
        "confidence/max": float(values.max()),
        "uncertainty/mean": _mean(log_var.double().clamp(*limits).exp()),
    }


def keep_counts(valid: Tensor, kept: Tensor) -> dict[str, int]:
    """Numbers behind the release's keep fraction: valid predictions, and those that the filter keeps."""
    return {
        "total_predictions": int(valid.sum()),
        "kept_predictions": int((valid & kept).sum()),
    }


def aggregate(
    rows: Iterable[Mapping[str, float]], weights: Iterable[float] | None = None
) -> dict[str, Aggregate]:
    """Per metric over batches; a batch without a value (NaN) does not count for that metric.

    Args:
        weights: clips per batch; 1 each when absent.
    """
    collected: dict[str, list[tuple[float, float]]] = {}
    listed = list(rows)
    for row, weight in zip(listed, weights or [1.0] * len(listed), strict=True):
        for name, value in row.items():
            if math.isfinite(value):
                collected.setdefault(name, []).append((value, weight))
    return {name: _aggregate(pairs) for name, pairs in collected.items()}


def _aggregate(pairs: Sequence[tuple[float, float]]) -> Aggregate:
    values, weights = (np.array(column, np.float64) for column in zip(*pairs, strict=True))
    total = float(weights.sum())
    mean = float((values * weights).sum() / total)
    std = math.sqrt(float((weights * (values - mean) ** 2).sum() / total))
    return Aggregate(
        mean=mean,
        std=std,
        std_err=std / math.sqrt(total),
        min=float(values.min()),
        max=float(values.max()),
        count=len(pairs),
    )


def report(
    rows: Sequence[Mapping[str, float]],
    domains: Sequence[str],
    counts: Sequence[Mapping[str, int]] = (),
    *,
    split: str = "test",
) -> dict[str, float]:
    """A flat table named as the release's metrics.json: over all clips, and per domain.

    Args:
        rows: one per clip. domains: its domain. counts: from `keep_counts`, where there was a filter.
    """
    prefix = f"full_eval/{split}/"
    groups = {"": list(rows)}
    for domain in dict.fromkeys(domains):
        groups[f"{domain}/"] = [r for r, d in zip(rows, domains, strict=True) if d == domain]
    means: dict[str, float] = {}
    details: dict[str, float] = {}
    for group, members in groups.items():
        for name, value in aggregate(members).items():
            key = f"{prefix}{group}{name}"
            means[key] = value.mean
            for part in ("count", "std", "std_err", "min", "max"):
                details[f"{key.removesuffix('/mean')}/{part}"] = float(getattr(value, part))
    meta = {"total_sequences": float(len(rows))}
    if counts:
        total = sum(c["total_predictions"] for c in counts)
        kept = sum(c["kept_predictions"] for c in counts)
        meta["confidence/total_predictions"] = float(total)
        meta["confidence/kept_predictions"] = float(kept)
        meta["confidence/keep_fraction"] = kept / total if total else math.nan
    # A metric of its own name, such as confidence/min, goes before the extreme of another's mean.
    return details | means | {f"{prefix}_meta/{name}": value for name, value in meta.items()}


def _mean(values: Tensor) -> float:
    return float(values.double().mean()) if values.numel() else math.nan


def _check(mode: str) -> str:
    if mode not in get_args(Mode):
        raise InputError(f"mode '{mode}' is unknown, expected one of {', '.join(get_args(Mode))}")
    return mode


def _check_shapes(
    predicted: Tensor, true: Tensor, supervised: Tensor, log_var: Tensor | None, kept: Tensor | None
) -> None:
    shape = tuple(true.shape)
    if tuple(predicted.shape) != shape or len(shape) < 3 or shape[-1] != 3:
        raise InputError(
            f"predicted {tuple(predicted.shape)} and true {shape} positions, expected (..., steps, points, 3) alike"
        )
    for name, value in (("supervised", supervised), ("log_var", log_var), ("kept", kept)):
        if value is not None and tuple(value.shape) != shape[:-1]:
            raise InputError(f"{name} is {tuple(value.shape)}, expected {shape[:-1]}")
