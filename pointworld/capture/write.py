"""Write a capture in our own layout (see docs/captures.md)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from pointworld.capture.native import FORMAT, VERSION
from pointworld.errors import InputError
from pointworld.files import atomic_folder
from pointworld.types import Capture, RGBDFrame

FINE_SCALE = 1e-4
COARSE_SCALE = 1e-3
LARGEST_UNIT = 65534


def write_capture(
    capture: Capture,
    folder: str | Path,
    *,
    depth_format: Literal["png", "npy"] = "png",
    advance: Callable[[int], None] | None = None,
) -> None:
    """Write colour as PNG, depth as 16-bit PNG or NPY, and capture.json last; nothing half-written stays behind.

    Args:
        capture: depth registered to colour, as every `RGBDFrame` has it.
        folder: created; files of the same names are replaced.
        depth_format: "png" rounds depth to 0.1 mm (to 1 mm for a camera that sees beyond 6.5 m); "npy" keeps
            every bit at five to ten times the size.
        advance: called with 1 after every frame, for a progress bar.

    Raises:
        InputError: depth beyond 65.5 m does not fit 16 bits, or `folder` is a file.
    """
    if Path(folder).is_file():
        raise InputError(f"{folder}: a file of that name exists; a capture is a folder")
    scales = _depth_scales(capture) if depth_format == "png" else {}
    with atomic_folder(folder) as temporary:
        frames = []
        for index, frame in enumerate(capture.frames):
            frames.append(_write_frame(frame, index, temporary, scales.get(frame.camera)))
            if advance is not None:
                advance(1)
        record = {
            "format": FORMAT,
            "version": VERSION,
            "T_world_base": None if capture.T_world_base is None else capture.T_world_base.tolist(),
            "robot": capture.robot,
            "joint_names": list(capture.joint_names),
            "cameras": _cameras(capture, scales),
            "frames": frames,
        }
        (temporary / "capture.json").write_text(
            json.dumps(record, indent=1, allow_nan=False) + "\n"
        )


def _depth_scales(capture: Capture) -> dict[str, float]:
    """Metres per unit for each camera, the finest that fits 16 bits."""
    deepest: dict[str, float] = {}
    for frame in capture.frames:
        far = float(frame.depth[frame.valid].max(initial=0.0))
        deepest[frame.camera] = max(deepest.get(frame.camera, 0.0), far)
    for camera, far in deepest.items():
        if far > LARGEST_UNIT * COARSE_SCALE:
            raise InputError(
                f"camera '{camera}' sees {far:.1f} m, which does not fit a 16-bit image in millimetres; "
                "use depth_format='npy'"
            )
    return {
        c: FINE_SCALE if far < LARGEST_UNIT * FINE_SCALE else COARSE_SCALE
        for c, far in deepest.items()
    }


def _cameras(capture: Capture, scales: dict[str, float]) -> dict[str, Any]:
    cameras: dict[str, Any] = {}
    for frame in capture.frames:
        scale = scales.get(frame.camera, 1.0)
        depth: dict[str, Any] = {"scale": scale, "unknown": [0]}
        cameras.setdefault(
            frame.camera, {"K": frame.K.tolist(), "pixel_centers": 0.5, "depth": depth}
        )
    return cameras


def _write_frame(frame: RGBDFrame, index: int, folder: Path, scale: float | None) -> dict[str, Any]:
    stem = f"frame-{index:06d}"
    depth = np.where(frame.valid, frame.depth, 0).astype(np.float32)
    Image.fromarray(frame.rgb).save(folder / f"{stem}.color.png")
    if scale is None:
        np.save(folder / f"{stem}.depth.npy", depth)
    else:
        units = np.round(depth.astype(np.float64) / scale)
        units = np.where(frame.valid, np.clip(units, 1, LARGEST_UNIT), 0).astype(np.uint16)
        Image.fromarray(units).save(folder / f"{stem}.depth.png")
    record: dict[str, Any] = {
        "name": frame.name,
        "camera": frame.camera,
        "rgb": f"{stem}.color.png",
        "depth": f"{stem}.depth.{'npy' if scale is None else 'png'}",
        "K": frame.K.tolist(),
        "T_world_cam": frame.T_world_cam.tolist(),
        "timestamp": frame.timestamp,
    }
    if frame.joint_positions is not None:
        record["joint_positions"] = frame.joint_positions.tolist()
    return record
