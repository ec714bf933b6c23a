"""Where the pixels of a piece land in another image under a motion, and what speaks against that motion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pointworld.data.recordings.shots import Piece, Shot, lookup
from pointworld.geometry import invert, project, rotate_vectors, transform_points

#: Standard deviations: of grey values (0-1); of depth [m], at 0 m and its growth per m^2.
GRAY_SIGMA, DEPTH_SIGMA, DEPTH_GROWTH = 0.03, 0.0015, 0.0015
#: Farther off than this many standard deviations a pixel is an outlier, whatever its distance.
TRUNCATION = 4.0
#: A surface this much nearer than the piece hides it [m].
HIDDEN = 0.02
#: What a hidden pixel costs, of 1 for one that contradicts: hiding must not be the cheapest motion.
HIDDEN_COST = 0.6
#: A surface seen flatter than this (cosine) is as good as hidden.
TURNED_AWAY = -0.12
#: Grey values may change with the light by this much per radian of turn, and at most.
SHADING, MAX_SHADING = 0.5, 0.25
RIGHT, DOWN = np.array([1.0, 0.0]), np.array([0.0, 1.0])


@dataclass(frozen=True, kw_only=True, eq=False)
class Landing:
    """Where pixels of one camera land: positions, their pixel in the image, and what is there; the turn [rad]."""

    moved: np.ndarray
    uv: np.ndarray
    z: np.ndarray
    gap: np.ndarray
    target: np.ndarray
    normal: np.ndarray
    hidden: np.ndarray
    known: np.ndarray
    turn: float


def land_pixels(piece: Piece, camera: int, shot: Shot, motion: np.ndarray) -> Landing:
    """Where the pixels of a piece, seen by `camera` at first, land in a shot under a motion (4, 4)."""
    moved = transform_points(motion, piece.points[camera])
    uv, z = project(transform_points(shot.T_cam_world, moved), shot.K)
    height, width = shot.depth.shape
    column, row = np.floor(uv[:, 0]).astype(np.int64), np.floor(uv[:, 1]).astype(np.int64)
    inside = (z > 0.05) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    row, column = np.where(inside, row, 0), np.where(inside, column, 0)
    depth = shot.depth[row, column]
    known = inside & (depth > 0)
    gap = np.where(known, depth - z, 0.0)
    away = _facing(rotate_vectors(motion, piece.normals[camera]), moved, shot) > TURNED_AWAY
    hidden = ~inside | away | shot.robot[row, column] | (known & (gap < -HIDDEN))
    return Landing(
        moved=moved,
        uv=uv,
        z=z,
        gap=gap,
        target=shot.points[row, column],
        normal=shot.normals[row, column],
        hidden=hidden,
        known=known,
        turn=float(np.arccos(np.clip((np.trace(motion[:3, :3]) - 1) / 2, -1, 1))),
    )


def _facing(normals: np.ndarray, points: np.ndarray, shot: Shot) -> np.ndarray:
    """Cosine between normals and viewing rays: -1 looks at the camera, also where the normal is unknown."""
    eye = invert(shot.T_cam_world)[:3, 3]
    ray = points - eye
    return np.where(normals.any(-1), (normals * ray).sum(-1) / np.linalg.norm(ray, axis=-1), -1.0)


def depth_sigma(z: np.ndarray) -> np.ndarray:
    """Standard deviation [m] of depth at z [m]."""
    return DEPTH_SIGMA + DEPTH_GROWTH * z**2


def _without_shading(gray: np.ndarray, sides: np.ndarray, land: Landing) -> np.ndarray:
    """Differences of grey without what all pixels of a side share: a side that turns catches other light.

    How much of it may be shading grows with the turn.
    """
    limit = min(MAX_SHADING, SHADING * land.turn)
    if limit < 0.01:
        return gray
    shared = np.zeros(len(gray))
    for side in range(6):
        on_side = sides == side
        use = on_side & ~land.hidden
        if use.sum() >= 8:
            shared[on_side] = np.clip(np.median(gray[use]), -limit, limit)
    return gray - shared


def residuals(
    piece: Piece, camera: int, shot: Shot, land: Landing, level: int
) -> tuple[np.ndarray, np.ndarray]:
    """Photometric and depth residuals over their standard deviation."""
    gray = lookup(shot.grays[level], land.uv / 2**level) - piece.grays[camera][level]
    gray = _without_shading(gray, piece.sides[camera], land)
    plane = ((land.moved - land.target) * land.normal).sum(-1)
    depth = np.where(land.normal.any(-1) & (np.abs(land.gap) < HIDDEN), plane, land.gap)
    return gray / GRAY_SIGMA, np.where(land.known, depth / depth_sigma(land.z), 0.0)


def pixel_costs(
    piece: Piece, shots: Sequence[Shot], motion: np.ndarray, level: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Cost (pixels,) of 0-1 of all cameras' pixels, and which are hidden."""
    costs, hidden = [], []
    for camera, shot in enumerate(shots):
        if not len(piece.points[camera]):
            continue
        land = land_pixels(piece, camera, shot, motion)
        gray, depth = residuals(piece, camera, shot, land, level)
        limit = TRUNCATION**2
        cost = (np.minimum(gray**2, limit) + np.minimum(depth**2, limit)) / (2 * limit)
        costs.append(np.where(land.hidden, HIDDEN_COST, cost))
        hidden.append(land.hidden)
    return np.concatenate(costs), np.concatenate(hidden)


def mean_cost(piece: Piece, shots: Sequence[Shot], motion: np.ndarray, level: int) -> float:
    """Mean of `pixel_costs`."""
    return float(pixel_costs(piece, shots, motion, level)[0].mean())


def gray_gradient(shot: Shot, land: Landing, level: int) -> np.ndarray:
    """(pixels, 3) change of the grey value per metre of motion in the world."""
    image, uv = shot.grays[level], land.uv / 2**level
    du = (lookup(image, uv + RIGHT) - lookup(image, uv - RIGHT)) / 2 / 2**level
    dv = (lookup(image, uv + DOWN) - lookup(image, uv - DOWN)) / 2 / 2**level
    q = transform_points(shot.T_cam_world, land.moved)
    z = np.maximum(q[:, 2], 0.05)
    fx, fy = shot.K[0, 0], shot.K[1, 1]
    in_cam = np.stack(
        [du * fx / z, dv * fy / z, -(du * fx * q[:, 0] + dv * fy * q[:, 1]) / z**2], -1
    )
    return in_cam @ shot.T_cam_world[:3, :3]
