"""Fuse a capture into coloured points and a mesh through a truncated signed distance field.

Source: Curless and Levoy, SIGGRAPH 1996, in Open3D's voxel block grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from pointworld.capture import clean_depth
from pointworld.errors import InputError, MissingExtraError
from pointworld.files import atomic_folder
from pointworld.geometry import invert
from pointworld.types import Capture, RGBDFrame

# Half the width of the band round a surface in which depth is averaged, in voxels.
TRUNCATION_VOXELS = 4.0
# A voxel must have been seen this often to carry surface (less often in captures with fewer frames).
LEAST_WEIGHT = 3.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Reconstruction:
    """A fused surface in the world frame of the capture.

    points, normals, colors: (points, 3) float; [m], unit and outward, 0-1 RGB.
    vertices, vertex_colors: (vertices, 3). triangles: (triangles, 3) int. voxel_size: [m].
    """

    points: np.ndarray
    normals: np.ndarray
    colors: np.ndarray
    vertices: np.ndarray
    triangles: np.ndarray
    vertex_colors: np.ndarray
    voxel_size: float


def default_voxel_size(capture: Capture) -> float:
    """About the spacing of depth pixels at the median depth times three, between 2 and 20 mm."""
    spacings = [
        float(np.median(frame.depth[frame.valid])) / float(frame.K[0, 0])
        for frame in capture.frames
        if frame.valid.any()
    ]
    if not spacings:
        raise InputError(f"capture '{capture.source}' has no valid depth; there is nothing to fuse")
    return float(np.clip(3.0 * np.median(spacings), 0.002, 0.02))


def reconstruct(
    capture: Capture,
    *,
    voxel_size: float | None = None,
    max_depth: float = 6.0,
    advance: Callable[[int], None] | None = None,
) -> Reconstruction:
    """Fuse all frames, with flying pixels removed.

    Args:
        voxel_size: edge of a voxel [m]; None = chosen by the capture's resolution.
        max_depth: depth beyond it is left out [m].
        advance: called with 1 after every frame, for a progress bar.

    Raises:
        InputError: the capture carries no depth within `max_depth`, or voxel_size is not positive.
        MissingExtraError: open3d is not installed.
    """
    o3d = _open3d()
    size = default_voxel_size(capture) if voxel_size is None else voxel_size
    if not size > 0:
        raise InputError(f"the voxel size is {size}, expected metres > 0")
    volume = o3d.t.geometry.VoxelBlockGrid(
        attr_names=("tsdf", "weight", "color"),
        attr_dtypes=(o3d.core.float32, o3d.core.float32, o3d.core.float32),
        attr_channels=((1,), (1,), (3,)),
        voxel_size=size,
        block_resolution=8,
        block_count=10_000,
    )
    fused = 0
    for frame in capture.frames:
        fused += _integrate(o3d, volume, frame, max_depth)
        if advance is not None:
            advance(1)
    weight = min(LEAST_WEIGHT, float(fused))
    cloud = volume.extract_point_cloud(weight_threshold=weight) if fused else None
    if cloud is None or "positions" not in cloud.point or len(cloud.point.positions) == 0:
        raise InputError(
            f"capture '{capture.source}' gives no surface: no depth within {max_depth:g} m, or too "
            f"little for voxels of {size * 1000:.1f} mm"
        )
    mesh = volume.extract_triangle_mesh(weight_threshold=weight)
    return Reconstruction(
        points=cloud.point.positions.numpy(),
        normals=cloud.point.normals.numpy(),
        colors=np.clip(cloud.point.colors.numpy(), 0, 1),
        vertices=mesh.vertex.positions.numpy(),
        triangles=mesh.triangle.indices.numpy(),
        vertex_colors=np.clip(mesh.vertex.colors.numpy(), 0, 1),
        voxel_size=size,
    )


def _integrate(o3d: Any, volume: Any, frame: RGBDFrame, max_depth: float) -> bool:
    """Fuse one frame; False when it has no depth to give."""
    kept = clean_depth(frame.depth, frame.valid, frame.K, max_depth=max_depth)
    if not kept.any():
        return False
    depth = o3d.t.geometry.Image(np.where(kept, frame.depth, 0).astype(np.float32))
    color = o3d.t.geometry.Image(
        np.ascontiguousarray(frame.rgb, dtype=np.float32) / np.float32(255)
    )
    # The voxel block grid truncates projected coordinates, so its pixel centres are at + 0.5 like ours (a shift
    # of half a pixel either way moves a known plane by 2 mm; see tests/cli/test_capture_commands.py).
    K = o3d.core.Tensor(frame.K)
    T_cam_world = o3d.core.Tensor(invert(frame.T_world_cam))
    blocks = volume.compute_unique_block_coordinates(
        depth, K, T_cam_world, 1.0, max_depth, TRUNCATION_VOXELS
    )
    volume.integrate(blocks, depth, color, K, T_cam_world, 1.0, max_depth, TRUNCATION_VOXELS)
    return True


def write_reconstruction(result: Reconstruction, folder: str | Path) -> tuple[str, ...]:
    """Write points.ply, mesh.ply and mesh.glb; returns the file names. World frame, metres."""
    mesh = trimesh.Trimesh(
        vertices=result.vertices,
        faces=result.triangles,
        vertex_colors=_bytes(result.vertex_colors),
        process=False,
    )
    with atomic_folder(folder) as temporary:
        (temporary / "points.ply").write_bytes(_points_ply(result))
        mesh.export(temporary / "mesh.ply")
        mesh.export(temporary / "mesh.glb")
    return ("points.ply", "mesh.ply", "mesh.glb")


def _points_ply(result: Reconstruction) -> bytes:
    """Binary PLY of positions, normals and colours (trimesh writes no normals for point clouds)."""
    names = ("x", "y", "z", "nx", "ny", "nz")
    layout = [(name, "<f4") for name in names] + [(name, "u1") for name in ("red", "green", "blue")]
    table = np.empty(len(result.points), dtype=layout)
    for column, name in enumerate(names[:3]):
        table[name] = result.points[:, column]
        table[names[column + 3]] = result.normals[:, column]
    for column, name in enumerate(("red", "green", "blue")):
        table[name] = _bytes(result.colors)[:, column]
    properties = [f"property float {name}" for name in names]
    properties += [f"property uchar {name}" for name in ("red", "green", "blue")]
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}", *properties]
    return ("\n".join([*head, "end_header"]) + "\n").encode() + table.tobytes()


def _bytes(colors: np.ndarray) -> np.ndarray:
    return np.clip(np.round(colors * 255), 0, 255).astype(np.uint8)


def _open3d() -> Any:
    try:
        import open3d
    except ImportError as error:
        raise MissingExtraError("open3d", "viewer", "fusing a capture into a mesh") from error
    return open3d
