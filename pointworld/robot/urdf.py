"""URDF files read with care: what is parsed, what is refused, and why.

Only what geometry and kinematics need is kept (links with visual and collision geometry, joints, materials).
Everything else (transmissions, plugins, foreign namespaces) is skipped. Document types are refused outright, so no
entity is ever expanded and no network or file access happens while parsing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lxml import etree

from pointworld.errors import AssetError

MAX_URDF_BYTES = 8_000_000
JOINT_KINDS = ("revolute", "continuous", "prismatic", "fixed")


@dataclass(frozen=True, kw_only=True, eq=False)
class UrdfGeometry:
    """One visual or collision element: kind is mesh, box, cylinder or sphere.

    size: box edges (3,), (radius, length) of a cylinder, (radius,) of a sphere, scale (3,) of a mesh [m].
    origin: (4, 4) T_link_geometry. color: RGBA 0-1, or None.
    """

    kind: str
    origin: np.ndarray
    size: tuple[float, ...]
    filename: str = ""
    color: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class UrdfLink:
    """A link with its geometry."""

    name: str
    visuals: tuple[UrdfGeometry, ...] = ()
    collisions: tuple[UrdfGeometry, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class UrdfJoint:
    """A joint: T_parent_child at zero is `origin` (4, 4); unit `axis` in the child frame; limits [rad or m].

    kind: revolute, continuous, prismatic or fixed. velocity: [rad/s or m/s]. mimic: (leader, multiplier, offset).
    """

    name: str
    parent: str
    child: str
    kind: str
    origin: np.ndarray
    axis: np.ndarray
    lower: float = 0.0
    upper: float = 0.0
    velocity: float = 0.0
    mimic: tuple[str, float, float] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class UrdfDescription:
    """A parsed file, not yet checked as a tree (see `tree.check_tree`)."""

    name: str
    source: str
    links: tuple[UrdfLink, ...]
    joints: tuple[UrdfJoint, ...]


def parse_urdf(path: str | Path) -> UrdfDescription:
    """Read a URDF file.

    Raises:
        AssetError: missing, too large, not XML, has a document type, or an element is not usable; the message
            names the file and the element.
    """
    file = Path(path)
    root = _parse_xml(file)
    if root.tag != "robot":
        raise AssetError(
            f"{file}: the root element is <{root.tag}>, expected <robot>. Is it a xacro, SDF or MJCF file? "
            "Expand xacro files to plain URDF first."
        )
    reader = _Reader(file)
    materials = {
        str(m.get("name")): color
        for m in root.findall("material")
        if (color := reader.color(m, {})) is not None
    }
    return UrdfDescription(
        name=root.get("name") or file.stem,
        source=str(file),
        links=tuple(reader.link(e, materials) for e in root.findall("link")),
        joints=tuple(reader.joint(e) for e in root.findall("joint")),
    )


def _parse_xml(file: Path) -> Any:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise AssetError(f"cannot read the URDF {file}: {error.strerror or error}") from error
    if len(data) > MAX_URDF_BYTES:
        raise AssetError(
            f"{file}: {len(data)} bytes, a URDF may have at most {MAX_URDF_BYTES}. Keep meshes in their own files."
        )
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise AssetError(
            f"{file}: not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise AssetError(
            f"{file}: contains a document type or entities, which are refused. Remove the <!DOCTYPE ...> block."
        )
    options: dict[str, Any] = {
        "resolve_entities": False,
        "no_network": True,
        "load_dtd": False,
        "huge_tree": False,
        "remove_comments": True,
        "remove_pis": True,
    }
    parser = etree.XMLParser(**options)
    try:
        return etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        # Undeclared prefixes (drake:acceleration) are common and harmless; anything else is a broken file.
        if not all(entry.domain_name == "NAMESPACE" for entry in parser.error_log):
            reason = " ".join(str(error.msg).split())
            raise AssetError(f"{file}: not well-formed XML: {reason}") from error
    return etree.fromstring(data, etree.XMLParser(**options, recover=True))


class _Reader:
    """Turns elements into descriptions; every complaint names the file and the element."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def fail(self, owner: str, message: str) -> AssetError:
        return AssetError(f"{self.file}: {owner}: {message}")

    def numbers(self, text: str | None, count: int, owner: str, what: str) -> tuple[float, ...]:
        try:
            values = tuple(float(v) for v in (text or "").split())
        except ValueError:
            values = ()
        if len(values) != count or not np.isfinite(values).all():
            raise self.fail(owner, f"{what} is '{text}', expected {count} finite number(s)")
        return values

    def name(self, element: Any) -> str:
        name = element.get("name")
        if not name:
            raise self.fail(f"line {element.sourceline}", f"<{element.tag}> has no name")
        return str(name)

    def origin(self, element: Any, owner: str) -> np.ndarray:
        node = element.find("origin")
        T = np.eye(4)
        if node is None:
            return T
        T[:3, 3] = self.numbers(node.get("xyz", "0 0 0"), 3, owner, "origin xyz")
        T[:3, :3] = rpy_to_matrix(self.numbers(node.get("rpy", "0 0 0"), 3, owner, "origin rpy"))
        return T

    def color(
        self, material: Any, materials: Mapping[str, tuple[float, ...]]
    ) -> tuple[float, float, float, float] | None:
        if material is None:
            return None
        node = material.find("color")
        if node is None:
            known = materials.get(str(material.get("name")))
            return None if known is None else (known[0], known[1], known[2], known[3])
        owner = f"material '{material.get('name')}'"
        r, g, b, a = self.numbers(node.get("rgba"), 4, owner, "rgba")
        return (r, g, b, a)

    def link(self, element: Any, materials: Mapping[str, tuple[float, ...]]) -> UrdfLink:
        name = self.name(element)
        owner = f"link '{name}'"
        return UrdfLink(
            name=name,
            visuals=tuple(self.geometry(v, owner, materials) for v in element.findall("visual")),
            collisions=tuple(
                self.geometry(v, owner, materials) for v in element.findall("collision")
            ),
        )

    def geometry(
        self, element: Any, owner: str, materials: Mapping[str, tuple[float, ...]]
    ) -> UrdfGeometry:
        owner = f"{owner} {element.tag}"
        holder = element.find("geometry")
        shape = None if holder is None else next(iter(holder), None)
        kind = "" if shape is None else str(shape.tag)
        if shape is None or kind not in ("mesh", "box", "cylinder", "sphere"):
            raise self.fail(owner, f"geometry '{kind}', expected mesh, box, cylinder or sphere")
        filename = ""
        if kind == "mesh":
            filename = str(shape.get("filename") or "")
            size = self.numbers(shape.get("scale", "1 1 1"), 3, owner, "mesh scale")
            if not filename:
                raise self.fail(owner, "mesh without a file name")
        elif kind == "box":
            size = self.numbers(shape.get("size"), 3, owner, "box size")
        else:
            size = self.numbers(shape.get("radius"), 1, owner, f"{kind} radius")
            if kind == "cylinder":
                size += self.numbers(shape.get("length"), 1, owner, "cylinder length")
        if min(abs(v) for v in size) == 0 or (kind != "mesh" and min(size) < 0):
            raise self.fail(owner, f"{kind} of size {size}, expected sizes above zero")
        return UrdfGeometry(
            kind=kind,
            origin=self.origin(element, owner),
            size=size,
            filename=filename,
            color=self.color(element.find("material"), materials),
        )

    def joint(self, element: Any) -> UrdfJoint:
        name = self.name(element)
        owner = f"joint '{name}'"
        kind = str(element.get("type"))
        if kind not in JOINT_KINDS:
            raise self.fail(
                owner, f"type '{kind}' is not supported, expected {' | '.join(JOINT_KINDS)}"
            )
        ends = []
        for tag in ("parent", "child"):
            node = element.find(tag)
            if node is None or not node.get("link"):
                raise self.fail(owner, f"has no <{tag} link=...>")
            ends.append(str(node.get("link")))
        lower, upper, velocity = self.limits(element, kind, owner)
        return UrdfJoint(
            name=name,
            parent=ends[0],
            child=ends[1],
            kind=kind,
            origin=self.origin(element, owner),
            axis=self.axis(element, kind, owner),
            lower=lower,
            upper=upper,
            velocity=velocity,
            mimic=self.mimic(element, kind, owner),
        )

    def axis(self, element: Any, kind: str, owner: str) -> np.ndarray:
        node = element.find("axis")
        if kind == "fixed" or node is None:
            return np.array([1.0, 0.0, 0.0])
        axis = np.array(self.numbers(node.get("xyz"), 3, owner, "axis"))
        length = float(np.linalg.norm(axis))
        if length < 1e-6:
            raise self.fail(owner, f"axis is {axis.tolist()}, expected a direction (not zero)")
        return axis / length

    def limits(self, element: Any, kind: str, owner: str) -> tuple[float, float, float]:
        node = element.find("limit")
        if kind == "fixed":
            return 0.0, 0.0, 0.0
        if node is None:
            if kind != "continuous":
                raise self.fail(owner, f"a {kind} joint needs <limit lower= upper= velocity=>")
            return -np.inf, np.inf, np.inf
        velocity = np.inf
        if node.get("velocity") is not None:
            velocity = self.numbers(node.get("velocity"), 1, owner, "velocity limit")[0]
        if velocity < 0:
            raise self.fail(owner, f"velocity limit is {velocity}, expected zero or more")
        if kind == "continuous":
            return -np.inf, np.inf, velocity
        lower = self.numbers(node.get("lower", "0"), 1, owner, "lower limit")[0]
        upper = self.numbers(node.get("upper", "0"), 1, owner, "upper limit")[0]
        if lower > upper:
            raise self.fail(
                owner, f"lower limit {lower} is above the upper limit {upper}; are they reversed?"
            )
        return lower, upper, velocity

    def mimic(self, element: Any, kind: str, owner: str) -> tuple[str, float, float] | None:
        node = element.find("mimic")
        if node is None or kind == "fixed":
            return None
        leader = str(node.get("joint") or "")
        multiplier = self.numbers(node.get("multiplier", "1"), 1, owner, "mimic multiplier")[0]
        offset = self.numbers(node.get("offset", "0"), 1, owner, "mimic offset")[0]
        return leader, multiplier, offset


def rpy_to_matrix(rpy: tuple[float, ...] | np.ndarray) -> np.ndarray:
    """Rotation (3, 3) of URDF roll, pitch, yaw [rad]: Rz(yaw) Ry(pitch) Rx(roll)."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy), np.sin(rpy)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )
