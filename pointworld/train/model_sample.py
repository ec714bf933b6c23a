"""Samples as a model takes them in, and what it predicts of them by the way that `pointworld predict` goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from pointworld.model import ModelSpec, WorldModel, collate
from pointworld.model.prepare import prepare_released
from pointworld.train.augment import AugmentConfig, TrainingSample, augment, check_step_dt, whole
from pointworld.train.cache import CachedSample
from pointworld.types import RobotFlow, ScenePoints

Tensor = torch.Tensor


def step_dt_of(spec: ModelSpec, sample: CachedSample) -> float:
    """Seconds between steps that the model has in the sample's domain."""
    return spec.step_dt_of(spec.domains[sample.domain])


def require_step_dt(spec: ModelSpec, samples: Sequence[CachedSample]) -> None:
    """Refuse samples whose time base is not the model's.

    Raises:
        InputError: a sample's `step_dt` is off by more than 1 %.
    """
    for sample in samples:
        check_step_dt(sample, step_dt_of(spec, sample))


def draw_sample(
    spec: ModelSpec, sample: CachedSample, config: AugmentConfig, generator: torch.Generator
) -> TrainingSample:
    """One training sample for this model, varied as it allows.

    A model of released raw features knows positions about the scene's centre and the base frame's directions, so its
    scenes stay whole, where and how they stand; in `released` mode the sample is prepared as for prediction.

    Raises:
        InputError: the sample's time base is not the model's.
    """
    released = spec.mode == "released"
    drawn = augment(
        sample,
        config,
        generator,
        step_dt=step_dt_of(spec, sample),
        voxel_size=spec.grid_size,
        keep_frame=released and spec.features == "released",
    )
    return as_released(drawn, spec) if released else drawn


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
    )


@torch.no_grad()
def forecasts(
    model: WorldModel,
    samples: Sequence[CachedSample],
    *,
    max_points: int | None = None,
    batch: int = 1,
) -> Iterator[tuple[TrainingSample, Tensor, Tensor]]:
    """Per sample what is true, displacements (steps, points, 3) [m] and log variances (steps, points, 1), on the CPU.

    In `released` mode every sample is whole and goes through `WorldModel.predict`, whose points that are no tokens
    follow the nearest one.

    Args:
        max_points: look at so many points, those nearest to the robot's path (not in `released` mode).
        batch: samples at once; it changes nothing but speed.

    Raises:
        InputError: a sample's time base, or number of steps, is not the model's.
    """
    spec = model.spec
    if spec.mode == "released":
        for sample in samples:
            item = whole(sample, step_dt=step_dt_of(spec, sample))
            flow = model.predict(item.scene, item.robot, domain=spec.domains[item.domain])
            yield item, flow.displacements.cpu(), flow.log_var.nan_to_num().cpu()
        return
    for start in range(0, len(samples), batch):
        items = [
            whole(s, step_dt=step_dt_of(spec, s), max_points=max_points)
            for s in samples[start : start + batch]
        ]
        inputs = collate([(i.scene, i.robot) for i in items], domain=[i.domain for i in items])
        outputs = model(inputs.to(model.device))
        moved, log_var = outputs.displacements.cpu(), outputs.log_var.cpu()
        for row, item in enumerate(items):
            yield item, moved[row, :, : len(item.scene)], log_var[row, :, : len(item.scene)]
