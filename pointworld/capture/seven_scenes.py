"""7-Scenes layout: frame-XXXXXX.{color,depth,pose}.* in one folder.

Depth: uint16 millimetres, 0 and 65535 = unknown. Poses: camera to world, metres, OpenCV axes.
`camera-intrinsics.txt` is the depth camera's K. Two cases:

- It is the Kinect's nominal depth matrix (585, 585, 320, 240 at 640x480), as in the original data: colour is then
  *not* registered to depth. The colour camera is the Kinect's nominal one (focal length 525 px, 25 mm to the right
  of the depth camera), and depth is moved into it. On the kitchen sequence these two numbers minimise the colour
  difference between re-projected views (8.9 grey levels, against 11.0 when depth is taken as registered).
- Any other matrix (recordings of other cameras kept in this layout): depth is taken as registered to colour.

Pixel convention: a principal point of exactly half the image size is the image centre with pixel centres at + 0.5,
so the matrix is taken as it stands.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pointworld.capture.listing import DepthCoding, DepthSensor, FrameEntry, Listing
from pointworld.capture.text import read_intrinsics, read_matrix
from pointworld.errors import InputError
from pointworld.geometry import invert, make_transform
from pointworld.types import check_rigid

LOOKS_FOR = "frame-*.color.* with frame-*.pose.txt and camera-intrinsics.txt (7-Scenes)"

KINECT_DEPTH_K = np.array([[585.0, 0, 320], [0, 585.0, 240], [0, 0, 1]])
KINECT_COLOR_K = np.array([[525.0, 0, 320], [0, 525.0, 240], [0, 0, 1]])
KINECT_T_COLOR_DEPTH = make_transform(np.eye(3), np.array([-0.025, 0.0, 0.0]))


def matches(folder: Path) -> bool:
    """True when the folder holds colour frames and pose files named as 7-Scenes names them."""
    return any(folder.glob("frame-*.pose.txt")) and any(folder.glob("frame-*.color.*"))


def list_frames(folder: Path) -> Listing:
    """List the frames.

    Raises:
        InputError: camera-intrinsics.txt or a frame's pose is missing or malformed.
    """
    intrinsics = folder / "camera-intrinsics.txt"
    if not intrinsics.is_file():
        raise InputError(
            f"{folder}: K is missing. 7-Scenes captures need camera-intrinsics.txt, the depth camera's 3x3 "
            "matrix (for the original data: 585 0 320 / 0 585 240 / 0 0 1)."
        )
    K = read_intrinsics(intrinsics)
    kinect = np.allclose(K, KINECT_DEPTH_K)
    sensor = DepthSensor(K=K, T_color_depth=KINECT_T_COLOR_DEPTH) if kinect else None
    entries: list[FrameEntry] = []
    for color in sorted(folder.glob("frame-*.color.*")):
        stem = color.name.split(".")[0]
        pose_file = folder / f"{stem}.pose.txt"
        T_world_depth = read_matrix(pose_file, 4, 4)
        check_rigid(T_world_depth, str(pose_file), "the camera pose")
        entries.append(
            FrameEntry(
                name=stem,
                rgb=color,
                depth=folder / f"{stem}.depth.png",
                K=KINECT_COLOR_K if kinect else K,
                T_world_cam=T_world_depth @ invert(KINECT_T_COLOR_DEPTH)
                if kinect
                else T_world_depth,
                coding=DepthCoding(scale=0.001),
                sensor=sensor,
                timestamp=float(len(entries)),
            )
        )
    return Listing(format="7-scenes", entries=tuple(entries))
