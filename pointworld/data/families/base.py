"""What every family of clips provides, and helpers that several of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pointworld.data.motions import Motion
from pointworld.data.shapes import Part
from pointworld.data.tabletop import (
    ObjectSpec,
    Rng,
    SceneSpec,
    TabletopConfig,
    draw_object,
)

#: Objects must be slower than this at time 0, anywhere on their surface [m/s].
SETTLED_SPEED = 0.006


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of clip: how its scene and its motion are drawn.

    draw_scene: None when the draw is unusable. draw_motion: the same, e.g. out of reach.
    settled_speed: objects must be slower at time 0 [m/s]. settle_time: simulated before the motion starts [s].
    """

    name: str
    group: str
    draw_scene: Callable[[Rng, TabletopConfig], SceneSpec | None]
    draw_motion: Callable[[Rng, SceneSpec, float], Motion | None]
    settled_speed: float = SETTLED_SPEED
    settle_time: float = 0.3


def box_part(
    centre: tuple[float, float, float] | np.ndarray, half: tuple[float, float, float]
) -> Part:
    """An axis-aligned box: centre and half extents [m]."""
    x, y, z = (float(v) for v in centre)
    return Part(kind="box", size=half, position=(x, y, z))


def draw_table_height(rng: Rng) -> float:
    """Height of the table top over the robot's base [m]."""
    return float(rng.uniform(-0.05, 0.0))


def scatter(
    rng: Rng,
    config: TabletopConfig,
    table_height: float,
    count: int,
    *,
    keep_out: tuple[tuple[float, float, float], ...] = (),
) -> list[ObjectSpec]:
    """Up to `count` random objects at rest on the table, outside circles (x, y, radius) [m]."""
    placed: list[ObjectSpec] = []
    for _ in range(count):
        item = draw_object(rng, config.object_classes, None)
        lower, upper = item.shape.bounds(item.rotation)
        radius = float(np.hypot(*np.maximum(np.abs(lower[:2]), np.abs(upper[:2]))))
        taken = [
            *keep_out,
            *((*o.position[:2], 0.5 * float(np.hypot(*(o.upper - o.lower)[:2]))) for o in placed),
        ]
        for _ in range(20):
            x, y = rng.uniform(0.32, 0.76), rng.uniform(-0.33, 0.33)
            if all(np.hypot(x - a, y - b) > radius + r + 0.005 for a, b, r in taken):
                position = np.array([x, y, table_height - lower[2] + 0.001])
                placed.append(replace(item, position=position))
                break
    return placed
