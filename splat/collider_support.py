"""What the objects of a collider stand on: the largest plane of a mesh, or the piece of a plane under an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import trimesh

from pointworld.errors import InputError
from pointworld.geometry import fit_plane_ransac
from splat.mesh import SplatMesh
from splat.mesh_views import Seen
from splat.query_graph import Plane

#: The support is a slab of this thickness [m].
SLAB = 0.04
#: Pieces of a plane that are smaller than this share of its largest one are no support.
LEAST_PIECE = 0.02
#: Points within this of the support plane belong to it [m].
PLANE_BAND = 0.01


@dataclass(frozen=True, kw_only=True)
class ColliderOptions:
    """clearance: triangles lower than this above the support belong to it [m]. smallest: objects of less seen area are
    left out [m^2]. voxel_size: of the carving [m]. concavity: CoACD's threshold, smaller = more parts (0.01-1).
    max_parts: of one object. density: of every object [kg/m^3]. seed: of plane fit and CoACD. support, near: the
    support's plane, and (3,) a place over the piece of it that is meant [m]; None = the largest plane of the mesh."""

    clearance: float = 0.008
    smallest: float = 0.0008
    voxel_size: float = 0.003
    concavity: float = 0.08
    max_parts: int = 16
    density: float = 500.0
    seed: int = 0
    support: Plane | None = None
    near: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not (self.clearance > 0 and self.smallest >= 0 and self.voxel_size > 0):
            raise InputError(f"{self}: expected lengths and areas above 0")
        if not (0.01 <= self.concavity <= 1 and self.max_parts >= 1 and self.density > 0):
            raise InputError(
                f"{self}: expected concavity in 0.01-1, max_parts >= 1 and density > 0"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Support:
    """A slab whose top is the support plane. T_world_slab: (4, 4) to its centre, z along the plane's normal.
    size: (3,) edges [m]."""

    T_world_slab: np.ndarray
    size: np.ndarray

    @property
    def normal(self) -> np.ndarray:
        return self.T_world_slab[:3, 2]

    @property
    def offset(self) -> float:
        """The top is where normal . p = offset [m]."""
        return float(self.normal @ self.T_world_slab[:3, 3] + self.size[2] / 2)


def find_support(mesh: SplatMesh, seen: Sequence[Seen], options: ColliderOptions) -> Support:
    """The largest plane of the mesh, or the one that is given, as a slab below it, its normal towards the cameras.

    Raises:
        InputError: the mesh has no plane of a tenth of its vertices, or nothing in the one that is given.
    """
    points = mesh.vertices
    if len(points) < 3:
        raise InputError(f"the mesh has {len(points)} vertices, no plane to stand on")
    if options.support is not None:
        normal, offset, inliers = _given_plane(mesh, options.support, options.near)
    else:
        normal, offset, inliers = fit_plane_ransac(points, seed=options.seed, threshold=PLANE_BAND)
        if inliers.mean() < 0.1:
            raise InputError(
                f"the largest plane holds {100 * inliers.mean():.0f} % of the mesh, expected a table or floor (10 %); "
                "say what the support is by an object that stands on it"
            )
    eyes = np.mean([one.view.T_world_cam[:3, 3] for one in seen], axis=0)
    if normal @ eyes < offset:
        normal, offset = -normal, -offset
    flat = points[inliers] - np.outer(points[inliers] @ normal - offset, normal)
    x, y = _plane_axes(normal, flat)
    low = np.array([np.quantile(flat @ x, 0.002), np.quantile(flat @ y, 0.002)])
    high = np.array([np.quantile(flat @ x, 0.998), np.quantile(flat @ y, 0.998)])
    middle = (low + high) / 2
    T = np.eye(4)
    T[:3, :3] = np.stack([x, y, normal], axis=1)
    T[:3, 3] = middle[0] * x + middle[1] * y + (offset - SLAB / 2) * normal
    return Support(T_world_slab=T, size=np.array([*(high - low), SLAB]))


def _given_plane(
    mesh: SplatMesh, plane: Plane, near: np.ndarray | None
) -> tuple[np.ndarray, float, np.ndarray]:
    """Normal, offset and vertices (n,) bool of one connected piece of a plane: the nearest to `near`, or the largest.

    Raises:
        InputError: no triangle of the mesh lies in the plane.
    """
    flat = np.abs(plane.height(mesh.vertices)) <= max(plane.band, PLANE_BAND)
    pieces = connected_triangles(mesh.triangles, np.flatnonzero(flat[mesh.triangles].all(axis=1)))
    least = max((len(piece) for piece in pieces), default=0) * LEAST_PIECE
    pieces = [piece for piece in pieces if len(piece) >= least]
    if not pieces:
        raise InputError("no triangle of the mesh lies in the plane that is to be the support")
    best = max(pieces, key=len)
    if near is not None:
        gaps = [
            np.linalg.norm(mesh.vertices[mesh.triangles[piece, 0]] - near, axis=1).min()
            for piece in pieces
        ]
        best = pieces[int(np.argmin(gaps))]
    inliers = np.zeros(len(mesh.vertices), bool)
    inliers[mesh.triangles[best].ravel()] = True
    return plane.normal, plane.offset, inliers


def _plane_axes(normal: np.ndarray, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Axes in the plane along the sides of the smallest rectangle round its points."""
    start = np.eye(3)[np.abs(normal).argmin()]
    a = np.cross(normal, start) / np.linalg.norm(np.cross(normal, start))
    b = np.cross(normal, a)
    uv = np.stack([flat @ a, flat @ b], axis=1)
    angles = np.deg2rad(np.arange(0, 90, 1.0))
    areas = []
    for angle in angles:
        c, s = np.cos(angle), np.sin(angle)
        spread = [np.ptp(uv @ [c, s]), np.ptp(uv @ [-s, c])]
        areas.append(spread[0] * spread[1])
    best = angles[int(np.argmin(areas))]
    x = np.cos(best) * a + np.sin(best) * b
    return x, np.cross(normal, x)


def connected_triangles(triangles: np.ndarray, chosen: np.ndarray) -> list[np.ndarray]:
    """Of the triangles (T, 3) that are chosen (n,), those that hang together, as one array of indices each."""
    if len(chosen) == 0:
        return []
    parts = trimesh.graph.connected_component_labels(
        trimesh.graph.face_adjacency(triangles[chosen]), node_count=len(chosen)
    )
    return [chosen[parts == i] for i in range(int(parts.max()) + 1)]
