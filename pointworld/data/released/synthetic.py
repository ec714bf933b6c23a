"""Writes small files in the released layouts, for tests and for trying out code without the terabytes.

A table with one box that slides, seen by cameras from above. Names, dtypes and shapes are those of the release; the
robot's motion is made up.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pointworld.data.released import layout
from pointworld.data.released.layout import CAMERA_FIELDS, CLIP_FIELDS, MESH_FIELDS, RawClip
from pointworld.errors import MissingExtraError
from pointworld.files import atomic_path, write_json
from pointworld.geometry import transform_points, unproject

#: Table height, the box's half size and height above the table, and how far it slides in a clip [m].
_TABLE, _BOX, _HEIGHT, _SLIDE = 0.0, 0.06, 0.1, 0.15
_CENTRE = np.array([0.5, 0.0])
_R1_JOINTS = (
    *(f"torso_joint{i}" for i in range(1, 5)),
    *(f"{side}_arm_joint{i}" for side in ("left", "right") for i in range(1, 8)),
    *(f"{side}_gripper_finger_joint{i}" for side in ("left", "right") for i in (1, 2)),
)


def droid_clip(
    rng: np.random.Generator,
    *,
    key: str = "SYNTH+0a1b2c3d+2023-01-01-00h-00m-00s-0:11",
    serials: Sequence[str] = ("11111111", "22222222"),
    points: int = 3000,
) -> RawClip:
    """A DROID clip with `points` tracks per camera."""
    cameras = {}
    for i, serial in enumerate(serials):
        images, world, colors = _view(rng, i)
        index = np.sort(rng.choice(len(world), min(points, len(world)), replace=False))
        on_box = world[index, 2] > _TABLE + _HEIGHT / 2
        positions = np.repeat(world[None, index], layout.STEPS, 0)
        positions[:, on_box, 0] += _slide()[:, None]
        count = len(index)
        seen = rng.random((layout.STEPS, count)) < 0.95
        seen[0] = True
        up = np.zeros((layout.STEPS, count, 3), np.int8)
        up[..., 2] = 127
        cameras[f"camera_{serial}_ext"] = {
            "scene_flows": positions.astype(np.float16),
            "scene_colors": np.repeat(colors[None, index], layout.STEPS, 0),
            "scene_normals": up,
            "scene_visibility": seen,
            "scene_depth_valid_mask": rng.random((layout.STEPS, count)) < 0.98,
            **images,
        }
    finger = np.linspace(0.0, 0.4, layout.STEPS).astype(np.float32)
    fields = {
        "joint_positions": _arm(rng),
        "joint_velocities": np.zeros((layout.STEPS, 7), np.float32),
        "joint_torques": np.zeros((layout.STEPS, 7), np.float32),
        "gripper_positions": finger,
        "gripper_open": (finger < 0.1)[:, None],
        "gripper_pose": _tool_path(0.0),
    }
    return RawClip(key=key, domain="droid", cameras=cameras, fields=fields, source="synthetic")


def behavior_clip(
    rng: np.random.Generator,
    *,
    key: str = "task-0000_episode_00000010-0:11",
    joint_names: Sequence[str] = _R1_JOINTS,
    **attributes: Any,
) -> RawClip:
    """A BEHAVIOR clip of two meshes, a table and a sliding box; `attributes` replace the made-up ones."""
    trajectory = np.zeros((layout.STEPS, 7), np.float32)
    trajectory[:, 6] = 1.0
    box = trajectory.copy()
    box[:, 0] = _CENTRE[0] + _slide()
    box[:, 2] = _TABLE + _HEIGHT / 2
    paths = {"__World__table__visuals": trajectory, "__World__box__visuals": box}
    cameras = {}
    for i, name in enumerate(("head", "left", "right")):
        images, world, colors = _view(rng, i)
        index = np.sort(rng.choice(len(world), min(2500, len(world)), replace=False))
        on_box = world[index, 2] > _TABLE + _HEIGHT / 2
        meshes: dict[str, dict[str, np.ndarray]] = {modality: {} for modality in MESH_FIELDS}
        for mesh, rows in zip(paths, (index[~on_box], index[on_box]), strict=True):
            normals = np.zeros((len(rows), 3), np.int8)
            normals[:, 2] = 127
            meshes["local_scene_points"][mesh] = (world[rows] - paths[mesh][0, :3]).astype(
                np.float16
            )
            meshes["local_scene_colors"][mesh] = colors[rows]
            meshes["local_scene_normals"][mesh] = normals
            meshes["scene_mesh_trajectories"][mesh] = paths[mesh]
        cameras[f"camera_{name}"] = {
            **images,
            # The made-up cameras stand still. Shards do not keep it.
            "extrinsic_trajectory": np.repeat(images["extrinsic"][None], layout.STEPS, 0),
            **meshes,
        }
    open_hand = np.ones((layout.STEPS, 1), bool)
    fields: dict[str, Any] = {
        "joint_positions": rng.uniform(-0.3, 0.3, (layout.STEPS, len(joint_names))).astype(
            np.float32
        ),
        layout.JOINT_NAMES: tuple(joint_names),
        "base_pose": trajectory + np.eye(layout.STEPS, 7, dtype=np.float32) * 0.01,
        "world_to_robot": np.eye(4, dtype=np.float32),
    }
    for side, y in (("right", -0.2), ("left", 0.2)):
        fields[f"{side}_gripper_open"] = open_hand
        fields[f"{side}_is_grasping"] = ~open_hand
        fields[f"{side}_gripper_pose"] = _tool_path(y)
    return RawClip(
        key=key,
        domain="behavior",
        cameras=cameras,
        fields=fields,
        attributes={**_behavior_attributes(key), **attributes},
        source="synthetic",
    )


def _behavior_attributes(key: str) -> dict[str, Any]:
    values: dict[str, Any] = dict.fromkeys(layout.BEHAVIOR_ATTRIBUTES, False)
    numbers = [name for name in values if name.startswith("max_") or "_min_distance_" in name]
    values |= dict.fromkeys(numbers, 0.1)
    values |= {
        "clip_key": key.rpartition("-")[2],
        "num_frames": layout.STEPS,
        "num_scene_points": 7500,
        "any_object_moving": True,
        "clip_complete": True,
    }
    return values


def _slide() -> np.ndarray:
    """(steps,) how far the box has slid [m]: it starts and stops smoothly."""
    return _SLIDE * (1 - np.cos(np.linspace(0, np.pi, layout.STEPS))) / 2


def _arm(rng: np.random.Generator) -> np.ndarray:
    home = np.array([0.0, -0.4, 0.0, -2.2, 0.0, 1.9, 0.0])
    drift = np.linspace(0, 1, layout.STEPS)[:, None] * rng.uniform(-0.15, 0.15, 7)
    return (home + drift).astype(np.float32)


def _tool_path(y: float) -> np.ndarray:
    """(steps, 7) positions and xyzw quaternions, pointing down."""
    rows = np.zeros((layout.STEPS, 7), np.float32)
    rows[:, 0] = 0.4 + _slide()
    rows[:, 1] = y
    rows[:, 2] = 0.3
    rows[:, 3] = 1.0
    return rows


def _view(rng: np.random.Generator, number: int) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """One camera looking at the table: its stored images, and points (pixels, 3) and colours of what it sees."""
    K = np.array([[260.0, 0, 159.5], [0, 260.0, 89.5], [0, 0, 1]])
    T = np.eye(4)
    T[:3, :3] = np.diag([1.0, -1.0, -1.0])  # looks straight down
    T[:3, 3] = [_CENTRE[0] + 0.03 * number, 0.05 * number, 0.9]
    ours = K.copy()
    ours[:2, 2] += 0.5
    depth = np.full((layout.IMAGE_HEIGHT, layout.IMAGE_WIDTH), T[2, 3] - _TABLE)
    top = transform_points(T, unproject(depth - _HEIGHT, ours).reshape(-1, 3))
    on_box = (np.abs(top[:, :2] - _CENTRE) < _BOX).all(1).reshape(depth.shape)
    depth[on_box] -= _HEIGHT
    rgb = np.where(on_box[..., None], (200, 60, 40), (120, 110, 100)).astype(np.uint8)
    rgb += rng.integers(0, 20, rgb.shape, dtype=np.uint8)
    images = {
        layout.RGB: _jpeg(rgb),
        "initial_depth": (depth * 1000).astype(np.uint16),
        "intrinsic": K.astype(np.float32),
        "extrinsic": np.linalg.inv(T).astype(np.float32),
    }
    world = transform_points(T, unproject(depth, ours).reshape(-1, 3))
    return images, world, rgb.reshape(-1, 3)


def _jpeg(rgb: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()


def write_h5(path: str | Path, clips: Mapping[str, RawClip]) -> None:
    """Write an episode file; `clips` by step range `start:end`, all of one domain.

    Raises:
        MissingExtraError: h5py is not installed.
    """
    h5py = _h5py()
    domain = next(iter(clips.values())).domain
    source = Path(path)
    with atomic_path(source) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["domain"] = domain
        if domain == "droid":
            file.attrs.update({"uuid": layout.canonical_stem(source.stem), "scene_path": "gs://"})
            _put_episode(file, clips)
        else:
            file.attrs.update({"episode_complete": True, "source_file": "", "num_scene_points": 1})
        for name, clip in clips.items():
            _write_clip(file.create_group(name), clip)


def _put_episode(file: Any, clips: Mapping[str, RawClip]) -> None:
    """What a released DROID file says of its whole episode: clips are ranges of its timeline."""
    steps = max(int(name.split(":")[1]) for name in clips)
    file.attrs["canonical_timestamps"] = [str(66 * 2 * i) for i in range(steps)]
    file.attrs["ee_pos_threshold"] = 0.01
    # Their lengths are not documented: here they are those of the timeline.
    _put(file, "ee_pos_motion_magnitudes", np.zeros(steps, np.float32))
    _put(file, "ee_rot_motion_magnitudes", np.zeros(steps, np.float32))
    _put(file, "has_gripper_movement", np.zeros(steps, bool))


def _write_clip(group: Any, clip: RawClip) -> None:
    for name, value in clip.fields.items():
        if name == layout.JOINT_NAMES:
            _put(group, name, list(value), dtype=_h5py().string_dtype("utf-8"))
        else:
            _put(group, name, value)
    group.attrs.update(clip.attributes or {"demo_length": layout.STEPS})
    for name, camera in clip.cameras.items():
        folder = group.create_group(name)
        for modality, value in camera.items():
            if modality == layout.RGB:
                _put_jpeg(folder, value)
            elif isinstance(value, dict):
                meshes = folder.create_group(modality)
                for mesh, array in value.items():
                    _put(meshes, mesh, array).attrs["prim_path"] = mesh.replace("__", "/")
            elif modality == "initial_depth":
                _put(folder, modality, value, compression="gzip", compression_opts=4)
            else:
                _put(folder, modality, value)


def _put(group: Any, name: str, value: Any, **options: Any) -> Any:
    dataset = group.create_dataset(name, data=value, **options)
    dataset.attrs["write_complete"] = True
    return dataset


def _put_jpeg(group: Any, data: bytes) -> None:
    dataset = group.create_dataset(layout.RGB, (1,), dtype=_h5py().vlen_dtype(np.uint8))
    dataset[0] = np.frombuffer(data, np.uint8)
    dataset.attrs.update({"format": "jpeg", "quality": 95, "write_complete": True})
    dataset.attrs["original_shape"] = (layout.IMAGE_HEIGHT, layout.IMAGE_WIDTH, 3)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("h5py", "datasets", "writing released H5 files") from error
    return h5py


def wds_sample(clip: RawClip, *, key: str | None = None) -> dict[str, Any]:
    """The members of a clip as the webdataset package takes them: the modalities that the shards keep."""
    sample: dict[str, Any] = {"__key__": key or clip.key}
    for name in CLIP_FIELDS[clip.domain]:
        sample[f"{name}.npy"] = clip.fields[name]
    if clip.domain == "behavior":
        sample[f"{layout.JOINT_NAMES}.pyd"] = np.array(clip.fields[layout.JOINT_NAMES])
        sample[f"{layout.CLIP_ATTRIBUTES}.pyd"] = dict(clip.attributes)
    for camera, values in clip.cameras.items():
        sample[f"{camera}_{layout.RGB}.jpg"] = values[layout.RGB]
        for modality in CAMERA_FIELDS[clip.domain]:
            sample[f"{camera}_{modality}.npy"] = values[modality]
        for modality in MESH_FIELDS if clip.domain == "behavior" else ():
            sample[f"{camera}_{modality}.pyd"] = values[modality]
    return sample


def write_wds(root: str | Path, split: str, clips: Mapping[str, RawClip], *, rank: int = 0) -> Path:
    """Write one shard with the webdataset package (which pickles `.pyd` members), and its metadata.

    Args:
        clips: by the key to write, which may contain `_flows`.

    Returns:
        The shard.

    Raises:
        MissingExtraError: webdataset is not installed.
    """
    try:
        import webdataset
    except ImportError as error:
        raise MissingExtraError("webdataset", "datasets", "writing shards") from error
    shard = Path(root) / split / f"{split}-rank{rank:02d}-000000.tar"
    shard.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_path(shard) as temporary,
        temporary.open("wb") as stream,
        webdataset.TarWriter(stream, mtime=0.0) as writer,
    ):
        for key, clip in clips.items():
            writer.write(wds_sample(clip, key=key))
    counts = {"processed_count": len(clips), "global_selected_count": len(clips)}
    content = {split: {**counts, "worker_assigned_count": len(clips)}, "config": {}}
    write_json(Path(root) / f"metadata_rank{rank}.json", json.loads(json.dumps(content)))
    return shard
