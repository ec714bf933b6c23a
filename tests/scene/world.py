"""A small tabletop rendered by casting rays at its meshes: exact depth, known surfaces, any number of cameras."""

from __future__ import annotations

from typing import Any

import numpy as np
import trimesh

from pointworld.geometry import invert, make_transform
from pointworld.scene import MeshCaster
from pointworld.types import RGBDFrame

TABLE_HEIGHT = (
    0.004  # inside a voxel: at 0, a face of the lattice, rounding would choose between two layers
)
BOX_CENTER = np.array([0.55, 0.05, 0.064])
BOX_SIZE = np.array([0.08, 0.12, 0.12])


def table_and_box() -> trimesh.Trimesh:
    """A table of 1.2 x 1.0 m with its top 4 mm above the base and a box on it, in the base frame."""
    table = trimesh.creation.box((1.2, 1.0, 0.04))
    table.apply_translation([0.5, 0.0, TABLE_HEIGHT - 0.02])
    box = trimesh.creation.box(BOX_SIZE)
    box.apply_translation(BOX_CENTER)
    return trimesh.util.concatenate([table, box])


def off_surface(points: np.ndarray) -> np.ndarray:
    """Distance of points (n, 3) in the base frame to the nearest surface of `table_and_box` [m]."""

    def to_box(center: np.ndarray, size: np.ndarray) -> np.ndarray:
        beyond = np.abs(points - center) - size / 2
        outside = np.linalg.norm(np.maximum(beyond, 0.0), axis=-1)
        return np.abs(outside + np.minimum(beyond.max(-1), 0.0))

    table = to_box(np.array([0.5, 0.0, TABLE_HEIGHT - 0.02]), np.array([1.2, 1.0, 0.04]))
    return np.minimum(table, to_box(BOX_CENTER, BOX_SIZE))


def look_at(eye: Any, target: Any, up: Any = (0.0, 0.0, 1.0)) -> np.ndarray:
    """T_world_cam of a camera at `eye` that looks at `target`, OpenCV axes."""
    forward = np.asarray(target, dtype=float) - np.asarray(eye, dtype=float)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, np.asarray(up, dtype=float))
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward], axis=1)
    return make_transform(rotation, np.asarray(eye, dtype=float))


def render(
    mesh: trimesh.Trimesh,
    T_world_cam: np.ndarray,
    *,
    width: int = 160,
    height: int = 90,
    focal: float = 130.0,
    name: str = "frame",
    seed: int = 0,
) -> RGBDFrame:
    """Exact depth of a mesh in the world; colours are random."""
    K = np.array(
        [[focal, 0.0, width / 2 + 1.3], [0.0, focal * 1.02, height / 2 - 0.7], [0.0, 0.0, 1.0]]
    )
    depth = MeshCaster(mesh.vertices, mesh.faces).depth(invert(T_world_cam), K, height, width)
    valid = np.isfinite(depth)
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return RGBDFrame(
        rgb=rgb,
        depth=np.where(valid, depth, 0.0).astype(np.float32),
        valid=valid,
        K=K,
        T_world_cam=T_world_cam,
        name=name,
    )


def frames(
    mesh: trimesh.Trimesh, T_world_base: np.ndarray | None = None, **options: Any
) -> list[RGBDFrame]:
    """Three cameras on the far side of the table, for a mesh in the base frame."""
    T = np.eye(4) if T_world_base is None else T_world_base
    moved = mesh.copy()
    moved.apply_transform(T)
    eyes = ([1.3, -0.5, 0.7], [1.3, 0.5, 0.6], [0.6, 0.7, 0.9])
    return [
        render(moved, T @ look_at(eye, [0.5, 0.0, 0.05]), name=f"cam{i}", seed=i, **options)
        for i, eye in enumerate(eyes)
    ]


class RigidRobot:
    """The smallest robot: one mesh that its single joint slides along z."""

    def __init__(self, mesh: trimesh.Trimesh) -> None:
        self.mesh = mesh

    def posed_mesh(self, joint_positions: Any) -> trimesh.Trimesh:
        """The mesh in the base frame."""
        posed = self.mesh.copy()
        posed.apply_translation([0.0, 0.0, float(joint_positions[0])])
        return posed
