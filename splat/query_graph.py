"""How `splat.query` tells an object from what it stands on and what lies beside it.

The support plane by RANSAC, the graph of near and alike Gaussians, diffusion along it, the connected part, and what
joins it last: faint Gaussians inside it, and those in the plane under it that look like it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import cg
from scipy.spatial import cKDTree

from pointworld.errors import InputError
from pointworld.geometry import fit_plane_ransac
from splat.sh import C0
from splat.types import GaussianScene

Tensor = torch.Tensor
Array = np.ndarray

#: A plane holds at least this share of what is near; so many are tried until seeds stand above one with at least this
#: share of their weight.
PLANE_SHARE, PLANES_TRIED, SEEDS_ABOVE = 0.15, 3, 0.1
#: Gaussians of the plane are under an object up to this many spacings from its outline; what lies farther away, up to
#: RING [m], shows what the plane looks like.
FOOT, RING = 1.5, 0.12
#: Also what lies up to this far below the plane there [m]: no view saw that place, so it shows the object's colours.
BELOW = 0.15
#: At the top of the plane's band a Gaussian may differ from the object this much more than from the plane, plus one.
LIFT = 2.0
#: Features count as much as this difference in colour when they differ by their spread.
FEATURE_WEIGHT = 0.15
#: Share of a difference in brightness that counts as a difference in colour.
BRIGHTNESS = 0.4
#: Where similarity may end, the least of it first; a smaller object is taken when its outline falls below this share.
THRESHOLDS, SHORTER = (0.04, 0.06, 0.09, 0.13, 0.2, 0.3), 0.9


@dataclass(frozen=True, kw_only=True)
class QueryConfig:
    """How an object is found.

    reach: nothing farther from the seeds than this is looked at [m]. opacity: Gaussians fainter than this are no nodes
    of the graph; they join what they lie in. neighbours: of every node. spacing: edges are at most this many times as
    long as a usual one. color, feature: differences at which an edge's weight has fallen to 1/e (colour 0-1, features
    relative to their spread). length: how far similarity diffuses where all is alike [m]. threshold: of the diffused
    similarity, relative to where most of it went; None = the one of several whose object is best parted from the rest
    (`best_parted`). plane: use the plane that things stand on. band: least distance from
    it that counts [m].
    """

    reach: float = 0.35
    opacity: float = 0.15
    neighbours: int = 12
    spacing: float = 2.5
    color: float = 0.25
    feature: float = 1.0
    length: float = 0.08
    threshold: float | None = None
    plane: bool = True
    band: float = 0.006
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.reach > 0 and self.neighbours >= 2 and self.length > 0):
            raise InputError(f"{self}: expected reach > 0, 2 or more neighbours, length > 0")


@dataclass(frozen=True, kw_only=True, eq=False)
class Plane:
    """What things stand on: normal . p = offset [m], normal towards the things; band: half its thickness [m]."""

    normal: Array
    offset: float
    band: float

    def height(self, points: Array) -> Array:
        """Distance above the plane [m]."""
        height: Array = points @ self.normal - self.offset
        return height


def find_plane(
    points: Array, weights: Array, config: QueryConfig, eye: Tensor | None
) -> Plane | None:
    """The largest plane with seeds above it, its normal towards `eye` (else the seeds); None where there is no plane.

    Args:
        points: (n, 3) round the seeds. weights: (n,) of the seeds among them.

    Raises:
        InputError: there are planes, but no seeds stand on one: the seeds belong to the support itself.
    """
    left, tried = np.ones(len(points), bool), 0
    towards = np.average(points, axis=0, weights=weights + 1e-12)
    if eye is not None:
        towards = eye.double().cpu().numpy()
    while left.sum() >= max(50, PLANE_SHARE * len(points)) and tried < PLANES_TRIED:
        normal, offset, _ = fit_plane_ransac(points[left], seed=config.seed, threshold=0.008)
        inliers = left & (np.abs(points @ normal - offset) < 0.008)
        if inliers.sum() < PLANE_SHARE * len(points):
            break
        tried += 1
        if normal @ towards < offset:
            normal, offset = -normal, -offset
        # Noise on the far side of the plane, where nothing stands, says how thick it is.
        height = points @ normal - offset
        below = -height[(height < 0) & (height > -0.04)]
        thickness = 1.5 * 1.4826 * float(np.median(below)) if len(below) > 20 else 0.0
        plane = Plane(normal=normal, offset=offset, band=min(max(config.band, thickness), 0.03))
        if weights[height > plane.band].sum() >= SEEDS_ABOVE * weights.sum():
            return plane
        left &= ~inliers
    if tried:
        raise InputError(
            "the place belongs to the surface that things stand on; click on an object, or switch the plane off"
        )
    return None


def build_graph(
    scene: GaussianScene, index: Array, config: QueryConfig
) -> tuple[csr_matrix, float]:
    """Symmetric weights (n, n) between the nodes `index`, near each other and alike, and their usual spacing [m]."""
    chosen = torch.from_numpy(index)
    points = scene.means[chosen].detach().double().cpu().numpy()
    count = min(config.neighbours + 1, len(points))
    distance, other = cKDTree(points).query(points, k=count)
    distance, other = distance.reshape(len(points), count), other.reshape(len(points), count)
    usual = max(float(np.median(distance[:, min(4, count - 1)])), 1e-6)
    rows = np.repeat(np.arange(len(points)), count)
    columns, length = other.ravel(), distance.ravel()
    kept = (rows != columns) & (length <= config.spacing * usual)
    rows, columns, length = rows[kept], columns[kept], length[kept]
    colors = _shade_less(scene)[index]
    exponent = (length / (config.spacing * usual)) ** 2
    exponent = exponent + ((colors[rows] - colors[columns]) ** 2).sum(1) / config.color**2
    if scene.features is not None and config.feature > 0:
        features = scene.features[chosen].detach().cpu().numpy()
        scale = float(features.var(0).sum()) * config.feature**2 + 1e-12
        exponent = exponent + ((features[rows] - features[columns]) ** 2).sum(1) / scale
    weights = coo_matrix((np.exp(-exponent), (rows, columns)), shape=(len(points), len(points)))
    weights = weights.tocsr()
    return weights.maximum(weights.T), usual


def diffuse(graph: csr_matrix, seeds: Array, spread: float) -> Array:
    """Similarity that flows from the seeds along the graph, 1 = as much as where most of it went."""
    degree = np.asarray(graph.sum(1)).ravel()
    root = diags(1 / np.sqrt(np.maximum(degree, 1e-9)))
    step = root @ graph @ root
    system = diags(np.ones(len(seeds))) - spread * step
    flowed, _ = cg(system, (1 - spread) * seeds, rtol=1e-5, maxiter=500)
    # Per degree: a node's value does not depend on how many neighbours it has.
    flowed = flowed / np.sqrt(np.maximum(degree, 1e-9))
    # Relative to a usual value where it went: its peak at the seeds says nothing about the object.
    usual = (flowed**2).sum() / max(flowed.sum(), 1e-30)
    return np.clip(flowed / max(usual, 1e-30), 0, 1)


def component(graph: csr_matrix, seeds: Array, allowed: Array) -> Array:
    """Nodes of the connected part, among those allowed, that holds most of the seeds."""
    allowed = allowed | (seeds > 0)
    index = np.flatnonzero(allowed)
    part = graph[index][:, index]
    part.data = (part.data > 1e-3).astype(float)
    part.eliminate_zeros()
    _, label = connected_components(part, directed=False)
    best = np.bincount(label, weights=seeds[index]).argmax()
    found = np.zeros(len(seeds), bool)
    found[index[label == best]] = True
    return found


def outline(graph: csr_matrix, members: Array) -> float:
    """How long an object's outline is for its size: weight of the edges that leave it, over the root of all its edges.

    On a surface that does not depend on the size; 0 = nothing is near, or nothing near is alike.
    """
    inside = graph[np.flatnonzero(members)]
    whole = float(inside.sum())
    leaving = float(inside[:, np.flatnonzero(~members)].sum())
    return leaving / max(whole, 1e-12) ** 0.5


def best_parted(graph: csr_matrix, seeds: Array, similarity: Array) -> Array:
    """The connected part that holds the seeds, where similarity ends so that its outline is shortest for its size.

    What stands alone is the same at all thresholds; what touches something alike, such as its own mirror image, is cut
    off at the neck between them.
    """
    best = component(graph, seeds, similarity > THRESHOLDS[0])
    shortest = outline(graph, best)
    for threshold in THRESHOLDS[1:]:
        if shortest <= 1e-3:
            break
        found = component(graph, seeds, similarity > threshold)
        length = outline(graph, found)
        if length < SHORTER * shortest:
            best, shortest = found, length
    return best


def attach(mask: Array, means: Array, rest: Array, plane: Plane | None, members: Array) -> None:
    """Let faint Gaussians join the object that they lie in; `mask` is changed."""
    index = np.flatnonzero(rest)
    if plane is not None:
        index = index[plane.height(means[index]) > plane.band]
    if len(index) == 0 or len(members) < 5:
        return
    tree = cKDTree(means[members])
    usual = float(np.median(tree.query(means[members], k=5)[0][:, -1]))
    distance, _ = tree.query(means[index])
    mask[index[distance <= 1.5 * usual]] = True


def add_foot(mask: Array, scene: GaussianScene, means: Array, near: Array, plane: Plane) -> None:
    """Let Gaussians of the plane under the object join it where they look like it; `mask` is changed."""
    inside = np.flatnonzero(mask)
    height = plane.height(means)
    band = np.flatnonzero(near & ~mask & (height <= plane.band) & (height >= -plane.band - BELOW))
    if len(inside) < 5 or len(band) == 0:
        return
    flat = means - height[:, None] * plane.normal
    tree = cKDTree(flat[inside])
    usual = float(np.median(cKDTree(means[inside]).query(means[inside], k=5)[0][:, -1]))
    distance, _ = tree.query(flat[band])
    under = band[distance <= FOOT * usual]
    round_it = band[(distance > 2 * FOOT * usual) & (distance <= RING)]
    if len(under) == 0 or len(round_it) < 5:
        return
    looks = appearance(scene)
    alike = _nearest_looks(looks[under], looks[inside])
    strange = _nearest_looks(looks[under], looks[round_it])
    # The higher over the middle of the plane, the less it must differ from what lies round the object.
    lifted = np.clip(height[under] / plane.band, 0, 1)
    mask[under[alike < (1 + LIFT * lifted) * strange]] = True


def _nearest_looks(values: Array, examples: Array) -> Array:
    """Distance in appearance to the fourth nearest example: one stray example does not count."""
    count = min(4, len(examples))
    distance, _ = cKDTree(examples).query(values, k=count)
    result: Array = distance.reshape(len(values), count)[:, -1]
    return result


def appearance(scene: GaussianScene) -> Array:
    """(N, D) what a Gaussian looks like: its colour, and its features scaled to count about as much."""
    colors = _shade_less(scene)
    if scene.features is None:
        return colors
    features = scene.features.detach().cpu().numpy()
    scale = FEATURE_WEIGHT / np.sqrt(float(features.var(0).sum()) + 1e-12)
    return np.concatenate([colors, features * scale], 1)


def _shade_less(scene: GaussianScene) -> Array:
    """(N, 3) colours in which brightness counts for less than hue: sides of one object differ in light."""
    colors = (0.5 + C0 * scene.sh[:, 0]).detach().double().clamp(0, 1).cpu().numpy()
    mean = colors.mean(1, keepdims=True)
    result: Array = colors - (1 - BRIGHTNESS) * mean
    return result
