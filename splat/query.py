"""Which Gaussians belong together: from a click, a box, or a feature vector to one object.

Seeds are the Gaussians that a pixel or box shows (by transposed rendering), or those most alike a vector. What they
stand on is found as a plane and taken away; similarity then spreads over a graph of near neighbours, along edges
between Gaussians that are close and alike, and the object is the connected part of the graph that holds the seeds.
Last, Gaussians in the plane under the object join it where they look like it and not like what lies round it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial import cKDTree

from pointworld.errors import InputError
from splat.features import gather
from splat.query_graph import Plane as Plane
from splat.query_graph import QueryConfig as QueryConfig
from splat.query_graph import (
    add_foot,
    attach,
    best_parted,
    build_graph,
    component,
    diffuse,
    find_plane,
)
from splat.raster import Rasterizer
from splat.types import GaussianScene

Tensor = torch.Tensor
Array = np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """The Gaussians of one object.

    mask: (N,) bool. similarity: (N,) 0-1, diffused from the seeds. seeds: (N,) weights, 0 where no seed.
    plane: what it stands on, or None.
    """

    mask: Tensor
    similarity: Tensor
    seeds: Tensor
    plane: Plane | None


def seeds_from_pixels(
    scene: GaussianScene, mask: Tensor, viewmat: Tensor, K: Tensor, rasterizer: Rasterizer
) -> Tensor:
    """(N,) how much every Gaussian contributes to the marked pixels (height, width), relative to the largest.

    Raises:
        InputError: nothing is there.
    """
    weights = gather(scene.detach(), mask.float()[..., None], viewmat, K, rasterizer)[:, 0]
    peak = float(weights.max()) if len(weights) else 0.0
    if peak <= 0.05:
        raise InputError(
            "no Gaussian is seen at that place; choose another pixel, or another camera"
        )
    return torch.where(weights > 0.1 * peak, weights / peak, torch.zeros_like(weights))


def seeds_from_box(
    scene: GaussianScene, box: tuple[int, int, int, int], size: tuple[int, int],
    viewmat: Tensor, K: Tensor, rasterizer: Rasterizer,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Seeds of a box (left, top, right, bottom) [px], the last two not included, in an image of size (width, height).

    Returns:
        (N,) seeds: contribution to the box of those seen in it, and (N,) bool, those seen mainly outside it.

    Raises:
        InputError: the box is empty or outside, or nothing is in it.
    """
    left, top, right, bottom = box
    if not (0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]):
        raise InputError(
            f"the box {box} is empty or leaves the image of {size[0]} x {size[1]} pixels"
        )
    layers = torch.zeros(size[1], size[0], 2)
    layers[..., 1] = 1
    layers[top:bottom, left:right, 0] = 1
    inside, seen = gather(scene.detach(), layers, viewmat, K, rasterizer).unbind(1)
    peak = float(inside.max()) if len(inside) else 0.0
    if peak <= 0.05:
        raise InputError("no Gaussian is seen in that box")
    share = inside / seen.clamp_min(1e-9)
    outside = (seen > 0.05) & (share < 0.5)
    return torch.where(
        (share > 0.8) & (inside > 0.05), (inside / peak).clamp_max(1), 0 * inside
    ), outside


def vector_similarity(scene: GaussianScene, vector: Tensor) -> Tensor:
    """(N,) cosine between every Gaussian's features and a vector in the same basis.

    Raises:
        InputError: the scene has no features, or of another length.
    """
    if scene.features is None or vector.shape != scene.features.shape[1:]:
        have = None if scene.features is None else scene.features.shape[1]
        raise InputError(
            f"the vector has {tuple(vector.shape)} entries, the scene's features {have}"
        )
    return torch.nn.functional.cosine_similarity(scene.features, vector[None], dim=1)


def seed_from_similarity(
    scene: GaussianScene, similarity: Tensor, *, neighbours: int = 32
) -> Tensor:
    """(N,) seeds: the place whose neighbourhood is most similar, and its neighbours as far as they are."""
    solid = torch.nonzero(scene.opacities > 0.15)[:, 0]
    if len(solid) == 0:
        raise InputError("the scene has no opaque Gaussians")
    points = scene.means[solid].double().cpu().numpy()
    count = min(neighbours, len(solid))
    _, near = cKDTree(points).query(points, k=count)
    values = similarity[solid]
    near_index = torch.from_numpy(near.reshape(len(solid), count))
    smooth = values[near_index].mean(1)
    best = int(smooth.argmax())
    seeds = torch.zeros_like(similarity)
    chosen = near_index[best]
    seeds[solid[chosen]] = (values[chosen] / values[chosen].max().clamp_min(1e-6)).clamp(0, 1)
    return seeds


def select_object(
    scene: GaussianScene,
    seeds: Tensor,
    config: QueryConfig | None = None,
    *,
    eye: Tensor | None = None,
    excluded: Tensor | None = None,
) -> Selection:
    """The object that the seeds belong to.

    Args:
        seeds: (N,) weights.
        eye: (3,) a place above the support, such as the camera; the plane's normal points to it.
        excluded: (N,) bool, Gaussians that cannot belong to it.

    Raises:
        InputError: the seeds are none, too faint, or belong to the surface that things stand on.
    """
    config = config or QueryConfig()
    means = scene.means.detach().double().cpu().numpy()
    weights = seeds.double().cpu().numpy()
    if not (weights > 0).any():
        raise InputError("the query has no seeds")
    centre = _middle(means, weights)
    near = np.linalg.norm(means - centre, axis=1) <= config.reach
    opacity = scene.opacities.detach().cpu().numpy()
    nodes = near & (opacity >= config.opacity)
    if excluded is not None:
        nodes &= ~excluded.cpu().numpy()
    if not (weights[nodes] > 0).any():
        raise InputError("what is seen at that place is too faint; choose another pixel")
    plane = find_plane(means[nodes], weights[nodes], config, eye) if config.plane else None
    if plane is not None:
        nodes &= plane.height(means) > plane.band
    index = np.flatnonzero(nodes)
    started = weights[index]
    graph, spacing = build_graph(scene, index, config)
    # A step of the diffusion goes about one spacing: so many steps reach the length.
    spread = min(max(1 - (spacing / config.length) ** 2, 0.5), 0.9999)
    similarity = diffuse(graph, started, spread)
    if config.threshold is None:
        members = best_parted(graph, started, similarity)
    else:
        members = component(graph, started, similarity > config.threshold)
    mask = np.zeros(len(means), bool)
    mask[index[members]] = True
    attach(mask, means, near & ~nodes, plane, index[members])
    if plane is not None:
        barred = np.zeros(len(means), bool) if excluded is None else excluded.cpu().numpy()
        add_foot(mask, scene, means, near & ~barred, plane)
    whole = np.zeros(len(means))
    whole[index] = similarity
    return Selection(
        mask=torch.from_numpy(mask),
        similarity=torch.from_numpy(whole).float(),
        seeds=seeds,
        plane=plane,
    )


def _middle(points: Array, weights: Array) -> Array:
    """Weighted median of points (N, 3) along each axis: one stray seed does not move it."""
    used = weights > 0
    found = []
    for axis in range(3):
        order = np.argsort(points[used, axis])
        total = np.cumsum(weights[used][order])
        found.append(points[used, axis][order][np.searchsorted(total, total[-1] / 2)])
    return np.array(found)


def assign_object(scene: GaussianScene, selection: Selection) -> tuple[GaussianScene, int]:
    """The scene with a new id on the selected Gaussians, and that id; -1 = no object."""
    ids = scene.ids if scene.ids is not None else torch.full((len(scene),), -1, dtype=torch.int64)
    number = int(ids.max()) + 1 if len(ids) else 0
    ids = ids.clone()
    ids[selection.mask] = max(number, 0)
    return replace(scene, ids=ids), max(number, 0)
