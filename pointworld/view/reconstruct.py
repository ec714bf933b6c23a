"""Fuse a capture into coloured points and a mesh through a truncated signed distance field.

Source: Curless and Levoy, SIGGRAPH 1996, in Open3D's scalable volume.
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
from pointworld.types import Capture

# Half the width of the band round a surface in which depth is averaged, in voxels.
TRUNCATION_VOXELS = 4.0


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
    """About the spacing of depth pixels at the median depth times two, between 2 and 20 mm."""
    spacings = [
        float(np.median(frame.depth[frame.valid])) / float(frame.K[0, 0])
        for frame in capture.frames
        if frame.valid.any()
    ]
    if not spacings:
        raise InputError(f"capture '{capture.source}' has no valid depth; there is nothing to fuse")
    return float(np.clip(2.0 * np.median(spacings), 0.002, 0.02))


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
    volume = o3d.pipelines.integration.ScalableTSDFVolume(
        voxel_length=size,
        sdf_trunc=TRUNCATION_VOXELS * size,
        color_type=o3d.pipelines.integration.TSDFVolumeColorType.RGB8,
    )
    for frame in capture.frames:
        kept = clean_depth(frame.depth, frame.valid, frame.K, max_depth=max_depth)
        image = o3d.geometry.RGBDImage.create_from_color_and_depth(
            o3d.geometry.Image(np.ascontiguousarray(frame.rgb)),
            o3d.geometry.Image(np.where(kept, frame.depth, 0).astype(np.float32)),
            depth_scale=1.0,
            depth_trunc=max_depth,
            convert_rgb_to_intensity=False,
        )
        # Open3D's pixel centres are integers, ours are at + 0.5.
        camera = o3d.camera.PinholeCameraIntrinsic(
            frame.width, frame.height, frame.K[0, 0], frame.K[1, 1], frame.K[0, 2] - 0.5, frame.K[1, 2] - 0.5
        )
        volume.integrate(image, camera, invert(frame.T_world_cam))
        if advance is not None:
            advance(1)
    cloud, mesh = volume.extract_point_cloud(), volume.extract_triangle_mesh()
    if len(cloud.points) == 0 or len(mesh.triangles) == 0:
        raise InputError(
            f"capture '{capture.source}' gives no surface: no depth within {max_depth:g} m, or too little for "
            f"voxels of {size * 1000:.1f} mm"
        )
    return Reconstruction(
        points=np.asarray(cloud.points),
        normals=np.asarray(cloud.normals),
        colors=np.asarray(cloud.colors),
        vertices=np.asarray(mesh.vertices),
        triangles=np.asarray(mesh.triangles),
        vertex_colors=np.asarray(mesh.vertex_colors),
        voxel_size=size,
    )


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
