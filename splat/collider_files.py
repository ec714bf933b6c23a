"""A collider as files: GLB to look at, URDF for robot tools, MJCF in which the objects can be pushed."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import trimesh
from scipy.spatial.transform import Rotation

from pointworld.files import atomic_folder
from pointworld.geometry import matrix_to_quat_wxyz
from splat.collider import Collider, ColliderObject
from splat.collider_support import Support
from splat.mesh import Up, export_glb

SUPPORT_COLOR = (0.6, 0.55, 0.5, 1.0)


def write_collider(collider: Collider, folder: str | Path, *, up: Up = "z") -> tuple[str, ...]:
    """Write collider.glb, collider.urdf, collider.xml (MJCF) and meshes/; returns the names.

    URDF and MJCF are in the scene's own coordinates, metres. In the URDF everything is fixed to the link `world`; in
    the MJCF the objects are free bodies.
    """
    names = ["collider.glb", "collider.urdf", "collider.xml"]
    with atomic_folder(folder) as temporary:
        (temporary / "meshes").mkdir()
        for item in collider.objects:
            for name, mesh in _object_meshes(item).items():
                text = trimesh.exchange.obj.export_obj(mesh, include_normals=False)
                (temporary / "meshes" / f"{name}.obj").write_text(text, encoding="utf-8")
                names.append(f"meshes/{name}.obj")
        export_glb(_world_meshes(collider), temporary / "collider.glb", up=up)
        _write_xml(_urdf(collider), temporary / "collider.urdf")
        _write_xml(_mjcf(collider), temporary / "collider.xml")
    return tuple(names)


def part_names(item: ColliderObject) -> list[str]:
    """Names of an object's convex parts."""
    return [f"{item.name}_part_{i}" for i in range(len(item.parts))]


def _object_meshes(item: ColliderObject) -> dict[str, trimesh.Trimesh]:
    return {
        f"{item.name}_visual": item.visual,
        **dict(zip(part_names(item), item.parts, strict=True)),
    }


def _world_meshes(collider: Collider) -> dict[str, trimesh.Trimesh]:
    slab = trimesh.creation.box(collider.support.size, collider.support.T_world_slab)
    slab.visual.face_colors = [int(255 * c) for c in SUPPORT_COLOR]
    meshes = {"support": slab}
    rng = np.random.default_rng(0)
    for item in collider.objects:
        for name, part in zip(part_names(item), item.parts, strict=True):
            moved = part.copy()
            moved.apply_transform(item.T_world_object)
            moved.visual.face_colors = [*rng.integers(60, 230, 3).tolist(), 255]
            meshes[name] = moved
    return meshes


def _write_xml(root: ET.Element, path: Path) -> None:
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _numbers(values: np.ndarray | list[float]) -> str:
    return " ".join(f"{float(v):.9g}" for v in values)


def _origin(parent: ET.Element, T: np.ndarray) -> None:
    rpy = Rotation.from_matrix(T[:3, :3]).as_euler("xyz")
    ET.SubElement(parent, "origin", xyz=_numbers(T[:3, 3]), rpy=_numbers(rpy))


def _urdf(collider: Collider) -> ET.Element:
    robot = ET.Element("robot", name="captured_scene")
    ET.SubElement(robot, "link", name="world")
    link = ET.SubElement(robot, "link", name="support")
    for kind in ("visual", "collision"):
        element = ET.SubElement(link, kind)
        geometry = ET.SubElement(element, "geometry")
        ET.SubElement(geometry, "box", size=_numbers(collider.support.size))
    _fix(robot, "support", collider.support.T_world_slab)
    for item in collider.objects:
        link = ET.SubElement(robot, "link", name=item.name)
        _urdf_inertia(link, item, collider.density)
        _urdf_mesh(link, "visual", f"{item.name}_visual")
        for name in part_names(item):
            _urdf_mesh(link, "collision", name)
        _fix(robot, item.name, item.T_world_object)
    return robot


def _fix(robot: ET.Element, child: str, T: np.ndarray) -> None:
    joint = ET.SubElement(robot, "joint", name=f"world_{child}", type="fixed")
    ET.SubElement(joint, "parent", link="world")
    ET.SubElement(joint, "child", link=child)
    _origin(joint, T)


def _urdf_mesh(link: ET.Element, kind: str, name: str) -> None:
    element = ET.SubElement(link, kind)
    geometry = ET.SubElement(element, "geometry")
    ET.SubElement(geometry, "mesh", filename=f"meshes/{name}.obj")


def _urdf_inertia(link: ET.Element, item: ColliderObject, density: float) -> None:
    """Mass, centre and inertia of the parts together (their overlaps are small and counted twice)."""
    masses = np.array([part.volume * density for part in item.parts])
    centers = np.array([part.center_mass for part in item.parts])
    center = (masses[:, None] * centers).sum(axis=0) / masses.sum()
    total = np.zeros((3, 3))
    for part, mass, at in zip(item.parts, masses, centers, strict=True):
        d = at - center
        total += part.moment_inertia * density + mass * ((d @ d) * np.eye(3) - np.outer(d, d))
    inertial = ET.SubElement(link, "inertial")
    ET.SubElement(inertial, "origin", xyz=_numbers(center), rpy="0 0 0")
    ET.SubElement(inertial, "mass", value=f"{masses.sum():.9g}")
    entries = {"ixx": (0, 0), "ixy": (0, 1), "ixz": (0, 2), "iyy": (1, 1), "iyz": (1, 2)}
    entries["izz"] = (2, 2)
    ET.SubElement(inertial, "inertia", {k: f"{total[i]:.9g}" for k, i in entries.items()})


def _mjcf(collider: Collider) -> ET.Element:
    root = ET.Element("mujoco", model="captured_scene")
    ET.SubElement(root, "compiler", angle="radian", meshdir="meshes")
    ET.SubElement(root, "option", gravity=_numbers(-9.81 * collider.support.normal))
    assets = ET.SubElement(root, "asset")
    for item in collider.objects:
        for name in _object_meshes(item):
            attributes = {"name": name, "file": f"{name}.obj"}
            if name.endswith("_visual"):  # an open surface: no volume to take an inertia from
                attributes["inertia"] = "shell"
            ET.SubElement(assets, "mesh", attributes)
    world = ET.SubElement(root, "worldbody")
    above = collider.support.T_world_slab[:3, 3] + 1.5 * collider.support.normal
    ET.SubElement(world, "light", pos=_numbers(above), dir=_numbers(-collider.support.normal))
    _mjcf_support(world, collider.support)
    for item in collider.objects:
        _mjcf_object(world, item, collider.density)
    return root


def _pose(T: np.ndarray) -> dict[str, str]:
    return {"pos": _numbers(T[:3, 3]), "quat": _numbers(matrix_to_quat_wxyz(T[:3, :3]))}


def _mjcf_support(world: ET.Element, support: Support) -> None:
    body = ET.SubElement(world, "body", {"name": "support", **_pose(support.T_world_slab)})
    attributes = {"name": "support", "type": "box", "size": _numbers(support.size / 2)}
    ET.SubElement(body, "geom", {**attributes, "rgba": _numbers(list(SUPPORT_COLOR))})


def _mjcf_object(world: ET.Element, item: ColliderObject, density: float) -> None:
    body = ET.SubElement(world, "body", {"name": item.name, **_pose(item.T_world_object)})
    ET.SubElement(body, "freejoint", name=f"{item.name}_free")
    colors = np.asarray(item.visual.visual.vertex_colors)[:, :3].mean(axis=0) / 255
    shared = {"type": "mesh"}
    ET.SubElement(
        body,
        "geom",
        {
            **shared,
            "name": f"{item.name}_visual",
            "mesh": f"{item.name}_visual",
            "rgba": _numbers([*colors, 1.0]),
            "contype": "0",
            "conaffinity": "0",
            "group": "2",
            "density": "0",
        },
    )
    for name in part_names(item):
        attributes = {**shared, "name": name, "mesh": name, "group": "3"}
        ET.SubElement(body, "geom", {**attributes, "density": f"{density:.9g}"})
