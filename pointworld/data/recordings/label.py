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

from pointworld.data.recordings.landing import HIDDEN_COST, pixel_costs
from pointworld.data.recordings.pieces import (
    split_into_pieces,
    spread_to_pixels,
    supporting_plane,
)
from pointworld.data.recordings.rigid_track import Fit, assess
from pointworld.data.recordings.shots import make_piece
from pointworld.data.recordings.trajectories import AGREES, Part, Scene, Trajectory, follow

#: Motions this far apart at a point are different ones [m].
DIFFERENT = 0.005
#: The second-best motion has to cost this much more than the best.
MARGIN = 0.06
#: A label with a larger standard deviation is left out [m].
MAX_SIGMA = 0.0035
#: A point that costs more than this [of 1] did something else than its motion says, and what hangs together with it may
#: have done so too, this far away [m]: a plain face that slides along itself looks as before.
CONTRADICTS, UNEXPLAINED = 0.4, 0.1
#: A pixel speaks for the scene point nearest to it, up to this distance [m].
PIXEL_REACH = 0.015
#: Motions of pieces this near are tried for points that belong to none [m].
BESIDE = 0.03


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """Where scene points went.

    positions: (moments, points, 3) in the world [m]; where there is no label, the nearest labelled moment's.
    known: (moments, points) bool, True where the label may be used. sigma: (moments, points) standard deviation [m].
    motion: (points,) number of the motion a point follows, 0 = stays.
    motions: (moments, motions, 4, 4) of all points that follow one; held where it is not trusted.
    trusted: (moments, motions) bool.
    """

    positions: np.ndarray
    known: np.ndarray
    sigma: np.ndarray
    motion: np.ndarray
    motions: np.ndarray
    trusted: np.ndarray


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
    parts: list[Part] = []
    owners: list[int] = []
    for number in range(1, int(pieces.max(initial=0)) + 1):
        masks = [(of == number) & use for of, use in zip(pixel_pieces, usable, strict=True)]
        for part in follow(scene, masks):
            parts.append(part)
            owners.append(number)
    near = _nearest_points(points, scene, usable)
    own, near_parts = _parts_of(points, near, parts)
    same_piece = np.array(owners, np.int64)[:, None] == pieces
    found = own.any(axis=1, keepdims=True)
    beside = np.asarray(near_parts | (same_piece & found))
    followed = [k for k, part in enumerate(parts) if part.trajectory is not None]
    motions = [_stays(scene, usable), *(p.trajectory for p in parts if p.trajectory is not None)]
    nobody = np.zeros((1, len(points)), bool)
    candidates = np.concatenate([~nobody, beside[followed]])
    costs, seen = _point_costs(points, scene, near, motions, candidates)
    unfollowed = [k for k in range(len(parts)) if k not in followed]
    return _decide(
        points,
        motions,
        np.concatenate([nobody, own[followed]]),
        candidates,
        costs,
        seen,
        pieces=pieces,
        lost=np.asarray(own[unfollowed].any(0)),
    )


def _stays(scene: Scene, usable: Sequence[np.ndarray]) -> Trajectory:
    """The motion of what does not move."""
    piece = make_piece(scene.moments[0], usable, scene.rng)
    fits: tuple[Fit, ...] = tuple(assess(piece, shots, np.eye(4)) for shots in scene.moments)
    return Trajectory(piece=piece, fits=fits, trusted=(True,) * len(fits), still=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Near:
    """Pixels of the first images near a scene point: masks per camera, and the point of each pixel in their order."""

    masks: tuple[np.ndarray, ...]
    points: tuple[np.ndarray, ...]


def _nearest_points(points: np.ndarray, scene: Scene, usable: Sequence[np.ndarray]) -> _Near:
    tree, masks, nearest = cKDTree(points), [], []
    for shot, use in zip(scene.moments[0], usable, strict=True):
        distance, index = tree.query(shot.points[use], distance_upper_bound=PIXEL_REACH)
        mask = use.copy()
        mask[use] = np.isfinite(distance)
        masks.append(mask)
        nearest.append(index[np.isfinite(distance)])
    return _Near(masks=tuple(masks), points=tuple(nearest))


def _parts_of(
    points: np.ndarray, near: _Near, parts: Sequence[Part]
) -> tuple[np.ndarray, np.ndarray]:
    """(parts, points) bool twice: the part that most pixels near a point belong to; parts that are near a point."""
    votes = np.zeros((len(parts) + 1, len(points)))
    for camera, (mask, index) in enumerate(zip(near.masks, near.points, strict=True)):
        votes[-1] += np.bincount(index, minlength=len(points)) / 2
        for row, part in enumerate(parts):
            votes[row] += np.bincount(index, part.masks[camera][mask], len(points))
    own = np.arange(len(parts))[:, None] == votes.argmax(0)
    beside = np.zeros_like(own)
    for row in range(len(parts)):
        if own[row].any():
            distance, _ = cKDTree(points[own[row]]).query(points)
            beside[row] = distance < BESIDE
    return own, beside


def _point_costs(
    points: np.ndarray,
    scene: Scene,
    near: _Near,
    motions: Sequence[Trajectory],
    candidates: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean cost (motions, moments, points) of the seen pixels that are nearest to each point, and their number."""
    owner = np.concatenate(near.points)
    shape = (len(motions), len(scene.moments), len(points))
    total, count = np.zeros(shape), np.zeros(shape)
    for row, trajectory in enumerate(motions):
        chosen = candidates[row]
        # A part whose pixels lie scattered among others' is nowhere near a point of its own.
        if not chosen[owner].any():
            continue
        parts = _restrict(near.masks, near.points, chosen)
        piece = make_piece(scene.moments[0], parts, scene.rng, most=None)
        of = owner[chosen[owner]]
        for moment, (fit, shots) in enumerate(zip(trajectory.fits, scene.moments, strict=True)):
            if trajectory.still and row > 0:
                total[row, moment], count[row, moment] = total[0, moment], count[0, moment]
                continue
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
    *,
    pieces: np.ndarray,
    lost: np.ndarray,
) -> Labels:
    """Take the motion of every point that beats staying by most, and its label where that is sure.

    pieces: (points,) number of the piece of each, 0 = none. lost: (points,) those of parts that were not followed.

    Motions are compared at the moments at which they carry the point away, are trusted, and something is seen.
    """
    where = np.stack([trajectory.positions(points) for trajectory in motions])
    trusted = np.array([trajectory.trusted for trajectory in motions])
    away = np.linalg.norm(where - points, axis=-1) > DIFFERENT
    # A point of no part or of another one is hidden by what passes, and goes along only if it is seen to have left.
    evidence = np.where(own[:, None], seen + seen[:1], seen[:1]) > 0
    counted = away & trusted[..., None] & evidence
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
    rests = np.array([trajectory.still for trajectory in motions])[best]
    agrees = (count > 0) & (here < AGREES)
    moving = np.array([not trajectory.still for trajectory in motions])
    loose = own | (candidates & moving[:, None] & (pieces == 0))
    contradicts = (count > 0) & (here > CONTRADICTS) & (pieces > 0)
    beside = candidates[moving].any(0) | _in_disturbed_piece(pieces, contradicts)
    known &= ~(rests & _maybe_moved(trusted, loose, beside, agrees))
    known[1:] &= ~(rests & (lost | _near_unexplained(points, pieces, contradicts)))[1:]
    return Labels(
        positions=_fill(positions, known),
        known=known,
        sigma=sigma,
        motion=best.astype(np.int64),
        motions=np.stack([_held(trajectory) for trajectory in motions], 1),
        trusted=trusted.T,
    )


def _held(trajectory: Trajectory) -> np.ndarray:
    """(moments, 4, 4) with the last trusted motion where none is trusted."""
    held = [trajectory.fits[0].motion]
    for fit, sure in zip(trajectory.fits[1:], trajectory.trusted[1:], strict=True):
        held.append(fit.motion if sure else held[-1])
    return np.stack(held)


def _maybe_moved(
    trusted: np.ndarray, loose: np.ndarray, beside: np.ndarray, agrees: np.ndarray
) -> np.ndarray:
    """(moments, points): moments at which a point may not be called still, whatever else speaks for it.

    That is while a part that it may belong to (`loose`, (motions, points)) is lost, and while a point `beside` what
    moves is hidden until it is seen at its place again.
    """
    lost = (loose[:, None, :] & ~trusted[..., None]).any(0)
    seen_again = np.logical_or.accumulate(agrees[::-1])[::-1]
    return np.asarray(lost | (beside & ~seen_again))


def _in_disturbed_piece(pieces: np.ndarray, contradicts: np.ndarray) -> np.ndarray:
    """(points,): points of pieces of which some points are seen to do something else than their motion."""
    counts = np.bincount(pieces[contradicts.any(0)], minlength=int(pieces.max(initial=0)) + 1)
    return np.asarray((pieces > 0) & (counts[pieces] >= 2))


def _near_unexplained(points: np.ndarray, pieces: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """(moments, points): points with a `marked` one (moments, points) of their own piece within `UNEXPLAINED`."""
    near = np.zeros_like(marked)
    for piece in np.unique(pieces[marked.any(0)]):
        mine = pieces == piece
        for moment in np.flatnonzero(marked[:, mine].any(1)):
            tree = cKDTree(points[mine & marked[moment]])
            near[moment, mine] = tree.query(points[mine])[0] < UNEXPLAINED
    return near


def support_of(seen: np.ndarray, best: np.ndarray) -> np.ndarray:
    """(points,) pixels on which a point's motion was seen, over all moments."""
    return np.asarray(seen.sum(1)[best, np.arange(seen.shape[-1])])


def _fill(positions: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Positions with every gap closed by the nearest known moment before it (or the first position)."""
    filled = positions.copy()
    for moment in range(1, len(filled)):
        filled[moment] = np.where(known[moment][:, None], filled[moment], filled[moment - 1])
    return filled
