"""Soft things on the table: a scarf (cloth) that is dragged or lifted, a pillow (soft body) that is pushed or squeezed.

Both are flexes of the simulator: a mesh of triangles whose vertices move freely (cloth), or with the corners of the
box around it (soft body). Every surface triangle is an affine map of time, so the motion of every pixel is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pointworld.data.families.base import Family, draw_table_height, scatter
from pointworld.data.families.variants import draw_variant
from pointworld.data.motions import (
    CLEARANCE,
    LEAD,
    TIP,
    Motion,
    bent_line,
    draw_travel,
    hand_yaw,
    in_reach,
    smooth_step,
    tool_poses,
    waypoint_times,
)
from pointworld.data.robot_tree import RobotTree
from pointworld.data.shapes import rotation_about
from pointworld.data.simulator import OBJECT, ROBOT, import_mujoco
from pointworld.data.tabletop import Rng, SceneSpec, TabletopConfig, draw_surface, furnish
from pointworld.geometry import matrix_to_quat_wxyz


@dataclass(frozen=True, kw_only=True, eq=False)
class Soft:
    """A flex. kind: its mesh (box, ellipsoid, cylinder, square or disc).

    count: vertices along each side; spacing: between them [m]; thin: it is a cloth. pose: centre (3,) and yaw.
    radius: by which its triangles are thick for contacts [m]. young, thickness: of the material [Pa, m].
    """

    name: str
    variant: str
    kind: str
    thin: bool
    count: tuple[int, int, int]
    spacing: tuple[float, float, float]
    centre: np.ndarray
    yaw: float
    radius: float
    mass: float
    young: float
    damping: float
    thickness: float
    friction: float
    rgb: tuple[float, float, float]
    deformable: bool = True

    @property
    def half(self) -> np.ndarray:
        """Half extents (3,) at rest [m]."""
        return (np.array(self.count) - 1) * np.array(self.spacing) / 2

    @property
    def shapes(self) -> Mapping[str, str]:
        return {f"object_{self.name}": f"{self.name}_{self.variant}"}

    def add(self, spec: Any, tree: RobotTree) -> None:
        """Its vertices, or the corners of the box around it, are bodies with three slides each.

        Every vertex of a cloth can be tied to the hand; the ties are inactive until the fingers close.
        """
        mujoco = import_mujoco()
        # The simulator's discs have the square of the half extent that they are given as radius.
        scale = 1 / np.sqrt(self.half[0]) if self.kind == "disc" else 1.0
        flex = spec.worldbody.make_flex(
            name=f"object_{self.name}",
            type=self.kind,
            dim=2 if self.thin else 3,
            dof="full" if self.thin else "trilinear",
            count=self.count,
            spacing=[scale * step for step in self.spacing],
            radius=self.radius,
            mass=self.mass,
            pos=self.centre,
            quat=matrix_to_quat_wxyz(rotation_about(2, self.yaw)),
        )
        flex.young, flex.poisson, flex.damping = self.young, 0.2, self.damping
        flex.thickness = self.thickness
        flex.elastic2d = 3 if self.thin else 0
        flex.contype, flex.conaffinity, flex.condim = OBJECT, OBJECT | ROBOT, 3
        flex.friction = [self.friction, 0.005, 0.0001]
        flex.selfcollide = mujoco.mjtFlexSelf.mjFLEXSELF_NONE
        flex.rgba = [*self.rgb, 1.0]
        for vertex in flex.vertbody if self.thin else ():
            tie = spec.add_equality(
                type=mujoco.mjtEq.mjEQ_CONNECT,
                objtype=mujoco.mjtObj.mjOBJ_BODY,
                name1=vertex,
                name2=tree.tool_link,
                solref=[0.01, 1.0],
            )
            tie.active = False

    def finish(self, model: Any) -> None:
        """Nothing is left to do."""


def soft_scene(
    name: str, rng: Rng, config: TabletopConfig, *, classes: str | None = None
) -> SceneSpec | None:
    """The soft thing on the table with up to two objects beside it. Args: classes: its own set, None = the config's."""
    table_height = draw_table_height(rng)
    variant = draw_variant(rng, name, classes or config.shapes)
    surface = draw_surface(rng)
    xy = np.array([rng.uniform(0.44, 0.64), rng.uniform(-0.16, 0.16)])
    facts = _scarf(rng, variant) if name == "scarf" else _pillow(rng, variant)
    count, spacing = np.array(facts["count"]), np.array(facts["spacing"])
    half = (count - 1) * spacing / 2
    low = half[2] + facts["radius"] + 0.0005
    prop = Soft(
        name=name,
        variant=variant,
        centre=np.array([*xy, table_height + low]),
        yaw=float(rng.uniform(-np.pi, np.pi)),
        rgb=surface.rgb,
        **facts,
    )
    keep_out = ((float(xy[0]), float(xy[1]), float(np.hypot(half[0], half[1])) + 0.01),)
    objects = scatter(rng, config, table_height, int(rng.integers(0, 3)), keep_out=keep_out)
    return furnish(rng, tuple(objects), table_height, props=(prop,), target_name=f"object_{name}")


def _scarf(rng: Rng, variant: str) -> dict[str, Any]:
    """A cloth of 15-30 cm: square-cornered or (napkin) round."""
    rows, columns = int(rng.integers(6, 9)), int(rng.integers(6, 9))
    step = float(rng.uniform(0.025, 0.036))
    if variant == "napkin":
        columns = rows
    return {
        "kind": "disc" if variant == "napkin" else "grid",
        "thin": True,
        "count": (rows, columns, 1),
        "spacing": (step, step, step),
        "radius": 0.003,
        "mass": float(rng.uniform(0.02, 0.08)),
        "young": float(np.exp(rng.uniform(np.log(1.5e5), np.log(5e5)))),
        "damping": 1e-2,
        "thickness": float(rng.uniform(8e-4, 2e-3)),
        "friction": float(rng.uniform(0.15, 0.6)),
    }


def _pillow(rng: Rng, variant: str) -> dict[str, Any]:
    """A soft body of 5-24 cm: box (cushion), ellipsoid (pillow) or lying cylinder-like roll (bolster)."""
    size = np.array([rng.uniform(0.11, 0.24), rng.uniform(0.05, 0.17), rng.uniform(0.045, 0.1)])
    count = (6, 5, 4)
    spacing = size / (np.array(count) - 1)
    return {
        "kind": {"cushion": "box", "pillow": "ellipsoid", "bolster": "cylinder"}[variant],
        "thin": False,
        "count": count,
        "spacing": tuple(float(v) for v in spacing),
        "radius": 0.002,
        "mass": float(rng.uniform(0.05, 0.3)),
        "young": float(np.exp(rng.uniform(np.log(4e3), np.log(4e4)))),
        "damping": 1e-2,
        "thickness": -1.0,
        "friction": float(rng.uniform(0.2, 0.7)),
    }


def _scarf_motion(rng: Rng, scene: SceneSpec, duration: float) -> Motion | None:
    """Fingertips close on the cloth and drag or lift it; some close beside it or slide over it."""
    cloth = scene.props[0]
    assert isinstance(cloth, Soft)
    times = waypoint_times(LEAD, duration)
    floor = scene.table_height + TIP + CLEARANCE
    heading = float(rng.uniform(-np.pi, np.pi))
    grip = None
    if rng.random() < 0.85:
        grip = float(rng.uniform(-0.08, 0.25))
        spot = _cloth_vertex(rng, cloth)
        # Beyond the cloth or between its vertices the fingers close on nothing.
        spot = spot + (rng.uniform(0.03, 0.06) if rng.random() < 0.08 else 0.0)
        move = smooth_step((times - grip - 0.03) / rng.uniform(0.8, 1.3))
        points = np.tile([*spot, floor], (len(times), 1))
        away = rng.uniform(0.04, 0.2) * np.array([np.cos(heading), np.sin(heading)])
        points[:, :2] += move[:, None] * away
        points[:, 2] += move * (0.0 if rng.random() < 0.4 else rng.uniform(0.03, 0.16))
        # The earlier it closes, the lower the hand starts.
        points[:, 2] += 0.06 * (grip + LEAD) * (1 - smooth_step((times + LEAD) / (grip + LEAD)))
        closing = smooth_step((times - grip + 0.12) / 0.15)
        widths = rng.uniform(0.02, 0.06) * (1 - closing) + 0.002 * closing
    else:
        reach = float(np.hypot(*cloth.half[:2])) + rng.uniform(0.0, 0.06)
        start = cloth.centre[:2] - reach * np.array([np.cos(heading), np.sin(heading)])
        travel = draw_travel(rng, times, float(rng.uniform(0.15, 0.45)))
        points = bent_line(rng, np.array([*start, floor]), heading, travel, rng.normal(0, 1.0))
        points[:, 2] += rng.uniform(0.02, 0.1) if rng.random() < 0.25 else 0.0
        widths = np.zeros(len(times))
    if not in_reach(points):
        return None
    yaw = np.full(len(times), hand_yaw(rng, heading))
    return Motion(
        family="scarf",
        poses=tool_poses(points, yaw, 0.0, 0.0),
        widths=widths,
        lead=LEAD,
        grip=grip,
    )


def _cloth_vertex(rng: Rng, cloth: Soft) -> np.ndarray:
    """Position (2,) on the table of a vertex of the cloth at rest [m], at the rim in half of the draws."""
    steps = np.array(cloth.count[:2]) - 1
    at = rng.integers(0, steps + 1)
    if rng.random() < 0.5:
        side = int(rng.integers(2))
        at[side] = steps[side] * int(rng.integers(2))
    local = (at / steps * 2 - 1) * cloth.half[:2]
    if cloth.kind == "disc":
        # The square's grid, pressed into a circle.
        square = max(float(np.abs(local).max()), 1e-9)
        local = local * square / max(float(np.linalg.norm(local)), 1e-9)
    return np.asarray(cloth.centre[:2] + rotation_about(2, cloth.yaw)[:2, :2] @ local)


def _pillow_motion(rng: Rng, scene: SceneSpec, duration: float) -> Motion | None:
    """A push from the side, a press from above, or a squeeze between the fingers that may lift."""
    body = scene.props[0]
    assert isinstance(body, Soft)
    times = waypoint_times(LEAD, duration)
    floor, top = scene.table_height + TIP + CLEARANCE, body.centre[2] + body.half[2]
    heading = float(rng.uniform(-np.pi, np.pi))
    kind = rng.random()
    if kind < 0.55:
        along = np.array([np.cos(heading), np.sin(heading)])
        local = rotation_about(2, -body.yaw)[:2, :2] @ along
        reach = float(np.min(body.half[:2] / np.maximum(np.abs(local), 1e-3)))
        side = rng.uniform(-0.6, 0.6) * float(body.half[:2].min())
        start = body.centre[:2] - (reach + rng.uniform(0.03, 0.09)) * along
        start = start + side * np.array([-along[1], along[0]])
        height = max(floor, scene.table_height + rng.uniform(0.2, 0.9) * 2 * float(body.half[2]))
        travel = draw_travel(rng, times, float(rng.uniform(0.12, 0.45)))
        points = bent_line(rng, np.array([*start, height]), heading, travel, rng.normal(0, 1.0))
        widths, yaw = np.full(len(times), float(rng.choice([0.0, 0.08]))), hand_yaw(rng, heading)
    elif kind < 0.75:
        spot = body.centre[:2] + rng.uniform(-0.5, 0.5, 2) * body.half[:2].min()
        down = smooth_step((times + rng.uniform(0.0, 0.2)) / rng.uniform(0.4, 0.8))
        points = np.tile([*spot, top + TIP + 0.015], (len(times), 1))
        points[:, 2] -= down * (0.015 + rng.uniform(0.3, 0.8) * 2 * float(body.half[2]))
        points[:, 2] = np.maximum(points[:, 2], floor)
        widths, yaw = np.full(len(times), float(rng.choice([0.0, 0.05]))), hand_yaw(rng, heading)
    else:
        # The tool's y axis lies across the fingers: along the narrow side, at an end of a wide one.
        if 2 * body.half[1] > 0.072:
            return None
        grip = (
            body.centre[:2]
            + rotation_about(2, body.yaw)[:2, 0] * rng.uniform(-0.6, 0.6) * (body.half[0])
        )
        lift = smooth_step((times - 0.35) / 0.7)
        points = np.tile([*grip, max(floor, top - 0.02)], (len(times), 1))
        points[:, 2] += lift * rng.uniform(0.0, 0.12)
        widths = 0.08 - 0.05 * smooth_step((times - 0.0) / 0.3)
        yaw = (body.yaw + np.pi / 2) % np.pi - np.pi / 2
    if not in_reach(points):
        return None
    poses = tool_poses(points, np.full(len(times), yaw), 0.0, 0.0)
    return Motion(family="pillow", poses=poses, widths=widths, lead=LEAD)


SOFT: tuple[Family, ...] = (
    Family(
        name="scarf",
        group="deformable",
        draw_scene=lambda rng, config: soft_scene("scarf", rng, config),
        draw_motion=_scarf_motion,
        settled_speed=0.05,
        settle_time=0.1,
    ),
    Family(
        name="pillow",
        group="deformable",
        draw_scene=lambda rng, config: soft_scene("pillow", rng, config),
        draw_motion=_pillow_motion,
        settled_speed=0.05,
    ),
)
