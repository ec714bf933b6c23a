"""Gaussians that move with predicted points.

Every Gaussian follows its nearest flow points of the same object: a weighted rigid fit of where they were at time 0
and where they are now moves its centre and turns its axes. Every step is made from time 0, so that nothing drifts.
Gaussians that no moved point is near stay exactly as they are.

Colours turn with their Gaussian (`rotate_sh`): a rigidly moved scene seen by the equally moved camera looks exactly
as before. Baked light turns along, which is wrong for highlights and right for shading; a fit of degree 0 has neither.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from pointworld.errors import InputError
from splat.motion_neighbors import (
    check_groups,
    distance_weights,
    nearest_of_like_feature,
    nearest_of_same_id,
    nearest_points,
)
from splat.motion_rotate import compose_quats, fit_guarded, rotate_sh
from splat.types import GaussianScene

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class MotionOptions:
    """How Gaussians follow points.

    neighbors: points that a Gaussian follows, 4 to 8. reach: a Gaussian farther than this from every point of its
    object stays still [m]. stretch, slack: a neighbour whose distance to the nearest one changes by more than
    stretch times that distance plus slack [m] is on another body and is left out at that step. min_similarity:
    cosine of features on one object. rotate_sh: turn view-dependent colour along. still: displacements up to this
    are no motion [m].
    """

    neighbors: int = 8
    reach: float = 0.05
    stretch: float = 0.5
    slack: float = 0.003
    min_similarity: float = 0.5
    rotate_sh: bool = True
    still: float = 0.0

    def __post_init__(self) -> None:
        if not 4 <= self.neighbors <= 8:
            raise InputError(f"neighbors is {self.neighbors}, expected 4 to 8")
        if not (self.reach > 0 and self.stretch >= 0 and self.slack >= 0 and self.still >= 0):
            raise InputError(f"{self}: expected reach > 0, and stretch, slack and still >= 0")


@dataclass(frozen=True, kw_only=True, eq=False)
class MotionBinding:
    """What each Gaussian of a scene follows; made once, used for every step and every candidate motion.

    scene: at time 0. points: (P, 3) at time 0 [m]. index: (N, K) int64. weights: (N, K), zero = not followed.
    """

    scene: GaussianScene
    points: Tensor
    index: Tensor
    weights: Tensor
    options: MotionOptions


def bind(
    scene: GaussianScene,
    points: Tensor,
    *,
    point_ids: Tensor | None = None,
    point_features: Tensor | None = None,
    options: MotionOptions | None = None,
) -> MotionBinding:
    """Find the points that each Gaussian follows.

    Args:
        scene: Gaussians at time 0.
        points: (P, 3) flow points at time 0, in the scene's frame [m]; may be empty.
        point_ids: (P,) object of every point; Gaussians follow points of their own `scene.ids` only.
        point_features: (P, F); Gaussians follow points whose feature is like their `scene.features`. Ids win where
            both are given.
        options: see `MotionOptions`.

    Raises:
        InputError: shapes disagree, values are not finite, or the scene lacks ids or features.
    """
    options = options or MotionOptions()
    if points.ndim != 2 or points.shape[1] != 3:
        raise InputError(f"flow points are {tuple(points.shape)}, expected (points, 3)")
    if not bool(torch.isfinite(points).all()):
        raise InputError("flow points contain NaN or infinity")
    by_id = check_groups(scene.ids, point_ids, len(points), "ids")
    by_feature = not by_id and check_groups(scene.features, point_features, len(points), "features")
    count = options.neighbors
    if by_id and scene.ids is not None and point_ids is not None:
        found = nearest_of_same_id(scene.means, scene.ids, points, point_ids, count)
    elif by_feature and scene.features is not None and point_features is not None:
        found = nearest_of_like_feature(
            scene.means,
            scene.features,
            points,
            point_features,
            count,
            min_similarity=options.min_similarity,
        )
    else:
        found = nearest_points(scene.means, points, count)
    weights = distance_weights(found, reach=options.reach)
    device = scene.means.device
    return MotionBinding(
        scene=scene,
        points=points.detach().to(device),
        index=found.index.to(device),
        weights=weights.to(device),
        options=options,
    )


def move(binding: MotionBinding, displacements: Tensor) -> GaussianScene:
    """The scene after the points have moved.

    Args:
        binding: of the scene at time 0.
        displacements: (P, 3) of every flow point from time 0 [m].

    Returns:
        The moved scene; `moving` marks the Gaussians that moved. Those that did not are bit for bit the same.

    Raises:
        InputError: another number of points, or values that are not finite.
    """
    scene, points = binding.scene, binding.points
    if displacements.shape != points.shape:
        raise InputError(
            f"displacements are {tuple(displacements.shape)}, expected {tuple(points.shape)}: one per flow point"
        )
    if not bool(torch.isfinite(displacements).all()):
        raise InputError("displacements contain NaN or infinity")
    shift = displacements.detach().to(points.device, torch.float64)
    rows, weights = _followers(binding, shift)
    moving = torch.zeros(len(scene), dtype=torch.bool, device=points.device)
    moving[rows] = True
    if len(rows) == 0:
        return replace(scene, moving=moving)
    source = points.double()[binding.index[rows]]
    T = fit_guarded(source, source + shift[binding.index[rows]], weights)
    return place(scene, T, rows, moving, binding.options)


def move_steps(binding: MotionBinding, displacements: Tensor) -> list[GaussianScene]:
    """The scene at every step of displacements (steps, P, 3) from time 0, as in a `FlowPrediction`.

    Raises:
        InputError: wrong shape, or values that are not finite.
    """
    if displacements.ndim != 3:
        raise InputError(
            f"displacements are {tuple(displacements.shape)}, expected (steps, points, 3)"
        )
    return [move(binding, step) for step in displacements]


def _followers(binding: MotionBinding, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (M,) of the Gaussians that follow a moved point, and the weights (M, K) of what they follow at this step."""
    if len(binding.points) == 0:
        return binding.index.new_zeros(0), binding.weights[:0]
    moved = shift.abs().amax(-1) > binding.options.still
    rows = torch.nonzero((moved[binding.index] & (binding.weights > 0)).any(-1))[:, 0]
    index = binding.index[rows]
    source = binding.points.double()[index]
    target = source + shift[index]
    before = (source - source[:, :1]).norm(dim=-1)
    after = (target - target[:, :1]).norm(dim=-1)
    limit = binding.options.stretch * before + binding.options.slack
    weights = torch.where((after - before).abs() <= limit, binding.weights[rows], 0.0)
    kept = (moved[index] & (weights > 0)).any(-1)
    return rows[kept], weights[kept]


def place(
    scene: GaussianScene, T: Tensor, rows: Tensor, moving: Tensor, options: MotionOptions
) -> GaussianScene:
    """The scene with its Gaussians `rows` (M,) moved rigidly by T (M, 4, 4) float64, and marked by `moving` (N,)."""
    R = T[:, :3, :3]
    means, quats, sh = scene.means.clone(), scene.quats_wxyz.clone(), scene.sh
    placed = (R @ scene.means[rows].double()[..., None])[..., 0] + T[:, :3, 3]
    means[rows] = placed.to(means.dtype)
    quats[rows] = compose_quats(R, scene.quats_wxyz[rows].double()).to(quats.dtype)
    if options.rotate_sh and sh.shape[1] > 1:
        sh = sh.clone()
        sh[rows] = rotate_sh(scene.sh[rows], R)
    return replace(scene, means=means, quats_wxyz=quats, sh=sh, moving=moving)
