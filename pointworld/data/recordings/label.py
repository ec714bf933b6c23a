"""Labels for real recordings: where every scene point went, found in the images alone, with what is not sure left out.

The scene is taken apart (`pieces`), every piece is followed (`trajectories`), and every scene point takes the motion
that explains the pixels around it best. A point gets no label where no motion explains what is seen, where two that
differ explain it equally, where the motion is not determined by the images, or where its piece was lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from pointworld.data.recordings.pieces import (
    split_into_pieces,
    spread_to_pixels,
    supporting_plane,
)
from pointworld.data.recordings.rigid_track import (
    HIDDEN_COST,
    Fit,
    assess,
    make_piece,
    pixel_costs,
)
from pointworld.data.recordings.trajectories import AGREES, Scene, Trajectory, follow

#: Motions this far apart at a point are different ones [m].
DIFFERENT = 0.005
#: The second-best motion has to cost this much more than the best.
MARGIN = 0.06
#: A label with a larger standard deviation is left out [m].
MAX_SIGMA = 0.0035
#: Motions of pieces this near are tried for points that belong to none [m].
BESIDE = 0.03


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """Where scene points went.

    positions: (moments, points, 3) in the world [m]; where there is no label, the nearest labelled moment's.
    known: (moments, points) bool, True where the label may be used. sigma: (moments, points) standard deviation [m].
    motion: (points,) number of the motion a point follows, 0 = stays.
    motions: (moments, motions, 4, 4) of all points that follow one; held where it is not trusted.
    """

    positions: np.ndarray
    known: np.ndarray
    sigma: np.ndarray
    motion: np.ndarray
    motions: np.ndarray


def label_points(points: np.ndarray, normals: np.ndarray, scene: Scene, *, seed: int = 0) -> Labels:
    """Label scene points over a window.

    Args:
        points, normals: (points, 3) of the first moment in the world, whose z points up [m].
        scene: the images.
        seed: of the plane search.
    """
    plane = supporting_plane(points, normals, seed=seed)
    pieces = split_into_pieces(points, normals, plane)
    first = scene.moments[0]
    pixel_pieces = [spread_to_pixels(pieces, points, shot.points, plane) for shot in first]
    usable = [(shot.depth > 0) & ~shot.robot for shot in first]
    motions: list[Trajectory] = [_stays(scene, usable)]
    owners = [0]
    for number in range(1, int(pieces.max(initial=0)) + 1):
        masks = [(of == number) & use for of, use in zip(pixel_pieces, usable, strict=True)]
        for trajectory in follow(scene, masks):
            if not trajectory.still:
                motions.append(trajectory)
                owners.append(number)
    candidates = _candidates(points, pieces, np.array(owners))
    costs, seen = _point_costs(points, scene, usable, motions, candidates)
    own = (np.array(owners)[:, None] == pieces) & (pieces > 0)
    return _decide(points, motions, own, candidates, costs, seen)


def _stays(scene: Scene, usable: Sequence[np.ndarray]) -> Trajectory:
    """The motion of what does not move."""
    piece = make_piece(scene.moments[0], usable, scene.rng)
    fits: tuple[Fit, ...] = tuple(assess(piece, shots, np.eye(4)) for shots in scene.moments)
    return Trajectory(piece=piece, fits=fits, trusted=(True,) * len(fits), still=True)


def _candidates(points: np.ndarray, pieces: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """(motions, points) bool: which motions a point may follow: staying, its piece's, and those of pieces beside it."""
    allowed = np.zeros((len(owners), len(points)), bool)
    allowed[0] = True
    for row, owner in enumerate(owners):
        if owner:
            distance, _ = cKDTree(points[pieces == owner]).query(points)
            allowed[row] = distance < BESIDE
    return allowed


def _point_costs(
    points: np.ndarray,
    scene: Scene,
    usable: Sequence[np.ndarray],
    motions: Sequence[Trajectory],
    candidates: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean cost (motions, moments, points) of the seen pixels that are nearest to each point, and their number."""
    tree = cKDTree(points)
    nearest = []
    masks = []
    for shot, use in zip(scene.moments[0], usable, strict=True):
        distance, index = tree.query(shot.points[use], distance_upper_bound=0.015)
        mask = use.copy()
        mask[use] = np.isfinite(distance)
        masks.append(mask)
        nearest.append(index[np.isfinite(distance)])
    owner = np.concatenate(nearest)
    shape = (len(motions), len(scene.moments), len(points))
    total, count = np.zeros(shape), np.zeros(shape)
    for row, trajectory in enumerate(motions):
        chosen = candidates[row]
        parts = _restrict(masks, nearest, chosen)
        piece = make_piece(scene.moments[0], parts, scene.rng, most=None)
        of = owner[chosen[owner]]
        for moment, (fit, shots) in enumerate(zip(trajectory.fits, scene.moments, strict=True)):
            cost, hidden = pixel_costs(piece, shots, fit.motion)
            total[row, moment] = np.bincount(of, np.where(hidden, 0, cost), len(points))
            count[row, moment] = np.bincount(of, ~hidden, len(points))
    return total / np.maximum(count, 1), count


def _restrict(
    masks: Sequence[np.ndarray], nearest: Sequence[np.ndarray], chosen: np.ndarray
) -> list[np.ndarray]:
    parts = []
    for mask, index in zip(masks, nearest, strict=True):
        part = mask.copy()
        part[mask] = chosen[index]
        parts.append(part)
    return parts


def _decide(
    points: np.ndarray,
    motions: Sequence[Trajectory],
    own: np.ndarray,
    candidates: np.ndarray,
    costs: np.ndarray,
    seen: np.ndarray,
) -> Labels:
    """Take the motion of every point that beats staying by most, and its label where that is sure.

    Motions are compared at the moments at which they carry the point away, are trusted, and something is seen.
    """
    where = np.stack([trajectory.positions(points) for trajectory in motions])
    trusted = np.array([trajectory.trusted for trajectory in motions])
    away = np.linalg.norm(where - points, axis=-1) > DIFFERENT
    counted = away & trusted[..., None] & (seen + seen[:1] > 0)
    gain = np.where(seen > 0, costs, HIDDEN_COST) - np.where(seen[:1] > 0, costs[:1], HIDDEN_COST)
    weight = counted.sum(1)
    gain = np.where(candidates, (gain * counted).sum(1) / np.maximum(weight, 1), np.inf)
    # Without anything seen to tell them apart, a point of a piece that moves goes with its piece.
    gain = np.where((weight == 0) & candidates, np.where(own, -1e-3, 1.0), gain)
    gain[0] = 0.0
    best, rows = gain.argmin(0), np.arange(len(points))
    positions = where[best, :, rows].swapaxes(0, 1)
    apart = np.linalg.norm(where - positions, axis=-1).max(1) > DIFFERENT
    rival = (gain < gain[best, rows] + MARGIN) & apart & candidates
    sigma = np.stack([trajectory.sigmas(points) for trajectory in motions])[best, :, rows].T
    here, count = costs[best, :, rows].T, seen[best, :, rows].T
    known = trusted[best].T & ((count == 0) | (here < AGREES)) & (sigma < MAX_SIGMA)
    known &= ~rival.any(0) & (support_of(seen, best) > 0)
    known &= ~((best == 0) & _maybe_moved(trusted, own, candidates, (count > 0) & (here < AGREES)))
    return Labels(
        positions=_fill(positions, known),
        known=known,
        sigma=sigma,
        motion=best.astype(np.int64),
        motions=np.stack([_held(trajectory) for trajectory in motions], 1),
    )


def _held(trajectory: Trajectory) -> np.ndarray:
    """(moments, 4, 4) with the last trusted motion where none is trusted."""
    held = [trajectory.fits[0].motion]
    for fit, sure in zip(trajectory.fits[1:], trajectory.trusted[1:], strict=True):
        held.append(fit.motion if sure else held[-1])
    return np.stack(held)


def _maybe_moved(
    trusted: np.ndarray, own: np.ndarray, candidates: np.ndarray, agrees: np.ndarray
) -> np.ndarray:
    """(moments, points): moments at which a point may not be called still, whatever else speaks for it.

    That is while the piece it belongs to is lost, and while a point beside a moving piece is hidden until it is seen
    at its place again.
    """
    lost = (own[:, None, :] & ~trusted[..., None]).any(0)
    seen_again = np.logical_or.accumulate(agrees[::-1])[::-1]
    return np.asarray(lost | (candidates[1:].any(0) & ~seen_again))


def support_of(seen: np.ndarray, best: np.ndarray) -> np.ndarray:
    """(points,) pixels on which a point's motion was seen, over all moments."""
    return np.asarray(seen.sum(1)[best, np.arange(seen.shape[-1])])


def _fill(positions: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Positions with every gap closed by the nearest known moment before it (or the first position)."""
    filled = positions.copy()
    for moment in range(1, len(filled)):
        filled[moment] = np.where(known[moment][:, None], filled[moment], filled[moment - 1])
    return filled
