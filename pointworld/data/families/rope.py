"""A rope on the table: a chain of capsules with ball joints that resist bending, swept sideways or lifted at an end.

Every capsule is a body of its own, so the motion of every pixel is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pointworld.data.families.base import Family, draw_table_height, scatter
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
from pointworld.data.scene_model import add_material
from pointworld.data.shapes import rotation_about
from pointworld.data.simulator import OBJECT, ROBOT, import_mujoco
from pointworld.data.tabletop import Rng, SceneSpec, Surface, TabletopConfig, draw_surface, furnish
from pointworld.geometry import matrix_to_quat_wxyz


@dataclass(frozen=True, kw_only=True, eq=False)
class Rope:
    """knots: (links + 1, 3) points of its axis [m]; radius [m]; bending stiffness and damping of every joint."""

    knots: np.ndarray
    radius: float
    density: float
    friction: float
    stiffness: float
    damping: float
    surface: Surface
    deformable: bool = False

    @property
    def shapes(self) -> Mapping[str, str]:
        return {f"object_rope{k}": "rope" for k in range(len(self.knots) - 1)}

    def add(self, spec: Any, tree: RobotTree) -> None:
        """The first capsule is free, every other hangs on its predecessor; the drawn curve is the relaxed one."""
        mujoco = import_mujoco()
        material = add_material(spec, "rope", self.surface)
        steps = np.diff(self.knots, axis=0)
        angles = np.arctan2(steps[:, 1], steps[:, 0])
        lengths = np.linalg.norm(steps, axis=1)
        parent, angle_before, length_before = spec.worldbody, 0.0, 0.0
        for k, (angle, length) in enumerate(zip(angles, lengths, strict=True)):
            body = parent.add_body(
                name=f"object_rope{k}",
                pos=self.knots[0] if k == 0 else [length_before, 0.0, 0.0],
                quat=matrix_to_quat_wxyz(rotation_about(2, angle - angle_before)),
            )
            if k == 0:
                body.add_freejoint()
            else:
                body.add_joint(
                    name=f"rope{k}",
                    type=mujoco.mjtJoint.mjJNT_BALL,
                    stiffness=[self.stiffness, 0.0, 0.0],
                    damping=[self.damping, 0.0, 0.0],
                    armature=1e-6,
                )
            body.add_geom(
                type=mujoco.mjtGeom.mjGEOM_CAPSULE,
                fromto=[0.0, 0.0, 0.0, length, 0.0, 0.0],
                size=[self.radius, 0.0, 0.0],
                density=self.density,
                material=material,
                contype=OBJECT,
                conaffinity=OBJECT | ROBOT,
                condim=4,
                friction=[self.friction, 0.005, 0.0005],
            )
            parent, angle_before, length_before = body, float(angle), float(length)

    def finish(self, model: Any) -> None:
        """Nothing is left to do."""


def _rope_scene(rng: Rng, config: TabletopConfig) -> SceneSpec | None:
    """A wavy rope of 30-50 cm and up to two objects beside it."""
    table_height = draw_table_height(rng)
    links, radius = int(rng.integers(14, 23)), float(rng.uniform(0.004, 0.008))
    step = rng.uniform(0.018, 0.024)
    s = np.arange(links)
    waves = rng.uniform(0.5, 2.0) * 2 * np.pi / links
    angles = rng.uniform(-np.pi, np.pi) + rng.uniform(0.0, 1.1) * np.sin(
        waves * s + rng.uniform(0, 2 * np.pi)
    )
    path = np.cumsum(step * np.stack([np.cos(angles), np.sin(angles)], -1), axis=0)
    path = np.concatenate([np.zeros((1, 2)), path])
    middle = np.array([rng.uniform(0.46, 0.62), rng.uniform(-0.12, 0.12)])
    path += middle - (path.min(0) + path.max(0)) / 2
    if path[:, 0].min() < 0.3 or path[:, 0].max() > 0.8 or np.abs(path[:, 1]).max() > 0.36:
        return None
    z = np.full((links + 1, 1), table_height + radius + 0.0005)
    rope = Rope(
        knots=np.concatenate([path, z], -1),
        radius=radius,
        density=float(rng.uniform(300, 1200)),
        friction=float(rng.uniform(0.3, 0.9)),
        stiffness=float(np.exp(rng.uniform(np.log(2e-4), np.log(6e-3)))),
        damping=float(rng.uniform(1e-4, 4e-4)),
        surface=draw_surface(rng),
    )
    keep_out = tuple((float(x), float(y), radius + 0.01) for x, y in path)
    objects = scatter(rng, config, table_height, int(rng.integers(0, 3)), keep_out=keep_out)
    name = f"object_rope{links // 2}"
    return furnish(rng, tuple(objects), table_height, props=(rope,), target_name=name)


def _rope_motion(rng: Rng, scene: SceneSpec, duration: float) -> Motion | None:
    """A sweep across a random link, or the fingers closing on one and carrying it away."""
    rope = scene.props[0]
    assert isinstance(rope, Rope)
    times = waypoint_times(LEAD, duration)
    floor = scene.table_height + TIP + CLEARANCE
    k = int(rng.integers(1, len(rope.knots) - 1))
    spot, step = rope.knots[k], rope.knots[k + 1] - rope.knots[k]
    along = float(np.arctan2(step[1], step[0]))
    if rng.random() < 0.65:
        heading = along + rng.choice([-1.0, 1.0]) * np.pi / 2 + rng.normal(0, 0.35)
        gap = rng.uniform(0.05, 0.12)
        start = np.array([*(spot[:2] - gap * np.array([np.cos(heading), np.sin(heading)])), floor])
        travel = draw_travel(rng, times, float(rng.uniform(0.15, 0.45)))
        bend = float(rng.normal(0, 1.0)) if rng.random() < 0.4 else 0.0
        points = bent_line(rng, start, heading, travel, bend)
        yaw, widths = np.full(len(times), hand_yaw(rng, heading)), np.zeros(len(times))
    else:
        opening = 2 * rope.radius + rng.uniform(0.015, 0.03)
        phase = times + rng.uniform(-0.05, 0.2)
        lift = smooth_step((phase - 0.35) / 0.8)
        points = np.tile([spot[0], spot[1], floor], (len(times), 1))
        points[:, 2] += lift * rng.uniform(0.0, 0.15) + 0.03 * (
            1 - smooth_step((phase + 0.2) / 0.3)
        )
        points[:, :2] += lift[:, None] * rng.normal(0, 0.1, 2)
        # The tool's y axis lies across the fingers: along the rope's width.
        folded = (along + np.pi / 2) % np.pi - np.pi / 2
        yaw = folded + rng.normal(0, 0.3) * lift
        widths = opening * (1 - smooth_step((phase - 0.05) / 0.25))
    if not in_reach(points):
        return None
    return Motion(family="rope", poses=tool_poses(points, yaw, 0.0, 0.0), widths=widths, lead=LEAD)


ROPE = Family(
    name="rope",
    group="deformable",
    draw_scene=_rope_scene,
    draw_motion=_rope_motion,
    settled_speed=0.03,
)
