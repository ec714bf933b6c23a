"""Following a rigid piece of the scene through RGB-D images: its motion explains colours and depth of all cameras.

A piece is a set of pixels of the first images. Its motion (4, 4) from the first moment to another is the one under
which its pixels find their colour and a surface where they land: Gauss-Newton on photometric and point-to-plane
residuals from the best of several starts, coarse to fine. The first image stays the reference, so errors do not add
up.

Source: photometric term as in Kerl et al., ICRA 2013 (robust RGB-D odometry); point-to-plane with projective
association as in Newcombe et al., ISMAR 2011 (KinectFusion).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from pointworld.data.recordings.landing import (
    GRAY_SIGMA,
    HIDDEN,
    TRUNCATION,
    depth_sigma,
    gray_gradient,
    land_pixels,
    mean_cost,
    pixel_costs,
    residuals,
)
from pointworld.data.recordings.shots import LEVELS, PLAIN, TEXTURE, Piece, Shot, make_piece
from pointworld.geometry import invert, make_transform, transform_points

#: Neighbouring pixels share their errors: the covariance is that of this many times fewer pixels.
SHARED_ERRORS = 9.0
#: The way back has to end this near to where the piece came from [m].
RETURN = 0.008


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """How a motion explains the images at one moment.

    motion: (4, 4). cost: 0-1 mean over the pixels. seen: share of pixels that are not hidden.
    agree: share of the seen ones that find surface and colour. covariance: (6, 6) of (turn about the centre, shift).
    """

    motion: np.ndarray
    cost: float
    seen: float
    agree: float
    covariance: np.ndarray


def track_moment(piece: Piece, shots: Sequence[Shot], starts: Sequence[np.ndarray]) -> Fit:
    """The motion of a piece from the first moment to that of `shots`.

    Args:
        starts: motions (4, 4) to start from, the most likely first; shifts around the first are tried too.
    """
    tried = list(starts) + _shifts(starts[0])
    costs = [mean_cost(piece, shots, T, LEVELS - 1) for T in tried]
    best: Fit | None = None
    for index in np.argsort(costs, kind="stable")[:3]:
        motion = tried[int(index)]
        for level in reversed(range(LEVELS)):
            motion = _refine(piece, shots, motion, level)
        fit = assess(piece, shots, motion)
        if best is None or fit.cost < best.cost:
            best = fit
    assert best is not None
    return best


def _shifts(start: np.ndarray) -> list[np.ndarray]:
    """`start` and a horizontal lattice of shifts of up to 6 cm; up by 3 cm too."""
    steps = np.arange(-3, 4) * 0.02
    lattice = [(x, y, 0.0) for x in steps for y in steps] + [(0.0, 0.0, 0.03), (0.0, 0.0, -0.03)]
    moved = []
    for shift in lattice:
        T = start.copy()
        T[:3, 3] += shift
        moved.append(T)
    return moved


def _normal_equations(
    piece: Piece, shots: Sequence[Shot], motion: np.ndarray, level: int, *, strict: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """H (6, 6) and g (6,) of a small turn about the piece's centre and a shift, in the world.

    Args:
        strict: believe a grey value only what it can know: light on a plain ball says nothing of its turning, and a rim
            only where it is.
    """
    H, g = np.zeros((6, 6)), np.zeros(6)
    centre = transform_points(motion, piece.centre[None])[0]
    for camera, shot in enumerate(shots):
        if not len(piece.points[camera]):
            continue
        land = land_pixels(piece, camera, shot, motion)
        gray, depth = residuals(piece, camera, shot, land, level)
        arm = land.moved - centre
        image = gray_gradient(shot, land, level)
        for residual, gradient, sigma, use in (
            (gray, image, GRAY_SIGMA, ~land.hidden),
            (
                depth,
                land.normal,
                depth_sigma(land.z),
                ~land.hidden & land.known & (np.abs(land.gap) < HIDDEN),
            ),
        ):
            # Geman-McClure weights: soft, and nothing beyond the truncation counts.
            weight = np.where(
                use & (np.abs(residual) < 2 * TRUNCATION), 1 / (1 + (residual / 2) ** 2) ** 2, 0
            )
            turning = np.cross(arm, gradient)
            if strict and gradient is image:
                weight = np.where(piece.marks[camera] == PLAIN, 0, weight)
                turning = np.where((piece.marks[camera] == TEXTURE)[:, None], turning, 0)
            J = np.concatenate([turning, gradient], -1) / np.reshape(sigma, (-1, 1))
            H += (J * weight[:, None]).T @ J
            g += J.T @ (weight * residual)
    return H, g


def _refine(
    piece: Piece, shots: Sequence[Shot], motion: np.ndarray, level: int, *, rounds: int = 8
) -> np.ndarray:
    """Levenberg-Marquardt on one level of the pyramid."""
    cost, damping = mean_cost(piece, shots, motion, level), 1e-2
    for _ in range(rounds):
        H, g = _normal_equations(piece, shots, motion, level)
        floor = np.diag([1e1] * 3 + [1e3] * 3)
        try:
            step = -np.linalg.solve(H + damping * np.diag(np.diag(H)) + floor, g)
        except np.linalg.LinAlgError:
            break
        moved = _apply(step, motion, piece.centre)
        lower = mean_cost(piece, shots, moved, level)
        if lower < cost:
            done = cost - lower < 1e-5
            motion, cost, damping = moved, lower, damping / 4
            if done:
                break
        else:
            damping *= 8
            if damping > 1e3:
                break
    return motion


def _apply(step: np.ndarray, motion: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """`motion` followed by a turn step[:3] about where the centre is and a shift step[3:]."""
    here = transform_points(motion, centre[None])[0]
    R = Rotation.from_rotvec(step[:3]).as_matrix()
    return make_transform(R, here - R @ here + step[3:]) @ motion


def assess(piece: Piece, shots: Sequence[Shot], motion: np.ndarray) -> Fit:
    """How well a motion explains the images."""
    costs, hidden = pixel_costs(piece, shots, motion, 0)
    seen = ~hidden
    H, _ = _normal_equations(piece, shots, motion, 0, strict=True)
    return Fit(
        motion=motion,
        cost=float(costs.mean()),
        seen=float(seen.mean()),
        agree=float((costs[seen] < 0.25).mean()) if seen.any() else 0.0,
        covariance=SHARED_ERRORS * np.linalg.inv(H + np.diag([1.0] * 3 + [1e2] * 3)),
    )


def track_back(piece: Piece, first: Sequence[Shot], shots: Sequence[Shot], fit: Fit) -> bool:
    """Whether the way back agrees: what is seen where the piece went, followed to the first images, comes from it.

    Args:
        first, shots: the first moment and that of `fit`.
    """
    back = invert(fit.motion)
    masks = [_covered(piece, camera, shot, fit.motion) for camera, shot in enumerate(shots)]
    if sum(int(mask.sum()) for mask in masks) < 20:
        return False
    later = make_piece(shots, masks, np.random.default_rng(0))
    motion = back
    for level in (1, 0):
        motion = _refine(later, first, motion, level)
    points = np.concatenate(later.points)
    off = transform_points(motion, points) - transform_points(back, points)
    return float(np.median(np.linalg.norm(off, axis=-1))) < RETURN


def _covered(piece: Piece, camera: int, shot: Shot, motion: np.ndarray) -> np.ndarray:
    """Pixels of a later image on which the piece's seen pixels land."""
    mask = np.zeros(shot.depth.shape, bool)
    if len(piece.points[camera]):
        land = land_pixels(piece, camera, shot, motion)
        use = ~land.hidden & land.known & (np.abs(land.gap) < HIDDEN)
        uv = np.floor(land.uv[use]).astype(np.int64)
        mask[uv[:, 1], uv[:, 0]] = True
    return mask


def point_sigma(fit: Fit, piece: Piece, points: np.ndarray) -> np.ndarray:
    """(points,) standard deviation [m] of where `points` (points, 3) land, from the fit's covariance."""
    arm = transform_points(fit.motion, points) - transform_points(fit.motion, piece.centre[None])
    zero = np.zeros(len(arm))
    x, y, z = arm.T
    cross = np.stack(
        [np.stack([zero, z, -y], -1), np.stack([-z, zero, x], -1), np.stack([y, -x, zero], -1)], -2
    )
    J = np.concatenate([cross, np.broadcast_to(np.eye(3), cross.shape)], -1)
    return np.sqrt(np.einsum("nij,jk,nik->n", J, fit.covariance, J))
