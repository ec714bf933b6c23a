"""Evaluate a world model on samples of the released data, with the release's metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from pointworld.data.released import LowConfidence, ReleasedSample
from pointworld.errors import InputError
from pointworld.model import WorldModel, collate
from pointworld.train.released_metrics import (
    Mode,
    filter_mask,
    keep_counts,
    released_metrics,
    report,
    simulated_log_var,
)

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class ClipScore:
    """metrics: the release's scalars of one clip. counts: behind the keep fraction, empty without a filter."""

    key: str
    domain: str
    metrics: dict[str, float]
    counts: dict[str, int]


@torch.no_grad()
def predict_sample(model: WorldModel, sample: ReleasedSample) -> tuple[Tensor, Tensor]:
    """Predicted displacements (steps, points, 3) [m] and log variances (steps, points) of a sample.

    A model in `released` mode gets the sample's own tokens in the centred frame, without centring or thinning them
    again; any other gets the scene in the base frame through `predict`.

    Raises:
        InputError: the model does not know the sample's domain, or needs features that the sample lacks.
    """
    if sample.domain not in model.spec.domains:
        raise InputError(
            f"clip {sample.flow.key} is of the domain '{sample.domain}', the model knows "
            f"{', '.join(model.spec.domains)}"
        )
    if model.spec.mode != "released":
        flow = sample.in_base_frame()
        prediction = model.predict(flow.scene, flow.robot, domain=sample.domain)
        return prediction.displacements, prediction.log_var[..., 0].nan_to_num()
    row = model.spec.domains.index(sample.domain)
    inputs = collate([(sample.flow.scene, sample.flow.robot)], domain=[row])
    outputs = model(inputs.to(model.device, model.dtype))
    return outputs.displacements[0].cpu(), outputs.log_var[0, ..., 0].cpu()


def score_sample(
    model: WorldModel,
    sample: ReleasedSample,
    *,
    low: LowConfidence | None = None,
    mode: Mode = "compat",
) -> ClipScore:
    """The release's metrics of one clip.

    Args:
        low: the expert's voxels of this clip, for the filtered metrics; None leaves them out.
    """
    displacements, log_var = predict_sample(model, sample)
    true, supervised = sample.flow.positions, sample.flow.supervised
    if sample.domain in model.spec.simulated_domains:
        simulated = torch.ones(1, dtype=torch.bool)
        log_var = simulated_log_var(log_var[None], simulated, sample.valid[None])[0]
    kept = None
    if low is not None:
        points = sample.base_points().float()
        kept = filter_mask(points, low.voxels, grid_size=low.grid_size, mode=mode)
    return ClipScore(
        key=sample.flow.key,
        domain=sample.domain,
        metrics=released_metrics(
            true[:1] + displacements,
            true,
            supervised=supervised,
            log_var=log_var,
            kept=kept,
            mode=mode,
        ),
        counts={} if kept is None else keep_counts(sample.valid, kept),
    )


def evaluate_released(
    model: WorldModel,
    samples: Iterable[ReleasedSample],
    *,
    low: Callable[[str], LowConfidence] | None = None,
    mode: Mode = "compat",
) -> dict[str, float]:
    """The table of the release's metrics.json over all samples; see `report`.

    Args:
        low: gives the expert's voxels by clip id (`partial(read_confidence, path)`); DROID clips only.

    Raises:
        InputError: there is no sample.
    """
    scores = [
        score_sample(
            model,
            sample,
            low=low(sample.flow.key) if low is not None and sample.domain == "droid" else None,
            mode=mode,
        )
        for sample in samples
    ]
    if not scores:
        raise InputError("there is no clip to evaluate")
    return report(
        [score.metrics for score in scores],
        [score.domain for score in scores],
        [score.counts for score in scores if score.counts],
    )
