"""TUM RGB-D layout: rgb.txt, depth.txt and groundtruth.txt beside the folders they list.

Depth: uint16, 5000 units per metre, 0 = unknown, registered to colour by the recorder. Poses: camera to world,
`timestamp tx ty tz qx qy qz qw`, interpolated at the time of the colour image.
Pixel convention: the published calibrations come from OpenCV, with integer pixel centres; 0.5 is added.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from pointworld.capture.listing import HALF_PIXEL, DepthCoding, FrameEntry, Listing
from pointworld.capture.text import data_lines, read_intrinsics, read_text
from pointworld.errors import InputError
from pointworld.geometry import make_transform

LOOKS_FOR = "rgb.txt, depth.txt and groundtruth.txt (TUM RGB-D)"

MAX_TIME_APART = 0.02
MAX_POSE_GAP = 0.2
K_FILES = ("camera-intrinsics.txt", "intrinsics.txt", "calibration.txt")
# fx, fy, cx, cy published with the benchmark for its three sensors (colour cameras, integer pixel centres).
PUBLISHED_K = {
    "freiburg1": (517.3, 516.5, 318.6, 255.3),
    "freiburg2": (520.9, 521.0, 325.1, 249.7),
    "freiburg3": (535.4, 539.2, 320.1, 247.6),
}


def matches(folder: Path) -> bool:
    """True when the folder holds the three lists."""
    return all((folder / name).is_file() for name in ("rgb.txt", "depth.txt", "groundtruth.txt"))


def list_frames(folder: Path) -> Listing:
    """List the colour images that have a depth image within 20 ms and poses on both sides.

    Raises:
        InputError: K is neither in the folder nor known from its name, or a list is malformed.
    """
    K = _intrinsics(folder) + HALF_PIXEL
    rgb_times, rgb_files = _read_list(folder / "rgb.txt")
    depth_times, depth_files = _read_list(folder / "depth.txt")
    pose_times, Ts_world_cam = _read_poses(folder / "groundtruth.txt")
    after = np.clip(np.searchsorted(pose_times, rgb_times), 1, len(pose_times) - 1)
    entries = []
    for index, time in enumerate(rgb_times):
        nearest = int(np.abs(depth_times - time).argmin())
        before, behind = pose_times[after[index] - 1], pose_times[after[index]]
        covered = before <= time <= behind and behind - before <= MAX_POSE_GAP
        if abs(depth_times[nearest] - time) > MAX_TIME_APART or not covered:
            continue
        pair = slice(after[index] - 1, after[index] + 1)
        entries.append(
            FrameEntry(
                name=Path(rgb_files[index]).stem,
                rgb=folder / rgb_files[index],
                depth=folder / depth_files[nearest],
                K=K,
                T_world_cam=_interpolate(pose_times[pair], Ts_world_cam[pair], float(time)),
                coding=DepthCoding(scale=1 / 5000, unknown=(0,)),
                timestamp=float(time),
            )
        )
    if not entries:
        raise InputError(
            f"{folder}: no colour image has a depth image within {MAX_TIME_APART} s and poses before and after "
            "it. Do rgb.txt, depth.txt and groundtruth.txt use the same clock?"
        )
    return Listing(format="tum", entries=tuple(entries))


def _intrinsics(folder: Path) -> np.ndarray:
    for name in K_FILES:
        if (folder / name).is_file():
            return read_intrinsics(folder / name)
    for sensor, (fx, fy, cx, cy) in PUBLISHED_K.items():
        if sensor in folder.resolve().name:
            return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    raise InputError(
        f"{folder}: K is missing. Add one of {', '.join(K_FILES)} (3x3 matrix or fx fy cx cy), or keep the "
        f"sequence's name ({', '.join(PUBLISHED_K)}) in the folder's name."
    )


def _read_list(path: Path) -> tuple[np.ndarray, list[str]]:
    rows = data_lines(read_text(path))
    try:
        times = np.array([float(row[0]) for row in rows])
        files = [row[1] for row in rows]
    except (ValueError, IndexError) as error:
        raise InputError(f"{path}: every line must be 'timestamp filename' ({error})") from error
    if not files:
        raise InputError(f"{path}: the list is empty")
    return times, files


def _read_poses(path: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = data_lines(read_text(path))
    if len(rows) < 2 or any(len(row) != 8 for row in rows):
        raise InputError(f"{path}: expected at least two lines 'timestamp tx ty tz qx qy qz qw'")
    try:
        table = np.array([[float(word) for word in row] for row in rows])
    except ValueError as error:
        raise InputError(f"{path}: expected only numbers ({error})") from error
    norms = np.linalg.norm(table[:, 4:], axis=1)
    if not np.isfinite(table).all() or np.abs(norms - 1).max() > 0.01:
        raise InputError(
            f"{path}: poses must be finite and their quaternions (qx qy qz qw) of unit length"
        )
    table = table[np.argsort(table[:, 0], kind="stable")]
    R = Rotation.from_quat(table[:, 4:]).as_matrix()
    return table[:, 0], make_transform(R, table[:, 1:4])


def _interpolate(times: np.ndarray, Ts: np.ndarray, time: float) -> np.ndarray:
    if times[1] - times[0] < 1e-9:
        return Ts[0]
    share = (time - times[0]) / (times[1] - times[0])
    R = Slerp([0.0, 1.0], Rotation.from_matrix(Ts[:, :3, :3]))(share).as_matrix()
    return make_transform(R, (1 - share) * Ts[0, :3, 3] + share * Ts[1, :3, 3])
