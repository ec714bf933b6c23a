"""Normalisation statistics of training data, one entry per domain: real points only, never padding."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pointworld.errors import InputError
from pointworld.files import write_json
from pointworld.model import ModelSpec, WorldModel, collate
from pointworld.model.normalisation import moments
from pointworld.train.augment import AugmentConfig, TrainingSample
from pointworld.train.cache import CachedSample, spread_out
from pointworld.train.metrics import moved_mask
from pointworld.train.model_sample import draw_sample, warn_left_out
from pointworld.train.source import Source

Tensor = torch.Tensor

FORMAT = "pointworld-statistics-1"
#: Samples of each domain that the statistics are taken from, evenly spread.
STATISTICS_SAMPLES = 400


@dataclass(frozen=True, kw_only=True)
class DomainStatistics:
    """What a domain's inputs and targets look like.

    clips: samples measured.
    displacement_var: (steps,) mean square of a coordinate of the displacement of points on moving bodies [m^2].
    scene_mean, scene_var, robot_mean, robot_var: per raw channel.
    """

    clips: int
    displacement_var: tuple[float, ...]
    scene_mean: tuple[float, ...]
    scene_var: tuple[float, ...]
    robot_mean: tuple[float, ...]
    robot_var: tuple[float, ...]


def measure_domain(
    model: WorldModel, samples: Sequence[Source], *, domain: str, seed: int
) -> DomainStatistics:
    """Statistics of samples drawn as training draws them, from all of its folders alike.

    A clip that is read when it is drawn, and cannot be, is left out with a warning.

    Args:
        model: computes the raw channels; its weights do not matter.

    Raises:
        InputError: there are no samples, or none can be read.
    """
    if not samples:
        raise InputError(
            f"there are no training clips of the domain '{domain}': its normalisation would be empty. "
            "Give one --data folder per domain."
        )
    spread, count = torch.zeros(model.spec.num_steps, dtype=torch.float64), 0
    scene_rows: list[Tensor] = []
    robot_rows: list[Tensor] = []
    clips = 0
    for drawn in _drawn(model.spec, spread_out(samples, STATISTICS_SAMPLES), seed):
        clips += 1
        moved = (moved_mask(drawn.displacements) & drawn.known()).any(0)
        spread += drawn.displacements[:, moved].double().square().mean(-1).sum(-1)
        count += int(moved.sum())
        raw_scene, raw_robot, _ = model.raw_features(collate([(drawn.scene, drawn.robot)]))
        scene_rows.append(raw_scene[0])
        robot_rows.append(raw_robot[0].flatten(0, 1))
    (scene_mean, scene_var), (robot_mean, robot_var) = moments(scene_rows), moments(robot_rows)
    return DomainStatistics(
        clips=clips,
        displacement_var=_values(spread / max(count, 1)),
        scene_mean=_values(scene_mean),
        scene_var=_values(scene_var),
        robot_mean=_values(robot_mean),
        robot_var=_values(robot_var),
    )


def _drawn(spec: ModelSpec, samples: Sequence[Source], seed: int) -> Iterator[TrainingSample]:
    """One draw of every sample that can be read; the last error where none can."""
    generator = torch.Generator().manual_seed(seed)
    failed: InputError | None = None
    none = True
    for sample in samples:
        try:
            drawn = draw_sample(spec, sample, AugmentConfig(), generator)
        except InputError as error:
            if isinstance(sample, CachedSample):
                raise
            warn_left_out(sample, error)
            failed = error
            continue
        none = False
        yield drawn
    if none and failed is not None:
        raise failed


def _values(row: Tensor) -> tuple[float, ...]:
    return tuple(float(value) for value in row)


@torch.no_grad()
def apply_statistics(model: WorldModel, statistics: Mapping[str, DomainStatistics]) -> None:
    """Fill the model's normalisation buffers.

    Displacements get mean 0 and, per step, one variance for all three axes: a direction must not matter for a model
    that is trained on all of them.

    Raises:
        InputError: a domain is missing, or was measured for other channels.
    """
    for row, name in enumerate(model.spec.domains):
        if name not in statistics:
            raise InputError(
                f"the statistics know the domains {', '.join(statistics) or 'none'}, but not '{name}'"
            )
        mine = statistics[name]
        found = (len(mine.scene_mean), len(mine.robot_mean), len(mine.displacement_var))
        wanted = (model.spec.scene_channels, model.spec.robot_channels, model.spec.num_steps)
        if found != wanted:
            raise InputError(
                f"the statistics of '{name}' have {found} scene channels, robot channels and steps, expected {wanted}: "
                "they were measured for another model. Run pointworld statistics again."
            )
        model.norm_stats_per_step_mean[row] = 0.0
        variance = torch.tensor(mine.displacement_var).clamp_min(1e-6)
        model.norm_stats_per_step_var[row] = variance[:, None].expand(-1, 3)
        for kind, mean, var in (
            ("scene", mine.scene_mean, mine.scene_var),
            ("robot", mine.robot_mean, mine.robot_var),
        ):
            getattr(model, f"{kind}_norm_mean")[row] = torch.tensor(mean)
            getattr(model, f"{kind}_norm_var")[row] = torch.tensor(var).clamp_min(1e-4)


def measure(
    spec: ModelSpec, samples: Sequence[Source], *, seed: int
) -> dict[str, DomainStatistics]:
    """Statistics of every domain of a model."""
    model = WorldModel(spec)
    return {
        name: measure_domain(model, [s for s in samples if s.domain == row], domain=name, seed=seed)
        for row, name in enumerate(spec.domains)
    }


def write_statistics(path: str | Path, statistics: Mapping[str, DomainStatistics]) -> None:
    """Write them as JSON."""
    domains = {name: asdict(entry) for name, entry in statistics.items()}
    write_json(path, {"format": FORMAT, "domains": domains})


def read_statistics(path: str | Path) -> dict[str, DomainStatistics]:
    """Read what `write_statistics` wrote.

    Raises:
        InputError: not such a file.
    """
    try:
        content: dict[str, Any] = json.loads(Path(path).read_text())
        if content.get("format") != FORMAT:
            raise InputError(f"{path}: format is {content.get('format')!r}, expected {FORMAT!r}")
        return {name: _entry(entry) for name, entry in content["domains"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not a statistics file ({error}); make one with pointworld statistics"
        ) from error


def _entry(content: Mapping[str, Any]) -> DomainStatistics:
    rows = {name: tuple(value) for name, value in content.items() if name != "clips"}
    return DomainStatistics(clips=int(content["clips"]), **rows)
