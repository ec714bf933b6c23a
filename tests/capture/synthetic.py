"""A small rendered tabletop with exact depth and poses: textured table, wall, box and balls."""

from __future__ import annotations

import numpy as np

from pointworld.geometry import pixel_grid
from pointworld.types import Capture, RGBDFrame

BALLS = ((0.10, 0.05, 0.06, 0.06), (-0.16, -0.10, 0.05, 0.05), (0.0, 0.22, 0.08, 0.08))
BOX = (np.array([-0.12, 0.02, 0.0]), np.array([-0.02, 0.14, 0.15]))


def intrinsics(width: int = 160, height: int = 120, focal: float = 150.0) -> np.ndarray:
    """K with the principal point a little off the centre."""
    return np.array([[focal, 0, width / 2 + 1.3], [0, focal, height / 2 - 0.8], [0, 0, 1.0]])


def look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """T_world_cam with OpenCV axes, world z up."""
    z = (target - eye) / np.linalg.norm(target - eye)
    x = np.cross(z, [0.0, 0.0, 1.0])
    x /= np.linalg.norm(x)
    T = np.eye(4)
    T[:3, :3] = np.stack([x, np.cross(z, x), z], 1)
    T[:3, 3] = eye
    return T


def trajectory(count: int) -> list[np.ndarray]:
    """Poses on an arc round the table, at changing height."""
    poses = []
    for angle in np.linspace(-0.5, 0.5, count):
        eye = np.array([0.75 * np.sin(angle), -0.75 * np.cos(angle), 0.5 + 0.1 * np.sin(5 * angle)])
        poses.append(look_at(eye, np.array([0.05 * np.sin(3 * angle), 0.0, 0.03])))
    return poses


def render(
    K: np.ndarray, T_world_cam: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Colour (height, width, 3) uint8 and depth (height, width) float32 [m] by casting a ray through each pixel."""
    uv = pixel_grid(*size)
    rays = np.stack(
        [(uv[..., 0] - K[0, 2]) / K[0, 0], (uv[..., 1] - K[1, 2]) / K[1, 1], np.ones(size)], -1
    )
    d, o = rays @ T_world_cam[:3, :3].T, T_world_cam[:3, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        hits = [np.where(d[..., 2] < 0, -o[2] / d[..., 2], np.inf)]
        hits.append(np.where(d[..., 1] > 0, (0.5 - o[1]) / d[..., 1], np.inf))
        for x, y, z, radius in BALLS:
            oc = o - np.array([x, y, z])
            a, b, c = (d * d).sum(-1), (d @ oc), oc @ oc - radius**2
            root = b * b - a * c
            hits.append(np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf))
        one, two = (BOX[0] - o) / d, (BOX[1] - o) / d
        near, far = np.minimum(one, two).max(-1), np.maximum(one, two).min(-1)
        hits.append(np.where((near < far) & (near > 0), near, np.inf))
    stack = np.stack([np.where(h > 1e-6, h, np.inf) for h in hits])
    depth = stack.min(0)
    points = o + d * np.where(np.isfinite(depth), depth, 0)[..., None]
    color = _texture(points, stack.argmin(0))
    color[~np.isfinite(depth)] = 0
    return color, np.where(np.isfinite(depth), depth, 0).astype(np.float32)


def _texture(points: np.ndarray, surface: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(7)
    value = np.zeros(points.shape)
    for _ in range(14):
        wave = rng.normal(size=3) * rng.uniform(10, 70)
        tint = rng.uniform(-1, 1, 3)
        value += np.sin(points @ wave + rng.uniform(0, 6))[..., None] * tint
    base = rng.uniform(60, 200, (len(BALLS) + 3, 3))[surface]
    return np.clip(base + 16 * value, 0, 255).astype(np.uint8)


def make_capture(count: int = 8, *, noise: float = 0.001, seed: int = 0) -> Capture:
    """Frames with depth noise growing with the square of depth, and a few holes."""
    rng = np.random.default_rng(seed)
    K, size = intrinsics(), (120, 160)
    frames = []
    for index, T in enumerate(trajectory(count)):
        rgb, depth = render(K, T, size)
        depth = depth + (rng.normal(0, noise, size) * depth**2).astype(np.float32)
        valid = (depth > 0.05) & (rng.random(size) > 0.03)
        frames.append(
            RGBDFrame(
                rgb=rgb,
                depth=np.where(valid, depth, 0).astype(np.float32),
                valid=valid,
                K=K,
                T_world_cam=T,
                timestamp=index / 10,
                name=f"frame-{index:06d}",
            )
        )
    return Capture(frames=tuple(frames), source="synthetic")
