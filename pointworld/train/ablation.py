"""Which part of the recipe is worth what: studies, each a few models that differ in one thing.

All variants of all studies train from scratch with one budget on the same clips and are measured on the same test
clips. The recipe as it is, `ours`, is trained once and shared by all studies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import torch

from pointworld.data import Clip
from pointworld.errors import InputError
from pointworld.model import WorldModel
from pointworld.ptv3 import PTv3Arch
from pointworld.train.cache import CachedSample
from pointworld.train.evaluation_clip import EvaluationClip
from pointworld.train.losses import LossConfig
from pointworld.train.predictors import Forecast, Predictor
from pointworld.types import RobotFlow

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One model of a study, and how it is measured.

    name: its folder; label: its row. loss: None = the run's. spec: changes of the ModelSpec. encoder: image features.
    colour: False = every point is black. share: of the training clips. cameras: views used in training and, unless
    `test_cameras` says otherwise, in the test; None = all. one_step: learns single steps from any moment of a clip.
    chained: steps are predicted one after the other. weights_of: measured with the weights of this variant.
    """

    name: str
    label: str
    loss: LossConfig | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)
    encoder: str | None = None
    colour: bool = True
    share: float = 1.0
    cameras: int | None = None
    test_cameras: int | None = None
    one_step: bool = False
    chained: bool = False
    weights_of: str | None = None

    @property
    def seen_cameras(self) -> int | None:
        """Views used in the test; None = all."""
        return self.cameras if self.test_cameras is None else self.test_cameras


OURS = Variant(name="ours", label="ours")
#: Encoders of the study `features` unless others are asked for.
ENCODERS = ("rgb", "xfeat", "jepa")


def _loss_study(_: Sequence[str]) -> tuple[Variant, ...]:
    return (
        OURS,
        Variant(
            name="loss-no-static",
            label="no weight for points at rest",
            loss=LossConfig(static_weight=0.0),
        ),
        Variant(
            name="loss-no-beta",
            label="terms not weighted by their variance",
            loss=LossConfig(variance_power=0.0),
        ),
        Variant(
            name="loss-released",
            label="the release's loss (neither)",
            loss=LossConfig(static_weight=0.0, variance_power=0.0),
        ),
    )


def _feature_study(encoders: Sequence[str]) -> tuple[Variant, ...]:
    black = Variant(name="features-no-colour", label="geometry alone", colour=False)
    plain = replace(OURS, label="ours (colour of the point)")
    rows = [
        Variant(
            name="features-" + "".join(c if c.isalnum() else "-" for c in encoder),
            label=f"image features: {encoder}",
            encoder=encoder,
        )
        for encoder in encoders
    ]
    return (black, plain, *rows)


def _camera_study(_: Sequence[str]) -> tuple[Variant, ...]:
    trained = [
        Variant(name=f"cameras-{count}", label=f"{count} in training and test", cameras=count)
        for count in (1, 2)
    ]
    tested = [
        Variant(
            name=f"cameras-ours-{count}",
            label=f"all in training, {count} in the test",
            weights_of="ours",
            test_cameras=count,
        )
        for count in (1, 2)
    ]
    return (*trained, *tested, replace(OURS, label="ours (all: 2 or 3)"))


def _data_study(_: Sequence[str]) -> tuple[Variant, ...]:
    parts = [
        Variant(name=f"data-1-{part}", label=f"1/{part} of the clips", share=1 / part)
        for part in (16, 8, 4, 2)
    ]
    return (*parts, replace(OURS, label="ours (all clips)"))


def _guess_study(_: Sequence[str]) -> tuple[Variant, ...]:
    return (
        replace(OURS, label="ours (carried, pushed ahead)"),
        Variant(name="guesses-sliding", label="and sliding over a table", spec={"sliding": True}),
    )


def _size_study(_: Sequence[str]) -> tuple[Variant, ...]:
    small = Variant(
        name="size-small", label="the release's `small`", spec={"arch": PTv3Arch.small()}
    )
    return (OURS, small)


def _rollout_study(_: Sequence[str]) -> tuple[Variant, ...]:
    return (
        replace(OURS, label="ours (ten steps at once)"),
        Variant(
            name="rollout-ours-chained",
            label="the same, chained after every step",
            weights_of="ours",
            chained=True,
        ),
        Variant(
            name="rollout-one-step",
            label="learned single steps, chained",
            one_step=True,
            chained=True,
        ),
    )


def _token_study(_: Sequence[str]) -> tuple[Variant, ...]:
    return (
        replace(OURS, label="ours (stable lattice, relative features)"),
        Variant(
            name="tokens-released",
            label="the release's lattice and order",
            spec={"mode": "released"},
        ),
        Variant(
            name="tokens-released-features",
            label="the release's raw features",
            spec={"features": "released"},
        ),
    )


#: Name of a study to its variants, given the encoders of the study `features`.
STUDIES: Mapping[str, Callable[[Sequence[str]], tuple[Variant, ...]]] = {
    "loss": _loss_study,
    "features": _feature_study,
    "cameras": _camera_study,
    "data": _data_study,
    "size": _size_study,
    "rollout": _rollout_study,
    "tokens": _token_study,
    "guesses": _guess_study,
}


def variants_of(study: str, encoders: Sequence[str] = ENCODERS) -> tuple[Variant, ...]:
    """The models of a study.

    Raises:
        InputError: there is no such study.
    """
    if study not in STUDIES:
        raise InputError(f"there is no study '{study}'; expected one of {', '.join(STUDIES)}")
    return STUDIES[study](encoders)


def with_cameras(clip: Clip, count: int | None) -> Clip:
    """The clip with its first `count` views; None = all."""
    return clip if count is None else replace(clip, views=clip.views[:count])


def without_colour(sample: CachedSample) -> CachedSample:
    """The sample with black points."""
    return replace(sample, colors=torch.zeros_like(sample.colors))


def blind_to_colour(predictor: Predictor) -> Predictor:
    """The predictor on black points."""

    def predict(clip: EvaluationClip) -> Forecast | None:
        scene = clip.sample.scene
        black = replace(scene, colors=torch.zeros_like(scene.colors))
        return predictor(replace(clip, sample=replace(clip.sample, scene=black)))

    return predict


def single_steps(flow: RobotFlow, horizon: int) -> RobotFlow:
    """A robot flow in which every step is followed by standing still for the rest of a chunk of `horizon` steps.

    Predicted in chunks, each chunk then is one real step; step t of the given flow is step t * horizon of the result.
    """
    chunks = torch.arange(1, flow.num_steps).repeat_interleave(horizon)
    index = torch.cat([torch.zeros(1, dtype=torch.int64), chunks])
    return RobotFlow(
        positions=flow.positions[index],
        normals=flow.normals[index],
        gripper_open=flow.gripper_open[index],
        step_dt=flow.step_dt,
    )


def chained_predictor(model: WorldModel) -> Predictor:
    """The world model asked for one step at a time, each from where the last one left the scene."""
    horizon = model.spec.horizon

    def predict(clip: EvaluationClip) -> Forecast:
        flow = model.predict(clip.sample.scene, single_steps(clip.sample.robot, horizon))
        return Forecast(displacements=flow.displacements[::horizon].cpu())

    return predict


class SingleSteps(Sequence[CachedSample]):
    """Every step of every clip as a sample of its own, after which robot and things stand still."""

    def __init__(self, samples: Sequence[CachedSample]) -> None:
        self._samples = samples
        self._steps = len(samples[0].motions) - 1

    def __len__(self) -> int:
        return len(self._samples) * self._steps

    @overload
    def __getitem__(self, index: int) -> CachedSample: ...
    @overload
    def __getitem__(self, index: slice) -> list[CachedSample]: ...
    def __getitem__(self, index: int | slice) -> CachedSample | list[CachedSample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        # Neighbouring indices are different clips, so that the first few hundred show all kinds.
        return one_step_sample(
            self._samples[index % len(self._samples)], index // len(self._samples)
        )


def one_step_sample(sample: CachedSample, start: int) -> CachedSample:
    """What happens from step `start` to the next one; nothing moves after that."""
    steps = len(sample.motions)
    index = torch.full((steps,), start + 1)
    index[0] = start
    here = sample.motions[start].double()
    motions = (sample.motions[index].double() @ torch.linalg.inv(here)).float()
    points = sample.positions(torch.arange(len(sample.points)))[start]
    surface = sample.surface
    if surface is not None:
        surface = replace(sample, points=surface, surface=None).positions(
            torch.arange(len(surface))
        )[start]
    normals = (sample.motions[start, sample.body_ids, :3, :3] @ sample.normals.float()[..., None])[
        ..., 0
    ]
    robot, known = sample.robot_positions[index], sample.supervised
    reach = torch.stack([torch.cdist(points, r).amin(-1) for r in robot[:2]]).amin(0)
    return replace(
        sample,
        points=points,
        surface=surface,
        normals=torch.nn.functional.normalize(normals, dim=-1).half(),
        motions=motions,
        robot_positions=robot,
        robot_normals=sample.robot_normals[index],
        gripper_open=sample.gripper_open[index],
        reach=reach,
        supervised=None if known is None else known[index] & known[start],
        key=f"{sample.key}@{start}",
    )
