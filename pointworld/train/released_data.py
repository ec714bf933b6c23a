"""Released DROID and BEHAVIOR clips as training data: read from disk whenever one is drawn.

Every draw depends on the generator given alone, so a step is the same in every process and after an interruption.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from pointworld.data.released import (
    ChainSettings,
    ReleasedSample,
    decode_clip,
    evaluation_sample,
    training_sample,
)
from pointworld.data.released.decode import STEP_DT
from pointworld.data.released.index import ClipPlace
from pointworld.encoders import ImageEncoder
from pointworld.geometry import SUPPORT, point_clusters
from pointworld.model import ModelSpec
from pointworld.robot import RobotModel
from pointworld.train.augment import AugmentConfig, TrainingSample
from pointworld.train.cache import CachedSample
from pointworld.train.model_sample import draw_sample, whole_sample

Tensor = torch.Tensor

#: Cameras of a training sample and of one of validation, as in the release.
TRAINING_CAMERAS, VALIDATION_CAMERAS = (1, 3), (2, 2)
#: The release's seeds of its training chain are 64 bits wide or less; one of ours is drawn below this.
_SEEDS = 2**62


def chain_settings(spec: ModelSpec, cameras: tuple[int, int] = VALIDATION_CAMERAS) -> ChainSettings:
    """The chain's settings for a model; those of the published evaluation for a released checkpoint."""
    return ChainSettings(
        min_cameras=cameras[0],
        max_cameras=cameras[1],
        grid_size=spec.grid_size,
        max_scene_points=spec.max_scene_points,
        max_robot_points=spec.max_robot_points,
        grippers=spec.grippers,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ReleasedFeed:
    """What the clips of one domain have in common.

    robot: `panda_robotiq` for DROID, a URDF of the R1 Pro for BEHAVIOR. domain: row of the model's normalisation.
    encoder: gives image features, on its own device; None for a model without an image branch.
    """

    robot: RobotModel
    domain: int
    encoder: ImageEncoder | None = None

    def features(self, sample: ReleasedSample, spec: ModelSpec) -> ReleasedSample:
        """The sample with the image features that the model looks at, looked up by its conventions."""
        if self.encoder is None:
            return sample
        return sample.with_features(
            self.encoder, sampling=spec.sampling, depth_threshold=spec.depth_threshold
        )


@dataclass(frozen=True, slots=True, eq=False)
class StreamedClip:
    """One released clip, read whenever it is drawn (a `LazyClip`).

    In `released` mode a sample is what the release's chain makes of it, and `AugmentConfig` has no effect. Other models
    take it in the robot's base frame, without the chain's turn, scale and mirror, and vary it as they vary any clip.
    """

    place: ClipPlace
    feed: ReleasedFeed

    @property
    def key(self) -> str:
        """Canonical clip id."""
        return self.place.key

    @property
    def family(self) -> str:
        """The release's domain, `droid` or `behavior`."""
        return self.place.domain

    @property
    def domain(self) -> int:
        """Row of the model's normalisation buffers."""
        return self.feed.domain

    @property
    def step_dt(self) -> float:
        """Seconds between steps."""
        return STEP_DT[self.place.domain]

    def draw(
        self, spec: ModelSpec, config: AugmentConfig, generator: torch.Generator
    ) -> TrainingSample:
        """One training sample: the release's training chain, seeded from `generator`.

        Raises:
            InputError: the clip cannot be read, or the robot is not the domain's.
        """
        seed = int(torch.randint(_SEEDS, (), generator=generator))
        sample = training_sample(
            decode_clip(self.place.read()),
            self.feed.robot,
            np.random.default_rng(seed),
            chain_settings(spec, TRAINING_CAMERAS),
        )
        sample = self.feed.features(sample, spec)
        if spec.mode == "released":
            return as_training(sample, spec, self.domain)
        return draw_sample(spec, tracked(sample, self.domain), config, generator)

    def whole(self, spec: ModelSpec, *, max_points: int | None = None) -> TrainingSample:
        """The sample of the published evaluation.

        Raises:
            InputError: as `draw`.
        """
        clip = decode_clip(self.place.read())
        sample = evaluation_sample(clip, self.feed.robot, chain_settings(spec))
        sample = self.feed.features(sample, spec)
        if spec.mode == "released":
            return as_training(sample, spec, self.domain)
        return whole_sample(spec, tracked(sample, self.domain), max_points=max_points)


def as_training(sample: ReleasedSample, spec: ModelSpec, domain: int) -> TrainingSample:
    """The sample as it is, in the centred frame: its points are the tokens of a model in `released` mode."""
    flow = sample.flow
    scene = flow.scene
    if spec.features == "released":  # which looks at no clusters, so there is no need to find them
        none = torch.full((len(scene),), SUPPORT, dtype=torch.int64)
        scene = replace(scene, clusters=none)
    return TrainingSample(
        scene=scene,
        robot=flow.robot,
        displacements=flow.positions - flow.positions[:1],
        domain=domain,
        supervised=flow.supervised,
    )


def tracked(sample: ReleasedSample, domain: int) -> CachedSample:
    """The sample in the robot's base frame, as one of our own whose points are followed one by one."""
    flow = sample.in_base_frame()
    points, normals = flow.scene.points, flow.scene.normals
    reach = torch.stack([torch.cdist(points, r).min(-1).values for r in flow.robot.positions])
    steps = len(flow.positions)
    return CachedSample(
        points=points,
        colors=(flow.scene.colors * 255).round().to(torch.uint8),
        normals=normals,
        features=flow.scene.features,
        body_ids=flow.body_ids,
        motions=torch.zeros(steps, 0, 4, 4),
        moving=torch.zeros(0, dtype=torch.bool),
        held=torch.zeros(0, dtype=torch.bool),
        robot_positions=flow.robot.positions,
        robot_normals=flow.robot.normals,
        gripper_open=flow.robot.gripper_open,
        clusters=point_clusters(points, normals),
        reach=reach.min(0).values,
        step_dt=flow.robot.step_dt,
        family=flow.family,
        key=flow.key,
        supervised=flow.supervised,
        domain=domain,
        tracks=flow.positions,
    )
