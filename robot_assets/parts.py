"""Convex parts that robot geometry is built from, and the outer surface of their union.

Only the mesh builder (`build_geometry.py`) uses this; the meshes it writes are shipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import trimesh

Vector = Sequence[float] | np.ndarray

#: Colours of the shells, RGB 0-1.
COLORS: dict[str, tuple[float, float, float]] = {
    "white": (0.93, 0.94, 0.95),
    "dark": (0.21, 0.22, 0.24),
    "steel": (0.55, 0.57, 0.60),
    "grey": (0.74, 0.76, 0.78),
    "blue": (0.36, 0.56, 0.75),
}

_LIFT = 5e-6


@dataclass(frozen=True, eq=False)
class Part:
    """One convex part of a link: hull (closed mesh in the link frame [m]) and its colour name."""

    hull: trimesh.Trimesh
    color: str


def part(color: str, *point_sets: np.ndarray) -> Part:
    """The convex hull of all points of `point_sets`, each (points, 3) [m]."""
    return Part(trimesh.convex.convex_hull(np.round(np.concatenate(point_sets), 6)), color)


def ring(center: Vector, axis: str, radius: float, sections: int = 28) -> np.ndarray:
    """Points of a circle (sections, 3) around `center`, normal to the coordinate axis 'x', 'y' or 'z'."""
    angle = np.arange(sections) * (2 * np.pi / sections)
    flat = radius * np.stack([np.cos(angle), np.sin(angle)], -1)
    points = np.insert(flat, "xyz".index(axis), 0.0, axis=1)
    return points + np.asarray(center, dtype=float)


def drum(
    center: Vector,
    axis: str,
    start: float,
    stop: float,
    radius: float,
    *,
    dome: float = 0.0,
    sections: int = 28,
) -> np.ndarray:
    """Points of a cylinder along `axis` from `start` to `stop` (offsets from `center` [m]).

    dome: rounding radius of the edge at `stop`.
    """
    direction = np.eye(3)["xyz".index(axis)]
    sign = np.sign(stop - start)
    rings = [(start, radius)]
    for angle in (0.0, np.pi / 6, np.pi / 3, np.pi / 2) if dome else (np.pi / 2,):
        rings.append(
            (stop - sign * dome * (1 - np.sin(angle)), radius - dome * (1 - np.cos(angle)))
        )
    origin = np.asarray(center, dtype=float)
    return np.concatenate([ring(origin + h * direction, axis, r, sections) for h, r in rings])


def box(lower: Vector, upper: Vector, *, chamfer: float = 0.0) -> np.ndarray:
    """Corners of an axis-aligned box; with `chamfer` [m] every edge is cut at 45 degrees."""
    lo, hi = np.asarray(lower, dtype=float), np.asarray(upper, dtype=float)
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float)
    points = lo + corners * (hi - lo)
    if not chamfer:
        return points
    inward = (1 - 2 * corners) * chamfer
    return np.concatenate([points + inward * np.delete(np.eye(3), i, 0).sum(0) for i in range(3)])


def outer_surface(parts: Sequence[Part], color: str) -> trimesh.Trimesh | None:
    """Surface of the union of `parts`, of which only the pieces that belong to parts of `color`.

    Each triangle is cut along the planes of the other convex parts and what lies inside one of them is dropped, so
    that points sampled on the result lie on the visible surface. None when nothing of that colour is visible.
    """
    triangles: list[np.ndarray] = []
    planes = [_planes(p.hull) for p in parts]
    for i, own in enumerate(parts):
        if own.color != color:
            continue
        for corners, normal in zip(own.hull.triangles, own.hull.face_normals, strict=True):
            # Judged a hair above the surface, so that faces that touch back to back count as hidden.
            lift = _LIFT * np.asarray(normal)
            pieces = [np.asarray(corners) + lift]
            for j, others in enumerate(planes):
                if j != i:
                    pieces = [rest for p in pieces for rest in _outside(p, others)]
            triangles += [
                np.stack([p[0], p[k], p[k + 1]]) - lift
                for p in pieces
                for k in range(1, len(p) - 1)
            ]
    if not triangles:
        return None
    vertices = np.concatenate(triangles)
    mesh = trimesh.Trimesh(vertices, np.arange(len(vertices)).reshape(-1, 3), process=False)
    mesh.merge_vertices(digits_vertex=7)
    mesh.update_faces(mesh.area_faces > 1e-10)
    mesh.remove_unreferenced_vertices()
    return mesh


def inertia(parts: Iterable[Part], mass: float) -> tuple[np.ndarray, np.ndarray]:
    """Centre of mass (3,) [m] and inertia (3, 3) about it [kg m^2] for `mass` spread evenly over the parts."""
    solids = [p.hull for p in parts]
    volume = sum(float(s.volume) for s in solids)
    centers = np.array([float(s.volume) * np.asarray(s.center_mass) for s in solids])
    center = np.asarray(centers.sum(0) / volume)
    total = np.zeros((3, 3))
    for solid in solids:
        density = mass / volume
        offset = np.asarray(solid.center_mass) - center
        own = np.asarray(solid.moment_inertia) * density
        shift = float(offset @ offset) * np.eye(3) - np.outer(offset, offset)
        total += own + float(solid.volume) * density * shift
    return center, total


def _planes(hull: trimesh.Trimesh) -> np.ndarray:
    """Distinct planes (planes, 4): outward unit normal and offset, n . x + d <= 0 inside."""
    normals = np.asarray(hull.face_normals)
    offsets = -(normals * np.asarray(hull.triangles)[:, 0]).sum(-1, keepdims=True)
    planes = np.concatenate([normals, offsets], 1)
    _, index = np.unique(np.round(planes, 4), axis=0, return_index=True)
    return np.asarray(planes[np.sort(index)])


def _outside(polygon: np.ndarray, planes: np.ndarray, eps: float = 1e-6) -> list[np.ndarray]:
    """The parts of a convex polygon (corners, 3) that are not inside the convex body of `planes`."""
    heights = polygon @ planes[:, :3].T + planes[:, 3]
    if (heights.min(0) > -eps).any():
        return [polygon]
    outside, rest = [], polygon
    for plane in planes:
        height = rest @ plane[:3] + plane[3]
        if (height <= eps).all():
            continue
        kept, cut = _split(rest, height)
        if len(cut) >= 3:
            outside.append(cut)
        if len(kept) < 3:
            return [polygon]
        rest = kept
    return outside


def _split(polygon: np.ndarray, height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut a convex polygon where `height` (per corner) changes sign: (the part <= 0, the part >= 0)."""
    below: list[np.ndarray] = []
    above: list[np.ndarray] = []
    for a, b, ha, hb in zip(
        polygon, np.roll(polygon, -1, 0), height, np.roll(height, -1), strict=True
    ):
        if ha <= 0:
            below.append(a)
        if ha >= 0:
            above.append(a)
        if ha * hb < 0:
            crossing = a + (b - a) * (ha / (ha - hb))
            below.append(crossing)
            above.append(crossing)
    return np.array(below), np.array(above)
