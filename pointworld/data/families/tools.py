"""Tool use: a broom, duster or spatula held in the hand sweeps small things.

The tool is welded to the hand in the simulator. In a clip it is an object, not a part of the robot: robot flow holds
the gripper only, and the tool's points move with the hand, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pointworld.data.families.base import Family, box_part, draw_table_height
from pointworld.data.families.rigid import small_object
from pointworld.data.families.variants import draw_variant
from pointworld.data.motions import (
    LEAD,
    Motion,
    bent_line,
    draw_travel,
    in_reach,
    smooth_step,
    tool_poses,
    waypoint_times,
)
from pointworld.data.robot_tree import RobotTree
from pointworld.data.scene_model import add_material, add_part
from pointworld.data.shapes import Part, rotation_about
from pointworld.data.simulator import ROBOT
from pointworld.data.tabletop import (
    ObjectSpec,
    Rng,
    SceneSpec,
    Surface,
    TabletopConfig,
    draw_surface,
    furnish,
)
from pointworld.geometry import matrix_to_quat_wxyz

#: Clearance of a sweeping tool above the table [m].
_CLEARANCE = (0.002, 0.008)


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldTool:
    """A tool in the hand. parts: in the frame of a hand that points down, z up, x along the sweep, origin between the
    fingertips. length: from there to its lowest point [m]. half_width: across the sweep [m]. grip: thickness of the
    handle between the fingers [m]. heading: of the sweep; start: where the head stands before it.
    """

    name: str
    variant: str
    parts: tuple[Part, ...]
    length: float
    half_width: float
    grip: float
    heading: float
    start: np.ndarray
    friction: float
    surface: Surface
    deformable: bool = False

    @property
    def shapes(self) -> Mapping[str, str]:
        return {f"object_{self.name}": f"{self.name}_{self.variant}"}

    def add(self, spec: Any, tree: RobotTree) -> None:
        """A body fixed to the robot's tool link; it touches objects, neither robot nor table."""
        hand = spec.body(tree.tool_link)
        # The tool link's z axis points out of the hand: down, when the hand points down.
        down = np.diag([1.0, -1.0, -1.0]) @ rotation_about(2, tree.tool_turn)
        body = hand.add_body(name=f"object_{self.name}", quat=matrix_to_quat_wxyz(down.T))
        body.gravcomp = 1.0
        material = add_material(spec, self.name, self.surface)
        for k, part in enumerate(self.parts):
            add_part(
                spec,
                body,
                part,
                f"{self.name}{k}",
                material=material,
                density=200.0,
                contype=ROBOT,
                conaffinity=0,
                condim=4,
                friction=[self.friction, 0.005, 0.0005],
            )

    def finish(self, model: Any) -> None:
        """Nothing is left to do."""


def _broom(rng: Rng, variant: str) -> dict[str, Any]:
    """A stick with a wide, thin head: a block, a board with thinner bristles, or a rake with teeth."""
    length, half = rng.uniform(0.09, 0.17), rng.uniform(0.045, 0.1)
    radius, depth, tall = (
        rng.uniform(0.005, 0.009),
        rng.uniform(0.008, 0.015),
        rng.uniform(0.015, 0.03),
    )
    head = [box_part((0, 0, -length + tall), (depth, half, tall))]
    if variant == "brush":
        head = [
            box_part((0, 0, -length + 1.6 * tall), (depth, half, 0.4 * tall)),
            box_part((0, 0, -length + 0.6 * tall), (0.5 * depth, 0.95 * half, 0.6 * tall)),
        ]
    if variant == "rake":
        teeth = np.linspace(-0.95, 0.95, int(half / 0.008)) * half
        head = [
            box_part((0, 0, -length + 1.75 * tall), (0.5 * depth, half, 0.25 * tall)),
            *(box_part((0, y, -length + 0.75 * tall), (0.002, 0.002, 0.75 * tall)) for y in teeth),
        ]
    return {
        "parts": (_stick(length - tall, radius), *head),
        "length": length,
        "half_width": half,
        "grip": 2 * radius,
    }


def _duster(rng: Rng, variant: str) -> dict[str, Any]:
    """A stick with a soft-looking bushy head: a roll, or a row of round puffs."""
    length, radius = rng.uniform(0.09, 0.15), rng.uniform(0.005, 0.009)
    puff, half = rng.uniform(0.014, 0.024), rng.uniform(0.02, 0.06)
    across = rotation_about(0, np.pi / 2)
    low = float(-length + puff)
    head = [
        Part(kind="capsule", size=(puff, half), position=(0.0, 0.0, low), rotation=across),
        Part(kind="sphere", size=(1.3 * puff,), position=(0.0, 0.0, low + 0.9 * puff)),
    ]
    if variant == "puffs":
        head = [
            Part(kind="sphere", size=(puff,), position=(0.0, float(y), low))
            for y in np.linspace(-half, half, 2 + int(half / puff))
        ]
    return {
        "parts": (_stick(length - puff, radius), *head),
        "length": length,
        "half_width": half + puff,
        "grip": 2 * radius,
    }


def _spatula(rng: Rng, variant: str) -> dict[str, Any]:
    """A handle with a leaning blade, whole or (fork) split into tines."""
    length, half = rng.uniform(0.09, 0.15), rng.uniform(0.03, 0.06)
    radius, tall, lean = rng.uniform(0.005, 0.008), rng.uniform(0.025, 0.04), rng.uniform(0.1, 0.5)
    R = rotation_about(1, lean)
    drop = tall * np.cos(lean) + 0.0015 * np.sin(lean)
    middles, wide = [0.0], half
    if variant == "fork":
        middles, wide = [k * half for k in (-0.85, -0.28, 0.28, 0.85)], 0.15 * half
    blade = [
        Part(
            kind="box",
            size=(0.0015, wide, tall),
            position=(0.0, float(y), float(-length + drop)),
            rotation=R,
        )
        for y in middles
    ]
    if variant == "fork":
        back = (float(tall * np.sin(lean)), 0.0, float(-length + drop + tall * np.cos(lean)))
        blade.append(box_part(back, (0.003, half, 0.004)))
    return {
        "parts": (_stick(length - tall, radius), *blade),
        "length": length,
        "half_width": half,
        "grip": 2 * radius,
    }


def _stick(length: float, radius: float) -> Part:
    """From 3 cm inside the hand down to `length` [m]."""
    half = (length + 0.03) / 2
    return Part(kind="cylinder", size=(radius, half), position=(0.0, 0.0, 0.03 - half))


_TOOLS = {"broom": _broom, "duster": _duster, "spatula": _spatula}


def _tool_scene(name: str, rng: Rng, shapes: str) -> SceneSpec | None:
    """Two to seven small things in front of the tool, sometimes beside its track."""
    table_height = draw_table_height(rng)
    variant = draw_variant(rng, name, shapes)
    facts = _TOOLS[name](rng, variant)
    heading = float(rng.uniform(-np.pi, np.pi))
    start = np.array([rng.uniform(0.38, 0.65), rng.uniform(-0.22, 0.22)])
    along = np.array([np.cos(heading), np.sin(heading)])
    across = np.array([-along[1], along[0]])
    items: list[ObjectSpec] = []
    for _ in range(int(rng.integers(2, 8))):
        item = small_object(rng, shapes, (0.008, 0.02))
        for _ in range(10):
            side = rng.uniform(-1.2, 1.2) * facts["half_width"]
            spot = start + rng.uniform(0.07, 0.2) * along + side * across
            if all(np.hypot(*(spot - other.position[:2])) > 0.05 for other in items):
                low = item.shape.bounds(item.rotation)[0][2]
                position = np.array([*spot, table_height - low + 0.001])
                items.append(replace(item, position=position))
                break
    tool = HeldTool(
        name=name,
        variant=variant,
        heading=heading,
        start=start,
        friction=float(rng.uniform(0.3, 0.8)),
        surface=draw_surface(rng),
        **facts,
    )
    return furnish(rng, tuple(items), table_height, props=(tool,), target_name=f"object_{name}")


def _sweep(rng: Rng, scene: SceneSpec, duration: float) -> Motion | None:
    """A straight or bent sweep along the table, or (one in eight) above it; it may end in a lift."""
    tool = scene.props[0]
    assert isinstance(tool, HeldTool)
    times = waypoint_times(LEAD, duration)
    travel = draw_travel(rng, times, float(rng.uniform(0.12, 0.4)))
    bend = float(rng.normal(0, 1.5)) if rng.random() < 0.5 else 0.0
    height = scene.table_height + tool.length + rng.uniform(*_CLEARANCE)
    if rng.random() < 0.125:
        height += rng.uniform(0.06, 0.15)
    points = bent_line(rng, np.array([*tool.start, height]), tool.heading, travel, bend)
    if rng.random() < 0.2:
        points[:, 2] += rng.uniform(0.03, 0.08) * smooth_step((times - 0.6) / 0.4)
    if not in_reach(points):
        return None
    yaw = tool.heading + bend * travel
    widths = np.full(len(times), tool.grip + 0.001)
    return Motion(
        family=tool.name, poses=tool_poses(points, yaw, 0.0, 0.0), widths=widths, lead=LEAD
    )


def _family(name: str) -> Family:
    def scene(rng: Rng, config: TabletopConfig) -> SceneSpec | None:
        return _tool_scene(name, rng, config.shapes)

    return Family(name=name, group="tool", draw_scene=scene, draw_motion=_sweep)


TOOLS: tuple[Family, ...] = tuple(_family(name) for name in _TOOLS)
