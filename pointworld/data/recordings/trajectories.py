"""Motions of the pieces of a scene over a window of time, and which of them every scene point follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pointworld.data.recordings.landing import pixel_costs
from pointworld.data.recordings.rigid_track import (
    Fit,
    assess,
    point_sigma,
    track_back,
    track_moment,
)
from pointworld.data.recordings.shots import Piece, Shot, make_piece
from pointworld.geometry import invert, transform_points

#: A pixel agrees with a motion when it costs less than this, of 1.
AGREES = 0.2
#: The motion of a piece is trusted while this share of its seen pixels agree, and this share is seen. These and
#: `MAX_SIGMA` of labels were set on 22 simulated recordings (benchmarks/label_errors.py measures on others).
PIECE_AGREES, PIECE_SEEN = 0.9, 0.45
#: It is followed from a moment at which it was found less surely.
FOUND_AGREES, FOUND_SEEN = 0.8, 0.25
#: A piece that was in full view and disagreed with its motion this often is not believed again.
DOUBTS = 2
#: What goes farther from one moment to the next is not followed: it may have turned in any way on its way [m].
STEP_REACH = 0.07
#: Share of a piece that has to contradict its motion before the rest is followed by itself.
REST = 0.08
#: Share of a piece that has to agree with being at rest for the others to be another thing.
RESTS = 0.3
_MAX_MOTIONS = 4
_MIN_PIXELS = 40
#: Motions that carry no pixel farther apart than this are one [m].
SAME = 0.002


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """One motion over all moments: fits[0] is the identity at the first. trusted: per moment.

    still: it is the identity throughout.
    """

    piece: Piece
    fits: tuple[Fit, ...]
    trusted: tuple[bool, ...]
    still: bool

    def positions(self, points: np.ndarray) -> np.ndarray:
        """(moments, points, 3) where `points` (points, 3) are carried [m]."""
        return np.stack([transform_points(fit.motion, points) for fit in self.fits])

    def sigmas(self, points: np.ndarray) -> np.ndarray:
        """(moments, points) standard deviation of these positions [m]; zero while the piece stays where it was."""
        stays = [np.array_equal(fit.motion, np.eye(4)) for fit in self.fits]
        return np.stack(
            [
                np.zeros(len(points)) if still else point_sigma(fit, self.piece, points)
                for fit, still in zip(self.fits, stays, strict=True)
            ]
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """The images of a window.

    moments: per moment one shot per camera. hand: (moments, 4, 4) of the gripper in the world, or None.
    rng: of the choice of pixels.
    """

    moments: tuple[tuple[Shot, ...], ...]
    hand: np.ndarray | None = None
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Pixels of the first images that move as one. trajectory: None where none was found."""

    masks: tuple[np.ndarray, ...]
    trajectory: Trajectory | None


def follow(scene: Scene, masks: Sequence[np.ndarray]) -> list[Part]:
    """The motions found among the pixels of one piece, the largest part's first.

    What contradicts a motion while it is seen is followed by itself, as a door beside its frame.

    Args:
        masks: one (h, w) bool per camera.
    """
    left = [mask.copy() for mask in masks]
    parts: list[Part] = []
    while len(parts) < _MAX_MOTIONS and _count(left) >= _MIN_PIXELS:
        trajectory = follow_piece(scene, make_piece(scene.moments[0], left, scene.rng))
        rest = _contradicting(scene, left, trajectory)
        share = _count(rest) / _count(left)
        if share > 1 - REST:
            break
        if share < REST:
            parts.append(Part(masks=tuple(left), trajectory=trajectory))
            return parts
        mine = tuple(a & ~b for a, b in zip(left, rest, strict=True))
        alone = make_piece(scene.moments[0], mine, scene.rng)
        parts.append(Part(masks=mine, trajectory=follow_piece(scene, alone)))
        left = rest
    if _count(left):
        parts.append(Part(masks=tuple(left), trajectory=None))
    return parts


def _count(masks: Sequence[np.ndarray]) -> int:
    return sum(int(mask.sum()) for mask in masks)


def follow_piece(scene: Scene, piece: Piece) -> Trajectory:
    """Follow one piece from moment to moment, each time against the first images.

    Where it is lost it is looked for again from where it was seen last, and from where the hand would have carried it.
    """
    identity = np.eye(4)
    fits = [assess(piece, scene.moments[0], identity)]
    sound = [True]
    last, jumped, doubts = 0, False, 0
    for moment in range(1, len(scene.moments)):
        shots, before = scene.moments[moment], fits[last].motion
        still = assess(piece, shots, identity)
        if _nothing_happened(still) and np.allclose(before, identity):
            fit = still
        else:
            fit = track_moment(piece, shots, _starts(scene, fits, last, moment))
            fit = still if still.cost <= fit.cost + 0.01 else fit
        fits.append(fit)
        if fit.agree >= FOUND_AGREES and fit.seen >= FOUND_SEEN:
            way = _farthest(fit.motion, piece, since=before)
            jumped, last = jumped or way > STEP_REACH * (moment - last), moment
        visible = fit.seen >= PIECE_SEEN and _farthest(fit.motion, piece) > SAME
        doubts += int(visible and fit.agree < PIECE_AGREES)
        sound.append(not jumped and doubts < DOUBTS and _is_sound(scene, piece, fit, moment))
    return Trajectory(
        piece=piece,
        fits=tuple(fits),
        trusted=tuple(_seen_at_rest_again(piece, fits, sound)),
        still=max(_farthest(fit.motion, piece) for fit in fits) < SAME,
    )


def _seen_at_rest_again(piece: Piece, fits: Sequence[Fit], sound: Sequence[bool]) -> list[bool]:
    """`sound`, and moments at which a piece is hidden but does not contradict being where it is seen at rest later."""
    trusted, again = list(sound), False
    for moment in reversed(range(len(fits))):
        rests = _farthest(fits[moment].motion, piece) < SAME
        again = rests and (sound[moment] or (again and fits[moment].agree >= PIECE_AGREES))
        trusted[moment] = sound[moment] or again
    return trusted


def _starts(scene: Scene, fits: Sequence[Fit], last: int, moment: int) -> list[np.ndarray]:
    """Motions to try at a moment when the piece was seen last at moment `last`."""
    before = fits[last].motion
    starts = [before, np.eye(4)]
    if last == moment - 1 and last > 0:
        starts.insert(0, before @ invert(fits[last - 1].motion) @ before)
    if scene.hand is not None:
        starts.append(scene.hand[moment] @ invert(scene.hand[last]) @ before)
    return starts


def _is_sound(scene: Scene, piece: Piece, fit: Fit, moment: int) -> bool:
    """Whether enough of the piece is seen and agrees, and the way back leads to it."""
    if fit.agree < PIECE_AGREES or fit.seen < PIECE_SEEN:
        return False
    return _farthest(fit.motion, piece) < SAME or track_back(
        piece, scene.moments[0], scene.moments[moment], fit
    )


def _nothing_happened(still: Fit) -> bool:
    """Whether the identity leaves nothing to explain."""
    return still.agree > 0.98 and still.seen > 0.5


def _farthest(motion: np.ndarray, piece: Piece, since: np.ndarray | None = None) -> float:
    """How far a motion carries the farthest pixel of a piece, since another motion or since the first images [m]."""
    points = np.concatenate(piece.points)
    before = points if since is None else transform_points(since, points)
    return float(np.linalg.norm(transform_points(motion, points) - before, axis=-1).max())


def _contradicting(
    scene: Scene, masks: Sequence[np.ndarray], trajectory: Trajectory
) -> list[np.ndarray]:
    """Pixels that are seen to disagree with a motion at two moments or more.

    Only moments count at which the motion is trusted, or at which a good part of the piece is at rest.
    """
    whole = make_piece(scene.moments[0], masks, scene.rng, most=None)
    against = np.zeros(whole.pixels)
    for fit, shots, sure in zip(trajectory.fits, scene.moments, trajectory.trusted, strict=True):
        at_rest = _farthest(fit.motion, trajectory.piece) < SAME and fit.agree > RESTS
        if sure or at_rest:
            cost, hidden = pixel_costs(whole, shots, fit.motion)
            against += (cost > 0.4) & ~hidden
    rest, start = [], 0
    for mask in masks:
        count = int(mask.sum())
        part = mask.copy()
        part[mask] = against[start : start + count] >= 2
        rest.append(part)
        start += count
    return rest
