"""Layout of the apc-vision-toolbox: cam.info.txt with frame-XXXXXX.{color,depth}.png.

Depth: the 16-bit values are rotated left by 3 bits; rotated back they are tenths of a millimetre, 0 = unknown. The
depth image belongs to the depth camera: it is registered to colour with both intrinsics and the depth-to-colour
transform of cam.info.txt. Poses: camera to world, metres, OpenCV axes.
Pixel convention: RealSense calibrations have integer pixel centres; 0.5 is added to both principal points.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from pointworld.capture.listing import HALF_PIXEL, DepthCoding, DepthSensor, FrameEntry, Listing
from pointworld.capture.text import parse_numbers, read_text
from pointworld.errors import InputError

LOOKS_FOR = "cam.info.txt (apc-vision-toolbox)"


def matches(folder: Path) -> bool:
    """True when the folder holds cam.info.txt."""
    return (folder / "cam.info.txt").is_file()


def list_frames(folder: Path) -> Listing:
    """List the frames.

    Raises:
        InputError: cam.info.txt lacks an intrinsic matrix or a frame's pose.
    """
    info = folder / "cam.info.txt"
    matrices = _read_matrices(info)
    K_color = _pick(matrices, "color camera intrinsic", info) + HALF_PIXEL
    K_depth = _pick(matrices, "depth camera intrinsic", info) + HALF_PIXEL
    T_color_depth = _pick(matrices, "depth-to-color camera extrinsic", info)
    coding = DepthCoding(scale=1e-4, unknown=(0,), transform=_rotate_right_3)
    entries = tuple(
        FrameEntry(
            name=color.name.split(".")[0],
            rgb=color,
            depth=color.with_name(color.name.replace(".color.", ".depth.")),
            K=K_color,
            T_world_cam=_pick(matrices, f"for {color.name.split('.')[0]}", info),
            coding=coding,
            sensor=DepthSensor(K=K_depth, T_color_depth=T_color_depth),
            timestamp=float(index),
        )
        for index, color in enumerate(sorted(folder.glob("frame-*.color.png")))
    )
    return Listing(format="apc", entries=entries)


def _rotate_right_3(units: np.ndarray) -> np.ndarray:
    return (units >> 3) | (units << 13)


def _read_matrices(path: Path) -> dict[str, np.ndarray]:
    """Matrices of the file by their comment line, in lower case."""
    matrices = {}
    for block in re.split(r"^#", read_text(path), flags=re.MULTILINE):
        title, _, body = block.partition("\n")
        numbers = parse_numbers(body, f"{path}: '{title.strip()}'") if body.strip() else np.zeros(0)
        if numbers.size in (9, 16):
            edge = 3 if numbers.size == 9 else 4
            matrices[title.strip().lower()] = numbers.reshape(edge, edge)
    return matrices


def _pick(matrices: dict[str, np.ndarray], title: str, path: Path) -> np.ndarray:
    for name, matrix in matrices.items():
        if title in name:
            return matrix
    raise InputError(f"{path}: the matrix '{title}' is missing; found {sorted(matrices)}")
