"""Our own layout: capture.json beside PNG or NPY files. docs/captures.md is its reference.

Pixel convention: stated in the file. `"pixel_centers": 0.5` (default) is ours; 0.0 marks a calibration of OpenCV, ROS
or RealSense, and 0.5 is added to the principal points on reading.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pointworld.capture.listing import (
    HALF_PIXEL,
    DepthCoding,
    DepthSensor,
    FrameEntry,
    Listing,
    inside,
)
from pointworld.capture.text import read_text
from pointworld.errors import InputError
from pointworld.types import check_rigid

LOOKS_FOR = "capture.json (PointWorld)"
FORMAT = "pointworld-capture"
VERSION = 1

_TOP = {"format", "version", "T_world_base", "robot", "joint_names", "cameras", "frames"}
_CAMERA = {"K", "pixel_centers", "T_world_cam", "depth"}
_DEPTH = {"scale", "unknown", "nonfinite", "K", "T_color_depth"}
_FRAME = {"name", "camera", "rgb", "depth", "K", "T_world_cam", "timestamp", "joint_positions"}


def matches(folder: Path) -> bool:
    """True when the folder holds capture.json."""
    return (folder / "capture.json").is_file()


def list_frames(folder: Path) -> Listing:
    """List the frames.

    Raises:
        InputError: names the key that is missing, unknown or malformed.
    """
    path = folder / "capture.json"
    try:
        record = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    record = _mapping(record, _TOP, str(path))
    if record.get("format") != FORMAT or record.get("version") != VERSION:
        raise InputError(
            f"{path}: format {record.get('format')!r} version {record.get('version')!r}, expected {FORMAT!r} version "
            f"{VERSION}"
        )
    cameras = {
        name: _mapping(camera, _CAMERA, f"{path}: camera '{name}'")
        for name, camera in _mapping(record.get("cameras", {}), None, f"{path}: cameras").items()
    }
    frames = record.get("frames")
    if not isinstance(frames, list):
        raise InputError(f"{path}: 'frames' must be a list of frames")
    joint_names = tuple(str(name) for name in record.get("joint_names") or ())
    entries = tuple(
        _entry(folder, index, _mapping(frame, _FRAME, f"{path}: frame {index}"), cameras)
        for index, frame in enumerate(frames)
    )
    T_world_base = record.get("T_world_base")
    return Listing(
        format="pointworld",
        entries=entries,
        T_world_base=None
        if T_world_base is None
        else _pose(T_world_base, str(path), "T_world_base"),
        joint_names=joint_names,
        robot=None if record.get("robot") is None else str(record["robot"]),
    )


def _entry(
    folder: Path, index: int, frame: Mapping[str, Any], cameras: Mapping[str, Mapping[str, Any]]
) -> FrameEntry:
    where = f"{folder / 'capture.json'}: frame {index}"
    name = str(frame.get("camera", next(iter(cameras), "cam0")))
    if name not in cameras:
        raise InputError(f"{where}: camera '{name}' is not among the cameras {sorted(cameras)}")
    camera, of_camera = cameras[name], f"{folder / 'capture.json'}: camera '{name}'"
    shift = _pixel_shift(camera, of_camera)
    K = frame.get("K", camera.get("K"))
    if K is None:
        raise InputError(f"{of_camera}: K is missing. Give the 3x3 intrinsic matrix in pixels.")
    pose = frame.get("T_world_cam", camera.get("T_world_cam"))
    if pose is None:
        raise InputError(
            f"{where}: T_world_cam is missing here and in its camera (4x4, camera to world, metres)"
        )
    for key in ("rgb", "depth"):
        if not isinstance(frame.get(key), str):
            raise InputError(f"{where}: '{key}' must name a file")
    joints = frame.get("joint_positions")
    return FrameEntry(
        name=str(frame.get("name", f"frame-{index:06d}")),
        rgb=inside(folder, frame["rgb"], where),
        depth=inside(folder, frame["depth"], where),
        K=_matrix(K, (3, 3), of_camera, "K") + shift,
        T_world_cam=_pose(pose, where, "T_world_cam"),
        coding=_coding(camera.get("depth", {}), of_camera),
        sensor=_sensor(camera.get("depth", {}), shift, of_camera),
        timestamp=_number(frame.get("timestamp", float(index)), where, "timestamp"),
        camera=name,
        joint_positions=None if joints is None else _matrix(joints, None, where, "joint_positions"),
    )


def _pixel_shift(camera: Mapping[str, Any], where: str) -> np.ndarray:
    centers = camera.get("pixel_centers", 0.5)
    if centers not in (0.0, 0.5):
        raise InputError(
            f"{where}: pixel_centers is {centers!r}, expected 0.5 (ours) or 0.0 (OpenCV, ROS, RealSense)"
        )
    return HALF_PIXEL * (0.0 if centers == 0.5 else 1.0)


def _coding(depth: Any, where: str) -> DepthCoding:
    depth = _mapping(depth, _DEPTH, f"{where}: depth")
    scale = _number(depth.get("scale", 0.001), where, "depth scale")
    if not scale > 0:
        raise InputError(
            f"{where}: depth scale is {scale}, expected metres per stored unit (0.001 for mm)"
        )
    unknown = depth.get("unknown", [0, 65535])
    if not isinstance(unknown, list) or not all(isinstance(value, int) for value in unknown):
        raise InputError(f"{where}: depth 'unknown' must be a list of stored integers")
    nonfinite = depth.get("nonfinite", "refuse")
    if nonfinite not in ("refuse", "unknown"):
        raise InputError(
            f"{where}: depth 'nonfinite' is {nonfinite!r}, expected 'refuse' or 'unknown'"
        )
    return DepthCoding(
        scale=scale, unknown=tuple(unknown), nonfinite_unknown=nonfinite == "unknown"
    )


def _sensor(depth: Mapping[str, Any], shift: np.ndarray, where: str) -> DepthSensor | None:
    if "K" not in depth and "T_color_depth" not in depth:
        return None
    for key in ("K", "T_color_depth"):
        if key not in depth:
            raise InputError(
                f"{where}: depth has its own sensor but no {key}. A separate depth sensor needs both K and "
                "T_color_depth (4x4, depth camera to colour camera)."
            )
    return DepthSensor(
        K=_matrix(depth["K"], (3, 3), f"{where}: depth", "K") + shift,
        T_color_depth=_pose(depth["T_color_depth"], f"{where}: depth", "T_color_depth"),
    )


def _mapping(value: Any, known: set[str] | None, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: expected an object with keys, got {type(value).__name__}")
    for key in value:
        if known is not None and key not in known:
            close = difflib.get_close_matches(str(key), sorted(known), n=1)
            hint = (
                f"Did you mean '{close[0]}'?"
                if close
                else f"Known keys: {', '.join(sorted(known))}."
            )
            raise InputError(f"{where}: unknown key '{key}'. {hint}")
    return value


def _matrix(value: Any, shape: tuple[int, ...] | None, where: str, name: str) -> np.ndarray:
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {name} must be numbers ({error})") from error
    if shape is not None and array.shape != shape:
        raise InputError(f"{where}: {name} has shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{where}: {name} contains NaN or infinity")
    return array


def _pose(value: Any, where: str, name: str) -> np.ndarray:
    T = _matrix(value, (4, 4), where, name)
    check_rigid(T, where, name)
    return T


def _number(value: Any, where: str, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise InputError(f"{where}: {name} must be a number, got {value!r}")
    return float(value)
