"""Evaluate a world model on samples of the released data, with the release's metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch

from pointworld.data.released import (
    LowConfidence,
    RawClip,
    ReleasedSample,
    SplitManifest,
    iterate_h5,
    iterate_shards,
    shard_paths,
)
from pointworld.data.released.h5 import h5_files
from pointworld.data.released.wds import MIN_SHARD_BYTES, local_path
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
        return prediction.displacements.cpu(), prediction.log_var[..., 0].nan_to_num().cpu()
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
    displacements, log_var = _forecast(model, sample)
    return score_forecast(sample, displacements, log_var, low=low, mode=mode)


def _forecast(model: WorldModel, sample: ReleasedSample) -> tuple[Tensor, Tensor]:
    """As `predict_sample`, with the release's constant variance in simulated domains."""
    displacements, log_var = predict_sample(model, sample)
    if sample.domain in model.spec.simulated_domains:
        simulated = torch.ones(1, dtype=torch.bool)
        log_var = simulated_log_var(log_var[None], simulated, sample.valid[None])[0]
    return displacements, log_var


def score_forecast(
    sample: ReleasedSample,
    displacements: Tensor,
    log_var: Tensor | None,
    *,
    low: LowConfidence | None = None,
    mode: Mode = "compat",
) -> ClipScore:
    """The release's metrics of predicted displacements (steps, points, 3) [m]; without log_var none of confidence."""
    true = sample.flow.positions
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
            supervised=sample.flow.supervised,
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
    return compare_released(model, samples, low=low, modes=(mode,))["model"][mode]


def compare_released(
    model: WorldModel,
    samples: Iterable[ReleasedSample],
    *,
    low: Callable[[str], LowConfidence] | None = None,
    modes: Sequence[Mode] = ("compat", "exact"),
    split: str = "test",
) -> dict[str, dict[str, dict[str, float]]]:
    """The table of `evaluate_released` of the model and of no motion, in every mode: by row, then mode.

    Raises:
        InputError: there is no sample.
    """
    found: dict[tuple[str, Mode], list[ClipScore]] = {}
    for sample in samples:
        voxels = low(sample.flow.key) if low is not None and sample.domain == "droid" else None
        displacements, log_var = _forecast(model, sample)
        rows = {
            "model": (displacements, log_var),
            "no_motion": (torch.zeros_like(displacements), None),
        }
        for mode in modes:
            for row, forecast in rows.items():
                score = score_forecast(sample, *forecast, low=voxels, mode=mode)
                found.setdefault((row, mode), []).append(score)
    if not found:
        raise InputError("there is no clip to evaluate")
    tables: dict[str, dict[str, dict[str, float]]] = {}
    for (row, mode), members in found.items():
        tables.setdefault(row, {})[mode] = report(
            [score.metrics for score in members],
            [score.domain for score in members],
            [score.counts for score in members if score.counts],
            split=split,
        )
    return tables


def released_clips(
    folder: str | Path,
    *,
    split: str = "test",
    manifest: SplitManifest | None = None,
    min_shard_bytes: int = MIN_SHARD_BYTES,
) -> Iterator[RawClip]:
    """Clips of a folder of released data: shards `<folder>/<split>/*.tar`, or else every H5 file below it.

    Args:
        manifest: keep its clips of `split` only; H5 files have no split of their own.

    Raises:
        InputError: neither shards nor H5 files there, or files that are not of the released layout.
    """
    root = local_path(folder)
    if (root / split).is_dir() and any((root / split).glob("*.tar")):
        clips = iterate_shards(shard_paths(root, split, min_bytes=min_shard_bytes))
    else:
        files = h5_files(root)
        if not files:
            raise InputError(
                f"{root} holds no released data: neither shards <folder>/{split}/*.tar nor H5 files"
            )
        clips = chain.from_iterable(iterate_h5(path) for path in files)
    for clip in clips:
        if manifest is None or manifest.split_of(clip.key) == split:
            yield clip
