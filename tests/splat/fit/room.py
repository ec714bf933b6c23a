"""A coloured box of a room with a ball in it, ray-traced in closed form from a ring of cameras."""

from __future__ import annotations

import numpy as np

from pointworld.geometry import pixel_grid
from pointworld.types import Capture, RGBDFrame

HALF = np.array([1.2, 1.0, 0.8])
BALL, RADIUS = np.array([0.1, 0.0, -0.45]), 0.3


def _look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    T = np.eye(4)
    T[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    T[:3, 3] = eye
    return T


def _trace(
    origin: np.ndarray, rays: np.ndarray, ball_at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distance along unnormalised rays (n, 3), and colours (n, 3)."""
    with np.errstate(divide="ignore"):
        wall = np.where(rays > 0, (HALF - origin) / rays, (-HALF - origin) / rays).min(1)
    a, b = (rays**2).sum(1), rays @ (origin - ball_at)
    c = ((origin - ball_at) ** 2).sum() - RADIUS**2
    root = b**2 - a * c
    ball = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
    hit = (ball > 0) & (ball < wall)
    distance = np.where(hit, ball, wall)
    points = origin + distance[:, None] * rays
    stripes = 0.5 + 0.35 * np.sin(7 * points[:, :1] + np.array([0.0, 2.0, 4.0])) * np.cos(
        5 * points[:, 1:2]
    )
    shaded = 0.5 + 0.4 * (points - ball_at) / RADIUS
    return distance, np.where(hit[:, None], shaded, stripes).clip(0, 1)


def room(
    *,
    frames: int = 12,
    width: int = 80,
    height: int = 60,
    focal: float = 60.0,
    color_focal: float = 1.0,
    ball: np.ndarray = BALL,
) -> Capture:
    """RGB-D frames from a ring of cameras; colours as if their focal length were `color_focal` times that of depth.
    `ball`: its centre."""
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    made = []
    for index in range(frames):
        angle = 2 * np.pi * index / frames
        eye = np.array([0.8 * np.cos(angle), 0.65 * np.sin(angle), 0.25])
        T = _look_at(eye, np.array([0.0, 0.0, -0.25]))
        images = []
        for factor in (1.0, color_focal):
            uv = pixel_grid(height, width).reshape(-1, 2)
            local = np.column_stack(
                [
                    (uv[:, 0] - K[0, 2]) / (factor * K[0, 0]),
                    (uv[:, 1] - K[1, 2]) / (factor * K[1, 1]),
                    np.ones(len(uv)),
                ]
            )
            images.append(_trace(eye, local @ T[:3, :3].T, ball))
        depth = images[0][0].reshape(height, width).astype(np.float32)
        rgb = (images[1][1] * 255).round().astype(np.uint8).reshape(height, width, 3)
        made.append(
            RGBDFrame(
                rgb=rgb,
                depth=depth,
                valid=np.ones_like(depth, dtype=bool),
                K=K,
                T_world_cam=T,
                name=f"frame{index:02d}",
            )
        )
    return Capture(frames=tuple(made), source="room")
