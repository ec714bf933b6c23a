"""Mesh files of a robot: found only inside the robot's folder, read without following anything they name.

Files are parsed from memory, so materials, textures and other files a mesh refers to are never opened.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import trimesh

from pointworld.errors import AssetError
from pointworld.robot.urdf import UrdfGeometry

MAX_MESH_BYTES = 64_000_000
MAX_COORDINATE = 1e6
FORMATS = ("stl", "obj", "dae")
_DEFAULT_COLOR = (0.7, 0.7, 0.72, 1.0)


def resolve_mesh(filename: str, urdf: Path, root: Path) -> Path:
    """The file that a URDF's mesh name means, inside `root`.

    `package://NAME/rest` is looked up as `NAME/rest` in every folder from the URDF's up to `root`, and as `rest` in
    them; a relative name is relative to the URDF. Absolute paths, `file:` and other schemes, and names that leave
    `root` (also through links) are refused.

    Raises:
        AssetError: refused or missing.
    """
    name = unquote(filename).replace("\\", "/")
    home = root.resolve()
    if name.startswith("package://"):
        rest = name.removeprefix("package://")
        inner = rest.partition("/")[2]
        bases = _folders(urdf.resolve().parent, home)
        candidates = [base / tail for base in bases for tail in (rest, inner) if tail]
    elif ":" in name or name.startswith("/"):
        raise AssetError(
            f"{urdf}: mesh '{filename}' is refused: only relative names and package:// inside the robot's folder "
            "are read. Copy the mesh beside the URDF."
        )
    else:
        candidates = [urdf.resolve().parent / name]
    for candidate in candidates:
        target = candidate.resolve()
        if not target.is_relative_to(home):
            raise AssetError(
                f"{urdf}: mesh '{filename}' leaves the robot's folder {home}, which is refused"
            )
        if target.is_file():
            return target
    raise AssetError(
        f"{urdf}: mesh '{filename}' not found below {home}. Copy it there or correct its name."
    )


def _folders(start: Path, stop: Path) -> list[Path]:
    folders = [start]
    while folders[-1] != stop and stop in folders[-1].parents:
        folders.append(folders[-1].parent)
    return folders


def read_mesh(path: Path) -> trimesh.Trimesh:
    """Triangles of an STL, OBJ or DAE file, in the file's own units and axes.

    Raises:
        AssetError: unknown format, too large, damaged, empty, or with NaN.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise AssetError(
            f"{path}: meshes must be {', '.join(FORMATS).upper()} files, got '.{kind}'"
        )
    if path.stat().st_size > MAX_MESH_BYTES:
        raise AssetError(
            f"{path}: larger than {MAX_MESH_BYTES // 1_000_000} MB, use a simpler mesh"
        )
    data = path.read_bytes()
    if kind == "dae" and (b"<!DOCTYPE" in data or b"<!ENTITY" in data):
        raise AssetError(f"{path}: contains a document type or entities, which are refused")
    if kind == "stl":
        _check_stl_size(path, data)
    mesh = _load(path, data, kind)
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    if len(faces) == 0 or not np.isfinite(vertices).all():
        raise AssetError(f"{path}: the mesh is empty or contains NaN or infinity")
    if np.abs(vertices).max() > MAX_COORDINATE:
        raise AssetError(
            f"{path}: a vertex is {np.abs(vertices).max():.3g} from the origin; damaged?"
        )
    return mesh


def _check_stl_size(path: Path, data: bytes) -> None:
    """A binary STL says how many triangles follow; a truncated one is refused instead of half read."""
    if data[:5].lower() == b"solid" and b"facet" in data[:1000]:
        if b"endsolid" not in data[-200:]:
            raise AssetError(f"{path}: the ASCII STL ends early")
        return
    count = int.from_bytes(data[80:84], "little") if len(data) >= 84 else -1
    if len(data) != 84 + 50 * count:
        raise AssetError(
            f"{path}: {len(data)} bytes, its header promises {count} triangles; truncated?"
        )


def _load(path: Path, data: bytes, kind: str) -> trimesh.Trimesh:
    """Parse with trimesh, colours turned into face colours."""
    try:
        loaded: Any = trimesh.load_scene(io.BytesIO(data), file_type=kind)
        pieces = []
        for node in loaded.graph.nodes_geometry:
            T, name = loaded.graph[node]
            piece = loaded.geometry[name]
            if isinstance(piece, trimesh.Trimesh) and len(piece.faces):
                pieces.append(_plain(piece, np.asarray(T), _material_color(piece)))
    except Exception as error:  # parsers of damaged files raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise AssetError(f"{path}: not a readable {kind.upper()} mesh ({reason})") from error
    if not pieces:
        raise AssetError(f"{path}: no triangles in it")
    return pieces[0] if len(pieces) == 1 else trimesh.util.concatenate(pieces)


def _material_color(mesh: trimesh.Trimesh) -> tuple[float, ...] | None:
    """RGBA 0-1 of a mesh's material, None where it has none."""
    material = getattr(mesh.visual, "material", None)
    color = getattr(material, "main_color", None)
    return None if color is None else tuple(np.asarray(color, dtype=float) / 255.0)


def _plain(
    mesh: trimesh.Trimesh, T: np.ndarray, color: tuple[float, ...] | None
) -> trimesh.Trimesh:
    """Triangles moved by T, with one colour; mirrored meshes keep their outward winding."""
    vertices = np.asarray(mesh.vertices, dtype=float) @ T[:3, :3].T + T[:3, 3]
    faces = np.asarray(mesh.faces)
    if np.linalg.det(T[:3, :3]) < 0:
        faces = faces[:, ::-1]
    plain = trimesh.Trimesh(vertices, faces, process=False)
    rgba = np.clip(np.asarray(color or _DEFAULT_COLOR) * 255, 0, 255).astype(np.uint8)
    plain.visual.face_colors = np.tile(rgba, (len(faces), 1))
    plain.metadata["colored"] = color is not None
    return plain


def build_geometry(geometry: UrdfGeometry, urdf: Path, root: Path) -> trimesh.Trimesh:
    """A visual or collision element as triangles in its link's frame [m]."""
    T = geometry.origin
    if geometry.kind == "mesh":
        mesh = read_mesh(resolve_mesh(geometry.filename, urdf, root))
        color = geometry.color
        T = T @ np.diag([*geometry.size, 1.0])
        if color is None:
            return _moved(mesh, T)
        return _plain(mesh, T, color)
    if geometry.kind == "box":
        shape = trimesh.creation.box(geometry.size)
    elif geometry.kind == "cylinder":
        shape = trimesh.creation.cylinder(geometry.size[0], geometry.size[1], sections=32)
    else:
        shape = trimesh.creation.icosphere(subdivisions=3, radius=geometry.size[0])
    return _plain(shape, T, geometry.color)


def _moved(mesh: trimesh.Trimesh, T: np.ndarray) -> trimesh.Trimesh:
    """Like `_plain`, but keeping face colours of the file."""
    moved = _plain(mesh, T, None)
    moved.visual.face_colors = np.asarray(mesh.visual.face_colors)
    return moved
