"""Random views of a cached sample that keep the lattice: turns of a square, whole-voxel shifts, spatial crops."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from pointworld.errors import InputError
from pointworld.train.cache import CachedSample
from pointworld.types import RobotFlow, ScenePoints

Tensor = torch.Tensor

#: How far a sample's time between steps may be from the model's, as in prediction.
STEP_DT_TOLERANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How training samples are varied.

    min_points, max_points: a crop keeps this many scene points, those the robot comes nearest to. It is a crop in
        space and never thins the cloud, so that the network sees the density it will be used with.
    full_share: share of samples that are not cropped.
    shift: largest horizontal shift [voxels]; the vertical stays, because the table's height is known to a robot.
    position_noise: standard deviation added to scene points [m].
    """

    min_points: int = 200
    max_points: int = 600
    full_share: float = 0.0
    shift: int = 64
    position_noise: float = 0.0005


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingSample:
    """A scene, a robot flow, the true displacements (steps, points, 3) [m], and the normalisation row.

    supervised: (steps, points) bool, where the truth is known; None for everywhere. held: (points,) bool, on a tool
    that is fixed to the hand; None for nowhere.
    """

    scene: ScenePoints
    robot: RobotFlow
    displacements: Tensor
    domain: int = 0
    supervised: Tensor | None = None
    held: Tensor | None = None

    def free(self) -> Tensor:
        """(points,) bool: not on a held tool, whose motion is known."""
        if self.held is None:
            return torch.ones(self.displacements.shape[1], dtype=torch.bool)
        return ~self.held

    def known(self) -> Tensor:
        """(steps, points) bool: where there is a truth to learn from or to compare with."""
        if self.supervised is None:
            return torch.ones(self.displacements.shape[:-1], dtype=torch.bool)
        return self.supervised


def square_symmetry(index: int) -> Tensor:
    """One of the eight maps of a square lattice onto itself, as a (3, 3) matrix that leaves z alone.

    0-3: turns by 0, 90, 180, 270 degrees; 4-7: the same after mirroring x. Voxel cells map onto voxel cells, so a
    cloud thinned on the lattice stays thinned on the lattice.
    """
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    mirror = torch.diag(torch.tensor([-1.0 if index >= 4 else 1.0, 1.0, 1.0]))
    return torch.linalg.matrix_power(quarter, index % 4) @ mirror


class Timed(Protocol):
    """Anything with a name and seconds between steps."""

    @property
    def key(self) -> str: ...

    @property
    def step_dt(self) -> float: ...


def check_step_dt(sample: Timed, step_dt: float) -> None:
    """Refuse a sample whose time between steps is not the model's.

    Raises:
        InputError: they differ by more than 1 %.
    """
    if not math.isclose(sample.step_dt, step_dt, rel_tol=STEP_DT_TOLERANCE):
        remedy = (
            f"Make the clips with --label.step-dt {step_dt:.6g} (pointworld capture label), or "
            f"--tabletop.step-dt {step_dt:.6g} (pointworld generate)"
            if isinstance(sample, CachedSample)
            else "Released clips keep their step: start from a checkpoint of their domain, or from none"
        )
        raise InputError(
            f"clip {sample.key} has {sample.step_dt:.4g} s between its steps, the model {step_dt:.4g} s: speeds would "
            f"be wrong. {remedy}"
        )


def choose_points(
    sample: CachedSample, config: AugmentConfig, generator: torch.Generator
) -> Tensor:
    """Indices of the scene points of a random crop round the robot's path."""
    count = len(sample.points)
    keep = int(
        torch.randint(config.min_points, config.max_points + 1, (), generator=generator).item()
    )
    full = torch.rand((), generator=generator).item() < config.full_share
    if full or keep >= count:
        return torch.arange(count)
    return sample.reach.topk(keep, largest=False).indices.sort().values


def augment(
    sample: CachedSample,
    config: AugmentConfig,
    generator: torch.Generator,
    *,
    step_dt: float,
    voxel_size: float,
    keep_frame: bool = False,
) -> TrainingSample:
    """Draw one training sample from a cached one.

    Args:
        step_dt: the model's [s].
        keep_frame: add noise to the points, but neither crop, turn nor shift the scene.

    Raises:
        InputError: the sample has another `step_dt`.
    """
    check_step_dt(sample, step_dt)
    index = choose_points(sample, config, generator)
    symmetry = int(torch.randint(8, (), generator=generator).item())
    cells = torch.randint(-config.shift, config.shift + 1, (3,), generator=generator)
    if keep_frame:
        index, symmetry, cells = torch.arange(len(sample.points)), 0, torch.zeros_like(cells)
    A = square_symmetry(symmetry)
    shift = cells * torch.tensor([1.0, 1.0, 0.0]) * voxel_size
    noise = torch.randn(len(index), 3, generator=generator) * config.position_noise
    positions = sample.positions(index)
    points = positions[0] @ A.T + shift + noise
    return TrainingSample(
        scene=ScenePoints(
            points=points,
            colors=sample.colors[index].float() / 255,
            normals=sample.normals[index].float() @ A.T,
            clusters=sample.clusters[index],
            features=None if sample.features is None else sample.features[index].float(),
        ),
        robot=RobotFlow(
            positions=sample.robot_positions @ A.T + shift,
            normals=sample.robot_normals.float() @ A.T,
            gripper_open=sample.gripper_open,
            step_dt=step_dt,
        ),
        displacements=(positions - positions[:1]) @ A.T,
        domain=sample.domain,
        supervised=None if sample.supervised is None else sample.supervised[:, index],
        held=sample.held_points(index),
    )


def whole(sample: CachedSample, *, step_dt: float, max_points: int | None = None) -> TrainingSample:
    """The sample as it is, or its `max_points` points nearest to the robot's path: for validation.

    Raises:
        InputError: the sample's `step_dt` is not this one, the model's.
    """
    check_step_dt(sample, step_dt)
    index = torch.arange(len(sample.points))
    if max_points is not None and max_points < len(index):
        index = sample.reach.topk(max_points, largest=False).indices.sort().values
    positions = sample.positions(index)
    return TrainingSample(
        scene=ScenePoints(
            points=positions[0],
            colors=sample.colors[index].float() / 255,
            normals=sample.normals[index].float(),
            clusters=sample.clusters[index],
            features=None if sample.features is None else sample.features[index].float(),
        ),
        robot=RobotFlow(
            positions=sample.robot_positions,
            normals=sample.robot_normals.float(),
            gripper_open=sample.gripper_open,
            step_dt=step_dt,
        ),
        displacements=positions - positions[:1],
        domain=sample.domain,
        supervised=None if sample.supervised is None else sample.supervised[:, index],
        held=sample.held_points(index),
    )
