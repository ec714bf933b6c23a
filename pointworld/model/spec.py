"""Everything that is needed to rebuild a world model around its weights: one frozen, JSON-serialisable description."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pointworld.errors import CheckpointError, InputError
from pointworld.model.features_relative import (
    relative_guesses,
    relative_robot_channels,
    relative_scene_channels,
)
from pointworld.model.spread import SpreadMap
from pointworld.ptv3 import PTv3Arch

Mode = Literal["released", "stable"]
Features = Literal["released", "relative"]
Sampling = Literal["released", "centered"]

#: Constants of the release: ten predicted steps; the heads and the norm buffers have that size.
HORIZON = 10
#: Keys that checkpoints of before do not have, and what these do.
LATER: dict[str, Any] = {"sliding": False}


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Architecture, conventions and units of one world model.

    arch: the backbone; its input width is the width C of all tokens.
    mode: `released` reproduces the released model; `stable` is our default (fixed lattice, order-free).
    features: raw point features, `released` (17/42 or 16/31 channels, in a centred frame) or `relative`, with which the
        network is also offered the motions of being carried and of being pushed, and shares within clusters.
    sliding: with `relative` features, offer also how what hangs together slides over a table (`sliding_motion`).
    image_channels: width of ScenePoints.features that the model reads; 0 = no image branch.
    encoder: name for `load_encoder`, or None; encoder_layers: blocks whose outputs are concatenated.
    sampling: pixel convention with which image features are looked up.
    depth_threshold: [m] visibility test of the `released` sampling.
    step_dt: [s] between steps, of the first domain (see `step_dt_of`). horizon: predicted steps.
    grid_size: voxel edge of scene and network [m].
    domains: rows of the normalisation buffers, in order.
    simulated_domains: those whose log-variance the released rule replaces by a constant (`released` mode only).
    domain_step_dt: [s] per domain, where they differ; empty = `step_dt` for all.
    grippers: channels of RobotFlow.gripper_open.
    robot: robot of the first domain. robot_links: links whose surface the model sees ("gripper", "all" or names).
    domain_robot_links: the same per domain, where they differ; empty = `robot_links` for all.
    robot_tokens: robot points per step that become tokens, spread by farthest-point sampling; 0 = all of them.
        Raw scene features look at all robot points either way.
    context_points: how many scene points the network looks at, those nearest to the robot's path; the others are
        predicted to stay. 0 = all of them (always in `released` mode).
    max_scene_points, max_robot_points: caps of the training data.
    spread: (stated standard deviation [m], factor) knots of the map that corrects the predicted spread outside
        training (see `SpreadMap`); none = as the network states it.
    still_below: outside training, a predicted displacement that is shorter than so many of its own standard
        deviations is none.
    head_init_scale: of the displacement head's initial weights; 0 = training starts at "nothing moves".
    """

    arch: PTv3Arch
    mode: Mode = "stable"
    features: Features = "relative"
    sliding: bool = False
    image_channels: int = 0
    encoder: str | None = None
    encoder_layers: tuple[int, ...] = ()
    sampling: Sampling = "centered"
    depth_threshold: float = 0.003
    step_dt: float = 0.1
    horizon: int = HORIZON
    grid_size: float = 0.015
    domains: tuple[str, ...] = ("sim",)
    simulated_domains: tuple[str, ...] = ()
    domain_step_dt: tuple[float, ...] = ()
    grippers: int = 1
    robot: str = "fr3"
    robot_links: tuple[str, ...] | str = "gripper"
    domain_robot_links: tuple[tuple[str, ...] | str, ...] = ()
    robot_tokens: int = 0
    context_points: int = 0
    max_scene_points: int = 12_000
    max_robot_points: int = 500
    head_init_scale: float = 1.0
    spread: tuple[tuple[float, float], ...] = ()
    still_below: float = 0.0

    def __post_init__(self) -> None:
        _require(
            self.mode in typing.get_args(Mode),
            f"mode is '{self.mode}', expected released or stable",
        )
        _require(
            self.features in typing.get_args(Features),
            f"features is '{self.features}', expected released or relative",
        )
        _require(
            self.sampling in typing.get_args(Sampling),
            f"sampling is '{self.sampling}', expected released or centered",
        )
        _require(
            self.horizon == HORIZON,
            f"horizon is {self.horizon}, expected {HORIZON} (the heads have that size)",
        )
        _require(
            self.image_channels >= 0, f"image_channels is {self.image_channels}, expected 0 or more"
        )
        _require(
            self.features == "relative" or not self.sliding,
            "sliding is set, which goes with `relative` features only",
        )
        _require(self.still_below >= 0, f"still_below is {self.still_below}, expected 0 or more")
        _require(self.step_dt > 0, f"step_dt is {self.step_dt}, expected seconds > 0")
        _require(self.grid_size > 0, f"grid_size is {self.grid_size}, expected metres > 0")
        _require(self.grippers in (1, 2), f"grippers is {self.grippers}, expected 1 or 2")
        _require(
            len(self.domains) > 0 and len(set(self.domains)) == len(self.domains),
            f"domains are {self.domains}, expected one or more different names",
        )
        for name in ("domain_step_dt", "domain_robot_links"):
            given = getattr(self, name)
            _require(
                len(given) in (0, len(self.domains)),
                f"{name} has {len(given)} entries for {len(self.domains)} domains",
            )
        _ = self.spread_map  # refuses one that is none
        unknown = set(self.simulated_domains) - set(self.domains)
        _require(
            not unknown,
            f"simulated_domains {sorted(unknown)} are not among the domains {self.domains}",
        )

    @property
    def spread_map(self) -> SpreadMap | None:
        """The correction of the predicted spread, if there is one."""
        if not self.spread:
            return None
        sigma, factor = zip(*self.spread, strict=True)
        return SpreadMap(sigma=sigma, factor=factor)

    @property
    def num_steps(self) -> int:
        """Steps of a chunk, with now."""
        return self.horizon + 1

    @property
    def width(self) -> int:
        """Channels C of every token."""
        return self.arch.in_channels

    @property
    def scene_channels(self) -> int:
        """Raw channels of a scene point (Ds)."""
        if self.features == "relative":
            return relative_scene_channels(self.grippers, sliding=self.sliding)
        return 9 + self.num_steps * (self.grippers + 1)

    @property
    def guesses(self) -> int:
        """Motions that the network is offered at every point and step."""
        return relative_guesses(sliding=self.sliding) if self.features == "relative" else 0

    @property
    def robot_channels(self) -> int:
        """Raw channels of a robot point at one step (Fr)."""
        return (
            relative_robot_channels(self.grippers)
            if self.features == "relative"
            else 15 + self.grippers
        )

    def domain_index(self, name: str) -> int:
        """Row of a domain in the normalisation buffers."""
        if name not in self.domains:
            raise InputError(
                f"domain '{name}' is unknown to this model; it knows {', '.join(self.domains)}"
            )
        return self.domains.index(name)

    def step_dt_of(self, domain: str | None) -> float:
        """Seconds between steps of a domain; of the first one for None."""
        index = 0 if domain is None else self.domain_index(domain)
        return self.domain_step_dt[index] if self.domain_step_dt else self.step_dt

    def robot_links_of(self, domain: str | None) -> tuple[str, ...] | str:
        """Links whose surface the model sees in a domain; of the first one for None."""
        index = 0 if domain is None else self.domain_index(domain)
        return self.domain_robot_links[index] if self.domain_robot_links else self.robot_links

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for a JSON file."""
        return typing.cast(dict[str, Any], _plain(self))

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, where: str = "model spec") -> ModelSpec:
        """Inverse of `to_json`; unknown and missing keys are errors.

        Raises:
            CheckpointError: keys or values do not describe a model.
        """
        built = _checked(cls, values, where)
        if not isinstance(built["arch"], Mapping):
            raise CheckpointError(f"{where}: 'arch' is not a group of keys")
        try:
            built["arch"] = PTv3Arch.from_dict(built["arch"])
            built["spread"] = tuple(
                (float(sigma), float(factor)) for sigma, factor in built["spread"]
            )
            return cls(**built)
        except (InputError, TypeError, ValueError) as error:
            raise CheckpointError(f"{where}: {error}") from error


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(f"model spec: {message}")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _checked(cls: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    values = {**LATER, **values}
    known = {f.name for f in dataclasses.fields(cls) if f.init}
    unknown, missing = sorted(set(values) - known), sorted(known - set(values))
    if unknown or missing:
        raise CheckpointError(
            f"{where}: unknown keys {unknown}, missing keys {missing}; expected {sorted(known)}"
        )
    return {name: _tuples(value) for name, value in values.items()}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
