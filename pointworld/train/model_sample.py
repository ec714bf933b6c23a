"""Samples as a model takes them in, and what it predicts of them by the way that `pointworld predict` goes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch.nn import functional

from pointworld.errors import InputError
from pointworld.model import ModelOutputs, ModelSpec, WorldModel, collate
from pointworld.model.prepare import prepare_released
from pointworld.train.augment import AugmentConfig, TrainingSample, augment, check_step_dt, whole
from pointworld.train.cache import CachedSample
from pointworld.train.source import Source
from pointworld.types import RobotFlow, ScenePoints

Tensor = torch.Tensor


def step_dt_of(spec: ModelSpec, sample: Source) -> float:
    """Seconds between steps that the model has in the sample's domain."""
    return spec.step_dt_of(spec.domains[sample.domain])


def require_step_dt(spec: ModelSpec, samples: Sequence[Source]) -> None:
    """Refuse samples whose time base is not the model's.

    Raises:
        InputError: a sample's `step_dt` is off by more than 1 %.
    """
    for sample in samples:
        check_step_dt(sample, step_dt_of(spec, sample))


def draw_sample(
    spec: ModelSpec, sample: Source, config: AugmentConfig, generator: torch.Generator
) -> TrainingSample:
    """One training sample for this model, varied as it allows.

    A model of released raw features knows positions about the scene's centre and the base frame's directions, so its
    scenes stay whole, where and how they stand; in `released` mode the sample is prepared as for prediction.

    Raises:
        InputError: the sample's time base is not the model's, or a clip that is read now cannot be read.
    """
    if not isinstance(sample, CachedSample):
        return sample.draw(spec, config, generator)
    released = spec.mode == "released"
    drawn = augment(
        sample,
        config,
        generator,
        step_dt=step_dt_of(spec, sample),
        voxel_size=spec.grid_size,
        keep_frame=released and spec.features == "released",
    )
    return as_released(drawn, spec) if released else _with_grippers(drawn, spec)


def whole_sample(
    spec: ModelSpec, sample: Source, *, max_points: int | None = None
) -> TrainingSample:
    """The sample of validation: as it is, or its `max_points` points nearest to the robot's path.

    Raises:
        InputError: as `draw_sample`.
    """
    if not isinstance(sample, CachedSample):
        return sample.whole(spec, max_points=max_points)
    step_dt = step_dt_of(spec, sample)
    return _with_grippers(whole(sample, step_dt=step_dt, max_points=max_points), spec)


def _with_grippers(item: TrainingSample, spec: ModelSpec) -> TrainingSample:
    """Zeros for grippers of the model that the robot lacks."""
    missing = spec.grippers - item.robot.gripper_open.shape[-1]
    if missing <= 0:
        return item
    padded = functional.pad(item.robot.gripper_open, (0, missing))
    return replace(item, robot=replace(item.robot, gripper_open=padded))


def as_released(item: TrainingSample, spec: ModelSpec) -> TrainingSample:
    """The sample as `prepare_released` gives it to a model: centred, thinned, gripper open or closed."""
    chunk = prepare_released(item.scene, item.robot, spec, domain=item.domain)
    seen = chunk.inputs  # a batch of one, so nothing is padded
    return TrainingSample(
        scene=ScenePoints(
            points=seen.scene_points[0],
            colors=seen.scene_colors[0],
            normals=seen.scene_normals[0],
            features=None if seen.scene_features is None else seen.scene_features[0],
            clusters=seen.scene_clusters[0],
        ),
        robot=RobotFlow(
            positions=seen.robot_positions[0],
            normals=seen.robot_normals[0],
            gripper_open=seen.gripper_open[0],
            step_dt=item.robot.step_dt,
        ),
        displacements=item.displacements[:, chunk.kept],
        domain=item.domain,
        supervised=None if item.supervised is None else item.supervised[:, chunk.kept],
        held=None if item.held is None else item.held[chunk.kept],
    )


@torch.no_grad()
def forecasts(
    model: WorldModel,
    samples: Sequence[Source],
    *,
    max_points: int | None = None,
    batch: int = 1,
) -> Iterator[tuple[TrainingSample, Tensor, Tensor]]:
    """Per sample what is true, displacements (steps, points, 3) [m] and log variances (steps, points, 1), on the CPU.

    In `released` mode every sample is whole. A cached one goes through `WorldModel.predict`, whose points that are no
    tokens follow the nearest one; the points of a clip read now are tokens already. Of these, one that cannot be read
    is left out, with a warning.

    Args:
        max_points: look at so many points, those nearest to the robot's path (not in `released` mode).
        batch: samples at once; it changes nothing but speed.

    Raises:
        InputError: a sample's time base, or number of steps, is not the model's.
    """
    spec = model.spec
    if spec.mode == "released":
        for item, lazy in _items(spec, samples, None):
            if lazy:
                outputs = _outputs(model, [item])
                yield item, outputs.displacements[0].cpu(), outputs.log_var[0].cpu()
                continue
            domain = spec.domains[item.domain]
            flow = model.predict(item.scene, item.robot, domain=domain)
            yield item, flow.displacements.cpu(), flow.log_var.nan_to_num().cpu()
        return
    found = (item for item, _ in _items(spec, samples, max_points))
    while items := list(islice(found, batch)):
        outputs = _outputs(model, items)
        moved, log_var = outputs.displacements.cpu(), outputs.log_var.cpu()
        for row, item in enumerate(items):
            yield item, moved[row, :, : len(item.scene)], log_var[row, :, : len(item.scene)]


def _outputs(model: WorldModel, items: Sequence[TrainingSample]) -> ModelOutputs:
    inputs = collate([(i.scene, i.robot) for i in items], domain=[i.domain for i in items])
    outputs: ModelOutputs = model(inputs.to(model.device))
    return outputs


def _items(
    spec: ModelSpec, samples: Sequence[Source], max_points: int | None
) -> Iterator[tuple[TrainingSample, bool]]:
    """Samples of validation, and whether each was read only now."""
    for sample in samples:
        lazy = not isinstance(sample, CachedSample)
        try:
            item = whole_sample(spec, sample, max_points=max_points)
        except InputError as error:
            if not lazy:
                raise
            warn_left_out(sample, error)
            continue
        yield item, lazy


def warn_left_out(sample: Source, error: InputError) -> None:
    """Say that a clip is left out, and why; Python says every such line once."""
    warnings.warn(f"clip {sample.key} is left out: {error}", stacklevel=2)
