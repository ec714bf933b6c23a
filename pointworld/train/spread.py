"""Corrections fitted to validation clips: of the spread that a model predicts, and of motions lost in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch

from pointworld.errors import InputError
from pointworld.model import WorldModel
from pointworld.model.spread import SpreadMap
from pointworld.train.augment import TrainingSample
from pointworld.train.metrics import WITHIN, moved_mask
from pointworld.train.model_sample import forecasts
from pointworld.train.source import Source

Tensor = torch.Tensor

#: Knots of a fitted map; factors tried for each, and the fewest errors that count as a class of their own.
#: Limits of stillness that are tried [standard deviations], and what one may cost of the movers' error.
STILL_TRIED, STILL_COST = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0), 0.015
KNOTS, _LOWEST, _HIGHEST, _TRIED, _FEWEST = 8, 0.05, 20.0, 300, 200


@torch.no_grad()
def fit_model_spread(model: WorldModel, samples: Sequence[Source]) -> SpreadMap:
    """The map for a model's own spread on samples that it was not trained on.

    Raises:
        InputError: nothing is known about the motion in these samples.
    """
    rows = []
    for item, predicted, sigma in _predictions(model, samples):
        error = predicted - item.displacements
        known, moved = item.known()[1:], moved_mask(item.displacements)[1:]
        rows.append((sigma[1:][known], error[1:][known], moved[known]))
    return fit_spread(rows)


@torch.no_grad()
def fit_still_below(model: WorldModel, samples: Sequence[Source]) -> float:
    """The largest limit of `ModelSpec.still_below` that costs the movers next to nothing (STILL_COST).

    Args:
        model: with its spread corrected, and without a limit.
    """
    errors = torch.zeros(len(STILL_TRIED), dtype=torch.float64)
    for item, predicted, sigma in _predictions(model, samples):
        moved = moved_mask(item.displacements) & item.known()
        if not moved.any():
            continue
        length = predicted.norm(dim=-1)
        for row, limit in enumerate(STILL_TRIED):
            kept = torch.where((length > limit * sigma)[..., None], predicted, 0.0)
            errors[row] += (kept - item.displacements).norm(dim=-1)[moved].mean()
    cheap = errors <= (1 + STILL_COST) * errors[0]
    return max(limit for limit, good in zip(STILL_TRIED, cheap.tolist(), strict=True) if good)


def _predictions(
    model: WorldModel, samples: Sequence[Source]
) -> Iterator[tuple[TrainingSample, Tensor, Tensor]]:
    """Per sample what is true, the displacements (steps, points, 3) and their stated sigma (steps, points) [m]."""
    context = model.spec.context_points or None
    for item, predicted, log_var in forecasts(model, samples, max_points=context):
        domain = torch.tensor([item.domain], device=model.device)
        sigma = model.stated_sigma(log_var[None].to(model.device), domain)[0, ..., 0].cpu()
        yield item, predicted, sigma


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
