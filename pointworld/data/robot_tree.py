"""The kinematic tree, convex parts and looks of a robot, as the simulator needs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pointworld.errors import InputError
from pointworld.robot import RobotModel

_GREY = (0.7, 0.7, 0.7)


@dataclass(frozen=True, kw_only=True, eq=False)
class TreeJoint:
    """One joint: T_parent_child at zero is `origin` (4, 4); axis in the child frame; limits [rad or m].

    kind: revolute, continuous, prismatic or fixed. mimic: (leader joint, multiplier, offset), or None.
    """

    name: str
    parent: str
    child: str
    origin: np.ndarray
    kind: str
    axis: np.ndarray
    lower: float = 0.0
    upper: float = 0.0
    mimic: tuple[str, float, float] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Solid:
    """A mesh in its link's frame: vertices (v, 3) [m], faces (f, 3), colour in 0-1."""

    vertices: np.ndarray
    faces: np.ndarray
    rgb: tuple[float, float, float] = _GREY


@dataclass(frozen=True, kw_only=True, eq=False)
class RobotTree:
    """joints: parents come first. collision (convex parts) and visual (what is seen): link -> solids.

    joint_names: driven joints, in the order of the robot's joint vector; velocity: their limits.
    tool_link: tool centre point.
    """

    root: str
    joints: tuple[TreeJoint, ...]
    collision: Mapping[str, tuple[Solid, ...]]
    visual: Mapping[str, tuple[Solid, ...]]
    gripper_links: tuple[str, ...]
    tool_link: str
    joint_names: tuple[str, ...]
    velocity: np.ndarray


def robot_tree(robot: RobotModel) -> RobotTree:
    """The tree of a loaded (and so validated) robot, read from its URDF.

    Raises:
        InputError: the robot has no tool link, or no joint that the simulator can drive.
    """
    from lxml import etree

    if robot.tool_link is None:
        raise InputError(f"robot '{robot.name}' has no tool link, so no hand motions can be planned for it")
    path = Path(robot.urdf_path)
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True)
    root = etree.parse(str(path), parser).getroot()
    colors = {
        m.get("name"): _rgb(m) for m in root.findall("material") if m.find("color") is not None
    }
    links = {link.get("name"): link for link in root.findall("link")}
    joints = _ordered([_joint(element) for element in root.findall("joint")])
    children = {joint.child for joint in joints}
    base = next(name for name in links if name not in children)
    return RobotTree(
        root=base,
        joints=joints,
        collision={n: _solids(e, "collision", path.parent, colors) for n, e in links.items()},
        visual={n: _solids(e, "visual", path.parent, colors) for n, e in links.items()},
        gripper_links=tuple(robot.gripper_links),
        tool_link=robot.tool_link,
        joint_names=tuple(robot.joint_names),
        velocity=np.asarray(robot.velocity, dtype=np.float64),
    )


def _numbers(text: str | None, default: tuple[float, ...]) -> np.ndarray:
    return np.array([float(v) for v in text.split()] if text else default, dtype=np.float64)


def _origin(element: Any) -> np.ndarray:
    """T (4, 4) of an <origin> child: fixed-axis roll, pitch, yaw."""
    T = np.eye(4)
    origin = element.find("origin")
    if origin is None:
        return T
    r, p, y = _numbers(origin.get("rpy"), (0.0, 0.0, 0.0))
    cr, sr, cp, sp, cy, sy = np.cos(r), np.sin(r), np.cos(p), np.sin(p), np.cos(y), np.sin(y)
    T[:3, :3] = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    T[:3, 3] = _numbers(origin.get("xyz"), (0.0, 0.0, 0.0))
    return T


def _joint(element: Any) -> TreeJoint:
    axis, limit, mimic = element.find("axis"), element.find("limit"), element.find("mimic")
    leader = None
    if mimic is not None:
        leader = (
            mimic.get("joint"),
            float(mimic.get("multiplier", "1")),
            float(mimic.get("offset", "0")),
        )
    return TreeJoint(
        name=element.get("name"),
        parent=element.find("parent").get("link"),
        child=element.find("child").get("link"),
        origin=_origin(element),
        kind=element.get("type"),
        axis=_numbers(None if axis is None else axis.get("xyz"), (1.0, 0.0, 0.0)),
        lower=0.0 if limit is None else float(limit.get("lower", "0")),
        upper=0.0 if limit is None else float(limit.get("upper", "0")),
        mimic=leader,
    )


def _ordered(joints: list[TreeJoint]) -> tuple[TreeJoint, ...]:
    """Parents before children, else in the file's order (a validated URDF is a tree)."""
    children = {joint.child for joint in joints}
    placed = {joint.parent for joint in joints if joint.parent not in children}
    ordered: list[TreeJoint] = []
    waiting = list(joints)
    while waiting:
        ready = next(joint for joint in waiting if joint.parent in placed)
        waiting.remove(ready)
        placed.add(ready.child)
        ordered.append(ready)
    return tuple(ordered)


def _rgb(material: Any) -> tuple[float, float, float]:
    rgba = _numbers(material.find("color").get("rgba"), (*_GREY, 1.0))
    return float(rgba[0]), float(rgba[1]), float(rgba[2])


def _solids(
    link: Any, kind: str, folder: Path, colors: Mapping[str, tuple[float, float, float]]
) -> tuple[Solid, ...]:
    import trimesh

    solids = []
    for element in link.findall(kind):
        mesh_element = element.find("geometry/mesh")
        if mesh_element is None:
            raise InputError(
                f"link '{link.get('name')}' has a {kind} that is not a mesh; the simulator needs meshes"
            )
        mesh = trimesh.load(folder / mesh_element.get("filename"), force="mesh")
        scale = _numbers(mesh_element.get("scale"), (1.0, 1.0, 1.0))
        T = _origin(element)
        material = element.find("material")
        name = None if material is None else material.get("name")
        solids.append(
            Solid(
                vertices=np.asarray(mesh.vertices) * scale @ T[:3, :3].T + T[:3, 3],
                faces=np.asarray(mesh.faces),
                rgb=colors.get(str(name), _GREY),
            )
        )
    return tuple(solids)
