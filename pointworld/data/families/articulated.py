"""A fixture on the table with one jointed body, and the motion of a hand that pushes, pulls or turns it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pointworld.data.motions import (
    LEAD,
    Motion,
    draw_travel,
    in_reach,
    smooth_step,
    waypoint_times,
)
from pointworld.data.robot_tree import RobotTree
from pointworld.data.scene_model import add_material, add_part
from pointworld.data.shapes import Part
from pointworld.data.simulator import OBJECT, ROBOT, import_mujoco
from pointworld.data.tabletop import Rng, SceneSpec, Surface
from pointworld.geometry import matrix_to_quat_wxyz


@dataclass(frozen=True, kw_only=True, eq=False)
class Joint:
    """One degree of freedom. hinge: turns about `axis` through `anchor`, else slides along `axis` (fixture frame).

    lower, upper, start: values [rad or m]; the parts are described at value 0. damping, friction: [Nms/rad or Ns/m]
    and [Nm or N].
    """

    hinge: bool
    anchor: np.ndarray
    axis: np.ndarray
    lower: float
    upper: float
    start: float
    damping: float
    friction: float

    def transform(self, value: float) -> np.ndarray:
        """(4, 4) that carries the moving parts from value 0 to `value`, in the fixture frame."""
        T = np.eye(4)
        if not self.hinge:
            T[:3, 3] = value * self.axis
            return T
        K = np.cross(np.eye(3), self.axis)
        R = np.eye(3) + np.sin(value) * K + (1 - np.cos(value)) * K @ K
        T[:3, :3], T[:3, 3] = R, self.anchor - R @ self.anchor
        return T


@dataclass(frozen=True, kw_only=True, eq=False)
class Articulated:
    """A fixture on the table and one body that moves against it.

    T_world_fixture: (4, 4). fixed, moving: parts in the fixture frame, the moving ones at joint value 0.
    tool: (4, 4) tool pose in the fixture frame that touches the moving body at the joint's start, before `gap` [m];
    sign: direction of the joint values along the motion; arm: path length per unit of joint value [m/rad or 1].
    follow: the hand turns with the body. width: opening of the gripper [m], or a grip (opening, closing to).
    """

    name: str
    variant: str
    T_world_fixture: np.ndarray
    fixed: tuple[Part, ...]
    moving: tuple[Part, ...]
    joint: Joint
    tool: np.ndarray
    sign: float
    arm: float
    gap: float
    follow: bool
    width: tuple[float, float]
    density: float
    friction: float
    surfaces: tuple[Surface, Surface]
    deformable: bool = False

    @property
    def shapes(self) -> Mapping[str, str]:
        return {f"object_{self.name}": f"{self.name}_{self.variant}"}

    def add(self, spec: Any, tree: RobotTree) -> None:
        """The fixture is part of the world; the moving body stands at the joint's start, which is joint value 0."""
        mujoco = import_mujoco()
        fixture = spec.worldbody.add_body(
            name=f"fixture_{self.name}",
            pos=self.T_world_fixture[:3, 3],
            quat=matrix_to_quat_wxyz(self.T_world_fixture[:3, :3]),
        )
        bounds = np.concatenate([part.support()[0] for part in self.moving])
        centre = (bounds.min(0) + bounds.max(0)) / 2
        T = self.joint.transform(self.joint.start)
        body = fixture.add_body(
            name=f"object_{self.name}",
            pos=(T @ np.append(centre, 1.0))[:3],
            quat=matrix_to_quat_wxyz(T[:3, :3]),
        )
        kind = mujoco.mjtJoint.mjJNT_HINGE if self.joint.hinge else mujoco.mjtJoint.mjJNT_SLIDE
        # Weights or springs balance it, so that it stays where it is left.
        body.gravcomp = 1.0
        body.add_joint(
            name=f"{self.name}_joint",
            type=kind,
            axis=self.joint.axis,
            pos=self.joint.anchor - centre,
            limited=mujoco.mjtLimited.mjLIMITED_TRUE,
            range=[self.joint.lower - self.joint.start, self.joint.upper - self.joint.start],
            damping=[self.joint.damping, 0.0, 0.0],
            frictionloss=self.joint.friction,
            armature=1e-4 if self.joint.hinge else 0.01,
        )
        for owner, parts, surface, shift in (
            (fixture, self.fixed, self.surfaces[0], np.zeros(3)),
            (body, self.moving, self.surfaces[1], centre),
        ):
            owner_name = f"{self.name}_{'moving' if owner is body else 'fixed'}"
            material = add_material(spec, owner_name, surface)
            for k, part in enumerate(parts):
                add_part(
                    spec,
                    owner,
                    _shifted(part, -shift),
                    f"{owner_name}{k}",
                    material=material,
                    density=self.density,
                    contype=OBJECT,
                    conaffinity=OBJECT | ROBOT,
                    condim=4,
                    friction=[self.friction, 0.005, 0.0005],
                )
        for other in (f"fixture_{self.name}", "table"):
            spec.add_exclude(bodyname1=other, bodyname2=f"object_{self.name}")

    def finish(self, model: Any) -> None:
        """Nothing is left to do."""


def _shifted(part: Part, by: np.ndarray) -> Part:
    x, y, z = np.array(part.position) + by
    return Part(
        kind=part.kind,
        size=part.size,
        position=(float(x), float(y), float(z)),
        rotation=part.rotation,
    )


def articulated_motion(rng: Rng, scene: SceneSpec, duration: float) -> Motion | None:
    """The hand along the path of the point it touches, from `gap` before it; a few pass by at a distance."""
    prop = scene.props[0]
    assert isinstance(prop, Articulated)
    times = waypoint_times(LEAD, duration)
    twist = prop.width[0] > prop.width[1]
    if twist:
        span = float(rng.uniform(0.5, 1.7))
        travel = span * smooth_step((times + 0.05) / duration)
    else:
        speed = float(rng.uniform(0.12, 0.4))
        # A hand that would arrive before time 0 starts at time 0.
        moving = times if prop.gap > 1.3 * LEAD * speed + 0.012 else np.maximum(times, 0.0)
        travel = draw_travel(rng, moving, speed) - prop.gap
    joint = prop.joint
    room = (joint.upper - joint.start) if prop.sign > 0 else (joint.start - joint.lower)
    room = room + 0.005 / prop.arm
    values = joint.start + prop.sign * np.minimum(travel / prop.arm, room)
    local = np.stack([_carry(joint, value) for value in values]) @ prop.tool
    if not prop.follow:
        local[:, :3, :3] = prop.tool[:3, :3]
    poses = prop.T_world_fixture @ local
    if rng.random() < 0.06:
        poses[:, 2, 3] += rng.uniform(0.1, 0.2)
    if not in_reach(poses[:, :3, 3]):
        return None
    close = smooth_step((times + LEAD) / 0.3)
    widths = prop.width[0] + (prop.width[1] - prop.width[0]) * close
    return Motion(family=prop.name, poses=poses, widths=widths, lead=LEAD)


def _carry(joint: Joint, value: float) -> np.ndarray:
    """(4, 4) that carries a point of the moving body from the joint's start to `value`."""
    moved: np.ndarray = joint.transform(value) @ np.linalg.inv(joint.transform(joint.start))
    return moved
