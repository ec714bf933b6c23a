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
from scipy.ndimage import binary_erosion, gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from pointworld.geometry import (
    depth_normals,
    invert,
    make_transform,
    project,
    rotate_vectors,
    transform_points,
    unproject,
)
from pointworld.types import RGBDFrame

LEVELS = 3
RIGHT, DOWN = np.array([1.0, 0.0]), np.array([0.0, 1.0])
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
#: Neighbouring pixels share their errors: the covariance is that of this many times fewer pixels.
SHARED_ERRORS = 9.0
#: A grey value is texture, and not light on a curved surface, where it differs by this much from its surroundings of
#: so many pixels.
TEXTURE_CONTRAST, TEXTURE_SIZE = 0.03, 2.0
PLAIN, TEXTURE, RIM = 0, 1, 2
#: The way back has to end this near to where the piece came from [m].
RETURN = 0.008
_MAX_PIXELS = 400


@dataclass(frozen=True, kw_only=True, eq=False)
class Shot:
    """One image prepared for tracking, in world axes.

    grays: per level (h, w) float32, each half the size of the one before. depth: (h, w) [m], 0 = unknown.
    points, normals: (h, w, 3). robot: (h, w) bool.
    """

    grays: tuple[np.ndarray, ...]
    depth: np.ndarray
    points: np.ndarray
    normals: np.ndarray
    robot: np.ndarray
    K: np.ndarray
    T_cam_world: np.ndarray


def prepare_shot(frame: RGBDFrame, robot: np.ndarray) -> Shot:
    """Pyramid, points and normals of a frame; `robot` (h, w) marks pixels of the robot."""
    gray = frame.rgb.astype(np.float32).mean(-1) / 255
    grays = [gaussian_filter(gray, 0.7)]
    for _ in range(LEVELS - 1):
        grays.append(_half(gaussian_filter(grays[-1], 1.0)))
    valid = frame.valid & (frame.depth > 0)
    depth = np.where(valid, frame.depth, 0).astype(np.float64)
    return Shot(
        grays=tuple(grays),
        depth=depth,
        points=transform_points(frame.T_world_cam, unproject(depth, frame.K)),
        normals=rotate_vectors(
            frame.T_world_cam, depth_normals(depth, valid, frame.K).astype(np.float64)
        ),
        robot=robot,
        K=frame.K,
        T_cam_world=invert(frame.T_world_cam),
    )


def _half(image: np.ndarray) -> np.ndarray:
    """Mean of 2 x 2 pixels (an odd last row or column is repeated)."""
    padded = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2)), mode="edge")
    return padded.reshape(padded.shape[0] // 2, 2, padded.shape[1] // 2, 2).mean((1, 3))


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """Pixels of the first images taken for one rigid thing.

    points, normals: per camera (pixels, 3) in the world [m]. grays: per camera and level (pixels,) their grey values.
    sides: per camera (pixels,) which of six directions they face. marks: per camera (pixels,) what their grey value is
        good for (`PLAIN`, `TEXTURE` or `RIM`). centre: (3,) of all points.
    """

    points: tuple[np.ndarray, ...]
    normals: tuple[np.ndarray, ...]
    grays: tuple[tuple[np.ndarray, ...], ...]
    sides: tuple[np.ndarray, ...]
    marks: tuple[np.ndarray, ...]
    centre: np.ndarray

    @property
    def pixels(self) -> int:
        return sum(len(points) for points in self.points)


def make_piece(
    shots: Sequence[Shot],
    masks: Sequence[np.ndarray],
    rng: np.random.Generator,
    *,
    most: int | None = _MAX_PIXELS,
) -> Piece:
    """The piece seen under `masks` (one (h, w) bool per camera), thinned at random to `most` pixels each."""
    points, normals, grays, marks = [], [], [], []
    for shot, mask in zip(shots, masks, strict=True):
        rows, columns = np.nonzero(mask)
        if most is not None and len(rows) > most:
            chosen = np.sort(rng.choice(len(rows), most, replace=False))
            rows, columns = rows[chosen], columns[chosen]
        points.append(shot.points[rows, columns])
        normals.append(shot.normals[rows, columns])
        marks.append(_marks(shot.grays[0], mask)[rows, columns])
        uv = np.stack([columns + 0.5, rows + 0.5], -1)
        grays.append(tuple(_lookup(g, uv / 2**i) for i, g in enumerate(shot.grays)))
    every = np.concatenate(points)
    return Piece(
        points=tuple(points),
        normals=tuple(normals),
        grays=tuple(grays),
        sides=tuple(np.concatenate([n, -n], -1).argmax(-1) for n in normals),
        marks=tuple(marks),
        centre=every.mean(0),
    )


def _marks(gray: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(h, w) what each pixel under a mask tells of a motion: nothing, where it goes, or only where the rim goes."""
    fine = np.abs(gray - gaussian_filter(gray, TEXTURE_SIZE))
    marks = np.where(fine > TEXTURE_CONTRAST, TEXTURE, PLAIN)
    return np.where(mask & ~binary_erosion(mask, iterations=2), RIM, marks)


def _without_shading(gray: np.ndarray, sides: np.ndarray, land: _Landing) -> np.ndarray:
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


def _lookup(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear values at (..., 2) pixel positions, centres at + 0.5."""
    at = np.stack([uv[..., 1] - 0.5, uv[..., 0] - 0.5])
    return np.asarray(map_coordinates(image, at, order=1, mode="nearest"), dtype=np.float64)


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
    costs = [_cost(piece, shots, T, LEVELS - 1) for T in tried]
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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Landing:
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


def _land(piece: Piece, camera: int, shot: Shot, motion: np.ndarray) -> _Landing:
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
    return _Landing(
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


def _depth_sigma(z: np.ndarray) -> np.ndarray:
    return DEPTH_SIGMA + DEPTH_GROWTH * z**2


def _terms(
    piece: Piece, camera: int, shot: Shot, land: _Landing, level: int
) -> tuple[np.ndarray, np.ndarray]:
    """Photometric and depth residuals over their standard deviation."""
    gray = _lookup(shot.grays[level], land.uv / 2**level) - piece.grays[camera][level]
    gray = _without_shading(gray, piece.sides[camera], land)
    plane = ((land.moved - land.target) * land.normal).sum(-1)
    depth = np.where(land.normal.any(-1) & (np.abs(land.gap) < HIDDEN), plane, land.gap)
    return gray / GRAY_SIGMA, np.where(land.known, depth / _depth_sigma(land.z), 0.0)


def pixel_costs(
    piece: Piece, shots: Sequence[Shot], motion: np.ndarray, level: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Cost (pixels,) of 0-1 of all cameras' pixels, and which are hidden."""
    costs, hidden = [], []
    for camera, shot in enumerate(shots):
        if not len(piece.points[camera]):
            continue
        land = _land(piece, camera, shot, motion)
        gray, depth = _terms(piece, camera, shot, land, level)
        limit = TRUNCATION**2
        cost = (np.minimum(gray**2, limit) + np.minimum(depth**2, limit)) / (2 * limit)
        costs.append(np.where(land.hidden, HIDDEN_COST, cost))
        hidden.append(land.hidden)
    return np.concatenate(costs), np.concatenate(hidden)


def _cost(piece: Piece, shots: Sequence[Shot], motion: np.ndarray, level: int) -> float:
    return float(pixel_costs(piece, shots, motion, level)[0].mean())


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
        land = _land(piece, camera, shot, motion)
        gray, depth = _terms(piece, camera, shot, land, level)
        arm = land.moved - centre
        image = _gray_gradient(shot, land, level)
        for residual, gradient, sigma, use in (
            (gray, image, GRAY_SIGMA, ~land.hidden),
            (
                depth,
                land.normal,
                _depth_sigma(land.z),
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


def _gray_gradient(shot: Shot, land: _Landing, level: int) -> np.ndarray:
    """(pixels, 3) change of the grey value per metre of motion in the world."""
    image, uv = shot.grays[level], land.uv / 2**level
    du = (_lookup(image, uv + RIGHT) - _lookup(image, uv - RIGHT)) / 2 / 2**level
    dv = (_lookup(image, uv + DOWN) - _lookup(image, uv - DOWN)) / 2 / 2**level
    q = transform_points(shot.T_cam_world, land.moved)
    z = np.maximum(q[:, 2], 0.05)
    fx, fy = shot.K[0, 0], shot.K[1, 1]
    in_cam = np.stack(
        [du * fx / z, dv * fy / z, -(du * fx * q[:, 0] + dv * fy * q[:, 1]) / z**2], -1
    )
    return in_cam @ shot.T_cam_world[:3, :3]


def _refine(
    piece: Piece, shots: Sequence[Shot], motion: np.ndarray, level: int, *, rounds: int = 8
) -> np.ndarray:
    """Levenberg-Marquardt on one level of the pyramid."""
    cost, damping = _cost(piece, shots, motion, level), 1e-2
    for _ in range(rounds):
        H, g = _normal_equations(piece, shots, motion, level)
        floor = np.diag([1e1] * 3 + [1e3] * 3)
        try:
            step = -np.linalg.solve(H + damping * np.diag(np.diag(H)) + floor, g)
        except np.linalg.LinAlgError:
            break
        moved = _apply(step, motion, piece.centre)
        lower = _cost(piece, shots, moved, level)
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
        land = _land(piece, camera, shot, motion)
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
