"""Images prepared for tracking, and pieces: pixels of the first images taken for one rigid thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_erosion, gaussian_filter, map_coordinates

from pointworld.geometry import depth_normals, invert, rotate_vectors, transform_points, unproject
from pointworld.types import RGBDFrame

#: Levels of the pyramid of images.
LEVELS = 3
#: A grey value is texture, and not light on a curved surface, where it differs by this much from its surroundings of
#: so many pixels.
TEXTURE_CONTRAST, TEXTURE_SIZE = 0.03, 2.0
PLAIN, TEXTURE, RIM = 0, 1, 2
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
        grays.append(tuple(lookup(g, uv / 2**i) for i, g in enumerate(shot.grays)))
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


def lookup(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear values at (..., 2) pixel positions, centres at + 0.5."""
    at = np.stack([uv[..., 1] - 0.5, uv[..., 0] - 0.5])
    return np.asarray(map_coordinates(image, at, order=1, mode="nearest"), dtype=np.float64)
