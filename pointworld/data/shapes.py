"""What rigid objects for the tabletop are made of: primitives and meshes, composed of convex parts.

Every object is built standing on its base around the origin, z up; `rests` lists rotations in which it lies
stably on a table. Sizes in metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Rng = np.random.Generator


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One convex piece. kind: box (size = half extents), cylinder (radius, half height), capsule, sphere, or mesh.

    vertices: (points, 3) of a mesh part (its convex hull is the part), part frame = object frame.
    position, rotation: pose of a primitive in the object frame.
    """

    kind: str
    size: tuple[float, ...] = ()
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rotation: np.ndarray | None = None
    vertices: np.ndarray | None = None

    def support(self) -> tuple[np.ndarray, float]:
        """Points (points, 3) and a radius whose swept balls bound the part exactly (cylinder: 24-gon rim)."""
        if self.vertices is not None:
            return self.vertices, 0.0
        radius = 0.0
        if self.kind == "box":
            corners = np.array(
                [[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64
            )
            points = corners * np.array(self.size)
        elif self.kind == "cylinder":
            angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
            ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(24)], -1) * self.size[0]
            top = np.array([0.0, 0.0, self.size[1]])
            points = np.concatenate([ring + top, ring - top])
        elif self.kind == "capsule":
            points, radius = np.array([[0, 0, -self.size[1]], [0, 0, self.size[1]]]), self.size[0]
        else:
            points, radius = np.zeros((1, 3)), self.size[0]
        if self.rotation is not None:
            points = points @ self.rotation.T
        return points + np.array(self.position), radius


@dataclass(frozen=True, kw_only=True, eq=False)
class Shape:
    """A rigid object. rests: rotations (3, 3) of stable poses, most upright first. rolls: needs rolling friction."""

    name: str
    parts: tuple[Part, ...]
    rests: tuple[np.ndarray, ...]
    rolls: bool = False

    def bounds(self, rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corner (3,) of the object turned by `rotation`, about its own origin [m]."""
        lower, upper = np.full(3, np.inf), np.full(3, -np.inf)
        for part in self.parts:
            points, radius = part.support()
            turned = points @ rotation.T
            lower = np.minimum(lower, turned.min(0) - radius)
            upper = np.maximum(upper, turned.max(0) + radius)
        return lower, upper

    def width_along(self, rotation: np.ndarray, direction: np.ndarray) -> tuple[float, float]:
        """Smallest and largest coordinate along unit `direction` of the object turned by `rotation` [m]."""
        low, high = np.inf, -np.inf
        for part in self.parts:
            points, radius = part.support()
            along = points @ rotation.T @ direction
            low, high = (
                min(low, float(along.min()) - radius),
                max(high, float(along.max()) + radius),
            )
        return low, high


def rotation_about(axis: int, angle: float) -> np.ndarray:
    """(3, 3) rotation by `angle` [rad] about coordinate axis 0, 1 or 2."""
    c, s = np.cos(angle), np.sin(angle)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    R = np.eye(3)
    R[i, i], R[i, j], R[j, i], R[j, j] = c, -s, s, c
    return R
