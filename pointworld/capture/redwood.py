"""Open3D / Redwood layout: trajectory.log, a folder of colour images, a folder of depth images.

Depth: uint16 millimetres, 0 and 65535 = unknown, registered to colour. Poses: camera to world, OpenCV axes, five
lines each (three integers, then 4x4). K: camera_intrinsic.json as Open3D writes it (column-major).
Pixel convention: Open3D un-projects integer pixel indices, so its principal point has integer centres; 0.5 is added.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pointworld.capture.listing import HALF_PIXEL, DepthCoding, FrameEntry, Listing
from pointworld.capture.text import data_lines, natural_key, read_intrinsics, read_text
from pointworld.errors import InputError

LOOKS_FOR = "trajectory.log with color/ (or rgb/, image/) and depth/ (Open3D, Redwood)"

TRAJECTORIES = ("trajectory.log", "scene/trajectory.log", "trajectory.txt")
COLOR_FOLDERS = ("color", "rgb", "image")
K_JSON = ("camera_intrinsic.json", "intrinsic.json", "camera.json")
K_TEXT = ("camera-intrinsics.txt", "intrinsics.txt")


def matches(folder: Path) -> bool:
    """True when there is a trajectory beside colour and depth folders."""
    trajectory = any((folder / name).is_file() for name in TRAJECTORIES)
    colors = any((folder / name).is_dir() for name in COLOR_FOLDERS)
    return trajectory and colors and (folder / "depth").is_dir()


def list_frames(folder: Path) -> Listing:
    """List the frames: the i-th pose belongs to the i-th image in natural order of names.

    Raises:
        InputError: K is missing, the trajectory is malformed, or the numbers of images and poses differ.
    """
    K = _intrinsics(folder) + HALF_PIXEL
    trajectory = next(folder / name for name in TRAJECTORIES if (folder / name).is_file())
    poses = _read_log(trajectory)
    color_folder = next(folder / name for name in COLOR_FOLDERS if (folder / name).is_dir())
    colors, depths = _images(color_folder), _images(folder / "depth")
    if not len(colors) == len(depths) == len(poses):
        raise InputError(
            f"{folder}: {len(colors)} colour images, {len(depths)} depth images and {len(poses)} poses; there must "
            "be equally many."
        )
    entries = tuple(
        FrameEntry(
            name=color.stem,
            rgb=color,
            depth=depth,
            K=K,
            T_world_cam=pose,
            coding=DepthCoding(scale=0.001),
            timestamp=float(index),
        )
        for index, (color, depth, pose) in enumerate(zip(colors, depths, poses, strict=True))
    )
    return Listing(format="redwood", entries=entries)


def _images(folder: Path) -> list[Path]:
    suffixes = (".png", ".jpg", ".jpeg")
    found = [path for path in folder.iterdir() if path.suffix.lower() in suffixes]
    return sorted(found, key=lambda path: natural_key(path.name))


def _intrinsics(folder: Path) -> np.ndarray:
    for name in K_JSON:
        if (folder / name).is_file():
            return _read_json_intrinsics(folder / name)
    for name in K_TEXT:
        if (folder / name).is_file():
            return read_intrinsics(folder / name)
    raise InputError(
        f"{folder}: K is missing. Add camera_intrinsic.json as Open3D writes it; the original Redwood recordings "
        "use fx = fy = 525, cx = 319.5, cy = 239.5 at 640x480."
    )


def _read_json_intrinsics(path: Path) -> np.ndarray:
    try:
        record = json.loads(read_text(path))
        numbers = np.array(record["intrinsic_matrix"], dtype=np.float64)
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: expected Open3D's JSON with 'intrinsic_matrix' of nine numbers ({error})"
        ) from error
    if numbers.size != 9:
        raise InputError(f"{path}: intrinsic_matrix has {numbers.size} numbers, expected nine")
    return numbers.reshape(3, 3).T.copy()


def _read_log(path: Path) -> list[np.ndarray]:
    rows = data_lines(read_text(path))
    if not rows or len(rows) % 5:
        raise InputError(
            f"{path}: {len(rows)} lines; every pose takes five (three integers, then 4x4)"
        )
    poses = []
    for start in range(0, len(rows), 5):
        try:
            pose = np.array([[float(word) for word in row] for row in rows[start + 1 : start + 5]])
        except ValueError as error:
            raise InputError(f"{path}: pose {start // 5} is not a 4x4 matrix ({error})") from error
        if pose.shape != (4, 4):
            raise InputError(f"{path}: pose {start // 5} is not a 4x4 matrix")
        poses.append(pose)
    return poses
