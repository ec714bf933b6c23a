"""Points on the surface of a robot's links, fixed to the links, sampled once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import trimesh

from pointworld.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class SurfacePoints:
    """Points fixed to links.

    link_index: (points,) int64 into the robot's link_names, sorted. points, normals: (points, 3) in the link frame.
    """

    link_index: torch.Tensor
    points: torch.Tensor
    normals: torch.Tensor

    def __len__(self) -> int:
        return int(self.points.shape[0])

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> SurfacePoints:
        """Copy to a device and/or floating dtype."""
        return SurfacePoints(
            link_index=self.link_index.to(device=device),
            points=self.points.to(device=device, dtype=dtype),
            normals=self.normals.to(device=device, dtype=dtype),
        )


def sample_by_area(
    meshes: Sequence[tuple[int, trimesh.Trimesh]], count: int, seed: int
) -> SurfacePoints:
    """Points spread evenly by area over all meshes together.

    The total area is cut into `count` equal shares in mesh order and one point drawn in each (stratified), which
    keeps every link's number of points within one of its share.

    Args:
        meshes: (link index, mesh in the link frame), by increasing link index.

    Raises:
        InputError: no surface, or count below 1.
    """
    if count < 1:
        raise InputError(f"{count} surface points asked for, expected at least 1")
    if not meshes:
        raise InputError("none of the requested links has a visual mesh to sample")
    rng = np.random.default_rng(seed)
    triangles = np.concatenate([np.asarray(mesh.triangles) for _, mesh in meshes])
    normals = np.concatenate([np.asarray(mesh.face_normals) for _, mesh in meshes])
    links = np.concatenate([np.full(len(mesh.faces), link) for link, mesh in meshes])
    areas = np.concatenate([np.asarray(mesh.area_faces) for _, mesh in meshes])
    cumulative = np.cumsum(areas)
    at = (np.arange(count) + rng.random(count)) / count * cumulative[-1]
    face = np.minimum(np.searchsorted(cumulative, at, side="right"), len(areas) - 1)
    return _on_faces(triangles[face], normals[face], links[face], rng.random((count, 2)))


def sample_released(
    meshes: Sequence[tuple[int, trimesh.Trimesh]], count: int, seed: int
) -> SurfacePoints:
    """Sampling by the released model's rule, for its compatibility path.

    Each mesh gets floor(count * its share of the area), the last one the remainder; faces by area and two uniforms
    per point from one NumPy RandomState. The order of draws within a mesh (faces, then uniforms) is ours.
    """
    if not meshes:
        raise InputError("the robot has no visual mesh named finger, knuckle, robotiq or gripper")
    rng = np.random.RandomState(seed)
    areas = np.array([float(mesh.area) for _, mesh in meshes])
    counts = np.floor(count * areas / areas.sum()).astype(int)
    counts[-1] += count - counts.sum()
    pieces = []
    for (link, mesh), n in zip(meshes, counts, strict=True):
        weight = np.asarray(mesh.area_faces)
        face = rng.choice(len(weight), size=n, p=weight / weight.sum())
        normals = np.asarray(mesh.face_normals)[face]
        triangles = np.asarray(mesh.triangles)[face]
        pieces.append(_on_faces(triangles, normals, np.full(n, link), rng.random_sample((n, 2))))
    return SurfacePoints(
        link_index=torch.cat([p.link_index for p in pieces]),
        points=torch.cat([p.points for p in pieces]),
        normals=torch.cat([p.normals for p in pieces]),
    )


def _on_faces(
    triangles: np.ndarray, normals: np.ndarray, links: np.ndarray, uv: np.ndarray
) -> SurfacePoints:
    """One point per triangle (n, 3, 3) from two uniforms (n, 2), reflected into the triangle."""
    u, v = np.where(uv.sum(1) > 1, 1 - uv.T, uv.T)
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    points = (1 - u - v)[:, None] * a + u[:, None] * b + v[:, None] * c
    return SurfacePoints(
        link_index=torch.from_numpy(links.astype(np.int64)),
        points=torch.from_numpy(points.astype(np.float32)),
        normals=torch.from_numpy(normals.astype(np.float32)),
    )
