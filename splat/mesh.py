"""Triangle meshes of Gaussian scenes: fused rendered depth, or Poisson reconstruction from the Gaussians themselves.

Source: Curless and Levoy, SIGGRAPH 1996 (signed distance fusion); Kazhdan and Hoppe, ACM TOG 32 (2013) 29 (screened
Poisson); both as in Open3D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import trimesh
from scipy.spatial import cKDTree

from pointworld.errors import InputError, MissingExtraError
from pointworld.files import atomic_folder
from pointworld.geometry import invert
from splat.mesh_views import MIN_ALPHA, Seen
from splat.raster.projection import rotation_matrices
from splat.types import GaussianScene

#: Half the width of the band round a surface in which depth is averaged, in voxels.
TRUNCATION_VOXELS = 4.0
#: A Gaussian is flat, and its thinnest axis its normal, when that axis is below this share of the next.
FLAT_SHARE = 0.5
#: Neighbours that give a round Gaussian its normal.
NORMAL_NEIGHBORS = 16
#: Poisson surface farther from every Gaussian than this many times their spacing is invented, and cut off.
POISSON_REACH = 4.0

Up = Literal["z", "y", "-y"]


@dataclass(frozen=True, kw_only=True)
class MeshOptions:
    """voxel_size: of the fusion [m]. triangles: at most, after decimation. smallest_part: connected parts with a
    smaller share of the largest one's area than this are dropped. min_views: views that must agree on a surface.
    poisson_depth: levels of the Poisson octree."""

    voxel_size: float = 0.005
    triangles: int = 200_000
    smallest_part: float = 0.002
    min_views: int = 2
    poisson_depth: int = 8

    def __post_init__(self) -> None:
        if not (self.voxel_size > 0 and self.triangles >= 4 and 0 <= self.smallest_part <= 1):
            raise InputError(
                f"{self}: expected voxel_size > 0 metres, triangles >= 4 and smallest_part in 0-1"
            )
        if not (self.min_views >= 1 and 4 <= self.poisson_depth <= 12):
            raise InputError(f"{self}: expected min_views >= 1 and poisson_depth from 4 to 12")


@dataclass(frozen=True, kw_only=True, eq=False)
class SplatMesh:
    """vertices: (V, 3) [m]. triangles: (T, 3) int, counter-clockwise from outside. colors: (V, 3) 0-1."""

    vertices: np.ndarray
    triangles: np.ndarray
    colors: np.ndarray

    def to_trimesh(self) -> trimesh.Trimesh:
        """The same with byte colours."""
        colors = np.clip(np.rint(self.colors * 255), 0, 255).astype(np.uint8)
        return trimesh.Trimesh(
            vertices=self.vertices, faces=self.triangles, vertex_colors=colors, process=False
        )


def import_open3d() -> Any:
    """Open3D, an optional package."""
    try:
        import open3d
    except ImportError as error:
        raise MissingExtraError("open3d", "viewer", "making a mesh of Gaussians") from error
    return open3d


def fuse(seen: Sequence[Seen], options: MeshOptions | None = None) -> SplatMesh:
    """Fuse rendered depth into a truncated signed distance field, and mesh, clean and decimate its surface.

    Raises:
        InputError: the views see no surface.
        MissingExtraError: open3d is not installed.
    """
    options = options or MeshOptions()
    o3d = import_open3d()
    volume = o3d.t.geometry.VoxelBlockGrid(
        attr_names=("tsdf", "weight", "color"),
        attr_dtypes=(o3d.core.float32, o3d.core.float32, o3d.core.float32),
        attr_channels=((1,), (1,), (3,)),
        voxel_size=options.voxel_size,
        block_resolution=8,
        block_count=10_000,
    )
    used = 0
    for one in seen:
        if not one.depth.any():
            continue
        depth = o3d.t.geometry.Image(one.depth)
        K = o3d.core.Tensor(np.asarray(one.view.K, dtype=np.float64))
        T_cam_world = o3d.core.Tensor(invert(np.asarray(one.view.T_world_cam, dtype=np.float64)))
        far = float(one.depth.max()) + 1.0
        blocks = volume.compute_unique_block_coordinates(
            depth, K, T_cam_world, 1.0, far, TRUNCATION_VOXELS
        )
        color = o3d.t.geometry.Image(one.rgb)
        volume.integrate(blocks, depth, color, K, T_cam_world, 1.0, far, TRUNCATION_VOXELS)
        used += 1
    mesh = None
    if used:
        weight = float(min(options.min_views, used)) - 0.5
        mesh = volume.extract_triangle_mesh(weight_threshold=weight)
    if mesh is None or "indices" not in mesh.triangle or len(mesh.triangle.indices) == 0:
        raise InputError(
            f"the views see no surface that {options.min_views} of them agree on in voxels of "
            f"{options.voxel_size * 1000:g} mm. Look from the cameras of the capture, or use larger voxels."
        )
    return clean(mesh.to_legacy(), options)


def poisson(
    scene: GaussianScene, camera_centers: np.ndarray, options: MeshOptions | None = None
) -> SplatMesh:
    """Screened Poisson surface through the centres of the solid Gaussians, with normals from their shape.

    Flat Gaussians give their thinnest axis, round ones the normal of their neighbourhood; both point towards the
    nearest camera. Closes small holes; what is far from every Gaussian is cut off again.

    Args:
        scene: Gaussians.
        camera_centers: (cameras, 3) where the scene was seen from [m].
        options: see `MeshOptions`.

    Raises:
        InputError: fewer than 100 solid Gaussians.
        MissingExtraError: open3d is not installed.
    """
    options = options or MeshOptions()
    solid = scene.detach().select(scene.opacities > MIN_ALPHA)
    if len(solid) < 100:
        raise InputError(f"{len(solid)} solid Gaussians, expected at least 100 for a surface")
    o3d = import_open3d()
    points = solid.means.double().cpu().numpy()
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    normals = gaussian_normals(solid, camera_centers)
    cloud.normals = o3d.utility.Vector3dVector(normals)
    mesh, _ = o3d.geometry.TriangleMesh.create_from_point_cloud_poisson(
        cloud, depth=options.poisson_depth, n_threads=1
    )
    tree = cKDTree(points)
    spacing = float(np.median(tree.query(points, k=2)[0][:, 1]))
    vertices = np.asarray(mesh.vertices)
    distance, nearest = tree.query(vertices)
    color = _base_colors(solid)[nearest]
    mesh.vertex_colors = o3d.utility.Vector3dVector(color)
    reach = max(POISSON_REACH * spacing, options.voxel_size)
    mesh.remove_vertices_by_mask(distance > reach)
    return clean(mesh, options)


def gaussian_normals(scene: GaussianScene, camera_centers: np.ndarray) -> np.ndarray:
    """(N, 3) unit normals of Gaussians as surface pieces, towards the nearest camera.

    Args:
        scene: Gaussians. camera_centers: (cameras, 3) [m].
    """
    o3d = import_open3d()
    points = scene.means.detach().double().cpu().numpy()
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    cloud.estimate_normals(o3d.geometry.KDTreeSearchParamKNN(NORMAL_NEIGHBORS))
    around = np.asarray(cloud.normals)
    order = torch.argsort(scene.log_scales, dim=1)
    sorted_scales = scene.log_scales.gather(1, order)
    flat = (sorted_scales[:, 0] - sorted_scales[:, 1]) < float(np.log(FLAT_SHARE))
    axes = rotation_matrices(scene.quats_wxyz.detach().double())
    thin = axes.gather(2, order[:, None, :1].expand(-1, 3, 1))[..., 0].cpu().numpy()
    normals = np.where(flat.cpu().numpy()[:, None], thin, around)
    _, nearest = cKDTree(camera_centers).query(points)
    towards = np.atleast_2d(camera_centers)[nearest] - points
    flip = np.sign((normals * towards).sum(1, keepdims=True))
    normals = normals * np.where(flip == 0, 1.0, flip)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


def _base_colors(scene: GaussianScene) -> np.ndarray:
    """(N, 3) colour without its view-dependent part, 0-1."""
    base = GaussianScene(
        means=scene.means,
        quats_wxyz=scene.quats_wxyz,
        log_scales=scene.log_scales,
        opacity_logits=scene.opacity_logits,
        sh=scene.sh[:, :1],
    )
    return base.colors_from(scene.means.new_zeros(3)).clamp(0, 1).double().cpu().numpy()


def clean(mesh: Any, options: MeshOptions) -> SplatMesh:
    """Drop broken triangles and small parts of an Open3D mesh, and decimate it (quadric error).

    Raises:
        InputError: nothing is left.
    """
    mesh.remove_duplicated_vertices()
    mesh.remove_degenerate_triangles()
    mesh.remove_duplicated_triangles()
    mesh.remove_non_manifold_edges()
    part, _, area = (np.asarray(x) for x in mesh.cluster_connected_triangles())
    if len(part):
        small = area < options.smallest_part * area.max()
        mesh.remove_triangles_by_mask(small[part])
    if len(mesh.triangles) > options.triangles:
        mesh = mesh.simplify_quadric_decimation(options.triangles)
        mesh.remove_degenerate_triangles()
    mesh.remove_unreferenced_vertices()
    if len(mesh.triangles) == 0:
        raise InputError("no surface is left after cleaning; use smaller voxels")
    return SplatMesh(
        vertices=np.asarray(mesh.vertices).copy(),
        triangles=np.asarray(mesh.triangles).copy(),
        colors=np.clip(np.asarray(mesh.vertex_colors), 0, 1).copy(),
    )


#: Rotations that take the direction named to +Y, which is up in glTF.
_TO_Y_UP = {
    "z": np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]]),
    "y": np.eye(4),
    "-y": np.diag([1.0, -1.0, -1.0, 1.0]),
}


def export_glb(meshes: dict[str, trimesh.Trimesh], path: Path, *, up: Up = "z") -> None:
    """Write named meshes as a GLB; a rotation of the nodes turns them to glTF's +Y up."""
    scene = trimesh.Scene()
    for name, mesh in meshes.items():
        scene.add_geometry(mesh, node_name=name, geom_name=name, transform=_TO_Y_UP[up])
    path.write_bytes(scene.export(file_type="glb"))


def write_mesh(mesh: SplatMesh, folder: str | Path, *, up: Up = "z") -> tuple[str, ...]:
    """Write mesh.glb, mesh.obj and mesh.ply with vertex colours, in metres; returns the names.

    OBJ and PLY hold the scene's own coordinates; the GLB's node is turned so that `up` is up in a viewer.
    """
    shape = mesh.to_trimesh()
    with atomic_folder(folder) as temporary:
        export_glb({"mesh": shape}, temporary / "mesh.glb", up=up)
        (temporary / "mesh.obj").write_text(
            trimesh.exchange.obj.export_obj(shape), encoding="utf-8"
        )
        shape.export(temporary / "mesh.ply")
    return ("mesh.glb", "mesh.obj", "mesh.ply")
