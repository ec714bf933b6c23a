"""nerfstudio layout: transforms.json with depth images.

Poses: camera to world with OpenGL axes (x right, y up, z backward); converted to OpenCV. Depth: uint16, or NPY, times
`depth_unit_scale_factor` (default 0.001), registered to colour; `depth_file_path` per frame. Only undistorted
pinhole cameras are read. An `applied_scale` shrinks the poses but not the depth; it is undone.
Pixel convention: nerfstudio's rays go through integer + 0.5 with cx, cy of COLMAP, which has the same centres: taken as
they stand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pointworld.capture.listing import DepthCoding, FrameEntry, Listing, inside
from pointworld.capture.text import natural_key, read_text
from pointworld.errors import InputError
from pointworld.geometry import opengl_to_opencv

LOOKS_FOR = "transforms.json (nerfstudio, with depth_file_path)"

DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


def matches(folder: Path) -> bool:
    """True when the folder holds transforms.json."""
    return (folder / "transforms.json").is_file()


def list_frames(folder: Path) -> Listing:
    """List the frames, sorted by file name.

    Raises:
        InputError: K, a pose or a depth image is missing, or the camera is distorted.
    """
    path = folder / "transforms.json"
    try:
        record = json.loads(read_text(path))
        frames = record["frames"]
        frames = sorted(frames, key=lambda frame: natural_key(frame["file_path"]))
    except (json.JSONDecodeError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: expected nerfstudio's JSON with 'frames' ({error})") from error
    coding = DepthCoding(scale=float(record.get("depth_unit_scale_factor", 0.001)))
    scale = float(record.get("applied_scale", 1.0))
    entries = []
    for index, frame in enumerate(frames):
        where = f"{path}: frame {frame['file_path']}"
        if "depth_file_path" not in frame:
            raise InputError(
                f"{where} has no depth_file_path. Only captures with depth can be read."
            )
        entries.append(
            FrameEntry(
                name=frame["file_path"].rsplit(".", 1)[0],
                rgb=inside(folder, frame["file_path"], where),
                depth=inside(folder, frame["depth_file_path"], where),
                K=_intrinsics({**record, **frame}, where),
                T_world_cam=_pose(frame, scale, where),
                coding=coding,
                timestamp=float(index),
            )
        )
    return Listing(format="nerfstudio", entries=tuple(entries))


def _intrinsics(values: dict[str, Any], where: str) -> np.ndarray:
    model = values.get("camera_model", "OPENCV")
    bent = [name for name in DISTORTION if abs(float(values.get(name, 0.0))) > 1e-6]
    if model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE") or bent:
        raise InputError(
            f"{where}: the camera is distorted (model {model}, {', '.join(bent) or 'not a pinhole'}). Undistort the "
            "images first."
        )
    missing = [name for name in ("fl_x", "fl_y", "cx", "cy") if name not in values]
    if missing:
        raise InputError(
            f"{where}: K is missing ({', '.join(missing)} in neither the file nor the frame)"
        )
    fx, fy, cx, cy = (float(values[name]) for name in ("fl_x", "fl_y", "cx", "cy"))
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def _pose(frame: dict[str, Any], scale: float, where: str) -> np.ndarray:
    try:
        T = np.array(frame["transform_matrix"], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: transform_matrix must be 4x4 numbers ({error})") from error
    if T.shape == (3, 4):
        T = np.vstack([T, [0.0, 0.0, 0.0, 1.0]])
    if T.shape != (4, 4):
        raise InputError(f"{where}: transform_matrix is {T.shape}, expected (4, 4)")
    T[:3, 3] /= scale
    return opengl_to_opencv(T)
