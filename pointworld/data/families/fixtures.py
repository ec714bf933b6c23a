"""Articulated families: drawer, door (microwave), lid (book), lever and knob, of random sizes and stiffness.

In the fixture frame z is up and the front looks along -x, towards the robot.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pointworld.data.families.articulated import Articulated, Joint, articulated_motion
from pointworld.data.families.base import Family, box_part, draw_table_height, scatter
from pointworld.data.families.variants import (
    VARIANTS,
    door_panel,
    draw_variant,
    drawer_handle,
    lid_parts,
)
from pointworld.data.motions import tool_rotation
from pointworld.data.shapes import Part, rotation_about
from pointworld.data.tabletop import Rng, SceneSpec, TabletopConfig, draw_surface, furnish

#: Half the thickness of panels, and how far the tool's centre stays off a face that the hand pushes [m].
_WALL, _STAND_OFF = 0.005, 0.016


def _placement(rng: Rng, table_height: float, x: tuple[float, float], turn: float) -> np.ndarray:
    """Fixture frame on the table, its front turned towards the robot within `turn` [rad]."""
    T = np.eye(4)
    T[:3, 3] = rng.uniform(*x), rng.uniform(-0.15, 0.15), table_height
    facing = np.arctan2(T[1, 3], T[0, 3])
    T[:3, :3] = rotation_about(2, facing + rng.uniform(-turn, turn))
    return T


def _tool(point: tuple[float, float, float], heading: float, tilt: float, yaw: float) -> np.ndarray:
    """Tool at `point`, pointing down and leaning by `tilt` so that the fingers point towards `heading` [rad]."""
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = tool_rotation(yaw, tilt, heading - np.pi / 2), point
    return T


def _joint(rng: Rng, *, hinge: bool, **values: Any) -> Joint:
    damping, friction = (0.01, 0.1), (0.005, 0.06)
    if not hinge:
        damping, friction = (1.0, 12.0), (0.3, 2.5)
    return Joint(
        hinge=hinge,
        damping=float(rng.uniform(*damping)),
        friction=float(rng.uniform(*friction)),
        **values,
    )


def _scene(
    rng: Rng, config: TabletopConfig, height: float, radius: float, **prop: Any
) -> SceneSpec:
    """The fixture with up to two loose objects beside it."""
    built = Articulated(
        density=float(rng.uniform(250, 700)),
        friction=float(rng.uniform(0.3, 0.8)),
        surfaces=(draw_surface(rng), draw_surface(rng)),
        **prop,
    )
    x, y = built.T_world_fixture[:2, 3]
    keep_out = ((float(x), float(y), radius),)
    objects = scatter(rng, config, height, int(rng.integers(0, 3)), keep_out=keep_out)
    name = f"object_{built.name}"
    return furnish(rng, tuple(objects), height, props=(built,), target_name=name)


def _open_box(hx: float, hy: float, top: float) -> list[Part]:
    """Bottom, back and side walls of a box open to the front and top; half extents and height [m]."""
    return [
        box_part((0, 0, _WALL), (hx, hy, _WALL)),
        box_part((hx, 0, top / 2), (_WALL, hy + 2 * _WALL, top / 2)),
        *(box_part((0, s * (hy + _WALL), top / 2), (hx, _WALL, top / 2)) for s in (-1, 1)),
    ]


def _drawer(rng: Rng, config: TabletopConfig) -> SceneSpec | None:
    """A cabinet with one drawer: pushed shut at its front, or pulled open by a finger behind its handle."""
    height = draw_table_height(rng)
    hx, hy, hz = rng.uniform(0.07, 0.11), rng.uniform(0.07, 0.13), rng.uniform(0.03, 0.06)
    base = rng.uniform(0.0, 0.05)
    z = base + 2 * _WALL + hz + 0.002
    top = z + hz + 0.004
    fixed = [
        *_open_box(hx, hy, top),
        box_part((0, 0, top + _WALL), (hx + _WALL, hy + 2 * _WALL, _WALL)),
        box_part((0, 0, _WALL + base / 2), (hx, hy, _WALL + base / 2)),
    ]
    variant = draw_variant(rng, "drawer", config.shapes)
    reach, bar = rng.uniform(0.036, 0.048), rng.uniform(0.003, 0.006)
    spread, grip_z = rng.uniform(0.6, 0.85) * hy, z + rng.uniform(0.7, 0.95) * hz
    side, low = hy - 0.004, z - hz
    front = -hx - _WALL
    moving = [
        box_part((front, 0, z), (_WALL, hy, hz)),
        box_part((0, 0, low + 0.004), (hx - 0.012, side, 0.003)),
        box_part((hx - 0.012, 0, z - 0.3 * hz), (0.003, side, 0.6 * hz)),
        *(
            box_part((0, s * (side - 0.003), z - 0.3 * hz), (hx - 0.012, 0.003, 0.6 * hz))
            for s in (-1, 1)
        ),
        *drawer_handle(variant, front, reach, bar, spread, grip_z),
    ]
    opening, upper = rng.random() < 0.5, 1.6 * hx
    start = float(rng.uniform(0.0, 0.3) * upper if opening else rng.uniform(0.35, 1.0) * upper)
    face = front - start - _WALL
    width = 0.0
    if opening:
        point = (face - (reach - bar) / 2 + 0.002, float(rng.uniform(-0.3, 0.3)) * spread, grip_z)
        gap, tilt, yaw = 0.0, float(rng.uniform(0.0, 0.3)), 0.0
        if variant == "knob":
            # The fingers straddle the stem.
            point, width = (point[0], 0.0, grip_z), 0.022
    else:
        handle = reach + bar
        point = (face - handle - _STAND_OFF, float(rng.uniform(-0.5, 0.5)) * hy, grip_z)
        gap, tilt = float(rng.uniform(0.01, 0.06)), float(rng.uniform(0.2, 0.7))
        yaw = float(rng.choice([0.0, np.pi / 2]))
    return _scene(
        rng,
        config,
        height,
        hx + hy + upper,
        name="drawer",
        variant=variant,
        T_world_fixture=_placement(rng, height, (0.58, 0.7), 0.6),
        fixed=tuple(fixed),
        moving=tuple(moving),
        joint=_joint(
            rng,
            hinge=False,
            anchor=np.zeros(3),
            axis=np.array([-1.0, 0.0, 0.0]),
            lower=0.0,
            upper=upper,
            start=start,
        ),
        tool=_tool(point, 0.0, tilt, yaw),
        sign=1.0 if opening else -1.0,
        arm=1.0,
        gap=gap,
        follow=False,
        width=(width, width),
    )


def _door(rng: Rng, config: TabletopConfig) -> SceneSpec | None:
    """A box with an upright hinge at its left or right: its door is pushed shut or, standing ajar, pushed open."""
    height = draw_table_height(rng)
    hx, hy, top = rng.uniform(0.06, 0.1), rng.uniform(0.09, 0.15), rng.uniform(0.1, 0.2)
    fixed = [
        *_open_box(hx, hy, top),
        box_part((0, 0, top + _WALL), (hx + _WALL, hy + 2 * _WALL, _WALL)),
    ]
    side = 1.0 if rng.random() < 0.5 else -1.0
    front, middle = -hx - _WALL, top / 2 + _WALL
    variant = draw_variant(rng, "door", config.shapes)
    half = (_WALL, hy + 2 * _WALL, top / 2 - 0.004)
    moving = door_panel(variant, front, middle, half, -side * 0.8 * hy)
    opening = rng.random() < 0.5
    start = float(rng.uniform(0.5, 1.1) if opening else rng.uniform(0.5, 1.7))
    # Turning by +angle about `axis` swings the free edge out of the box, towards -x.
    joint = _joint(
        rng,
        hinge=True,
        anchor=np.array([front, side * (hy + _WALL), 0.0]),
        axis=np.array([0.0, 0.0, -side]),
        lower=0.0,
        upper=float(rng.uniform(1.8, 2.6)),
        start=start,
    )
    radius = float(rng.uniform(0.55, 0.95)) * 2 * hy
    off = (_WALL + _STAND_OFF) * (1.0 if opening else -1.0)
    closed = np.array([front + off, joint.anchor[1] - side * radius, 0.0, 1.0])
    x, y = (joint.transform(start) @ closed)[:2]
    z = float(top - rng.uniform(0.0, 0.025) if opening else rng.uniform(0.5, 0.95) * top)
    normal = joint.transform(start)[:3, :3] @ np.array([1.0 if not opening else -1.0, 0.0, 0.0])
    heading = float(np.arctan2(normal[1], normal[0]))
    tilt = 0.0 if opening else float(rng.uniform(0.2, 0.7))
    yaw = (heading + rng.uniform(-0.2, 0.2) + np.pi / 2) % np.pi - np.pi / 2
    return _scene(
        rng,
        config,
        height,
        3 * hy,
        name="door",
        variant=variant,
        T_world_fixture=_placement(rng, height, (0.6, 0.72), 0.8),
        fixed=tuple(fixed),
        moving=tuple(moving),
        joint=joint,
        tool=_tool((x, y, z), heading, tilt, yaw),
        sign=1.0 if opening else -1.0,
        arm=radius,
        gap=float(rng.uniform(0.0, 0.05)),
        follow=bool(rng.random() < 0.5),
        width=(0.0, 0.0),
    )


def _lid(rng: Rng, config: TabletopConfig) -> SceneSpec | None:
    """A box or book whose cover turns about its rear top edge: pressed shut from outside or lifted from below."""
    height = draw_table_height(rng)
    hx, hy = rng.uniform(0.06, 0.11), rng.uniform(0.06, 0.13)
    variant = draw_variant(rng, "lid", config.shapes)
    top = float(rng.uniform(0.015, 0.035) if variant == "book" else rng.uniform(0.05, 0.12))
    thick = float(rng.uniform(0.002, 0.005))
    fixed, moving = lid_parts(variant, (float(hx), float(hy)), _WALL, top, thick)
    opening = rng.random() < 0.45
    start = float(rng.uniform(0.6, 1.2) if opening else rng.uniform(0.4, 1.3))
    joint = _joint(
        rng,
        hinge=True,
        anchor=np.array([hx + _WALL, 0.0, top]),
        axis=np.array([0.0, 1.0, 0.0]),
        lower=0.0,
        upper=2.4,
        start=start,
    )
    radius = float(rng.uniform(0.8, 1.0)) * 2 * hx
    off = -_STAND_OFF if opening else 2 * thick + _STAND_OFF
    beside = rng.uniform(-0.5, 0.5) * hy * (0.2 if variant == "round" else 1.0)
    at_zero = np.array([joint.anchor[0] - radius, beside, top + off, 1.0])
    x, y, z = (joint.transform(start) @ at_zero)[:3]
    # From below the fingers point away from the robot, from outside towards it.
    tilt = float(rng.uniform(0.9, 1.3) if opening else rng.uniform(0.2, 0.7))
    heading = float(rng.uniform(-0.25, 0.25)) + (0.0 if opening else np.pi)
    return _scene(
        rng,
        config,
        height,
        hx + hy + 0.03,
        name="lid",
        variant=variant,
        T_world_fixture=_placement(rng, height, (0.48, 0.64), 0.5),
        fixed=tuple(fixed),
        moving=tuple(moving),
        joint=joint,
        tool=_tool((x, y, z), heading, tilt, 0.0),
        sign=1.0 if opening else -1.0,
        arm=radius,
        gap=float(rng.uniform(0.005, 0.05)),
        follow=False,
        width=(0.0, 0.0),
    )


def _knob(rng: Rng, config: TabletopConfig) -> SceneSpec | None:
    """An upright axle with a grip that the fingers close on and turn, or with a long lever that they push."""
    height = draw_table_height(rng)
    half, top = rng.uniform(0.03, 0.08), rng.uniform(0.02, 0.07)
    variant = draw_variant(rng, "knob", config.shapes)
    fixed = [box_part((0, 0, top / 2), (half, float(rng.uniform(0.03, 0.08)), top / 2))]
    if variant not in VARIANTS["knob"][0]:
        fixed = [Part(kind="cylinder", size=(float(half), top / 2), position=(0.0, 0.0, top / 2))]
    lever = variant in ("lever", "crank")
    tall = float(rng.uniform(0.012, 0.022))
    grip = float(rng.uniform(0.004, 0.008))
    middle = top + 0.012 + tall
    disc = Part(
        kind="cylinder",
        size=(float(rng.uniform(0.018, 0.03)), 0.005),
        position=(0.0, 0.0, top + 0.007),
    )
    length = float(rng.uniform(0.07, 0.13) if lever else rng.uniform(0.02, 0.032))
    shift = length if lever else 0.0
    moving = [disc, *_knob_grip(variant, shift, middle, (length, grip, tall))]
    sign = 1.0 if rng.random() < 0.5 else -1.0
    joint = _joint(
        rng,
        hinge=True,
        anchor=np.zeros(3),
        axis=np.array([0.0, 0.0, 1.0]),
        lower=-2.6,
        upper=2.6,
        start=float(rng.uniform(-0.5, 0.5)),
    )
    R = joint.transform(joint.start)[:3, :3]
    if lever:
        radius = float(rng.uniform(1.2, 1.85)) * length
        spot = R @ np.array([radius, -sign * (grip + _STAND_OFF), middle])
        tool = _tool(tuple(spot), 0.0, 0.0, float(rng.uniform(-0.8, 0.8)))
        gap, width, arm = float(rng.uniform(0.0, 0.05)), (0.0, 0.0), radius
    else:
        # The tool's y axis runs across the fingers: along the grip's thin side.
        tool = _tool((0.0, 0.0, middle + 0.004), 0.0, 0.0, joint.start)
        gap, width, arm = 0.0, (2 * grip + float(rng.uniform(0.012, 0.03)), 0.0), 1.0
    return _scene(
        rng,
        config,
        height,
        0.1 + length,
        name="knob",
        variant=variant,
        T_world_fixture=_placement(rng, height, (0.4, 0.65), np.pi / 3),
        fixed=tuple(fixed),
        moving=tuple(moving),
        joint=joint,
        tool=tool,
        sign=sign,
        arm=arm,
        gap=gap,
        follow=not lever or bool(rng.random() < 0.5),
        width=width,
    )


def _knob_grip(
    variant: str, shift: float, z: float, half: tuple[float, float, float]
) -> list[Part]:
    """What is turned: a bar, or (wing) one with round ends, or (crank) one with an upright peg at its end."""
    length, grip, tall = half
    if variant != "wing":
        bar = box_part((shift, 0, z), half)
        peg = Part(kind="capsule", size=(1.5 * grip, tall), position=(2 * length, 0.0, z + tall))
        return [bar, peg] if variant == "crank" else [bar]
    ends = [
        Part(kind="capsule", size=(1.2 * grip, tall), position=(s * length, 0.0, z))
        for s in (-1, 1)
    ]
    return [box_part((0, 0, z), (length, 0.8 * grip, 0.8 * tall)), *ends]


ARTICULATED: tuple[Family, ...] = tuple(
    Family(name=name, group="articulated", draw_scene=scene, draw_motion=articulated_motion)
    for name, scene in (("drawer", _drawer), ("door", _door), ("lid", _lid), ("knob", _knob))
)
