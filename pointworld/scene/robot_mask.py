"""Which pixels show the robot: its meshes at the current joints, ray-cast into the camera."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from scipy import ndimage

from pointworld.geometry import invert, rotate_vectors, transform_points
from pointworld.types import RGBDFrame

#: How far around the robot's surface points are removed [m], for errors of calibration and depth. A wider margin eats
#: what the fingers hold.
ROBOT_MARGIN = 0.01
MAX_RAY_COLUMNS = 320
"""Wider images are ray-cast at a whole fraction of their size; the margin is far wider than what that loses."""


class MeshedRobot(Protocol):
    """What masking needs of a robot."""

    def posed_mesh(self, joint_positions: torch.Tensor) -> Any:
        """The whole robot as one `trimesh.Trimesh` in the base frame at `joint_positions` (joints,)."""
        ...


def robot_mask(
    frame: RGBDFrame,
    robot: MeshedRobot,
    joint_positions: torch.Tensor | np.ndarray,
    T_world_base: np.ndarray,
    margin: float = ROBOT_MARGIN,
) -> np.ndarray:
    """Pixels of a frame that show the robot, (height, width) bool.

    Two rules, with z the measured depth and r the depth of the robot's mesh along the pixel's ray:

    1. On the silhouette (the ray meets the mesh): robot where z >= r - margin. What stands clearly in front of the
       robot stays; everything at or behind its surface goes, because a depth sensor that looks past a mesh that
       should be there sees a calibration error or a flying pixel.
    2. Around the silhouette, within margin * f / r pixels: robot where r_min - margin <= z <= r_max + margin, with
       r_min and r_max the mesh depths nearby. A table well behind a finger stays.

    Pixels without depth follow rule 1 as if they were robot.

    Args:
        joint_positions: (joints,) in the robot's order.
        T_world_base: (4, 4) base to world.
        margin: [m], for calibration and depth errors.
    """
    return mask_of_mesh(frame, pose_robot(robot, joint_positions), T_world_base, margin)


def pose_robot(robot: MeshedRobot, joint_positions: torch.Tensor | np.ndarray) -> MeshCaster:
    """The robot at `joint_positions` (joints,), ready to be seen by any number of cameras."""
    mesh = robot.posed_mesh(torch.as_tensor(joint_positions, dtype=torch.float64))
    return MeshCaster(np.asarray(mesh.vertices), np.asarray(mesh.faces))


def mask_of_mesh(
    frame: RGBDFrame, caster: MeshCaster, T_world_base: np.ndarray, margin: float = ROBOT_MARGIN
) -> np.ndarray:
    """`robot_mask` for a robot posed by `pose_robot`."""
    T_cam_base = invert(frame.T_world_cam) @ T_world_base
    step = max(1, -(-frame.width // MAX_RAY_COLUMNS))
    depth = caster.depth(T_cam_base, frame.K, frame.height, frame.width, step=step)
    hit = np.isfinite(depth)
    if not hit.any():
        return hit
    focal = float(max(frame.K[0, 0], frame.K[1, 1]))
    return _decide(frame.depth, frame.valid, depth, margin, focal)


class MeshCaster:
    """A mesh that depth images are taken of. Building it costs more than a picture: build once, look often.

    Args:
        vertices: (vertices, 3) in the mesh's frame [m]. faces: (faces, 3).
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray) -> None:
        from embreex import rtcore_scene
        from embreex.mesh_construction import TriangleMesh

        self._vertices = np.asarray(vertices, dtype=np.float64)
        self._scene = rtcore_scene.EmbreeScene()
        TriangleMesh(
            self._scene, self._vertices.astype(np.float32), np.asarray(faces, dtype=np.int32)
        )

    def depth(
        self, T_cam_mesh: np.ndarray, K: np.ndarray, height: int, width: int, *, step: int = 1
    ) -> np.ndarray:
        """Depth image of the mesh, (height, width) float32 [m], infinity where no surface is met.

        Args:
            T_cam_mesh: (4, 4) from the mesh's frame to the camera.
            step: cast one ray per step x step pixels and repeat its depth.
        """
        rows, columns = -(-height // step), -(-width // step)
        image = np.full((rows, columns), np.inf, dtype=np.float32)
        region = _silhouette_box(
            transform_points(T_cam_mesh, self._vertices), K, rows, columns, step
        )
        if region is not None:
            r0, r1, c0, c1 = region
            v, u = np.meshgrid(np.arange(r0, r1) + 0.5, np.arange(c0, c1) + 0.5, indexing="ij")
            uv = np.stack([u, v], -1).reshape(-1, 2) * step
            # Rays have unit z in the camera, so the distance parameter is the depth itself.
            rays = np.ones((len(uv), 3))
            rays[:, 1] = (uv[:, 1] - K[1, 2]) / K[1, 1]
            rays[:, 0] = (uv[:, 0] - K[0, 2] - K[0, 1] * rays[:, 1]) / K[0, 0]
            T_mesh_cam = invert(T_cam_mesh)
            origins = np.broadcast_to(T_mesh_cam[:3, 3].astype(np.float32), rays.shape)
            directions = rotate_vectors(T_mesh_cam, rays).astype(np.float32)
            distance = self._scene.run(np.ascontiguousarray(origins), directions, query="DISTANCE")
            image[r0:r1, c0:c1] = np.where(distance < 1e6, distance, np.inf).reshape(
                r1 - r0, c1 - c0
            )
        if step == 1:
            return image
        return image.repeat(step, 0).repeat(step, 1)[:height, :width]


def _silhouette_box(
    vertices: np.ndarray, K: np.ndarray, rows: int, columns: int, step: int
) -> tuple[int, int, int, int] | None:
    """Rows and columns (r0, r1, c0, c1) that can show the mesh, None when nothing is in front of the camera."""
    z = vertices[:, 2]
    if not (z > 0).any():
        return None
    if (z <= 0.01).any():
        return 0, rows, 0, columns
    pixel = vertices @ K.T
    uv = pixel[:, :2] / pixel[:, 2:] / step
    c0, r0 = np.floor(uv.min(0)).astype(int)
    c1, r1 = np.ceil(uv.max(0)).astype(int)
    c0, c1, r0, r1 = max(c0, 0), min(c1, columns), max(r0, 0), min(r1, rows)
    return (r0, r1, c0, c1) if r1 > r0 and c1 > c0 else None


def _decide(
    measured: np.ndarray, valid: np.ndarray, robot: np.ndarray, margin: float, focal: float
) -> np.ndarray:
    """The two rules of `robot_mask`; `robot` is infinite where its mesh is not met."""
    hit = np.isfinite(robot)
    on_silhouette = hit & (~valid | (measured >= robot - margin))
    radius = int(np.clip(np.ceil(margin * focal / max(float(robot[hit].min()), 0.05)), 1, 64))
    rows, columns = np.flatnonzero(hit.any(1)), np.flatnonzero(hit.any(0))
    window = (
        slice(max(rows[0] - radius, 0), rows[-1] + radius + 1),
        slice(max(columns[0] - radius, 0), columns[-1] + radius + 1),
    )
    local = robot[window]
    nearest = ndimage.minimum_filter(local, size=2 * radius + 1, mode="nearest")
    farthest = ndimage.maximum_filter(
        np.where(np.isfinite(local), local, -np.inf), size=2 * radius + 1, mode="nearest"
    )
    z = measured[window]
    around = (
        np.isfinite(nearest) & valid[window] & (z >= nearest - margin) & (z <= farthest + margin)
    )
    mask = on_silhouette
    mask[window] |= around
    return mask
