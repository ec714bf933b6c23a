"""Training augmentations of the release: which part of the scene, from where, how large, and in which colours.

Source: training transforms of the PointWorld release. What its description leaves open is chosen here and said so.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from pointworld.data.released.cloud import Cloud

#: Spheres cut out at most, and the points among which each one's centre is chosen.
MAX_SPHERES, CANDIDATES = 3, 10
#: A sphere's radius is its centre's distance to the robot less the margin, within bounds [m].
SPHERE_MARGIN, SPHERE_RADIUS = 0.25, (0.10, 0.80)
SCALE = (0.9, 1.1)
MIRROR_CHANCE = 0.5
CONTRAST_CHANCE, CONTRAST_BLEND, CONTRAST_RANGE = 0.2, 0.2, 50.0
SHIFT_CHANCE, SHIFT_RATIO = 0.95, 0.02
JITTER_CHANCE, JITTER_STD = 0.95, 0.02 * 255


def crop_spheres(cloud: Cloud, limit: int) -> Cloud:
    """Cut spheres out of the scene far from the robot: one always, up to three while above `limit` points.

    Each sphere is centred on one of the ten points farthest from the robot at step 0 (of those still there), the one
    that removes most. A sphere that would remove everything is not cut.
    """
    from scipy.spatial import cKDTree

    for number in range(MAX_SPHERES):
        points = cloud.positions[0]
        if (number and len(points) <= limit) or len(points) < 2:
            break
        distance, _ = cKDTree(cloud.robot[0]).query(points)
        farthest = np.argsort(-distance, kind="stable")[:CANDIDATES]
        radius = np.clip(distance[farthest] - SPHERE_MARGIN, *SPHERE_RADIUS)
        inside = np.linalg.norm(points[:, None] - points[farthest], axis=-1) < radius
        removed = inside[:, inside.sum(0).argmax()]
        if removed.all():
            break
        cloud = cloud.scene_rows(~removed)
    return cloud


def turn(cloud: Cloud, angle: float) -> Cloud:
    """Rotate by `angle` [rad] about the vertical through the centre of the scene's bounding box."""
    points = cloud.positions[0]
    middle = (points.min(0).astype(np.float64) + points.max(0)) / 2
    cos, sin = math.cos(angle), math.sin(angle)
    T = np.eye(4)
    T[:2, :2] = [[cos, -sin], [sin, cos]]
    T[:3, 3] = middle - T[:3, :3] @ middle
    return cloud.moved(T)


def scale_and_mirror(cloud: Cloud, scale: float, mirror: tuple[bool, bool]) -> Cloud:
    """Scale about the origin and reflect x and/or y."""
    signs = [-1.0 if flip else 1.0 for flip in mirror]
    return cloud.moved(np.diag([scale * signs[0], scale * signs[1], scale, 1.0]))


def random_pose(cloud: Cloud, rng: np.random.Generator) -> Cloud:
    """A random yaw, scale and reflection (each of x and y with chance 0.5)."""
    cloud = turn(cloud, rng.uniform(-math.pi, math.pi))
    scale = rng.uniform(*SCALE)
    flips = rng.random(2) < MIRROR_CHANCE
    return scale_and_mirror(cloud, scale, (bool(flips[0]), bool(flips[1])))


def random_colors(cloud: Cloud, rng: np.random.Generator) -> Cloud:
    """Contrast, colour shift and noise on the points' colours; images are left alone."""
    colors = cloud.colors
    if rng.random() < CONTRAST_CHANCE:
        low, high = colors.min(0), colors.max(0)
        wide = high - low >= CONTRAST_RANGE
        stretched = (colors - low) * (255.0 / np.where(wide, high - low, 1.0))
        blended = (1 - CONTRAST_BLEND) * colors + CONTRAST_BLEND * stretched
        colors = np.where(wide, blended, colors)
    if rng.random() < SHIFT_CHANCE:
        shift = (rng.random(3) - 0.5) * 255 * 2 * SHIFT_RATIO
        colors = np.clip(colors + shift, 0, 255)
    if rng.random() < JITTER_CHANCE:
        colors = np.clip(colors + rng.normal(0.0, JITTER_STD, colors.shape), 0, 255)
    return replace(cloud, colors=np.floor(colors).astype(np.float32))
