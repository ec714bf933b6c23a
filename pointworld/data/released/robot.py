"""The robot of a released clip as moving surface points, with the release's sampler settings.

Source: robot point sampler of the PointWorld release: gripper meshes only, 500 points, one cloud for all clips at
evaluation; the arm filter of BEHAVIOR.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from pointworld.data.released.decode import ReleasedClip
from pointworld.data.released.layout import attribute_value
from pointworld.data.released.voxels import key_seed
from pointworld.errors import InputError
from pointworld.geometry import rotate_vectors, transform_points
from pointworld.robot import RobotModel, SurfacePoints

#: Surface points before thinning, shared by mesh area.
ROBOT_POINTS = 500
#: An arm that stays farther than this from every object, and touches none, is left out [m].
ARM_DISTANCE = 0.2


@dataclass(frozen=True, kw_only=True, eq=False)
class RobotCloud:
    """Moving surface points in the clip's base frame.

    positions, normals: (steps, points, 3) float32. gripper_open: (steps, arms) float32, 0 for an arm left out.
    """

    positions: np.ndarray
    normals: np.ndarray
    gripper_open: np.ndarray


def clip_joints(clip: ReleasedClip, robot: RobotModel) -> np.ndarray:
    """(steps, joints) in the robot's order, matched by name; joints that the clip does not have are 0.

    Raises:
        InputError: no name matches, or a joint of a DROID clip is missing.
    """
    columns = {name: i for i, name in enumerate(clip.joint_names)}
    known = [name for name in robot.joint_names if name in columns]
    if not known or (clip.domain == "droid" and len(known) < len(columns)):
        raise InputError(
            f"{clip.source}: clip {clip.key} has the joints {list(clip.joint_names)}, the robot '{robot.name}' has "
            f"{list(robot.joint_names)}. DROID clips need 'panda_robotiq', BEHAVIOR clips a URDF of the R1 Pro."
        )
    values = np.zeros((len(clip.joint_positions), len(robot.joint_names)))
    for i, name in enumerate(robot.joint_names):
        if name in columns:
            values[:, i] = clip.joint_positions[:, columns[name]]
    return values


def dropped_arm(clip: ReleasedClip, first: str) -> str | None:
    """The arm of a BEHAVIOR clip that takes no part, or None; when neither does, only `first` is dropped.

    An arm takes part when a finger touches something or when it comes within 20 cm of an object (distance -1: there
    is none, and the arm stays).
    """
    if clip.domain != "behavior":
        return None
    other = "left" if first == "right" else "right"
    where = f"{clip.source}: {clip.key}"
    for side in (first, other):
        name = f"has_{side}_gripper_finger_collision"
        touches = attribute_value(clip.attributes, name, where)
        name = f"{side}_min_distance_to_all_objects"
        distance = attribute_value(clip.attributes, name, where)
        if not touches and distance > ARM_DISTANCE:
            return side
    return None


def first_arm(seed: int, key: str) -> str:
    """The arm that `dropped_arm` looks at first at evaluation, by the clip's seed (even: right; our choice)."""
    return "left" if key_seed(seed, key) % 2 else "right"


def robot_cloud(
    clip: ReleasedClip, robot: RobotModel, *, count: int, surface_seed: int, drop: str | None
) -> RobotCloud:
    """Surface points of the clip's gripper(s) along the recorded motion.

    Args:
        count: points before thinning. surface_seed: 42 at evaluation, drawn per sample in training.
        drop: arm whose points are left out, its links named left... or right...
    """
    surface = robot.sample_surface_released(count, seed=surface_seed)
    gripper = clip.gripper_open.astype(np.float32)
    if drop is not None:
        surface = _without(surface, robot, lambda link: not link.startswith(drop))
        gripper[:, clip.sides.index(drop)] = 0.0
    joints = torch.from_numpy(clip_joints(clip, robot))
    flow = robot.flow(surface, joints, step_dt=clip.step_dt)
    positions, normals = flow.positions.double().numpy(), flow.normals.double().numpy()
    if clip.base_poses is not None:
        positions = transform_points(clip.base_poses, positions)
        normals = rotate_vectors(clip.base_poses, normals)
    return RobotCloud(
        positions=positions.astype(np.float32),
        normals=normals.astype(np.float32),
        gripper_open=gripper,
    )


def _without(
    surface: SurfacePoints, robot: RobotModel, keep: Callable[[str], bool]
) -> SurfacePoints:
    links = torch.tensor([keep(name) for name in robot.link_names])
    kept = links[surface.link_index]
    if not kept.any():
        raise InputError(f"robot '{robot.name}': no gripper is left after dropping one arm")
    return SurfacePoints(
        link_index=surface.link_index[kept],
        points=surface.points[kept],
        normals=surface.normals[kept],
    )
