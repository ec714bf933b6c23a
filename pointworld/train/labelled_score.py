"""How well a model predicts what happened in labelled recordings, where that is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pointworld.errors import InputError
from pointworld.model import WorldModel
from pointworld.train.cache import CachedSample
from pointworld.train.metrics import moved_mask
from pointworld.train.model_sample import forecasts

#: A point whose label stays within this is at rest [m].
AT_REST = 1e-3


@dataclass(frozen=True, kw_only=True)
class LabelledScore:
    """Errors on labelled points, means over clips [m]; None where no clip has any.

    moved: at the steps at which a point moves more than 5 mm. no_motion: what predicting no motion gets there.
    at_rest: points that do not move. clips: all; moving_clips: those with movers.
    """

    clips: int
    moving_clips: int
    moved: float | None
    no_motion: float | None
    at_rest: float | None

    @property
    def ratio(self) -> float | None:
        """Error of movers over that of predicting no motion."""
        return None if not self.no_motion or self.moved is None else self.moved / self.no_motion


@torch.no_grad()
def score_labelled(
    model: WorldModel,
    samples: Sequence[CachedSample],
    *,
    on_clip: Callable[[int], None] | None = None,
) -> LabelledScore:
    """Score a model on cached samples.

    Args:
        on_clip: called with 1 after every sample.

    Raises:
        InputError: there are no samples, or they have another number of steps or time base than the model.
    """
    if not samples:
        raise InputError("there are no clips to score")
    errors: dict[str, list[torch.Tensor]] = {"moved": [], "no_motion": [], "at_rest": []}
    for sample in samples:
        if len(sample.motions) != model.spec.num_steps:
            raise InputError(
                f"clip {sample.key} has {len(sample.motions)} steps, the model predicts {model.spec.num_steps}"
            )
    for item, predicted, _ in forecasts(model, samples):
        error = (predicted - item.displacements).norm(dim=-1)
        known, length = item.known(), item.displacements.norm(dim=-1)
        moved = moved_mask(item.displacements) & known
        rest = (length.amax(0) < AT_REST) & known
        rest[0] = False
        if moved.any():
            errors["moved"].append(error[moved].mean())
            errors["no_motion"].append(length[moved].mean())
        if rest.any():
            errors["at_rest"].append(error[rest].mean())
        if on_clip is not None:
            on_clip(1)
    mean = {
        name: float(torch.stack(values).mean()) if values else None
        for name, values in errors.items()
    }
    return LabelledScore(clips=len(samples), moving_clips=len(errors["moved"]), **mean)
