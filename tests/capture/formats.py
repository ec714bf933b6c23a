"""Write a capture the way other tools do, from their published layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from pointworld.types import Capture

HALF = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])


def _images(capture: Capture, color: Path, depth: Path, scale: float, names: list[str]) -> None:
    color.mkdir(parents=True, exist_ok=True)
    depth.mkdir(parents=True, exist_ok=True)
    for frame, name in zip(capture.frames, names, strict=True):
        Image.fromarray(frame.rgb).save(color / f"{name}.png")
        Image.fromarray(np.round(frame.depth / scale).astype(np.uint16)).save(depth / f"{name}.png")


def write_seven_scenes(capture: Capture, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / "camera-intrinsics.txt", capture.frames[0].K)
    for index, frame in enumerate(capture.frames):
        stem = folder / f"frame-{index:06d}"
        Image.fromarray(frame.rgb).save(f"{stem}.color.png")
        Image.fromarray(np.round(frame.depth * 1000).astype(np.uint16)).save(f"{stem}.depth.png")
        np.savetxt(f"{stem}.pose.txt", frame.T_world_cam)


def write_tum(capture: Capture, folder: Path) -> None:
    names = [f"{frame.timestamp:.6f}" for frame in capture.frames]
    _images(capture, folder / "rgb", folder / "depth", 1 / 5000, names)
    K = capture.frames[0].K - HALF
    (folder / "camera-intrinsics.txt").write_text(f"{K[0, 0]} {K[1, 1]} {K[0, 2]} {K[1, 2]}\n")
    for kind in ("rgb", "depth"):
        lines = ["# timestamp filename"]
        # Depth is recorded 3 ms later than colour.
        late = 0.003 if kind == "depth" else 0.0
        lines += [
            f"{frame.timestamp + late:.6f} {kind}/{name}.png"
            for frame, name in zip(capture.frames, names, strict=True)
        ]
        (folder / f"{kind}.txt").write_text("\n".join(lines) + "\n")
    poses = ["# timestamp tx ty tz qx qy qz qw"]
    for frame in capture.frames:
        quat_xyzw = Rotation.from_matrix(frame.T_world_cam[:3, :3]).as_quat()
        # The same pose shortly before and after, so that interpolation at the frame's time must return it.
        for shift in (-0.004, 0.004):
            numbers = " ".join(f"{v:.9f}" for v in (*frame.T_world_cam[:3, 3], *quat_xyzw))
            poses.append(f"{frame.timestamp + shift:.6f} {numbers}")
    (folder / "groundtruth.txt").write_text("\n".join(poses) + "\n")


def write_redwood(capture: Capture, folder: Path) -> None:
    names = [str(index) for index in range(len(capture.frames))]
    _images(capture, folder / "color", folder / "depth", 0.001, names)
    K, frame = capture.frames[0].K - HALF, capture.frames[0]
    record = {
        "width": frame.width,
        "height": frame.height,
        "intrinsic_matrix": K.T.ravel().tolist(),
    }
    (folder / "camera_intrinsic.json").write_text(json.dumps(record))
    lines = []
    for index, each in enumerate(capture.frames):
        lines.append(f"{index} {index} {index + 1}")
        lines += [" ".join(f"{v:.9f}" for v in row) for row in each.T_world_cam]
    (folder / "trajectory.log").write_text("\n".join(lines) + "\n")


def write_scannet(capture: Capture, folder: Path) -> None:
    """Colour at twice the resolution of depth, one lost frame with an infinite pose."""
    names = [str(index) for index in range(len(capture.frames))]
    _images(capture, folder / "color", folder / "depth", 0.001, names)
    for name in names:
        path = folder / "color" / f"{name}.png"
        big = Image.open(path).resize((320, 240), Image.Resampling.NEAREST)
        big.save(path)
    (folder / "intrinsic").mkdir()
    (folder / "pose").mkdir()
    for camera, zoom in (("color", 2.0), ("depth", 1.0)):
        K = np.eye(4)
        K[:3, :3] = np.diag([zoom, zoom, 1]) @ capture.frames[0].K - HALF
        np.savetxt(folder / "intrinsic" / f"intrinsic_{camera}.txt", K)
        np.savetxt(folder / "intrinsic" / f"extrinsic_{camera}.txt", np.eye(4))
    for name, frame in zip(names, capture.frames, strict=True):
        np.savetxt(folder / "pose" / f"{name}.txt", frame.T_world_cam)
    np.savetxt(folder / "pose" / "1.txt", np.full((4, 4), -np.inf))


def write_nerfstudio(capture: Capture, folder: Path) -> None:
    names = [f"frame_{index:05d}" for index in range(len(capture.frames))]
    _images(capture, folder / "images", folder / "depth", 0.001, names)
    K = capture.frames[0].K
    frames = [
        {
            "file_path": f"images/{name}.png",
            "depth_file_path": f"depth/{name}.png",
            "transform_matrix": (frame.T_world_cam @ np.diag([1.0, -1, -1, 1])).tolist(),
        }
        for name, frame in zip(names, capture.frames, strict=True)
    ]
    record = {
        "fl_x": K[0, 0],
        "fl_y": K[1, 1],
        "cx": K[0, 2],
        "cy": K[1, 2],
        "w": 160,
        "h": 120,
        "camera_model": "OPENCV",
        "k1": 0.0,
        "frames": frames[::-1],
    }
    (folder / "transforms.json").write_text(json.dumps(record))
