"""Measure a world model and the baselines on simulated clips, through rendered RGB-D as at inference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch

from pointworld.data import Clip, list_clips, read_clip
from pointworld.data.families import REGISTRY
from pointworld.data.sensor import SensorConfig
from pointworld.errors import InputError
from pointworld.model.spread import SpreadMap
from pointworld.robot import RobotModel
from pointworld.train.baselines import RADII, rigid_carry
from pointworld.train.cache import spread_out
from pointworld.train.evaluation_clip import EvaluationClip, read_evaluation_clip
from pointworld.train.metrics import (
    calibration,
    flow_errors,
    histogram_quantile,
    moved_mask,
    rest_histogram,
    summarise,
)
from pointworld.train.predictors import PREDICTORS, Forecast, Predictor
from pointworld.train.preparation import Preparation
from pointworld.train.released_metrics import released_metrics
from pointworld.train.spread import fit_spread

Tensor = torch.Tensor

#: Groups of families in which free rigid objects move.
RIGID_GROUPS = ("tabletop", "clutter", "tool")
#: Columns of the release's table that a clip without an expert's filter has.
_RELEASED = ("l2", "l2_moved", "l2_static", "l2_conf", "l2_moved_conf", "l2_static_conf")


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipScores:
    """One evaluated clip: per predictor its metrics, and the errors of points on bodies that never move, counted."""

    family: str
    metrics: dict[str, dict[str, float]]
    at_rest: dict[str, Tensor]


def clip_paths(data: Sequence[str | Path], *, limit: int | None = None) -> list[Path]:
    """The clips of all folders, or `limit` of them, evenly spread."""
    paths = [path for folder in data for path in list_clips(folder)]
    return paths if limit is None else list(spread_out(paths, max(limit, 1)))


def read_clips(
    data: Sequence[str | Path],
    *,
    preparation: Preparation | None = None,
    limit: int | None = None,
    prepare: Callable[[Clip], Clip] = lambda clip: clip,
    sensor: SensorConfig | None = None,
) -> Iterator[EvaluationClip]:
    """The clips of data sets as evaluation sees them, each with the description of its own robot.

    Args:
        preparation: what the model demands of its samples; that of our own models, without image features, if None.
        limit: see only so many, evenly spread.
        prepare: changes a clip before it is seen, e.g. leaves out views.
        sensor: the camera's errors; None = perfect images.
    """
    robots = cache(RobotModel.load)
    for path in clip_paths(data, limit=limit):
        clip = prepare(read_clip(path))
        yield read_evaluation_clip(clip, robots(clip.robot), preparation=preparation, sensor=sensor)


def tune_radius(clips: Sequence[EvaluationClip], radii: Sequence[float] = RADII) -> float:
    """The rigid-carry radius with the least mover error on validation clips."""

    def error(radius: float) -> float:
        scores = []
        for clip in clips:
            predicted = rigid_carry(clip.sample.scene.points, clip.hand, radius=radius)
            true = clip.sample.displacements
            scores.append(flow_errors(predicted, true, clip.never_moves, held=clip.held))
        mean = summarise(s["l2_moved"] for s in scores).mean
        return math.inf if mean is None else mean

    return min(radii, key=error)


def tune_spread(predictor: Predictor, clips: Sequence[EvaluationClip]) -> SpreadMap:
    """The correction of a predictor's spread, fitted to its errors on validation clips.

    Raises:
        InputError: the predictor states no spread.
    """
    rows = []
    for clip in clips:
        forecast = predictor(clip)
        if forecast is None or forecast.sigma is None:
            raise InputError("this predictor states no spread, so there is nothing to correct")
        true, chosen = clip.sample.displacements, ~clip.held
        if forecast.looked_at is not None:
            chosen &= forecast.looked_at
        rows.append(
            (
                forecast.sigma[1:, chosen].flatten(),
                (forecast.displacements - true)[1:, chosen].flatten(0, 1),
                moved_mask(true)[1:, chosen].flatten(),
            )
        )
    return fit_spread(rows)


@torch.no_grad()
def evaluate_clip(predictors: Mapping[str, Predictor], clip: EvaluationClip) -> ClipScores:
    """Metrics of one clip [m] for every predictor that has something to say about it."""
    true, held = clip.sample.displacements, clip.held
    metrics: dict[str, dict[str, float]] = {}
    at_rest: dict[str, Tensor] = {}
    for name, predictor in predictors.items():
        forecast = predictor(clip)
        if forecast is None:
            continue
        predicted = forecast.displacements
        metrics[name] = flow_errors(
            predicted, true, clip.never_moves, held=held, rested=clip.came_to_rest
        ) | _spread_metrics(forecast, clip)
        at_rest[name] = rest_histogram(predicted, true, clip.never_moves & ~held)
    return ClipScores(family=clip.sample.family, metrics=metrics, at_rest=at_rest)


def _spread_metrics(forecast: Forecast, clip: EvaluationClip) -> dict[str, float]:
    """Calibration without held tools, and the release's columns in both modes, of predictors that state a spread."""
    scores: dict[str, float] = {}
    sample, free = clip.sample, ~clip.held
    true = sample.displacements
    if forecast.sigma is not None:
        near = forecast.looked_at
        scores |= calibration(
            (forecast.displacements - true)[1:, free],
            forecast.sigma[1:, free],
            moved_mask(true)[1:, free],
            None if near is None else near[free],
        )
    if forecast.log_var is not None:
        for mode in ("compat", "exact"):
            columns = released_metrics(
                sample.positions[:1] + forecast.displacements,
                sample.positions,
                supervised=sample.supervised,
                log_var=forecast.log_var,
                mode=mode,
            )
            scores |= {f"released/{mode}/{name}": columns[f"{name}/mean"] for name in _RELEASED}
    return scores


def evaluate(
    data: Sequence[str | Path],
    predictors: Mapping[str, Predictor],
    *,
    preparation: Preparation | None = None,
    limit: int | None = None,
    prepare: Callable[[Clip], Clip] = lambda clip: clip,
    sensor: SensorConfig | None = None,
    on_clip: Callable[[int], None] | None = None,
) -> dict[str, object]:
    """Evaluate on every clip of these folders.

    Args:
        predictors: by name, of PREDICTORS; `no_motion` must be among them.
        preparation: what the model demands of its samples; that of our own models, without image features, if None.
        prepare: changes a clip before it is seen. sensor: the camera's errors; None = perfect images.

    Returns:
        A JSON-ready table: `clips`, `overall`, `rigid` (the families of free rigid objects) and `families`; see
        `tabulate`.
    """
    scores = []
    for clip in read_clips(
        data, preparation=preparation, limit=limit, prepare=prepare, sensor=sensor
    ):
        scores.append(evaluate_clip(predictors, clip))
        if on_clip is not None:
            on_clip(1)
    families = sorted({score.family for score in scores})
    return {
        "clips": len(scores),
        "overall": tabulate(scores),
        "rigid": tabulate([score for score in scores if is_rigid(score.family)]),
        "families": {
            name: tabulate([score for score in scores if score.family == name]) for name in families
        },
    }


def is_rigid(family: str) -> bool:
    """Whether what moves in clips of this family are free rigid objects."""
    known = REGISTRY.get(family)
    return known is not None and known.group in RIGID_GROUPS


def tabulate(scores: Sequence[ClipScores]) -> dict[str, object]:
    """Means over clips per predictor.

    Returns:
        `metrics`: per predictor and metric mean, standard error and count. `ratios_to_no_motion`: mean mover error over
        that of no motion on the same clips. `never_moving_p99`: 99th percentile [m] of the error over all steps and
        points on bodies that never move.
    """
    names = [name for name in PREDICTORS if any(name in score.metrics for score in scores)]
    metrics, ratios, percentiles = {}, {}, {}
    for name in names:
        known = [score for score in scores if name in score.metrics]
        columns = dict.fromkeys(metric for score in known for metric in score.metrics[name])
        metrics[name] = {
            metric: asdict(summarise(s.metrics[name].get(metric, math.nan) for s in known))
            for metric in columns
        }
        own = metrics[name]["l2_moved"]["mean"]
        still = summarise(s.metrics["no_motion"]["l2_moved"] for s in known).mean
        ratios[name] = None if own is None or not still else own / still
        counts = torch.stack([score.at_rest[name] for score in known]).sum(0)
        value = histogram_quantile(counts, 0.99)
        percentiles[name] = None if math.isnan(value) else value
    return {
        "metrics": metrics,
        "ratios_to_no_motion": ratios,
        "never_moving_p99": percentiles,
    }
