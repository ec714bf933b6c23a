"""Which flow points a Gaussian follows: the nearest ones of the same object, with weights that fall with distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from pointworld.errors import InputError

Tensor = torch.Tensor

#: With features, this many times the wanted neighbours are looked at before those of other objects are dropped.
CANDIDATES = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbors:
    """index: (N, K) int64 into the flow points. distance: (N, K) [m], infinite where a Gaussian has fewer than K."""

    index: Tensor
    distance: Tensor


def nearest_points(means: Tensor, points: Tensor, count: int) -> Neighbors:
    """The `count` nearest of `points` (P, 3) to every mean (N, 3), nearest first."""
    index = np.zeros((len(means), count), dtype=np.int64)
    distance = np.full((len(means), count), np.inf)
    found = min(count, len(points))
    if found and len(means):
        tree = cKDTree(points.detach().cpu().double().numpy())
        d, i = tree.query(means.detach().cpu().double().numpy(), k=found, workers=1)
        index[:, :found], distance[:, :found] = i.reshape(-1, found), d.reshape(-1, found)
    return Neighbors(index=torch.from_numpy(index), distance=torch.from_numpy(distance))


def nearest_of_same_id(
    means: Tensor, ids: Tensor, points: Tensor, point_ids: Tensor, count: int
) -> Neighbors:
    """As `nearest_points`, among points whose id is the Gaussian's (-1 is a group like any other)."""
    index = torch.zeros(len(means), count, dtype=torch.int64)
    distance = torch.full((len(means), count), torch.inf, dtype=torch.float64)
    ids, point_ids = ids.cpu(), point_ids.cpu()
    for value in torch.unique(point_ids).tolist():
        rows = torch.nonzero(ids == value)[:, 0]
        members = torch.nonzero(point_ids == value)[:, 0]
        found = nearest_points(means.cpu()[rows], points.cpu()[members], count)
        index[rows], distance[rows] = members[found.index], found.distance
    return Neighbors(index=index, distance=distance)


def nearest_of_like_feature(
    means: Tensor,
    features: Tensor,
    points: Tensor,
    point_features: Tensor,
    count: int,
    *,
    min_similarity: float,
) -> Neighbors:
    """As `nearest_points`, among nearby points whose feature has a cosine of `min_similarity` or more."""
    wide = nearest_points(means, points, CANDIDATES * count)
    a = torch.nn.functional.normalize(features.detach().cpu().double(), dim=-1)
    b = torch.nn.functional.normalize(point_features.detach().cpu().double(), dim=-1)
    distance = wide.distance.clone()
    for k in range(distance.shape[1]):
        cosine = (a * b[wide.index[:, k]]).sum(-1)
        distance[cosine < min_similarity, k] = torch.inf
    order = torch.argsort(distance, dim=1, stable=True)[:, :count]
    return Neighbors(index=wide.index.gather(1, order), distance=distance.gather(1, order))


def distance_weights(neighbors: Neighbors, *, reach: float) -> Tensor:
    """(N, K) Gaussian weights with half the distance of the farthest neighbour as width.

    All zero for a Gaussian whose nearest point is farther than `reach` [m]: it does not follow anything. The nearest
    has weight 1.
    """
    d = neighbors.distance
    real = torch.isfinite(d)
    farthest = torch.where(real, d, 0.0).amax(dim=1, keepdim=True)
    width = (0.5 * farthest).clamp_min(1e-6)
    nearest = d[:, :1]
    near = torch.where(nearest <= reach, nearest, 0.0)
    weights = torch.exp(-0.5 * (torch.where(real, d, 0.0) ** 2 - near**2) / width**2)
    return torch.where(real & (nearest <= reach), weights, 0.0)


def check_groups(gaussians: Tensor | None, points: Tensor | None, rows: int, name: str) -> bool:
    """Whether objects are told apart by this property: given on both sides, and of fitting shape.

    Raises:
        InputError: the points have it but the Gaussians do not, or shapes disagree.
    """
    if points is None:
        return False
    if gaussians is None:
        raise InputError(
            f"the flow points have {name}, the scene has none. Give the scene {name} too, or neither."
        )
    if len(points) != rows or points.shape[1:] != gaussians.shape[1:]:
        raise InputError(
            f"point {name} are {tuple(points.shape)}, expected {(rows, *gaussians.shape[1:])}: one row per flow point"
        )
    return True
