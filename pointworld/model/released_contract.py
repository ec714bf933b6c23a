"""What a released `.pt` says about itself, checked: the contract of schema version 1.

Source: rules, field names, casts and defaults of the PointWorld release.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pointworld.errors import CheckpointError, InputError
from pointworld.model.spec import ModelSpec
from pointworld.ptv3 import PTv3Arch

SCHEMA_VERSION = 1
#: Top-level keys without which a file is not used.
NEEDED_KEYS = (
    "model",
    "batch_count",
    "epoch_count",
    "sample_count",
    "checkpoint_schema_version",
    "model_contract",
    "data_contract",
)
#: Top-level keys that say nothing about predictions; any others are reported and left alone.
OTHER_KEYS = ("optimizer", "args", "exp_name", "wandb_id")
#: Camera counts came into the contract after the published files were written.
CAMERA_DEFAULTS: dict[str, int] = {
    "train_min_num_cameras": 1,
    "train_max_num_cameras": 3,
    "eval_min_num_cameras": 2,
    "eval_max_num_cameras": 2,
}
_CASTS: dict[str, type] = {
    "ptv3_size": str,
    "ptv3_patch_size": int,
    "predictor_dim": int,
    "max_scene_points": int,
    "max_robot_points": int,
    "grid_size": float,
    "depth_threshold": float,
    "norm_stats_path": str,
    **dict.fromkeys(CAMERA_DEFAULTS, int),
}
_OPTIONAL = ("train_min_num_cameras", "train_max_num_cameras")

#: DROID: every second frame at 15 Hz. BEHAVIOR: every sixth at 30 Hz. The files themselves have no time unit.
STEP_DT = {"droid": 2 / 15, "behavior": 0.2}
_SIDES = ("left", "right")
#: Links whose visual meshes the release samples robot points from (nothing but the gripper).
ROBOT_LINKS: dict[str, tuple[str, ...]] = {
    "droid": (
        "robotiq_85_base_link",
        *(
            f"{side}_{part}"
            for side in _SIDES
            for part in ("outer_knuckle", "outer_finger", "inner_knuckle", "inner_finger")
        ),
    ),
    "behavior": tuple(
        f"{side}_gripper_{part}"
        for side in _SIDES
        for part in ("link", "finger_link1", "finger_link2")
    ),
}
ROBOTS = {"droid": "panda_robotiq", "behavior": "r1pro"}
#: Architectures by the contract's `ptv3_size`, from the predictor width.
Sizes = Mapping[str, Callable[[int], PTv3Arch]]


def _large(width: int) -> PTv3Arch:
    if width != 256:
        raise InputError(f"PTv3 'large' has predictor width 256, got {width}")
    return PTv3Arch.large()


RELEASED_SIZES: Sizes = {"small": PTv3Arch.small, "base": PTv3Arch.base, "large": _large}


@dataclass(frozen=True, kw_only=True)
class ReleasedContract:
    """The validated contract; field names as in the file. domains: rows of the normalisation buffers, in order."""

    ptv3_size: str
    ptv3_patch_size: int
    predictor_dim: int
    max_scene_points: int
    max_robot_points: int
    grid_size: float
    depth_threshold: float
    norm_stats_path: str
    train_min_num_cameras: int | None
    train_max_num_cameras: int | None
    eval_min_num_cameras: int
    eval_max_num_cameras: int
    domains: tuple[str, ...]


def read_contract(content: Mapping[str, Any], *, where: str) -> ReleasedContract:
    """Validate the contract of a loaded file.

    Raises:
        CheckpointError: keys, schema version, fields or values are not those of a released checkpoint.
    """
    missing = sorted(set(NEEDED_KEYS) - set(content))
    if "model_contract" in missing or "data_contract" in missing:
        raise CheckpointError(
            f"{where} has no model_contract / data_contract: it was written before the published format (schema "
            f"version {SCHEMA_VERSION}). Found the keys {sorted(map(str, content))}"
        )
    if missing:
        raise CheckpointError(f"{where}: missing keys {missing}; found {sorted(map(str, content))}")
    version = content["checkpoint_schema_version"]
    if version != SCHEMA_VERSION:
        raise CheckpointError(
            f"{where} has checkpoint schema version {version!r}, expected {SCHEMA_VERSION}"
        )
    for name in ("batch_count", "epoch_count", "sample_count"):
        if not isinstance(content[name], int | float):
            raise CheckpointError(f"{where}: {name} is {content[name]!r}, expected a number")
    fields = _model_fields(content["model_contract"], where)
    return ReleasedContract(**fields, domains=_domains(content["data_contract"], where))


def _model_fields(contract: Any, where: str) -> dict[str, Any]:
    if not isinstance(contract, Mapping):
        raise CheckpointError(
            f"{where}: model_contract is a {type(contract).__name__}, expected a mapping"
        )
    values = {**CAMERA_DEFAULTS, **contract}
    unknown, missing = sorted(set(values) - set(_CASTS)), sorted(set(_CASTS) - set(values))
    if unknown or missing:
        raise CheckpointError(
            f"{where}: model_contract has unknown fields {unknown} and lacks {missing}; expected {sorted(_CASTS)}"
        )
    return {name: _cast(name, values[name], where) for name in _CASTS}


def _cast(name: str, value: Any, where: str) -> Any:
    if value is None and name in _OPTIONAL:
        return None
    target = _CASTS[name]
    try:
        cast = target(value)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{where}: model_contract field '{name}' is {value!r}, expected {target.__name__}"
        ) from error
    if target is not str and not cast > 0:
        raise CheckpointError(
            f"{where}: model_contract field '{name}' is {value!r}, expected a positive number"
        )
    return cast


def _domains(contract: Any, where: str) -> tuple[str, ...]:
    if not isinstance(contract, Mapping) or set(contract) != {"domains"}:
        raise CheckpointError(f"{where}: data_contract is {contract!r}, expected one key 'domains'")
    given = contract["domains"]
    parts: Sequence[Any] = given.split(",") if isinstance(given, str) else given
    if not isinstance(parts, list | tuple):
        raise CheckpointError(f"{where}: domains are {given!r}, expected a list of names")
    names = tuple(str(part).strip() for part in parts if str(part).strip())
    if not names or len(set(names)) != len(names):
        raise CheckpointError(f"{where}: domains are {given!r}, expected different names")
    return names


def contract_spec(
    contract: ReleasedContract,
    *,
    image_channels: int,
    encoder_layers: tuple[int, ...],
    robot_channels: int,
    sizes: Sizes = RELEASED_SIZES,
    where: str,
) -> ModelSpec:
    """The model that a contract describes, with the time base and robot links that the release leaves unsaid.

    Args:
        image_channels, robot_channels: second dimensions of `feat_proj` and `robot_proj.fc1`.
        encoder_layers: blocks of the image encoder whose outputs are used.
        sizes: architectures by name.

    Raises:
        CheckpointError: the size or width is none of the release's.
    """
    if contract.ptv3_size not in sizes:
        raise CheckpointError(
            f"{where}: ptv3_size is '{contract.ptv3_size}', expected one of {', '.join(sizes)}"
        )
    if robot_channels not in (16, 17):
        raise CheckpointError(
            f"{where}: robot_proj takes {robot_channels} channels, expected 16 (one gripper) or 17 (two)"
        )
    families = [_family(domain) for domain in contract.domains]
    try:
        arch = sizes[contract.ptv3_size](contract.predictor_dim)
        values = {**arch.to_dict(), "patch_size": contract.ptv3_patch_size}
        return ModelSpec(
            arch=PTv3Arch.from_dict(values),
            mode="released",
            features="released",
            image_channels=image_channels,
            encoder="dinov3:released",
            encoder_layers=encoder_layers,
            sampling="released",
            depth_threshold=contract.depth_threshold,
            grid_size=contract.grid_size,
            step_dt=STEP_DT[families[0]],
            domains=contract.domains,
            domain_step_dt=tuple(STEP_DT[family] for family in families),
            simulated_domains=tuple(d for d in contract.domains if "behavior" in d),
            grippers=robot_channels - 15,
            robot=ROBOTS[families[0]],
            robot_links=ROBOT_LINKS[families[0]],
            domain_robot_links=tuple(ROBOT_LINKS[family] for family in families),
            max_scene_points=contract.max_scene_points,
            max_robot_points=contract.max_robot_points,
        )
    except InputError as error:
        raise CheckpointError(f"{where}: {error}") from error


def _family(domain: str) -> str:
    return "behavior" if "behavior" in domain else "droid"
