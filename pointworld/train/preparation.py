"""How clips are turned into samples for one model: its image encoder, pixel convention and view of the robot.

What is chosen here is what `pointworld predict` chooses for the same model.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from pointworld.data import Clip, FlowSample, clip_frames, clip_to_sample
from pointworld.data.sensor import SensorConfig, observe
from pointworld.encoders import ImageEncoder, load_encoder
from pointworld.errors import InputError
from pointworld.model import ModelSpec, load
from pointworld.model.released_encoder import fingerprint, stored_encoder_weights
from pointworld.model.robot_surface import seen_surface
from pointworld.robot import RobotModel, SurfacePoints
from pointworld.scene import point_features
from pointworld.scene.features import RELEASED_DEPTH_THRESHOLD, Sampling
from pointworld.types import RGBDFrame

Tensor = torch.Tensor

#: Robot surface points of our own models' samples, all of them seen by the scene's raw features.
SURFACE_POINTS = 192
#: Weights of an image encoder in a folder.
WEIGHTS = "model.safetensors"
#: The surface is the same in every sample, in training, evaluation and use.
SURFACE_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What a model demands of its samples; the defaults are those of our own models.

    encoder: image encoder whose features every point gets, a name for `load_encoder`; None = no features.
    encoder_layers: its blocks whose outputs are used; empty = its default.
    stored_in: checkpoint that holds the encoder's weights; None = `load_encoder` finds them.
    encoder_id: names the weights of an encoder that is stored in a checkpoint or lies in a local folder, where they
        may change; "" for others.
    sampling, depth_threshold [m]: how pixels are looked up, and which see a point.
    voxel_size: [m]. max_points: scene points at most.
    surface_points: on `links` of the robot, or on its gripper where it lacks some. released_surface: chosen by the
        released rule.
    """

    encoder: str | None = None
    encoder_layers: tuple[int, ...] = ()
    stored_in: str | None = None
    encoder_id: str = ""
    sampling: Sampling = "centered"
    depth_threshold: float = RELEASED_DEPTH_THRESHOLD
    voxel_size: float = 0.015
    max_points: int = 12_000
    surface_points: int = SURFACE_POINTS
    links: tuple[str, ...] | str = "gripper"
    released_surface: bool = False

    def settings(self) -> dict[str, object]:
        """All that changes a sample, JSON-ready; not where the encoder's weights lie."""
        values = asdict(self)
        del values["stored_in"]
        # As JSON gives them back.
        return dict(json.loads(json.dumps(values)))

    @property
    def label(self) -> str:
        """Short name for a folder: the encoder's, and a code where something else is not the default."""
        name = re.sub(r"[^\w.-]+", "_", self.encoder or "plain")
        if self.settings() == Preparation(encoder=self.encoder).settings():
            return name
        code = hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()
        return f"{name}-{code[:8]}"

    def surface(self, robot: RobotModel) -> SurfacePoints:
        """The robot's points that the model sees."""
        return seen_surface(
            robot,
            self.links,
            self.surface_points,
            released=self.released_surface,
            seed=SURFACE_SEED,
        )[0]

    def image_features(self, points: Tensor, frames: Sequence[RGBDFrame]) -> Tensor:
        """Features (points, channels) of `points` (points, 3) [m]; the frames' world is the robot's base.

        Raises:
            InputError: no image encoder is asked for, or it is not where it should be.
        """
        features, _ = point_features(
            points,
            frames,
            _encoder(self),
            T_world_base=np.eye(4),
            sampling=self.sampling,
            depth_threshold=self.depth_threshold,
        )
        return features


def new_preparation(encoder: str | None) -> Preparation:
    """What a new model of ours with this image encoder demands."""
    return Preparation(encoder=encoder, encoder_id=_local_weights(encoder))


def _local_weights(encoder: str | None) -> str:
    """Twelve hexadecimal digits that name the weights of an encoder in a local folder; "" for any other."""
    where = (encoder or "").partition(":")[2]
    file = Path(where).expanduser() / WEIGHTS
    if not where or not file.is_file():
        return ""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:12]


def preparations_of(checkpoint: str | Path, spec: ModelSpec) -> tuple[Preparation, ...]:
    """What a checkpoint demands, one entry for each of its domains.

    Args:
        checkpoint: name or path, as for `pointworld.load`; where it holds its image encoder, that one is used.
        spec: of this checkpoint.

    Raises:
        CheckpointError: there is no such checkpoint, or its image encoder is damaged.
    """
    sees = bool(spec.image_channels)
    stored = stored_encoder_weights(checkpoint) if sees else None
    encoder = spec.encoder if sees else None
    whole = Preparation(
        encoder=encoder,
        encoder_layers=spec.encoder_layers if sees else (),
        stored_in=None if stored is None else str(checkpoint),
        encoder_id=fingerprint(stored) if stored is not None else _local_weights(encoder),
        sampling=spec.sampling,
        depth_threshold=spec.depth_threshold,
        voxel_size=spec.grid_size,
        max_points=spec.max_scene_points,
        surface_points=spec.max_robot_points,
        released_surface=spec.features == "released",
    )
    return tuple(replace(whole, links=spec.robot_links_of(domain)) for domain in spec.domains)


def prepared_sample(
    clip: Clip,
    robot: RobotModel,
    preparation: Preparation,
    *,
    sensor: SensorConfig | None = None,
    seed: int = 0,
) -> FlowSample:
    """What the model sees of a simulated clip, with the truth.

    Args:
        sensor, seed: a camera's errors, and what draws them.
    """
    sample = clip_to_sample(
        clip,
        robot,
        voxel_size=preparation.voxel_size,
        surface=preparation.surface(robot),
        max_points=preparation.max_points,
        sensor=sensor,
        seed=seed,
    )
    flow = replace(sample.robot, gripper_open=known_gripper(sample.robot.gripper_open))
    sample = replace(sample, robot=flow)
    if preparation.encoder is None:
        return sample
    seen = clip if sensor is None else observe(clip, sensor, seed).clip
    features = preparation.image_features(sample.scene.points, clip_frames(seen))
    return replace(sample, scene=replace(sample.scene, features=features))


def held_bodies(clip: Clip) -> tuple[int, ...]:
    """Tools that are fixed to the hand, and the robot itself, of which a wrongly calibrated camera leaves points: their
    motion is known.
    """
    return (*held_tools(clip), *clip.bodies_of_kind("robot"))


def held_tools(clip: Clip) -> tuple[int, ...]:
    """Bodies that are fixed to the hand."""
    held = set(clip.info.get("held", ()))
    return tuple(i for i, name in enumerate(clip.body_names) if name in held)


def known_gripper(gripper_open: Tensor) -> Tensor:
    """(steps, grippers); a robot without a known gripper counts as open, (steps, 1)."""
    return gripper_open if gripper_open.shape[-1] else gripper_open.new_ones(len(gripper_open), 1)


# One copy per process: loading an encoder costs more than a clip.
@cache
def _encoder(preparation: Preparation) -> ImageEncoder:
    if preparation.stored_in is not None:
        encoder = load(preparation.stored_in).image_encoder()
    elif preparation.encoder is not None:
        encoder = load_encoder(preparation.encoder, layers=preparation.encoder_layers or None)
    else:
        encoder = None
    if encoder is None:
        raise InputError(
            f"samples with image features need an encoder; found none in {preparation.stored_in or 'the settings'}"
        )
    return encoder
