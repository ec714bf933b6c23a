"""The state that the release's transforms work on, and the steps that evaluation and training share.

Source: transform chain of the PointWorld release. Every step returns a new value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pointworld.data.released.decode import ReleasedCamera
from pointworld.data.released.robot import RobotCloud
from pointworld.errors import InputError
from pointworld.geometry import transform_points

#: Half edge of the open cube about the centre that a point may never leave [m].
BOX = 3.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Cloud:
    """Scene and robot points of one clip in a frame that the steps move.

    positions: (steps, points, 3) float32 [m]. colors: (points, 3) float32, 0-255. normals: (points, 3).
    supervised: (steps, points) bool. bodies: (points,) int64.
    robot: (steps, robot points, 3). robot_normals: the same.
    to_base: (4, 4) float64 from this frame to the robot base; affine: it may scale and mirror.
    """

    positions: np.ndarray
    colors: np.ndarray
    normals: np.ndarray
    supervised: np.ndarray
    bodies: np.ndarray
    robot: np.ndarray
    robot_normals: np.ndarray
    to_base: np.ndarray

    def scene_rows(self, index: np.ndarray) -> Cloud:
        """Only the scene points at `index` (a mask or indices)."""
        return replace(
            self,
            positions=self.positions[:, index],
            colors=self.colors[index],
            normals=self.normals[index],
            supervised=self.supervised[:, index],
            bodies=self.bodies[index],
        )

    def robot_rows(self, index: np.ndarray) -> Cloud:
        """Only the robot points at `index`."""
        return replace(self, robot=self.robot[:, index], robot_normals=self.robot_normals[:, index])

    def moved(self, T: np.ndarray) -> Cloud:
        """All points under the affine T (4, 4); normals turn with an orthogonal T, a scale leaves them."""
        turn = T[:3, :3] / np.abs(np.linalg.det(T[:3, :3])) ** (1 / 3)
        matrix, rotation = T.astype(np.float32), turn.astype(np.float32)
        return replace(
            self,
            positions=transform_points(matrix, self.positions),
            robot=transform_points(matrix, self.robot),
            normals=self.normals @ rotation.T,
            robot_normals=self.robot_normals @ rotation.T,
            to_base=self.to_base @ np.linalg.inv(T),
        )


def merge_cameras(
    cameras: Sequence[ReleasedCamera], robot: RobotCloud
) -> tuple[Cloud, tuple[str, ...]]:
    """The points of the chosen cameras, one after the other, with the robot's.

    Returns:
        The cloud, and the names of its bodies (a body seen by two cameras is one); empty where bodies are unknown.
    """
    names = tuple(sorted({name for camera in cameras for name in camera.body_names}))
    index = {name: i for i, name in enumerate(names)}
    bodies = []
    for camera in cameras:
        lookup = np.array([index[name] for name in camera.body_names] or [0], np.int64)
        bodies.append(lookup[camera.bodies])
    cloud = Cloud(
        positions=np.concatenate([c.positions for c in cameras], 1),
        colors=np.concatenate([c.colors for c in cameras]).astype(np.float32),
        normals=np.concatenate([c.normals for c in cameras]),
        supervised=np.concatenate([c.supervised for c in cameras], 1),
        bodies=np.concatenate(bodies),
        robot=robot.positions,
        robot_normals=robot.normals,
        to_base=np.eye(4),
    )
    return cloud, names


def centre(cloud: Cloud) -> Cloud:
    """Put the mean of all points at step 0, scene and robot together, at the origin."""
    T = np.eye(4)
    T[:3, 3] = -np.concatenate([cloud.positions[0], cloud.robot[0]]).mean(0, dtype=np.float64)
    return cloud.moved(T)


def inside_box(cloud: Cloud, where: str) -> Cloud:
    """Drop scene points that are outside the cube at any step.

    Raises:
        InputError: none is left.
    """
    kept = (np.abs(cloud.positions) < BOX).all((0, 2))
    if not kept.any():
        raise InputError(
            f"{where}: no scene point stays within {BOX} m of the centre; the clip has {len(kept)} points"
        )
    return cloud.scene_rows(kept)
