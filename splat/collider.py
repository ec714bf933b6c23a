"""Collision geometry of a captured table: a support plane, and every object on it as a few convex parts.

An object is what the views could not see through: the space between its seen surface and the support, carved by every
view's free space. So it is closed below and behind, and a cup stays open above. Convex parts come from CoACD.
Source: Wei et al., ACM TOG 41 (2022) 42 (CoACD); Kutulakos and Seitz, IJCV 38 (2000) 199 (carving).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import trimesh
from scipy.ndimage import label
from scipy.spatial import ConvexHull, QhullError, cKDTree

from pointworld.errors import MissingExtraError
from pointworld.geometry import invert, transform_points
from splat.collider_support import (
    PLANE_BAND,
    ColliderOptions,
    Support,
    connected_triangles,
    find_support,
)
from splat.mesh import SplatMesh, import_open3d
from splat.mesh_views import Seen
from splat.types import GaussianScene

#: Voxels of a carved object along its longest side, at most.
MAX_CELLS = 64
#: Triangles that CoACD works on, and Taubin steps that take the blocks' steps away before.
COACD_TRIANGLES, SMOOTHING_STEPS = 800, 5


@dataclass(frozen=True, kw_only=True, eq=False)
class ColliderObject:
    """One object. id: of its Gaussians, or -1. T_world_object: (4, 4), its frame is parallel to the support's slab.
    parts: convex, in the object's frame. visual: its seen surface, in the object's frame."""

    name: str
    id: int
    T_world_object: np.ndarray
    parts: tuple[trimesh.Trimesh, ...]
    visual: trimesh.Trimesh


@dataclass(frozen=True, kw_only=True, eq=False)
class Collider:
    """A support and the objects on it. density: [kg/m^3]."""

    support: Support
    objects: tuple[ColliderObject, ...]
    density: float


def _coacd() -> Any:
    import_open3d()  # before coacd: the other way round its import fails (their bindings share a C++ registry)
    try:
        import coacd
    except ImportError as error:
        raise MissingExtraError("coacd", "splat", "convex collision parts") from error
    return coacd


def build_collider(
    mesh: SplatMesh,
    seen: Sequence[Seen],
    scene: GaussianScene,
    options: ColliderOptions | None = None,
    *,
    advance: Callable[[int], None] | None = None,
) -> Collider:
    """Support plane and convex objects of a fused scene.

    Args:
        mesh: fused surface of the scene.
        seen: the views it was fused from.
        scene: its Gaussians; where they have ids, an object is what has one id, else what hangs together.
        options: see `ColliderOptions`.
        advance: called with 1 after every object, for a progress bar.

    Raises:
        InputError: there is no support plane under anything.
        MissingExtraError: coacd is not installed.
    """
    options = options or ColliderOptions()
    _coacd()
    support = find_support(mesh, seen, options)
    groups = split_objects(mesh, support, scene, options)
    objects = []
    for i, (identity, triangles) in enumerate(groups):
        made = _build_object(f"object_{i}", identity, triangles, mesh, seen, support, options)
        if made is not None:
            objects.append(made)
        if advance is not None:
            advance(1)
    return Collider(support=support, objects=tuple(objects), density=options.density)


def split_objects(
    mesh: SplatMesh, support: Support, scene: GaussianScene, options: ColliderOptions
) -> list[tuple[int, np.ndarray]]:
    """Objects on the support as (id, triangle indices), largest first; id -1 where Gaussians have none."""
    corners = mesh.vertices[mesh.triangles]
    height = corners @ support.normal - support.offset
    clearance = options.clearance
    if options.support is not None:
        clearance = max(clearance, options.support.band)
    above = np.flatnonzero(height.mean(axis=1) > clearance)
    center = corners.mean(axis=1)
    local = transform_points(invert(support.T_world_slab), center[above])
    above = above[(np.abs(local[:, :2]) <= support.size[:2] / 2 + 0.02).all(axis=1)]
    if len(above) == 0:
        return []
    ids = np.full(len(above), -1, dtype=np.int64)
    if scene.ids is not None:
        means = scene.means.detach().double().cpu().numpy()
        all_ids = scene.ids.cpu().numpy()
        ids = all_ids[cKDTree(means).query(center[above])[1]]
        on_plane = np.abs(means @ support.normal - support.offset) < PLANE_BAND
        if on_plane.any():
            values, counts = np.unique(all_ids[on_plane], return_counts=True)
            if values[counts.argmax()] >= 0:
                ids[ids == values[counts.argmax()]] = -2
    area = trimesh.triangles.area(corners)
    groups = [(int(v), above[ids == v]) for v in np.unique(ids) if v >= 0]
    groups += [(-1, part) for part in connected_triangles(mesh.triangles, above[ids == -1])]
    groups = [(v, part) for v, part in groups if area[part].sum() >= options.smallest]
    return sorted(groups, key=lambda group: -float(area[group[1]].sum()))


def _build_object(
    name: str,
    identity: int,
    triangles: np.ndarray,
    mesh: SplatMesh,
    seen: Sequence[Seen],
    support: Support,
    options: ColliderOptions,
) -> ColliderObject | None:
    """None where the views carve everything away."""
    used, faces = np.unique(mesh.triangles[triangles], return_inverse=True)
    points = mesh.vertices[used]
    T_world_object = support.T_world_slab.copy()
    T_object_slab = invert(T_world_object)
    local = transform_points(T_object_slab, points)
    middle = (local.min(axis=0) + local.max(axis=0)) / 2
    T_world_object[:3, 3] = transform_points(T_world_object, middle[None])[0]
    floor = support.size[2] / 2 - middle[2]
    local = local - middle
    solid = carve(local, floor, T_world_object, seen, options.voxel_size)
    if solid is None:
        return None
    visual = trimesh.Trimesh(
        vertices=local,
        faces=faces.reshape(-1, 3),
        vertex_colors=np.rint(mesh.colors[used] * 255).astype(np.uint8),
        process=False,
    )
    return ColliderObject(
        name=name,
        id=identity,
        T_world_object=T_world_object,
        parts=convex_parts(solid, options),
        visual=visual,
    )


def carve(
    points: np.ndarray,
    floor: float,
    T_world_object: np.ndarray,
    seen: Sequence[Seen],
    voxel_size: float,
) -> trimesh.Trimesh | None:
    """The solid between seen surface points and the floor that no view sees through, as a closed block mesh.

    Args:
        points: (P, 3) seen surface in the object's frame (z up) [m].
        floor: z of the support in that frame [m].
        T_world_object: (4, 4).
        seen: views.
        voxel_size: edge of a block [m]; larger where the object has more than MAX_CELLS of them along a side.

    Returns:
        The largest connected solid, or None when everything is carved away.
    """
    bottom = points.copy()
    bottom[:, 2] = floor
    cloud = np.concatenate([points, bottom])
    low, high = cloud.min(axis=0), cloud.max(axis=0)
    size = max(voxel_size, float((high - low).max()) / MAX_CELLS)
    shape = np.maximum(np.ceil((high - low) / size).astype(int), 1)
    cells = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    centers = low + (cells + 0.5) * size
    solid = _inside_hull(centers, cloud, size)
    world = transform_points(T_world_object, centers)
    for one in seen:
        rows = np.flatnonzero(solid)
        solid[rows[_seen_through(world[rows], one, size / 2)]] = False
    parts, count = label(solid.reshape(tuple(shape)))
    if count == 0:
        return None
    biggest = int(np.bincount(parts.ravel())[1:].argmax()) + 1
    blocks = block_mesh(parts == biggest)
    blocks.apply_scale(size)
    blocks.apply_translation(low)
    return blocks


def _inside_hull(centers: np.ndarray, cloud: np.ndarray, margin: float) -> np.ndarray:
    try:
        hull = ConvexHull(cloud)
    except QhullError:  # all in one plane: keep the box
        return np.ones(len(centers), dtype=bool)
    inside = np.ones(len(centers), dtype=bool)
    for plane in np.unique(hull.equations.round(4), axis=0):
        inside &= centers @ plane[:3] + plane[3] <= 0.5 * margin
    return inside


def _seen_through(points: np.ndarray, one: Seen, margin: float) -> np.ndarray:
    """Which points (P, 3) of the world lie in a view's free space, by more than `margin` [m]."""
    view = one.view
    local = transform_points(invert(view.T_world_cam), points)
    z = np.maximum(local[:, 2], 1e-9)
    height, width = one.depth.shape
    u = np.floor(view.K[0, 0] * local[:, 0] / z + view.K[0, 2])
    v = np.floor(view.K[1, 1] * local[:, 1] / z + view.K[1, 2])
    inside = (local[:, 2] > 0.01) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    u, v = np.where(inside, u, 0).astype(int), np.where(inside, v, 0).astype(int)
    depth = one.depth[v, u]
    free = one.empty[v, u] | ((depth > 0) & (z < depth - margin))
    return inside & free


def block_mesh(solid: np.ndarray) -> trimesh.Trimesh:
    """Closed surface of the True cells of a grid (X, Y, Z), unit cubes from the origin."""
    padded = np.pad(solid, 1)
    corners: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    for axis in range(3):
        others = [(axis + 1) % 3, (axis + 2) % 3]
        for side in (0, 1):
            neighbor = np.roll(padded, -1 if side else 1, axis=axis)
            cells = np.argwhere(padded & ~neighbor) - 1
            quad = np.zeros((len(cells), 4, 3), dtype=np.int64) + cells[:, None]
            quad[..., axis] += side
            steps = [(0, 0), (1, 0), (1, 1), (0, 1)]
            for k, (a, b) in enumerate(steps if side else steps[::-1]):
                quad[:, k, others[0]] += a
                quad[:, k, others[1]] += b
            start = 4 * sum(len(quads) for quads in corners)
            corners.append(quad)
            index = start + 4 * np.arange(len(cells))[:, None]
            faces += [index + np.array([0, 1, 2]), index + np.array([0, 2, 3])]
    points, merged = np.unique(np.concatenate(corners).reshape(-1, 3), axis=0, return_inverse=True)
    triangles = merged.reshape(-1)[np.concatenate(faces)]
    return trimesh.Trimesh(vertices=points.astype(np.float64), faces=triangles, process=False)


def convex_parts(solid: trimesh.Trimesh, options: ColliderOptions) -> tuple[trimesh.Trimesh, ...]:
    """Approximate convex decomposition; every part is a convex hull of at most 64 vertices.

    Raises:
        MissingExtraError: coacd is not installed.
    """
    coacd = _coacd()
    coacd.set_log_level("error")
    smooth = _smooth(solid)
    pieces = coacd.run_coacd(
        coacd.Mesh(smooth.vertices, smooth.faces),
        threshold=options.concavity,
        max_convex_hull=options.max_parts,
        preprocess_mode="auto",
        preprocess_resolution=30,
        resolution=500,
        mcts_nodes=10,
        mcts_iterations=20,
        mcts_max_depth=2,
        decimate=True,
        max_ch_vertex=64,
        seed=options.seed,
    )
    hulls = [trimesh.Trimesh(vertices, faces).convex_hull for vertices, faces in pieces]
    return tuple(hull for hull in hulls if hull.volume > 1e-9)


def _smooth(solid: trimesh.Trimesh) -> trimesh.Trimesh:
    """A block mesh without its steps, of few triangles: CoACD takes seconds for it instead of minutes."""
    o3d = import_open3d()
    mesh = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(solid.vertices), o3d.utility.Vector3iVector(solid.faces)
    )
    mesh = mesh.filter_smooth_taubin(SMOOTHING_STEPS)
    mesh = mesh.simplify_quadric_decimation(COACD_TRIANGLES)
    smooth = trimesh.Trimesh(np.asarray(mesh.vertices), np.asarray(mesh.triangles))
    return smooth if smooth.is_watertight else solid
