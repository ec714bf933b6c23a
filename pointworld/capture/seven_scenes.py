"""7-Scenes layout: frame-XXXXXX.{color,depth,pose}.* in one folder.

Depth: uint16 millimetres, 0 and 65535 = unknown. Poses: camera to world, metres, OpenCV axes.
Pixel convention: `camera-intrinsics.txt` gives nominal values (585, 585, 320, 240 for 640x480). A principal point
of exactly half the image size is the image centre with pixel centres at + 0.5, so it is taken as it stands.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pointworld.capture.listing import DepthCoding, FrameEntry, Listing
from pointworld.capture.text import read_intrinsics, read_matrix
from pointworld.errors import InputError

LOOKS_FOR = "frame-*.color.* with frame-*.pose.txt and camera-intrinsics.txt (7-Scenes)"


def matches(folder: Path) -> bool:
    """True when the folder holds colour frames with a pose file each, named as 7-Scenes does."""
    return any(folder.glob("frame-*.pose.txt")) and any(folder.glob("frame-*.color.*"))


def list_frames(folder: Path) -> Listing:
    """List the frames.

    Raises:
        InputError: camera-intrinsics.txt or a frame's depth or pose is missing.
    """
    intrinsics = folder / "camera-intrinsics.txt"
    if not intrinsics.is_file():
        raise InputError(
            f"{folder}: K is missing. 7-Scenes captures need camera-intrinsics.txt, the depth camera's 3x3 "
            "matrix (for the original data: 585 0 320 / 0 585 240 / 0 0 1)."
        )
    K = read_intrinsics(intrinsics)
    entries = []
    for color in sorted(folder.glob("frame-*.color.*")):
        stem = color.name.split(".")[0]
        pose = read_matrix(folder / f"{stem}.pose.txt", 4, 4)
        entries.append(
            FrameEntry(
                name=stem,
                rgb=color,
                depth=folder / f"{stem}.depth.png",
                K=K,
                T_world_cam=np.asarray(pose),
                coding=DepthCoding(scale=0.001),
                timestamp=float(len(entries)),
            )
        )
    return Listing(format="7-scenes", entries=tuple(entries))
