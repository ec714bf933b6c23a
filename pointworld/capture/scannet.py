"""ScanNet-style layout: color/, depth/, pose/ and intrinsic/ folders with files named by frame number.

Depth: uint16 millimetres, 0 and 65535 = unknown, in the depth camera. Poses: camera to world, OpenCV axes; frames
whose pose is infinite were not tracked and are left out. intrinsic/: intrinsic_color.txt and intrinsic_depth.txt (4x4),
and optionally extrinsic_color.txt and extrinsic_depth.txt (camera to the device that the pose describes).
Depth is registered to colour with both. Colour larger than depth is reduced to about the depth's resolution first.
Pixel convention: integer pixel centres (OpenCV calibration); 0.5 is added to both principal points.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pointworld.capture.listing import HALF_PIXEL, DepthCoding, DepthSensor, FrameEntry, Listing
from pointworld.capture.text import natural_key, read_intrinsics, read_matrix
from pointworld.errors import InputError
from pointworld.geometry import invert
from pointworld.types import check_rigid

LOOKS_FOR = "color/, depth/, pose/ and intrinsic/ (ScanNet)"


def matches(folder: Path) -> bool:
    """True when colour, depth and pose folders are there."""
    return all((folder / name).is_dir() for name in ("color", "depth", "pose"))


def list_frames(folder: Path) -> Listing:
    """List the tracked frames.

    Raises:
        InputError: intrinsics are missing, or no frame has a pose.
    """
    K_color = _intrinsics(folder, "color")
    K_depth = _intrinsics(folder, "depth")
    T_device_color = _extrinsics(folder, "color")
    T_device_depth = _extrinsics(folder, "depth")
    sensor = DepthSensor(K=K_depth, T_color_depth=invert(T_device_color) @ T_device_depth)
    entries: list[FrameEntry] = []
    colors = [
        p for p in (folder / "color").iterdir() if p.suffix.lower() in (".jpg", ".png", ".jpeg")
    ]
    for color in sorted(colors, key=lambda path: natural_key(path.name)):
        T_world_device = read_matrix(folder / "pose" / f"{color.stem}.txt", 4, 4)
        if not np.isfinite(T_world_device).all():
            continue
        check_rigid(T_world_device, str(folder / "pose" / f"{color.stem}.txt"), "the camera pose")
        entries.append(
            FrameEntry(
                name=color.stem,
                rgb=color,
                depth=folder / "depth" / f"{color.stem}.png",
                K=K_color,
                T_world_cam=T_world_device @ T_device_color,
                coding=DepthCoding(scale=0.001),
                sensor=sensor,
                reduce_color=True,
                timestamp=float(len(entries)),
            )
        )
    if not entries:
        raise InputError(f"{folder}: no colour image has a finite pose in pose/")
    return Listing(format="scannet", entries=tuple(entries))


def _intrinsics(folder: Path, camera: str) -> np.ndarray:
    for path in (
        folder / "intrinsic" / f"intrinsic_{camera}.txt",
        folder / f"intrinsic_{camera}.txt",
        folder / "intrinsic.txt",
    ):
        if path.is_file():
            return read_intrinsics(path) + HALF_PIXEL
    raise InputError(f"{folder}: K is missing. Expected intrinsic/intrinsic_{camera}.txt (4x4)")


def _extrinsics(folder: Path, camera: str) -> np.ndarray:
    path = folder / "intrinsic" / f"extrinsic_{camera}.txt"
    if not path.is_file():
        return np.eye(4)
    T = read_matrix(path, 4, 4)
    check_rigid(T, str(path), "the extrinsic matrix")
    return T
