"""The classes of random rigid objects, and which of them only the test set shows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pointworld.data.shapes import Part, Rng, Shape, rotation_about

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
    "hull",
    "polygon",
    "u_shape",
    "cross",
    "stack",
    "ring",
    "bin",
    "ellipsoid",
    "tetromino",
    "pan",
)
#: Whole classes that only the test set contains.
TEST_SHAPES = ("mug", "t_shape", "prism6", "frustum")

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


def _make_hull(rng: Rng, tall: bool) -> Shape:
    """An irregular stone on a flat base."""
    radius, height = rng.uniform(0.022, 0.05), rng.uniform(0.03, 0.1)
    base = _polygon(rng, int(rng.integers(4, 8)), radius, -height / 2)
    count = int(rng.integers(5, 10))
    angle, level = rng.uniform(0, 2 * np.pi, count), rng.uniform(-0.5, 0.5, count)
    out = radius * rng.uniform(0.3, 1.05, count)
    above = np.stack([out * np.cos(angle), out * np.sin(angle), height * level], -1)
    above[0, 2] = height / 2
    part = Part(kind="mesh", vertices=np.concatenate([base, above]))
    return Shape(name="hull", parts=(part,), rests=(_UP,))


def _polygon(rng: Rng, n: int, radius: float, z: float) -> np.ndarray:
    """(n, 3) an uneven polygon around the vertical."""
    angle = 2 * np.pi * (np.arange(n) + rng.uniform(-0.3, 0.3, n)) / n
    out = radius * rng.uniform(0.75, 1.2, n)
    return np.stack([out * np.cos(angle), out * np.sin(angle), np.full(n, z)], -1)


def _make_polygon(rng: Rng, tall: bool) -> Shape:
    """An upright column whose sides are all different."""
    radius, height = _base(rng, tall)
    base = _polygon(rng, int(rng.integers(4, 8)), 1.1 * radius, -height / 2)
    vertices = np.concatenate([base, base + np.array([0.0, 0.0, height])])
    return Shape(name="polygon", parts=(Part(kind="mesh", vertices=vertices),), rests=(_UP,))


def _make_u_shape(rng: Rng, tall: bool) -> Shape:
    """A channel: standing open upwards, as a bridge, or lying on its side."""
    thick, depth = rng.uniform(0.007, 0.014), rng.uniform(0.015, 0.04)
    foot, height = rng.uniform(0.03, 0.06), rng.uniform(0.04, 0.09)
    walls = [
        _box(s * (foot - thick), 0, thick, thick, depth, height / 2 - thick) for s in (-1.0, 1.0)
    ]
    parts = (_box(0, 0, thick - height / 2, foot, depth, thick), *walls)
    over = rotation_about(0, np.pi)
    return Shape(name="u_shape", parts=parts, rests=(_UP, over, _SIDE))


def _make_cross(rng: Rng, tall: bool) -> Shape:
    """Two bars across each other, lying on the table."""
    thick, height = rng.uniform(0.008, 0.018), rng.uniform(0.012, 0.03)
    arms = rng.uniform(0.03, 0.065, 2)
    parts = (
        _box(0, 0, 0, arms[0], thick, height / 2 + 0.004),
        _box(rng.uniform(-0.4, 0.4) * arms[0], 0, 0, thick, arms[1], height / 2 + 0.004),
    )
    return Shape(name="cross", parts=parts, rests=(_UP,))


def _make_stack(rng: Rng, tall: bool) -> Shape:
    """A narrow thing fixed upon a wide one, each round or square."""
    radius, height = _base(rng, tall)
    low = height * rng.uniform(0.3, 0.6)
    narrow = radius * rng.uniform(0.4, 0.8)
    aside = rng.uniform(-0.5, 0.5, 2) * (radius - narrow)

    def block(half: float, tall: float, x: float, y: float, z: float) -> Part:
        if rng.random() < 0.5:
            return Part(kind="cylinder", size=(half, tall / 2), position=(x, y, z))
        return _box(x, y, z, half, half * rng.uniform(0.7, 1.0), tall / 2)

    parts = (
        block(radius, low, 0.0, 0.0, (low - height) / 2),
        block(narrow, height - low, float(aside[0]), float(aside[1]), low / 2),
    )
    return Shape(name="stack", parts=parts, rests=(_UP,))


def _make_ring(rng: Rng, tall: bool) -> Shape:
    """A flat ring, as of a roll of tape."""
    radius, height = rng.uniform(0.03, 0.06), rng.uniform(0.015, 0.045)
    wall = rng.uniform(0.008, 0.018)
    parts = _ring(12, (radius, -height / 2), (radius, height / 2), wall)
    return Shape(name="ring", parts=parts, rests=(_UP,))


def _make_bin(rng: Rng, tall: bool) -> Shape:
    """An open box."""
    x, y, height = rng.uniform(0.03, 0.06), rng.uniform(0.03, 0.06), rng.uniform(0.03, 0.08)
    wall, half = rng.uniform(0.002, 0.005), height / 2
    parts = (
        _box(0, 0, wall - half, x, y, wall),
        *(_box(s * (x - wall), 0, 0, wall, y, half) for s in (-1.0, 1.0)),
        *(_box(0, s * (y - wall), 0, x, wall, half) for s in (-1.0, 1.0)),
    )
    return Shape(name="bin", parts=parts, rests=(_UP,))


def _make_ellipsoid(rng: Rng, tall: bool) -> Shape:
    """An egg or a pebble, on its flattest side."""
    axes = np.sort(rng.uniform(0.018, 0.045, 3))[::-1]
    angle, level = np.meshgrid(
        np.linspace(0, 2 * np.pi, 14, endpoint=False), np.linspace(-0.92, 0.92, 9)
    )
    round_ = np.sqrt(1 - level**2)
    points = np.stack([round_ * np.cos(angle), round_ * np.sin(angle), level], -1).reshape(-1, 3)
    vertices = np.concatenate([points, [[0, 0, -1.0], [0, 0, 1.0]]]) * axes
    part = Part(kind="mesh", vertices=vertices)
    return Shape(name="ellipsoid", parts=(part,), rests=(_UP,), rolls=True)


def _make_tetromino(rng: Rng, tall: bool) -> Shape:
    """Cubes side by side in the shapes S, J, O or a zigzag of five, lying on the table."""
    cells = (
        ((0, 0), (1, 0), (1, 1), (2, 1)),
        ((0, 0), (0, 1), (1, 0), (2, 0)),
        ((0, 0), (1, 0), (0, 1), (1, 1), (2, 1)),
        ((0, 0), (1, 0), (1, 1), (2, 1), (2, 2)),
    )[int(rng.integers(4))]
    half, height = rng.uniform(0.011, 0.02), rng.uniform(0.018, 0.045)
    places = 2 * half * (np.array(cells) - np.mean(cells, axis=0)) * [rng.choice([-1.0, 1.0]), 1.0]
    parts = tuple(_box(float(x), float(y), 0, half, half, height / 2) for x, y in places)
    return Shape(name="tetromino", parts=parts, rests=(_UP,))


def _make_pan(rng: Rng, tall: bool) -> Shape:
    """A flat disc with a long handle at one side."""
    radius, height = rng.uniform(0.03, 0.055), rng.uniform(0.014, 0.035)
    reach, half = rng.uniform(0.03, 0.06), rng.uniform(0.005, 0.01)
    handle = _box(radius + reach / 2 - 0.004, 0, 0, reach / 2 + 0.004, half, min(half, height / 2))
    parts = (Part(kind="cylinder", size=(radius, height / 2)), handle)
    return Shape(name="pan", parts=parts, rests=(_UP,))


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
    "hull": _make_hull,
    "polygon": _make_polygon,
    "u_shape": _make_u_shape,
    "cross": _make_cross,
    "stack": _make_stack,
    "ring": _make_ring,
    "bin": _make_bin,
    "ellipsoid": _make_ellipsoid,
    "tetromino": _make_tetromino,
    "pan": _make_pan,
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
        "polygon",
        "stack",
    }
)


def make_shape(name: str, rng: Rng, *, tall: bool = False) -> Shape:
    """A random shape of class `name`; `tall` asks for one that can be tipped over (classes in TALL_SHAPES)."""
    return _MAKERS[name](rng, tall)
