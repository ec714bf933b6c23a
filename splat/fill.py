"""What no view saw of the surface that things stand on, made up from what lies round it.

Under an object, and where a robot stood before the cameras, the support has no Gaussians: once the thing moves away, a
hole is seen. These places are inside the outline of the support, so the support goes on there; what it looks like is a
guess, taken from its nearest known places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import ConvexHull, QhullError, cKDTree

from pointworld.geometry import fit_plane_ransac, matrix_to_quat_wxyz
from splat.features import gather
from splat.query_graph import Plane
from splat.raster import Rasterizer
from splat.sh import C0
from splat.types import GaussianScene, concatenate

Tensor = torch.Tensor
Array = np.ndarray

#: Thickness of the disks that stand for a surface, against their radius.
DISK = 0.2
#: Gaussians fainter than this do not show a surface.
SOLID = 0.15
#: Gaussians nearer to each other than this share of the distance to the fourth neighbour are copies of one.
COPY = 0.2
#: A place of the support is empty when it is this many usual distances away from every Gaussian of it.
GAP = 1.5
#: Gaussians of which the cameras saw less than this share of what is usual are guesses of the fit.
HIDDEN = 0.15
#: So far below the support nothing is real [m].
SUNK = 0.1
#: So far round what is filled, the support says where it ends [m].
BEYOND = 0.5
#: Known places that a guessed one is mixed from, and how many cells are filled at most.
NEIGHBORS, MOST_CELLS = 12, 200_000
#: Points within this of a plane lie in it [m]; at least this share of all points makes a support.
IN_PLANE, SUPPORT_SHARE = 0.008, 0.15


def surface_gaussians(
    points: Tensor, normals: Tensor, colors: Tensor, spacing: float
) -> GaussianScene:
    """Opaque disks on a surface.

    Args:
        points, normals: (M, 3) [m]. colors: (M, 3) in 0-1. spacing: usual distance between neighbours [m].
    """
    normal = torch.nn.functional.normalize(normals.double(), dim=-1)
    x, y = torch.eye(3, dtype=torch.float64)[:2]
    helper = torch.where(normal[:, :1].abs() < 0.7, x, y)
    across = torch.nn.functional.normalize(torch.linalg.cross(normal, helper), dim=-1)
    R = torch.stack([across, torch.linalg.cross(normal, across), normal], -1)
    scales = torch.tensor([spacing, spacing, DISK * spacing]).to(points).log()
    return GaussianScene(
        means=points,
        quats_wxyz=matrix_to_quat_wxyz(R).to(points),
        log_scales=scales.expand(len(points), 3).clone(),
        opacity_logits=torch.full_like(points[:, 0], 4.0),
        sh=((colors - 0.5) / C0)[:, None],
    )


def find_support(points: Array, eye: Array, *, seed: int = 0) -> Plane | None:
    """The largest plane among points (P, 3) [m], its normal towards `eye` (3,); None where there is none."""
    if len(points) < 50:
        return None
    normal, offset, _ = fit_plane_ransac(points, seed=seed, threshold=IN_PLANE)
    if (np.abs(points @ normal - offset) < IN_PLANE).mean() < SUPPORT_SHARE:
        return None
    if normal @ eye < offset:
        normal, offset = -normal, -offset
    return Plane(normal=normal, offset=float(offset), band=IN_PLANE)


@dataclass(frozen=True, kw_only=True, eq=False)
class Filled:
    """scene: with the guessed places last. kept: (N,) bool, which Gaussians of the given scene come first in it, in
    their order. added: how many were guessed."""

    scene: GaussianScene
    kept: Tensor
    added: int


def fill_support(
    scene: GaussianScene,
    plane: Plane,
    region: Array,
    *,
    seen: Tensor,
    stays: Tensor | None = None,
    margin: float = 0.0,
) -> Filled:
    """Put Gaussians into the empty places of a support, and instead of those in it that no camera saw.

    Args:
        plane: the support.
        region: (R, 3) places [m]; the rectangle round them on the plane, widened by `margin` [m], is filled.
        seen: (N,) how much the cameras saw of every Gaussian, as `seen_weights` says [px]; what they saw much less of
            than is usual has colours that mean nothing.
        stays: (N,) bool, False for what will move away, such as the foot of an object: it is no support; None = all.

    Returns:
        The scene; what was added has the usual size of the support's own Gaussians, colours and features mixed from
        the nearest of these, and belongs to no object. As it was where too little of the support is known.
    """
    means = scene.means.detach().double().cpu().numpy()
    weights = seen.detach().double().cpu().numpy()
    nothing = Filled(scene=scene, kept=torch.ones(len(scene), dtype=torch.bool), added=0)
    axes = plane_axes(plane.normal)
    flat, wanted = means @ axes.T, region @ axes.T
    low, high = wanted.min(0) - margin, wanted.max(0) + margin
    rests = np.ones(len(scene), bool) if stays is None else stays.cpu().numpy()
    in_plane = rests & (np.abs(plane.height(means)) <= max(plane.band, IN_PLANE))
    solid = in_plane & (scene.opacities.detach().cpu().numpy() >= SOLID)
    # The outline of the support is seen from beyond the region.
    near = ((flat > low - BEYOND) & (flat < high + BEYOND)).all(1)
    usual = float(np.median(weights[solid & near])) if (solid & near).any() else 0.0
    known = np.flatnonzero(solid & near & (weights > HIDDEN * usual))
    if len(known) < 50:
        return nothing
    tree = cKDTree(flat[known])
    spacing = max(_usual_distance(tree, flat[known]), 0.002)
    spacing = max(spacing, float(np.sqrt(np.prod(high - low) / MOST_CELLS)))
    cells = np.stack(
        np.meshgrid(np.arange(low[0], high[0], spacing), np.arange(low[1], high[1], spacing)), -1
    ).reshape(-1, 2)
    distance, index = tree.query(cells, k=min(NEIGHBORS, len(known)))
    empty = (distance[:, 0] > GAP * spacing) & _inside_outline(cells, flat[known])
    if not empty.any():
        return nothing
    inside = ((flat > low) & (flat < high)).all(1)
    height = plane.height(means)
    sunk = in_plane | (rests & (height < 0) & (height > -SUNK))
    kept = torch.from_numpy(~(sunk & inside & (weights <= HIDDEN * usual)))
    rows = torch.from_numpy(known[index[empty]])
    share = torch.from_numpy(1 / np.maximum(distance[empty], 1e-6)).float()
    share = share / share.sum(1, keepdim=True)
    added = _mixed(scene, rows, share, plane, cells[empty], spacing)
    return Filled(scene=concatenate([scene.select(kept), added]), kept=kept, added=len(added))


def _usual_distance(tree: cKDTree, points: Array) -> float:
    """Median distance of points to their nearest other one; copies that lie on each other do not count."""
    distance = tree.query(points, k=5)[0][:, 1:]
    nearest = distance[:, 0]
    return float(np.median(nearest[nearest >= COPY * np.median(distance[:, 3])]))


def seen_weights(
    scene: GaussianScene,
    looks: Sequence[tuple[Tensor, Tensor, tuple[int, int]]],
    rasterizer: Rasterizer,
) -> Tensor:
    """(N,) the sum of every Gaussian's blending weights over all pixels of cameras: T_cam_world, K, (width, height)."""
    total = scene.means.new_zeros(len(scene))
    for viewmat, K, (width, height) in looks:
        total += gather(scene.detach(), torch.ones(height, width, 1), viewmat, K, rasterizer)[:, 0]
    return total


def plane_axes(normal: Array) -> Array:
    """(2, 3) unit vectors along a plane."""
    first = np.cross(normal, np.eye(3)[np.argmin(np.abs(normal))])
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(normal, first)])


def _inside_outline(cells: Array, flat: Array) -> Array:
    """(C,) bool: cells (C, 2) inside the convex outline of what is known (K, 2)."""
    try:
        hull = ConvexHull(flat)
    except QhullError:
        return np.zeros(len(cells), bool)
    inside: Array = (cells @ hull.equations[:, :2].T + hull.equations[:, 2] <= 0).all(1)
    return inside


def _mixed(
    scene: GaussianScene, rows: Tensor, weights: Tensor, plane: Plane, cells: Array, spacing: float
) -> GaussianScene:
    """Disks on the plane at cells (M, 2), mixed from the Gaussians `rows` (M, K) by weights (M, K)."""
    normal = torch.from_numpy(np.asarray(plane.normal)).to(scene.means)
    places = cells @ plane_axes(plane.normal) + plane.offset * np.asarray(plane.normal)
    points = torch.from_numpy(places).to(scene.means)
    disks = surface_gaussians(points, normal.expand(len(points), 3), 0 * points, spacing)
    sh = (scene.sh[rows] * weights[..., None, None]).sum(1)
    features = scene.features
    return GaussianScene(
        means=disks.means,
        quats_wxyz=disks.quats_wxyz,
        log_scales=disks.log_scales,
        opacity_logits=disks.opacity_logits,
        sh=sh,
        features=None if features is None else (features[rows] * weights[..., None]).sum(1),
        ids=None if scene.ids is None else scene.ids.new_full((len(points),), -1),
        moving=None if scene.moving is None else scene.moving.new_zeros(len(points)),
    )
