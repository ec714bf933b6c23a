"""Plain descriptions of links and joints, and how they become a URDF with meshes beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from lxml import etree

from robot_assets.parts import COLORS, Part, inertia, outer_surface

Triple = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Link:
    """A link: its convex parts (none for a mere frame) and mass [kg].

    mesh: file stem of the visual mesh; with more than one colour the colour is appended.
    """

    name: str
    parts: Sequence[Part] = ()
    mass: float = 0.0
    mesh: str | None = None


@dataclass(frozen=True)
class Joint:
    """A joint; limits [rad, m], velocity [rad/s, m/s], effort [N m, N]; mimic: (leader, multiplier, offset).

    braking: (velocity offset [rad/s], deceleration [rad/s2]) of velocity limits that shrink near the position limits.
    """

    name: str
    parent: str
    child: str
    xyz: Triple = (0.0, 0.0, 0.0)
    rpy: Triple = (0.0, 0.0, 0.0)
    kind: str = "fixed"
    axis: Triple = (0.0, 0.0, 1.0)
    limits: tuple[float, float] = (0.0, 0.0)
    velocity: float = 0.0
    effort: float = 0.0
    mimic: tuple[str, float, float] | None = None
    braking: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class Robot:
    """A whole robot. gripper: contents of robot.json (tool link, gripper links, finger pads)."""

    name: str
    title: str
    links: Sequence[Link]
    joints: Sequence[Joint]
    facts: dict[str, object] = field(default_factory=dict)


def write_robot(robot: Robot, folder: Path) -> None:
    """Write `<name>.urdf` and `meshes/` into `folder`."""
    root = etree.Element("robot", name=robot.name)
    root.append(etree.Comment(f" {robot.title}. Written by robot_assets/build_geometry.py. "))
    for name, rgb in COLORS.items():
        material = etree.SubElement(root, "material", name=name)
        etree.SubElement(material, "color", rgba=_numbers((*rgb, 1.0)))
    for link in robot.links:
        _write_link(root, link, folder)
    for joint in robot.joints:
        _write_joint(root, joint)
    etree.indent(root)
    text = etree.tostring(root, xml_declaration=True, encoding="utf-8", pretty_print=True)
    (folder / f"{robot.name}.urdf").write_bytes(text)


def _write_link(root: etree._Element, link: Link, folder: Path) -> None:
    element = etree.SubElement(root, "link", name=link.name)
    if not link.parts:
        return
    center, moments = inertia(link.parts, link.mass)
    inertial = etree.SubElement(element, "inertial")
    etree.SubElement(inertial, "origin", xyz=_numbers(center, 6), rpy="0 0 0")
    etree.SubElement(inertial, "mass", value=_numbers([link.mass], 5))
    keys = {
        "ixx": (0, 0),
        "ixy": (0, 1),
        "ixz": (0, 2),
        "iyy": (1, 1),
        "iyz": (1, 2),
        "izz": (2, 2),
    }
    etree.SubElement(inertial, "inertia", {k: _numbers([moments[ij]], 9) for k, ij in keys.items()})
    colors = list(dict.fromkeys(p.color for p in link.parts))
    stem = link.mesh or link.name
    for color in colors:
        surface = outer_surface(link.parts, color)
        if surface is not None:
            name = stem if len(colors) == 1 else f"{stem}_{color}"
            file = _write_mesh(surface, folder, f"meshes/visual/{name}.stl")
            _geometry(etree.SubElement(element, "visual"), file, color)
    for i, piece in enumerate(link.parts):
        file = _write_mesh(piece.hull, folder, f"meshes/collision/{stem}_{i}.stl")
        _geometry(etree.SubElement(element, "collision"), file)


def _write_mesh(mesh: object, folder: Path, relative: str) -> str:
    path = folder / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(mesh.export(file_type="stl"))  # type: ignore[attr-defined]
    return relative


def _geometry(element: etree._Element, file: str, color: str | None = None) -> None:
    etree.SubElement(element, "origin", xyz="0 0 0", rpy="0 0 0")
    etree.SubElement(etree.SubElement(element, "geometry"), "mesh", filename=file)
    if color is not None:
        etree.SubElement(element, "material", name=color)


def _write_joint(root: etree._Element, joint: Joint) -> None:
    element = etree.SubElement(root, "joint", name=joint.name, type=joint.kind)
    etree.SubElement(element, "parent", link=joint.parent)
    etree.SubElement(element, "child", link=joint.child)
    etree.SubElement(element, "origin", xyz=_numbers(joint.xyz), rpy=_numbers(joint.rpy))
    if joint.kind == "fixed":
        return
    etree.SubElement(element, "axis", xyz=_numbers(joint.axis))
    etree.SubElement(
        element,
        "limit",
        lower=_numbers([joint.limits[0]]),
        upper=_numbers([joint.limits[1]]),
        velocity=_numbers([joint.velocity]),
        effort=_numbers([joint.effort]),
    )
    if joint.braking is not None:
        offset, deceleration = joint.braking
        etree.SubElement(
            element,
            "position_based_velocity_limits",
            velocity_offset=_numbers([offset]),
            deceleration_limit=_numbers([deceleration]),
        )
    if joint.mimic is not None:
        leader, multiplier, offset = joint.mimic
        etree.SubElement(
            element,
            "mimic",
            joint=leader,
            multiplier=_numbers([multiplier]),
            offset=_numbers([offset]),
        )


def _numbers(values: Sequence[float] | np.ndarray, digits: int = 10) -> str:
    return " ".join(
        np.format_float_positional(v, digits, trim="-") for v in np.asarray(values) + 0.0
    )
