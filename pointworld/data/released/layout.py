"""Names, dtypes and shapes of the released DROID and BEHAVIOR clips, and the checks on them.

Source: the data layout of the PointWorld release (H5 files and WebDataset shards).
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal, get_args

import numpy as np

from pointworld.errors import InputError

Domain = Literal["droid", "behavior"]
DOMAINS: tuple[str, ...] = get_args(Domain)

#: Steps of a clip: now and ten later ones.
STEPS = 11
IMAGE_HEIGHT, IMAGE_WIDTH = 180, 320
#: No released clip comes near these; larger claims are refused before memory is taken.
MAX_POINTS = 1 << 20
MAX_JOINTS = 256
MAX_MESHES = 1 << 14
MAX_CAMERAS = 16
MAX_JPEG_BYTES = 4 << 20
_LIMITS = {"N": MAX_POINTS, "J": MAX_JOINTS}

_CLIP_RANGE = re.compile(r"(\d{1,9}):(\d{1,9})")
_FLOWS_BEFORE_RANGE = re.compile(r"_flows(?=-\d{1,9}:\d{1,9}$)")
_TASK = re.compile(r"task-\w+")


@dataclass(frozen=True, kw_only=True)
class FieldSpec:
    """dtype: as documented; another float width is accepted for floats. shape: sizes, or "N" points, "J" joints."""

    dtype: str
    shape: tuple[int | str, ...]


def _clip(dtype: str, *rest: int | str) -> FieldSpec:
    return FieldSpec(dtype=dtype, shape=(STEPS, *rest))


_IMAGES: dict[str, FieldSpec] = {
    "initial_depth": FieldSpec(dtype="uint16", shape=(IMAGE_HEIGHT, IMAGE_WIDTH)),
    "intrinsic": FieldSpec(dtype="float32", shape=(3, 3)),
    "extrinsic": FieldSpec(dtype="float32", shape=(4, 4)),
}
#: JPEG bytes, beside the arrays of each camera.
RGB = "initial_rgb"

#: Arrays per camera, by domain.
CAMERA_FIELDS: dict[str, dict[str, FieldSpec]] = {
    "droid": {
        "scene_flows": _clip("float16", "N", 3),
        "scene_colors": _clip("uint8", "N", 3),
        "scene_normals": _clip("int8", "N", 3),
        "scene_visibility": _clip("bool", "N"),
        "scene_depth_valid_mask": _clip("bool", "N"),
        **_IMAGES,
    },
    "behavior": dict(_IMAGES),
}
#: Dictionaries mesh -> array per camera (BEHAVIOR only); N is counted per mesh.
MESH_FIELDS: dict[str, FieldSpec] = {
    "local_scene_points": FieldSpec(dtype="float16", shape=("N", 3)),
    "local_scene_colors": FieldSpec(dtype="uint8", shape=("N", 3)),
    "local_scene_normals": FieldSpec(dtype="int8", shape=("N", 3)),
    "scene_mesh_trajectories": _clip("float32", 7),
}
#: Arrays per clip, by domain: those that the shards keep.
CLIP_FIELDS: dict[str, dict[str, FieldSpec]] = {
    "droid": {
        "joint_positions": _clip("float32", 7),
        "gripper_positions": _clip("float32"),
        "gripper_open": _clip("bool", 1),
        "gripper_pose": _clip("float32", 7),
    },
    "behavior": {
        "joint_positions": _clip("float32", "J"),
        "base_pose": _clip("float32", 7),
        "right_gripper_open": _clip("bool", 1),
        "right_gripper_pose": _clip("float32", 7),
        "left_gripper_open": _clip("bool", 1),
        "left_gripper_pose": _clip("float32", 7),
    },
}
#: Arrays that only the H5 files have, read when present.
EXTRA_CLIP_FIELDS: dict[str, dict[str, FieldSpec]] = {
    "droid": {
        "joint_velocities": _clip("float32", 7),
        "joint_torques": _clip("float32", 7),
    },
    "behavior": {
        "world_to_robot": FieldSpec(dtype="float32", shape=(4, 4)),
        "right_is_grasping": _clip("bool", 1),
        "left_is_grasping": _clip("bool", 1),
    },
}
JOINT_NAMES = "joint_names"
CLIP_ATTRIBUTES = "clip_attributes"

#: Attributes that every BEHAVIOR clip has.
BEHAVIOR_ATTRIBUTES: tuple[str, ...] = (
    "clip_key",
    "num_frames",
    "num_scene_points",
    "has_transition",
    "any_object_moving",
    "gripper_moving",
    "has_gripper_state_change",
    "robot_nonbase_moving",
    "has_trunk_arm_collision",
    "has_left_gripper_finger_collision",
    "has_right_gripper_finger_collision",
    "max_object_pos_movement",
    "max_object_rot_movement",
    "max_gripper_pos_movement",
    "max_gripper_rot_movement",
    "max_joint_movement",
    "left_min_distance_to_moving_objects",
    "right_min_distance_to_moving_objects",
    "left_min_distance_to_all_objects",
    "right_min_distance_to_all_objects",
    "clip_complete",
)
#: Those of them that are neither measured nor flags; nothing reads them.
_OTHER_ATTRIBUTES = ("clip_key", "num_frames", "num_scene_points")


@dataclass(frozen=True, kw_only=True, eq=False)
class RawClip:
    """A clip as stored, whatever container it came from; every array checked against this module's tables.

    key: canonical clip id. cameras: name -> modality -> array, JPEG bytes, or dict mesh -> array.
    fields: clip-level arrays and `joint_names` (a tuple of str). attributes: clip attributes (BEHAVIOR).
    source: where it was read, for messages.
    """

    key: str
    domain: str
    cameras: Mapping[str, Mapping[str, Any]]
    fields: Mapping[str, Any]
    source: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


def canonical_stem(stem: str) -> str:
    """File stem of an episode without the trailing `_flows` of the released DROID files."""
    return stem.removesuffix("_flows")


def canonical_key(key: str) -> str:
    """Clip id without a `_flows` before its step range; ids of files and of the paper's manifest then agree."""
    return _FLOWS_BEFORE_RANGE.sub("", key)


def check_clip_range(name: str, where: str) -> str:
    """Return `name` if it is `start:end` over 11 steps.

    Raises:
        InputError: it is something else.
    """
    match = _CLIP_RANGE.fullmatch(name)
    if match is None or int(match[2]) - int(match[1]) != STEPS:
        raise InputError(
            f"{where}: clip '{name}' is not a half-open range start:end of {STEPS} steps, like 25:36"
        )
    return name


def is_clip_range(name: str) -> bool:
    """Whether a group name has the form `start:end`."""
    return _CLIP_RANGE.fullmatch(name) is not None


def clip_id(path: PurePath, clip: str, domain: str) -> str:
    """Canonical id of a clip of an H5 file: `<uuid>-<start>:<end>`, or `task-XXXX_episode_YYYYYYYY-<start>:<end>`."""
    stem = canonical_stem(path.stem)
    if domain == "behavior" and _TASK.fullmatch(path.parent.name):
        stem = f"{path.parent.name}_{stem}"
    return f"{stem}-{clip}"


def check_domain(domain: object, where: str) -> str:
    """Return the domain if it is known.

    Raises:
        InputError: it is not.
    """
    if domain not in DOMAINS:
        raise InputError(f"{where}: domain is {domain!r}, expected one of {', '.join(DOMAINS)}")
    return str(domain)


def check_claim(
    spec: FieldSpec,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    where: str,
    sizes: dict[str, int],
) -> None:
    """Check what a file says about an array, before the array is read.

    Args:
        sizes: sizes of "N" and "J" so far; new ones are added, known ones must agree.

    Raises:
        InputError: other dtype or shape than documented, or more than the limits of this module.
    """
    documented = np.dtype(spec.dtype)
    same = dtype == documented or (
        documented.kind == "f" and dtype.kind == "f" and dtype.itemsize <= 8
    )
    if not same or dtype.hasobject:
        raise InputError(f"{where}: dtype is {dtype}, expected {spec.dtype}")
    if len(shape) != len(spec.shape):
        raise InputError(f"{where}: shape is {shape}, expected {_words(spec.shape)}")
    for got, want in zip(shape, spec.shape, strict=True):
        if isinstance(want, str):
            if got > _LIMITS[want]:
                raise InputError(
                    f"{where}: claims {got} {'points' if want == 'N' else 'joints'}, at most {_LIMITS[want]} are read"
                )
            want = sizes.setdefault(want, got)
        if got != want:
            raise InputError(
                f"{where}: shape is {shape}, expected {_words(spec.shape)} with {sizes or 'no free size'}"
            )


def _words(shape: tuple[int | str, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def check_mesh_sizes(camera: Mapping[str, Any], where: str) -> None:
    """Raise InputError unless the mesh dictionaries of a BEHAVIOR camera name the same meshes."""
    names = {modality: set(camera[modality]) for modality in MESH_FIELDS}
    expected = names["local_scene_points"]
    for modality, found in names.items():
        if found != expected:
            raise InputError(
                f"{where}: {modality} names other meshes than local_scene_points: {sorted(found ^ expected)[:4]}"
            )


def attribute_value(attributes: Mapping[str, Any], name: str, where: str) -> float:
    """A movement, distance or flag (0 or 1) of a BEHAVIOR clip; an array of one value counts as that value.

    Raises:
        InputError: a movement or distance that is no real number, or a flag that is no bool or integer.
    """
    value = attributes[name]
    measured = name.startswith("max_") or "_min_distance_" in name
    plain = isinstance(value, bool | int | float | np.generic | np.ndarray)
    array = np.asarray(value if plain else None)
    if array.size != 1 or array.dtype.kind not in ("biuf" if measured else "biu"):
        raise InputError(
            f"{where}: clip attribute '{name}' is {reprlib.repr(value)}, expected "
            f"{'a number' if measured else 'true or false'}. Leave this clip out."
        )
    return float(array.item())


def require_attributes(attributes: Mapping[str, Any], where: str) -> None:
    """Raise InputError unless all attributes of a BEHAVIOR clip are there, of their kinds, and the clip is complete."""
    missing = [name for name in BEHAVIOR_ATTRIBUTES if name not in attributes]
    if missing:
        raise InputError(f"{where}: clip attributes lack {', '.join(missing)}")
    for name in BEHAVIOR_ATTRIBUTES:
        if name not in _OTHER_ATTRIBUTES:
            attribute_value(attributes, name, where)
    if not attribute_value(attributes, "clip_complete", where):
        raise InputError(
            f"{where}: clip_complete is false: the writer was interrupted. Leave it out."
        )
