"""A trained model with its stated spread, and motions that are lost in it, corrected on validation samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from pointworld.model import WorldModel
from pointworld.model.spread import SpreadMap
from pointworld.train.source import Source
from pointworld.train.spread import fit_model_spread, fit_still_below


def with_corrections(model: WorldModel, validation: Sequence[Source]) -> WorldModel:
    """The model with its spread, and with motions that are lost in it, corrected on validation samples."""
    spread = fit_model_spread(_with_spec(model, spread=(), still_below=0.0), validation)
    model = _with_spec(model, spread=_knots(spread), still_below=0.0)
    model = _with_spec(model, still_below=fit_still_below(model, validation))
    # What is taken for still has errors of another size.
    return _with_spec(model, spread=_knots(spread, fit_model_spread(model, validation)))


def _knots(spread: SpreadMap, then: SpreadMap | None = None) -> tuple[tuple[float, float], ...]:
    """`ModelSpec.spread` of a map, or of two maps one after the other."""
    sigma = torch.tensor(spread.sigma)
    corrected = spread(sigma) if then is None else then(spread(sigma))
    return tuple(zip(spread.sigma, (corrected / sigma).tolist(), strict=True))


def _with_spec(model: WorldModel, **changes: Any) -> WorldModel:
    """A copy of a model with another description of the same network."""
    copy = WorldModel(replace(model.spec, **changes))
    copy.load_state_dict(model.state_dict())
    return copy.to(model.device).eval()
