"""The kinematic tree, convex parts and looks of a robot, as the simulator needs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import trimesh

from pointworld.errors import InputError
from pointworld.robot import RobotModel
from pointworld.robot.urdf import UrdfJoint


@dataclass(frozen=True, kw_only=True, eq=False)
class Solid:
    """A mesh in its link's frame: vertices (v, 3) [m], faces (f, 3), colour in 0-1."""

    vertices: np.ndarray
    faces: np.ndarray
    rgb: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class RobotTree:
    """joints: parents come first. collision (convex parts) and visual (what is seen): link -> solids.

    joint_names: driven joints, in the order of the robot's joint vector; velocity: their limits.
    tool_link: tool centre point.
    """

    root: str
    joints: tuple[UrdfJoint, ...]
    collision: Mapping[str, tuple[Solid, ...]]
    visual: Mapping[str, tuple[Solid, ...]]
    gripper_links: tuple[str, ...]
    tool_link: str
    joint_names: tuple[str, ...]
    velocity: np.ndarray


def robot_tree(robot: RobotModel) -> RobotTree:
    """What the simulator needs of a loaded robot: the very geometry that masks and robot flow are made from.

    Raises:
        InputError: the robot is not a seven-joint arm with a parallel gripper and a tool link.
    """
    driven = [joint for joint in robot.joints if joint.name in robot.joint_names]
    kinds = [joint.kind == "prismatic" for joint in driven]
    if robot.tool_link is None or not robot.gripper_links or kinds != [False] * 7 + [True]:
        raise InputError(
            f"robot '{robot.name}' has the driven joints {list(robot.joint_names)} and the tool link "
            f"{robot.tool_link}; clips need seven revolute arm joints, one prismatic finger joint and a tool link. "
            "Use 'fr3'."
        )
    visual: dict[str, tuple[Solid, ...]] = {}
    for item in robot.visuals:
        visual[item.link] = (*visual.get(item.link, ()), _solid(item.mesh))
    return RobotTree(
        root=robot.root_link,
        joints=robot.joints,
        collision={
            link: tuple(_solid(m) for m in meshes)
            for link, meshes in robot.collision_meshes.items()
        },
        visual=visual,
        gripper_links=robot.gripper_links,
        tool_link=robot.tool_link,
        joint_names=robot.joint_names,
        velocity=robot.velocity,
    )


def _solid(mesh: trimesh.Trimesh) -> Solid:
    r, g, b = (float(v) / 255 for v in mesh.visual.main_color[:3])
    return Solid(vertices=np.asarray(mesh.vertices), faces=np.asarray(mesh.faces), rgb=(r, g, b))
