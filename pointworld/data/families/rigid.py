"""Free rigid objects: pushes, grasps, topples, near misses, clutter that pushes itself on, trays with contents."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pointworld.data.families.base import SETTLED_SPEED, Family, box_part, draw_table_height
from pointworld.data.families.variants import draw_variant, polygon_wall
from pointworld.data.motions import Motion, grasping, pushing, wandering
from pointworld.data.shape_classes import make_shape
from pointworld.data.shapes import Part, Shape, rotation_about
from pointworld.data.tabletop import (
    ObjectSpec,
    Rng,
    SceneSpec,
    TabletopConfig,
    draw_object,
    draw_scene,
    draw_surface,
    furnish,
)


def _tabletop(name: str) -> Family:
    motions = {
        "push": pushing(
            name, speed=(0.15, 0.5), height=(0.05, 0.8), offset=(0.0, 0.7), gap=(0.05, 0.14)
        ),
        "nudge": pushing(
            name, speed=(0.06, 0.16), height=(0.1, 0.7), offset=(0.0, 0.8), gap=(0.04, 0.08)
        ),
        "grasp_lift": grasping,
        "topple": pushing(
            name, speed=(0.15, 0.45), height=(0.75, 1.0), offset=(0.0, 0.25), gap=(0.05, 0.12)
        ),
        "near_miss": pushing(
            name, speed=(0.1, 0.5), height=(0.1, 1.0), offset=(2.2, 3.4), gap=(0.05, 0.15)
        ),
        "empty": wandering,
    }

    def scene(rng: Rng, config: TabletopConfig) -> SceneSpec | None:
        drawn = draw_scene(rng, config, name)
        return drawn if drawn.objects else None

    return Family(
        name=name,
        group="tabletop",
        draw_scene=scene,
        draw_motion=motions[name],
        settled_speed=5 * SETTLED_SPEED if name == "grasp_lift" else SETTLED_SPEED,
    )


def _clutter_scene(rng: Rng, config: TabletopConfig) -> SceneSpec | None:
    """Four to eight objects packed against each other; the outermost one is the target."""
    table_height = draw_table_height(rng)
    centre = np.array([rng.uniform(0.45, 0.62), rng.uniform(-0.12, 0.12)])
    objects: list[ObjectSpec] = []
    boxes: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(int(rng.integers(4, 9))):
        item = draw_object(rng, config.object_classes, None)
        lower, upper = item.shape.bounds(item.rotation)
        angle = rng.uniform(-np.pi, np.pi)
        outward = np.array([np.cos(angle), np.sin(angle)])
        # Moved inwards from outside until it would touch what is already there.
        for distance in np.arange(0.30, -0.005, -0.005):
            spot = centre + distance * outward
            if any(_boxes_meet(spot + lower[:2], spot + upper[:2], *box) for box in boxes):
                break
            position = np.array([*spot, table_height - lower[2] + 0.001])
            placed = replace(item, position=position)
        else:
            distance = 0.0
        if distance < 0.295 and abs(placed.position[1]) < 0.33 and 0.3 < placed.position[0] < 0.78:
            objects.append(placed)
            boxes.append((placed.lower[:2], placed.upper[:2]))
    if len(objects) < 3:
        return None
    far = max(objects, key=lambda o: float(np.hypot(*(o.position[:2] - centre))))
    ordered = (far, *(o for o in objects if o is not far))
    return furnish(rng, ordered, table_height)


def _boxes_meet(
    lower: np.ndarray, upper: np.ndarray, other_lower: np.ndarray, other_upper: np.ndarray
) -> bool:
    """Whether two upright rectangles come closer than 2 mm."""
    return bool((lower < other_upper + 0.002).all() and (upper > other_lower - 0.002).all())


def _clutter_motion(rng: Rng, scene: SceneSpec, duration: float) -> Motion | None:
    """A push at the outermost object towards the middle of the others."""
    middle = np.mean([o.position[:2] for o in scene.objects[1:]], axis=0)
    inward = middle - scene.objects[0].position[:2]
    heading = float(np.arctan2(inward[1], inward[0]) + rng.normal(0, 0.3))
    draw = pushing(
        "clutter",
        speed=(0.2, 0.5),
        height=(0.05, 0.7),
        offset=(0.0, 0.5),
        gap=(0.04, 0.09),
        heading=heading,
    )
    return draw(rng, scene, duration)


def make_tray(rng: Rng, variant: str) -> tuple[Shape, tuple[float, float, float], float]:
    """An open box, or (dish) an open octagon, standing on its base.

    Returns:
        Shape, half extents of a box inside its outer wall and wall thickness [m].
    """
    x, y, z = rng.uniform(0.06, 0.12), rng.uniform(0.05, 0.09), rng.uniform(0.012, 0.035)
    wall = float(rng.uniform(0.003, 0.006))
    if variant == "dish":
        radius = float(0.8 * x + 0.4 * y)
        base = Part(kind="cylinder", size=(radius, wall), position=(0.0, 0.0, float(-z + wall)))
        parts = [base, *polygon_wall(8, radius - wall, wall, 0.0, float(z))]
        x = y = 0.7 * radius
    else:
        parts = [
            box_part((0, 0, -z + wall), (x, y, wall)),
            *(box_part((s * (x - wall), 0, 0), (wall, y, z)) for s in (-1, 1)),
            *(box_part((0, s * (y - wall), 0), (x, wall, z)) for s in (-1, 1)),
        ]
    shape = Shape(name=variant, parts=tuple(parts), rests=(np.eye(3),))
    return shape, (x, y, z), wall


def small_object(rng: Rng, shapes: str, size: tuple[float, float] = (0.010, 0.02)) -> ObjectSpec:
    """A small thing of the given range of half sizes [m], at the origin; `shapes`: train, test or all."""
    r, h = rng.uniform(*size), rng.uniform(*size)
    kind = draw_variant(rng, "small", shapes)
    shape = _small_shape(rng, kind, float(r), float(h), float(rng.uniform(*size)))
    return ObjectSpec(
        shape=shape,
        rotation=rotation_about(2, rng.uniform(-np.pi, np.pi)) @ shape.rests[0],
        position=np.zeros(3),
        density=float(np.exp(rng.uniform(np.log(200), np.log(1500)))),
        friction=float(rng.uniform(0.2, 0.8)),
        surface=draw_surface(rng),
    )


def _small_shape(rng: Rng, kind: str, r: float, h: float, other: float) -> Shape:
    """A block, ball, can, bean, or a shrunken object of a held-out class; r, h, other: half sizes [m]."""
    if kind in ("frustum", "prism6"):
        big = make_shape(kind, rng)
        vertices = big.parts[0].vertices
        assert vertices is not None
        scale = np.array([r, r, h]) / np.abs(vertices).max(0)
        part = Part(kind="mesh", vertices=vertices * scale)
        return Shape(name=kind, parts=(part,), rests=(np.eye(3),), rolls=kind == "frustum")
    extents: dict[str, tuple[float, ...]] = {
        "box": (r, h, other),
        "sphere": (r,),
        "cylinder": (r, h),
        "capsule": (0.7 * r, h),
    }
    rest = rotation_about(0, np.pi / 2) if kind == "capsule" else np.eye(3)
    part = Part(kind=kind, size=extents[kind])
    return Shape(name=kind, parts=(part,), rests=(rest,), rolls=kind != "box")


def _tray_scene(rng: Rng, config: TabletopConfig) -> SceneSpec | None:
    """A tray that stands on the table with one to four small things in it."""
    table_height = draw_table_height(rng)
    shape, (x, y, z), wall = make_tray(rng, draw_variant(rng, "tray", config.shapes))
    yaw = rotation_about(2, rng.uniform(-np.pi, np.pi))
    position = np.array([rng.uniform(0.42, 0.66), rng.uniform(-0.2, 0.2), table_height + z + 0.001])
    tray = ObjectSpec(
        shape=shape,
        rotation=yaw,
        position=position,
        density=float(rng.uniform(200, 900)),
        friction=float(rng.uniform(0.15, 0.6)),
        surface=draw_surface(rng),
    )
    contents: list[ObjectSpec] = []
    spots: list[np.ndarray] = []
    for _ in range(int(rng.integers(1, 5))):
        item = small_object(rng, config.shapes)
        room = np.array([x, y]) - 2 * wall - 0.022
        spot = rng.uniform(-room, room)
        if any(np.hypot(*(spot - other)) < 0.046 for other in spots):
            continue
        spots.append(spot)
        low = item.shape.bounds(item.rotation)[0][2]
        local = np.array([*spot, -z + 2 * wall - low + 0.001])
        contents.append(replace(item, position=position + yaw @ local))
    if not contents:
        return None
    return furnish(rng, (tray, *contents), table_height)


RIGID: tuple[Family, ...] = (
    *(_tabletop(name) for name in ("push", "nudge", "grasp_lift", "topple", "near_miss", "empty")),
    Family(
        name="clutter",
        group="clutter",
        draw_scene=_clutter_scene,
        draw_motion=_clutter_motion,
    ),
    Family(
        name="tray",
        group="clutter",
        draw_scene=_tray_scene,
        draw_motion=pushing(
            "tray", speed=(0.15, 0.45), height=(0.2, 0.9), offset=(0.0, 0.5), gap=(0.04, 0.1)
        ),
    ),
)
