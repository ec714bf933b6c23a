"""From a stored clip to metres: positions of every point at every step, images, robot state, in the robot base frame.

Source: decoding rules of the PointWorld release (half floats, millimetres, normals / 127, tool frames, pixel centres).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pointworld.data.released import layout
from pointworld.data.released.layout import RawClip
from pointworld.errors import InputError
from pointworld.geometry import make_transform, quat_wxyz_to_matrix
from pointworld.types import check_rigid

#: Seconds per step: DROID takes every second frame of 15 Hz, BEHAVIOR every sixth of 30 Hz. The files do not say.
STEP_DT = {"droid": 2 / 15, "behavior": 0.2}
#: From the recorded wrist to the tool centre of a DROID gripper, along its z axis [m].
DROID_TOOL_OFFSET = 0.15
#: Joints of a DROID row: the arm's seven, then the finger joint (0 open, 0.725 rad closed).
DROID_JOINTS = (*(f"panda_joint{i}" for i in range(1, 8)), "finger_joint")


@dataclass(frozen=True, kw_only=True, eq=False)
class ReleasedCamera:
    """One camera of a clip and the points that it saw.

    positions: (steps, points, 3) float32 [m]. colors: (points, 3) uint8 and normals: (points, 3) float32 at step 0;
    nothing reads those of later steps. supervised: (steps, points) bool, the position is known.
    bodies: (points,) int64 index into body_names; empty names where the data does not know bodies (all zero then).
    rgb: (180, 320, 3) uint8. depth: (180, 320) float32 [m], 0 = unknown.
    K: (3, 3) float64, pixel centres at integer + 0.5. T_base_cam: (4, 4) float64.
    """

    name: str
    positions: np.ndarray
    colors: np.ndarray
    normals: np.ndarray
    supervised: np.ndarray
    bodies: np.ndarray
    body_names: tuple[str, ...]
    rgb: np.ndarray
    depth: np.ndarray
    K: np.ndarray
    T_base_cam: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class ReleasedClip:
    """A decoded clip in the robot base frame (BEHAVIOR: the base as it was at step 0).

    cameras: by name. joint_positions: (steps, joints) float64, ordered as joint_names.
    sides: arms of the next two, right first. gripper_open: (steps, arms) bool.
    gripper_poses: (steps, arms, 4, 4) tool centres. base_poses: (steps, 4, 4) of a robot that drives, or None.
    """

    key: str
    domain: str
    cameras: tuple[ReleasedCamera, ...]
    joint_names: tuple[str, ...]
    joint_positions: np.ndarray
    sides: tuple[str, ...]
    gripper_open: np.ndarray
    gripper_poses: np.ndarray
    base_poses: np.ndarray | None
    attributes: Mapping[str, Any]
    source: str

    @property
    def step_dt(self) -> float:
        """Seconds per step."""
        return STEP_DT[self.domain]


def decode_clip(raw: RawClip) -> ReleasedClip:
    """Decode a clip from either container.

    Raises:
        InputError: broken image, calibration that is not rigid, a zero quaternion, NaN or infinity.
    """
    where = f"{raw.source}: {raw.key}"
    decode = _droid_points if raw.domain == "droid" else _behavior_points
    cameras = []
    for name in sorted(raw.cameras):
        camera = raw.cameras[name]
        cameras.append(
            ReleasedCamera(
                name=name,
                **decode(camera, f"{where} {name}"),
                rgb=decode_rgb(camera[layout.RGB], f"{where} {name}"),
                depth=camera["initial_depth"].astype(np.float32) / np.float32(1000.0),
                K=_intrinsic(camera["intrinsic"]),
                T_base_cam=_camera_pose(camera["extrinsic"], f"{where} {name}"),
            )
        )
    robot = _droid_robot(raw, where) if raw.domain == "droid" else _behavior_robot(raw, where)
    return ReleasedClip(
        key=raw.key,
        domain=raw.domain,
        cameras=tuple(cameras),
        attributes=raw.attributes,
        source=raw.source,
        **robot,
    )


def decode_rgb(data: bytes, where: str) -> np.ndarray:
    """(180, 320, 3) uint8 from JPEG bytes; another size is refused before decoding."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            if image.size != (layout.IMAGE_WIDTH, layout.IMAGE_HEIGHT):
                raise InputError(
                    f"{where}: image is {image.size[0]}x{image.size[1]}, expected "
                    f"{layout.IMAGE_WIDTH}x{layout.IMAGE_HEIGHT}"
                )
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{where}: initial_rgb is no readable JPEG ({error})") from error


def _droid_points(camera: Mapping[str, Any], where: str) -> dict[str, Any]:
    positions = _finite(camera["scene_flows"].astype(np.float32), f"{where} scene_flows")
    return {
        "positions": positions,
        "colors": camera["scene_colors"][0],
        "normals": _normals(camera["scene_normals"][0]),
        "supervised": camera["scene_visibility"] & camera["scene_depth_valid_mask"],
        "bodies": np.zeros(positions.shape[1], np.int64),
        "body_names": (),
    }


def _behavior_points(camera: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Points of rigid meshes, moved along their trajectories."""
    names = tuple(sorted(camera["local_scene_points"]))
    positions, normals, colors, bodies = [], [], [], []
    for body, mesh in enumerate(names):
        T = poses_xyzw(camera["scene_mesh_trajectories"][mesh], f"{where} {mesh}").astype(
            np.float32
        )
        local = _finite(
            camera["local_scene_points"][mesh].astype(np.float32), f"{where} {mesh} points"
        )
        positions.append(local @ T[:, :3, :3].swapaxes(-1, -2) + T[:, None, :3, 3])
        normals.append(_normals(camera["local_scene_normals"][mesh]) @ T[0, :3, :3].T)
        colors.append(camera["local_scene_colors"][mesh])
        bodies.append(np.full(len(local), body, np.int64))
    if not names:
        positions, normals = (
            [np.zeros((layout.STEPS, 0, 3), np.float32)],
            [np.zeros((0, 3), np.float32)],
        )
        colors, bodies = [np.zeros((0, 3), np.uint8)], [np.zeros(0, np.int64)]
    stacked = np.concatenate(positions, axis=1)
    return {
        "positions": stacked,
        "colors": np.concatenate(colors),
        "normals": np.concatenate(normals).astype(np.float32),
        "supervised": np.ones(stacked.shape[:2], bool),
        "bodies": np.concatenate(bodies),
        "body_names": names,
    }


def _droid_robot(raw: RawClip, where: str) -> dict[str, Any]:
    fields = raw.fields
    tool = poses_xyzw(fields["gripper_pose"], f"{where} gripper_pose")
    tool[:, :3, 3] += DROID_TOOL_OFFSET * tool[:, :3, 2]
    joints = np.concatenate([fields["joint_positions"], fields["gripper_positions"][:, None]], 1)
    return {
        "joint_names": DROID_JOINTS,
        "joint_positions": _finite(joints.astype(np.float64), f"{where} joint_positions"),
        "sides": ("right",),
        "gripper_open": fields["gripper_open"],
        "gripper_poses": tool[:, None],
        "base_poses": None,
    }


def _behavior_robot(raw: RawClip, where: str) -> dict[str, Any]:
    fields, sides = raw.fields, ("right", "left")
    names, joints = fields[layout.JOINT_NAMES], fields["joint_positions"]
    if len(names) != joints.shape[1] or len(set(names)) != len(names):
        raise InputError(
            f"{where}: {len(names)} joint names ({len(set(names))} different) for {joints.shape[1]} columns"
        )
    poses = [
        poses_xyzw(fields[f"{side}_gripper_pose"], f"{where} {side}_gripper_pose") for side in sides
    ]
    tools = np.stack(poses, 1)
    tools[..., :3, :2] *= -1.0  # half a turn about the tool's z axis
    return {
        "joint_names": tuple(names),
        "joint_positions": _finite(joints.astype(np.float64), f"{where} joint_positions"),
        "sides": sides,
        "gripper_open": np.concatenate([fields[f"{side}_gripper_open"] for side in sides], 1),
        "gripper_poses": tools,
        "base_poses": poses_xyzw(fields["base_pose"], f"{where} base_pose"),
    }


def poses_xyzw(values: np.ndarray, where: str) -> np.ndarray:
    """(n, 4, 4) float64 from rows of position [m] and quaternion in x, y, z, w order.

    Raises:
        InputError: NaN, infinity, or a quaternion of no length.
    """
    rows = _finite(values.astype(np.float64), where)
    lengths = np.linalg.norm(rows[:, 3:], axis=-1)
    if len(rows) and lengths.min() < 1e-3:
        raise InputError(f"{where}: a quaternion has length {lengths.min():.2g}, expected 1")
    return make_transform(quat_wxyz_to_matrix(rows[:, [6, 3, 4, 5]]), rows[:, :3])


def _camera_pose(extrinsic: np.ndarray, where: str) -> np.ndarray:
    """T_base_cam from the stored base-to-camera transform."""
    T = extrinsic.astype(np.float64)
    check_rigid(T, where, "extrinsic")
    return np.linalg.inv(T)


def _intrinsic(K: np.ndarray) -> np.ndarray:
    """The release has pixel centres at integers; ours are at + 0.5."""
    ours = K.astype(np.float64)
    ours[:2, 2] += 0.5
    return ours


def _normals(stored: np.ndarray) -> np.ndarray:
    return stored.astype(np.float32) / np.float32(127.0)


def _finite(values: np.ndarray, where: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise InputError(f"{where} contains NaN or infinity; leave this clip out")
    return values
