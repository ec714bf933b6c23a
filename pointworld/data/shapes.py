"""Random rigid objects for the tabletop: primitives and meshes composed of convex parts.

Every object is built standing on its base around the origin, z up; `rests` lists rotations in which it lies
stably on a table. Sizes in metres.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Rng = np.random.Generator

#: Shape classes seen in training and validation.
TRAIN_SHAPES = (
    "box",
    "cylinder",
    "capsule",
    "sphere",
    "prism3",
    "prism5",
    "wedge",
    "l_shape",
    "bowl",
    "bottle",
)
#: Whole classes that only the test set contains.
TEST_SHAPES = ("mug", "t_shape", "prism6", "frustum")


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


_UP = np.eye(3)
_SIDE = rotation_about(0, np.pi / 2)


def _ngon(n: int, radius: float, z: float, phase: float = 0.0) -> np.ndarray:
    angle = phase + np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(n, z)], -1)


def _box(x: float, y: float, z: float, hx: float, hy: float, hz: float, yaw: float = 0.0) -> Part:
    rotation = rotation_about(2, yaw) if yaw else None
    return Part(kind="box", size=(hx, hy, hz), position=(x, y, z), rotation=rotation)


def _base(rng: Rng, tall: bool) -> tuple[float, float]:
    """Half width and full height of an object; tall ones are made for tipping."""
    if tall:
        half = rng.uniform(0.016, 0.032)
        return half, float(rng.uniform(2.2, 3.6) * 2 * half)
    return rng.uniform(0.016, 0.05), rng.uniform(0.03, 0.13)


def _make_box(rng: Rng, tall: bool) -> Shape:
    half, height = _base(rng, tall)
    other = half * rng.uniform(0.7, 1.6)
    return Shape(name="box", parts=(_box(0, 0, 0, half, other, height / 2),), rests=(_UP,))


def _make_cylinder(rng: Rng, tall: bool) -> Shape:
    radius, height = _base(rng, tall)
    part = Part(kind="cylinder", size=(radius, height / 2))
    return Shape(
        name="cylinder", parts=(part,), rests=(_UP,) if tall else (_UP, _UP, _SIDE), rolls=True
    )


def _make_capsule(rng: Rng, tall: bool) -> Shape:
    part = Part(kind="capsule", size=(rng.uniform(0.015, 0.035), rng.uniform(0.02, 0.06)))
    return Shape(name="capsule", parts=(part,), rests=(_SIDE,), rolls=True)


def _make_sphere(rng: Rng, tall: bool) -> Shape:
    part = Part(kind="sphere", size=(rng.uniform(0.018, 0.045),))
    return Shape(name="sphere", parts=(part,), rests=(_UP,), rolls=True)


def _make_prism(n: int) -> Callable[[Rng, bool], Shape]:
    def make(rng: Rng, tall: bool) -> Shape:
        radius, height = _base(rng, tall)
        radius = radius * (1.35 if n == 3 else 1.1)
        vertices = np.concatenate([_ngon(n, radius, -height / 2), _ngon(n, radius, height / 2)])
        # A side face has its outward normal at angle pi/n in the xy plane; turn it to point down.
        side = rotation_about(1, np.pi / 2) @ rotation_about(2, -np.pi / n)
        rests = (_UP,) if tall else (_UP, _UP, side)
        return Shape(name=f"prism{n}", parts=(Part(kind="mesh", vertices=vertices),), rests=rests)

    return make


def _make_wedge(rng: Rng, tall: bool) -> Shape:
    half, height = _base(rng, tall)
    depth = half * rng.uniform(0.8, 1.5)
    top = rng.uniform(-1.0, 0.2) * half
    profile = np.array([[-half, 0], [half, 0], [-half, height], [top, height]]) - [0, height / 3]
    vertices = np.concatenate(
        [np.insert(profile, 1, -depth, axis=1), np.insert(profile, 1, depth, axis=1)]
    )
    return Shape(
        name="wedge",
        parts=(Part(kind="mesh", vertices=vertices),),
        rests=(_UP,) if tall else (_UP, _SIDE),
    )


def _make_l_shape(rng: Rng, tall: bool) -> Shape:
    thick, depth = rng.uniform(0.009, 0.018), rng.uniform(0.012, 0.03)
    foot = rng.uniform(0.03, 0.06)
    height = rng.uniform(0.11, 0.17) if tall else rng.uniform(0.05, 0.11)
    parts = (
        _box(0, 0, thick - height / 3, foot, depth, thick),
        _box(-foot + thick, 0, height / 2 + thick - height / 3, thick, depth, height / 2 - thick),
    )
    return Shape(name="l_shape", parts=parts, rests=(_UP,) if tall else (_UP, _SIDE))


def _make_t_shape(rng: Rng, tall: bool) -> Shape:
    thick, depth = rng.uniform(0.009, 0.018), rng.uniform(0.014, 0.03)
    bar = rng.uniform(0.03, 0.06)
    height = rng.uniform(0.11, 0.16) if tall else rng.uniform(0.05, 0.11)
    parts = (
        _box(0, 0, thick - height / 3, bar, depth, thick),
        _box(0, 0, height / 2 + thick - height / 3, thick, depth, height / 2 - thick),
    )
    return Shape(name="t_shape", parts=parts, rests=(_UP,) if tall else (_UP, _SIDE))


def _ring(
    n: int, low: tuple[float, float], high: tuple[float, float], wall: float
) -> tuple[Part, ...]:
    """Wall of a vessel in n convex pieces: outer radius and z at the bottom and at the top."""
    parts = []
    for k in range(n):
        angles = 2 * np.pi * np.array([k, k + 1]) / n
        ring = [
            (r * np.cos(a), r * np.sin(a), z)
            for a in angles
            for outer, z in (low, high)
            for r in (outer, outer - wall)
        ]
        parts.append(Part(kind="mesh", vertices=np.array(ring)))
    return tuple(parts)


def _make_bowl(rng: Rng, tall: bool) -> Shape:
    top, height = rng.uniform(0.04, 0.075), rng.uniform(0.03, 0.06)
    bottom, wall = top * rng.uniform(0.5, 0.75), rng.uniform(0.005, 0.008)
    low, mid = -height / 2, 0.0
    bulge = bottom + (top - bottom) * rng.uniform(0.6, 0.8)
    floor = np.concatenate([_ngon(10, bottom, low), _ngon(10, bottom, low + wall)])
    parts = (
        Part(kind="mesh", vertices=floor),
        *_ring(10, (bottom, low), (bulge, mid), wall),
        *_ring(10, (bulge, mid), (top, height / 2), wall),
    )
    return Shape(name="bowl", parts=parts, rests=(_UP,))


def _make_mug(rng: Rng, tall: bool) -> Shape:
    radius, height = rng.uniform(0.025, 0.042), rng.uniform(0.06, 0.11)
    if tall:
        radius, height = rng.uniform(0.022, 0.03), rng.uniform(0.1, 0.14)
    wall, low = rng.uniform(0.004, 0.007), -height / 2
    grip, reach = rng.uniform(0.004, 0.006), rng.uniform(0.014, 0.024)
    span = height * rng.uniform(0.25, 0.35)
    floor = np.concatenate([_ngon(12, radius, low), _ngon(12, radius, low + wall)])
    parts = (
        Part(kind="mesh", vertices=floor),
        *_ring(12, (radius, low), (radius, -low), wall),
        _box(radius + reach / 2 - wall / 2, 0, span, reach / 2 + wall / 2, grip, grip),
        _box(radius + reach / 2 - wall / 2, 0, -span, reach / 2 + wall / 2, grip, grip),
        _box(radius + reach, 0, 0, grip, grip, span + grip),
    )
    return Shape(name="mug", parts=parts, rests=(_UP,))


def _make_bottle(rng: Rng, tall: bool) -> Shape:
    radius = rng.uniform(0.02, 0.032) if tall else rng.uniform(0.02, 0.042)
    body = rng.uniform(0.08, 0.12) if tall else rng.uniform(0.05, 0.1)
    neck, shoulder, top = (
        radius * rng.uniform(0.35, 0.6),
        rng.uniform(0.01, 0.03),
        rng.uniform(0.015, 0.04),
    )
    middle = np.concatenate([_ngon(20, radius, body / 2), _ngon(20, neck, body / 2 + shoulder)])
    parts = (
        Part(kind="cylinder", size=(radius, body / 2)),
        Part(kind="mesh", vertices=middle),
        Part(kind="cylinder", size=(neck, top / 2), position=(0, 0, body / 2 + shoulder + top / 2)),
    )
    return Shape(
        name="bottle", parts=parts, rests=(_UP,) if tall else (_UP, _UP, _SIDE), rolls=True
    )


def _make_frustum(rng: Rng, tall: bool) -> Shape:
    radius, height = _base(rng, tall)
    top = radius * rng.uniform(0.35, 0.75)
    vertices = np.concatenate([_ngon(16, radius, -height / 2), _ngon(16, top, height / 2)])
    return Shape(name="frustum", parts=(Part(kind="mesh", vertices=vertices),), rests=(_UP,))


_MAKERS: dict[str, Callable[[Rng, bool], Shape]] = {
    "box": _make_box,
    "cylinder": _make_cylinder,
    "capsule": _make_capsule,
    "sphere": _make_sphere,
    "prism3": _make_prism(3),
    "prism5": _make_prism(5),
    "prism6": _make_prism(6),
    "wedge": _make_wedge,
    "l_shape": _make_l_shape,
    "t_shape": _make_t_shape,
    "bowl": _make_bowl,
    "mug": _make_mug,
    "bottle": _make_bottle,
    "frustum": _make_frustum,
}

#: Classes with a variant tall enough to be tipped over.
TALL_SHAPES = frozenset(
    {
        "box",
        "cylinder",
        "prism3",
        "prism5",
        "prism6",
        "wedge",
        "l_shape",
        "t_shape",
        "bottle",
        "mug",
        "frustum",
    }
)


def make_shape(name: str, rng: Rng, *, tall: bool = False) -> Shape:
    """A random shape of class `name`; `tall` asks for one that can be tipped over (classes in TALL_SHAPES)."""
    return _MAKERS[name](rng, tall)
