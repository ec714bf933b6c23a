"""A simulated table with objects, seen by depth cameras, as Gaussians: what a fit starts from, without a fit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from scipy.spatial import cKDTree

from pointworld.geometry import voxel_representatives
from pointworld.types import RGBDFrame
from splat.mesh_views import View
from splat.sh import colors_to_sh
from splat.types import GaussianScene

COLORS = np.array([[0.6, 0.5, 0.4], [0.8, 0.2, 0.2], [0.2, 0.6, 0.3], [0.2, 0.3, 0.8]])


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """meshes: the table (id 0) and the objects (1, 2, ...), true geometry in metres, table top at z = 0."""

    meshes: tuple[trimesh.Trimesh, ...]

    @property
    def triangles(self) -> np.ndarray:
        return np.concatenate([mesh.triangles for mesh in self.meshes])

    @property
    def ids(self) -> np.ndarray:
        return np.concatenate([np.full(len(m.faces), i) for i, m in enumerate(self.meshes)])


def make_world(seed: int) -> World:
    """A table slab, a turned box, a cylinder and an open cup, well apart from each other."""
    rng = np.random.default_rng(seed)
    table = trimesh.creation.box((0.5, 0.5, 0.04))
    table.apply_translation([0, 0, -0.02])
    size = rng.uniform(0.05, 0.08, 3)
    box = trimesh.creation.box(size)
    box.apply_transform(trimesh.transformations.rotation_matrix(rng.uniform(0, 3), [0, 0, 1]))
    box.apply_translation([-0.12, -0.08, size[2] / 2])
    height = rng.uniform(0.06, 0.1)
    can = trimesh.creation.cylinder(rng.uniform(0.025, 0.035), height, sections=48)
    can.apply_translation([0.12, -0.08, height / 2])
    cup = trimesh.creation.annulus(0.036, 0.042, 0.07, sections=48)
    cup.apply_translation([0.0, 0.12, 0.035])
    floor = trimesh.creation.cylinder(0.042, 0.006, sections=48)
    floor.apply_translation([0.0, 0.12, 0.003])
    return World(meshes=(table, box, can, trimesh.util.concatenate([cup, floor])))


def ring_views(count: int, *, width: int = 160, height: int = 120) -> list[View]:
    """Cameras around the table that look at its middle."""
    focal = 1.1 * width
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    views = []
    for i in range(count):
        angle, up = 2 * math.pi * i / count, (0.45, 0.75)[i % 2]
        eye = np.array([0.6 * math.cos(angle), 0.6 * math.sin(angle), up])
        forward = (np.array([0, 0, 0.02]) - eye) / np.linalg.norm(np.array([0, 0, 0.02]) - eye)
        right = np.cross(forward, [0, 0, 1.0])
        right /= np.linalg.norm(right)
        T = np.eye(4)
        T[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        T[:3, 3] = eye
        views.append(View(K=K, T_world_cam=T, width=width, height=height))
    return views


def cast(world: World, view: View) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact hits of one view: points (P, 3) [m], object ids (P,), depth image (height, width), 0 = nothing."""
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    scene = EmbreeScene()
    TriangleMesh(scene, np.ascontiguousarray(world.triangles, dtype=np.float32))
    v, u = np.mgrid[0 : view.height, 0 : view.width] + 0.5
    K = view.K
    local = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], -1)
    rays = (local.reshape(-1, 3) @ view.T_world_cam[:3, :3].T).astype(np.float32)
    length = np.linalg.norm(rays, axis=1, keepdims=True)
    origins = np.broadcast_to(view.T_world_cam[:3, 3], rays.shape).astype(np.float32).copy()
    result = scene.run(origins, rays / length, output=True)
    hit = result["primID"] >= 0
    depth = np.where(hit, result["tfar"] / length[:, 0], 0)
    points = origins[hit] + rays[hit] * depth[hit, None]
    return points, world.ids[result["primID"][hit]], depth.reshape(view.height, view.width)


def as_gaussians(world: World, views: list[View], *, spacing: float = 0.004) -> GaussianScene:
    """One round solid Gaussian per voxel of seen surface, as wide as half the voxel, with object ids."""
    hits = [cast(world, view) for view in views]
    points = torch.from_numpy(np.concatenate([h[0] for h in hits])).float()
    ids = torch.from_numpy(np.concatenate([h[1] for h in hits]))
    chosen = voxel_representatives(points, spacing)
    points, ids = points[chosen], ids[chosen]
    n = len(points)
    return GaussianScene(
        means=points,
        quats_wxyz=torch.tensor([1.0, 0, 0, 0]).expand(n, 4).contiguous(),
        log_scales=torch.full((n, 3), math.log(0.5 * spacing)),
        opacity_logits=torch.full((n,), 4.0),
        sh=colors_to_sh(torch.from_numpy(COLORS).float()[ids]),
        ids=ids,
    )


def photographs(world: World, views: list[View], *, noise: float, seed: int) -> list[RGBDFrame]:
    """What RGB-D cameras would take: stripes on everything, depth with noise that grows with its square.

    Args:
        noise: standard deviation of depth at one metre [m].
    """
    rng, taken = np.random.default_rng(seed), []
    for position, view in enumerate(views):
        points, ids, depth = cast(world, view)
        valid = depth > 0
        rgb = np.full((view.height, view.width, 3), 0.7)
        stripes = 0.85 + 0.15 * np.sign(np.sin(90 * points + 0.3)).prod(1, keepdims=True)
        rgb[valid] = COLORS[ids] * stripes
        measured = depth + noise * depth**2 * rng.standard_normal(depth.shape)
        taken.append(
            RGBDFrame(
                rgb=(255 * rgb).round().astype(np.uint8),
                depth=np.where(valid, measured, 0).astype(np.float32),
                valid=valid,
                K=view.K,
                T_world_cam=view.T_world_cam,
                name=f"view{position}",
            )
        )
    return taken


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """chamfer: mean of the two mean distances [m]. f_score: at 1 cm."""

    chamfer: float
    f_score: float


def compare(
    vertices: np.ndarray, triangles: np.ndarray, world: World, views: list[View]
) -> Accuracy:
    """A reconstructed surface against the true one, where a view sees it."""
    made = trimesh.Trimesh(vertices, triangles, process=False)
    samples, _ = trimesh.sample.sample_surface(made, 20_000, seed=1)
    true, _ = trimesh.sample.sample_surface(
        trimesh.util.concatenate(list(world.meshes)), 60_000, seed=2
    )
    seen = np.concatenate([cast(world, view)[0] for view in views])
    visible = cKDTree(seen).query(true)[0] < 0.004
    there, back = cKDTree(true).query(samples)[0], cKDTree(samples).query(true[visible])[0]
    precision, recall = float((there < 0.01).mean()), float((back < 0.01).mean())
    return Accuracy(
        chamfer=float(there.mean() + back.mean()) / 2,
        f_score=2 * precision * recall / max(precision + recall, 1e-9),
    )
