"""Classes of fixtures, tools and containers: those of training, and those that only the test set contains."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from pointworld.data.families.base import box_part
from pointworld.data.shapes import Part, rotation_about
from pointworld.data.tabletop import Rng

#: For every kind of thing the classes seen in training and validation, and those held out for the test set.
VARIANTS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = MappingProxyType(
    {
        "drawer": (("bar", "cup"), ("knob",)),
        "door": (("panel", "framed"), ("ribbed",)),
        "lid": (("plate", "book"), ("round", "rimmed")),
        "knob": (("grip", "lever"), ("wing", "crank")),
        "broom": (("block", "brush"), ("rake",)),
        "duster": (("roll",), ("puffs",)),
        "spatula": (("blade",), ("fork",)),
        "scarf": (("scarf",), ("napkin",)),
        "pillow": (("cushion", "pillow"), ("bolster",)),
        "tray": (("tray",), ("dish",)),
        "small": (("box", "sphere", "cylinder", "capsule"), ("frustum", "prism6")),
    }
)


def draw_variant(rng: Rng, kind: str, shapes: str) -> str:
    """A class of `kind` from the set `shapes`: train, test or all."""
    train, test = VARIANTS[kind]
    names = {"train": train, "test": test, "all": train + test}[shapes]
    return names[int(rng.integers(len(names)))]


def drawer_handle(
    variant: str, front: float, reach: float, bar: float, spread: float, z: float
) -> list[Part]:
    """What a finger pulls, `reach` before the face at x = `front`: a bar on two posts, a cup open upwards, or a disc
    on a stem. bar: half thickness; spread: half width; z: height [m].
    """
    if variant == "knob":
        turned = rotation_about(1, np.pi / 2)
        return [
            Part(
                kind="cylinder",
                size=(0.024, bar),
                position=(front - reach, 0.0, z - 0.008),
                rotation=turned,
            ),
            Part(
                kind="cylinder",
                size=(0.0035, reach / 2),
                position=(front - reach / 2, 0.0, z - 0.008),
                rotation=turned,
            ),
        ]
    if variant == "cup":
        return [
            box_part((front - reach, 0, z), (bar, spread, 0.018)),
            box_part((front - reach / 2, 0, z - 0.02), (reach / 2 + bar, spread, 0.003)),
        ]
    return [
        box_part((front - reach, 0, z), (bar, spread, bar)),
        *(box_part((front - reach / 2, s * spread, z), (reach / 2, bar, bar)) for s in (-1, 1)),
    ]


def door_panel(
    variant: str, front: float, middle: float, half: tuple[float, float, float], grip_y: float
) -> list[Part]:
    """A door and its handle: a panel, a framed window, or a thin panel with ribs and a ball. half: extents [m]."""
    thick, hy, hz = half
    handle = [
        box_part((front - 0.02, grip_y, middle), (0.004, 0.004, 0.5 * hz)),
        *(
            box_part((front - 0.012, grip_y, middle + s * 0.5 * hz), (0.01, 0.004, 0.004))
            for s in (-1, 1)
        ),
    ]
    if variant == "panel":
        return [box_part((front, 0, middle), half), *handle]
    pane = box_part((front, 0, middle), (0.3 * thick, hy, hz))
    if variant == "framed":
        edge = 0.22 * min(hy, hz)
        frame = [
            *(box_part((front, s * (hy - edge), middle), (thick, edge, hz)) for s in (-1, 1)),
            *(box_part((front, 0, middle + s * (hz - edge)), (thick, hy, edge)) for s in (-1, 1)),
        ]
        return [pane, *frame, *handle]
    ribs = [
        box_part((front, 0, middle + k * 0.45 * hz), (thick, hy, 0.08 * hz))
        for k in (-2, -1, 0, 1, 2)
    ]
    ball = Part(kind="sphere", size=(0.014,), position=(front - 0.018, grip_y, middle))
    return [pane, *ribs, ball]


def polygon_wall(
    sides: int, radius: float, wall: float, z: float, half_height: float
) -> list[Part]:
    """Upright wall of a regular polygon. radius: from the axis to the middle of the wall; wall: half thickness [m]."""
    half = (radius + wall) * np.tan(np.pi / sides)
    parts = []
    for angle in 2 * np.pi * (np.arange(sides) + 0.5) / sides:
        parts.append(
            Part(
                kind="box",
                size=(wall, float(half), half_height),
                position=(float(radius * np.cos(angle)), float(radius * np.sin(angle)), z),
                rotation=rotation_about(2, float(angle)),
            )
        )
    return parts


def lid_parts(
    variant: str, half: tuple[float, float], wall: float, top: float, thick: float
) -> tuple[list[Part], list[Part]]:
    """Fixed box and moving cover at joint value 0, hinged at x = half[0] + wall. half: of the box [m]."""
    hx, hy = half
    if variant == "round":
        disc = Part(
            kind="cylinder", size=(hx + 2 * wall, thick), position=(0.0, 0.0, float(top + thick))
        )
        floor = Part(kind="cylinder", size=(hx - wall, wall), position=(0.0, 0.0, wall))
        return [floor, *polygon_wall(10, hx - wall, wall, top / 2, top / 2)], [disc]
    cover = box_part((0, 0, top + thick), (hx + 2 * wall, hy + 2 * wall, thick))
    if variant == "book":
        return [box_part((0, 0, top / 2), (hx, hy, top / 2))], [cover]
    box = [
        box_part((0, 0, wall), (hx, hy, wall)),
        *(box_part((s * hx, 0, top / 2), (wall, hy + 2 * wall, top / 2)) for s in (-1, 1)),
        *(box_part((0, s * (hy + wall), top / 2), (hx, wall, top / 2)) for s in (-1, 1)),
    ]
    if variant == "plate":
        return box, [cover]
    drop = min(0.02, 0.3 * top)
    rim = [
        box_part((-hx - 2.5 * wall, 0, top - drop + 2 * thick), (0.0025, hy + 3 * wall, drop)),
        *(
            box_part(
                (0, s * (hy + 3 * wall), top - drop + 2 * thick), (hx + 2 * wall, 0.0025, drop)
            )
            for s in (-1, 1)
        ),
    ]
    return box, [cover, *rim]
