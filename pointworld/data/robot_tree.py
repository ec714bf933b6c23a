"""The kinematic tree, convex parts and looks of a robot, as the simulator needs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import trimesh

from pointworld.errors import InputError
from pointworld.robot import RobotModel
from pointworld.robot.urdf import UrdfJoint


@dataclass(frozen=True, kw_only=True, eq=False)
class Solid:
    """A mesh in its link's frame: vertices (v, 3) [m], faces (f, 3), colour in 0-1."""

    vertices: np.ndarray
    faces: np.ndarray
    rgb: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Servo:
    """A position servo: kp [Nm/rad or N/m], kv [Nms/rad or Ns/m], largest torque or force [Nm or N]."""

    joint: str
    kp: float
    kv: float
    force: float


@dataclass(frozen=True, kw_only=True, eq=False)
class RobotTree:
    """joints: parents come first. collision (convex parts) and visual (what is seen): link -> solids.

    joint_names: driven joints, in the order of the robot's joint vector, the gripper's last; velocity: their limits.
    tool_link: tool centre point. home: (arm joints,) start of every search for joint positions [rad].
    servos: one per driven joint. finger_values, finger_widths: (samples,) gripper joint over opening [m], increasing
    in width. tool_turn: angle about the tool's z axis that brings its y axis across the fingers [rad].
    """

    root: str
    joints: tuple[UrdfJoint, ...]
    collision: Mapping[str, tuple[Solid, ...]]
    visual: Mapping[str, tuple[Solid, ...]]
    gripper_links: tuple[str, ...]
    tool_link: str
    joint_names: tuple[str, ...]
    velocity: np.ndarray
    home: np.ndarray
    servos: tuple[Servo, ...]
    finger_values: np.ndarray
    finger_widths: np.ndarray
    tool_turn: float

    @property
    def max_width(self) -> float:
        """Widest opening of the gripper [m]."""
        return round(float(self.finger_widths[-1]), 4)

    @property
    def linear_fingers(self) -> bool:
        """Each finger slides by half the opening."""
        return self.joints_by_name[self.joint_names[-1]].kind == "prismatic"

    @property
    def joints_by_name(self) -> dict[str, UrdfJoint]:
        return {joint.name: joint for joint in self.joints}

    def finger_position(self, width: np.ndarray | float) -> np.ndarray:
        """Gripper joint positions that open by `width` [m]; clipped to what is possible by a hinged gripper."""
        if self.linear_fingers:
            return np.asarray(width, dtype=np.float64) / 2
        return np.interp(width, self.finger_widths, self.finger_values)

    def finger_width(self, value: np.ndarray) -> np.ndarray:
        """Opening [m] at gripper joint positions."""
        if self.linear_fingers:
            return 2.0 * value
        order = np.argsort(self.finger_values)
        return np.interp(value, self.finger_values[order], self.finger_widths[order])

    def armature(self, joint: UrdfJoint) -> float:
        """Rotor inertia [kg m2] of a hinge or mass [kg] of a slide: small in the joints of a hinged gripper."""
        if joint.kind == "prismatic":
            return 0.5
        arm = joint.name in self.joint_names[:-1]
        return 0.1 if arm or self.linear_fingers else 0.005


#: Gain [Nm/rad], damping [Nms/rad] and torque limit [Nm] of position servos, from the shoulder to the wrist.
_ARMS = {
    7: tuple(
        zip(
            (4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0),
            (300.0, 300.0, 250.0, 250.0, 60.0, 60.0, 60.0),
            (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0),
            strict=True,
        )
    ),
    6: tuple(
        zip(
            (6000.0, 6000.0, 5000.0, 2500.0, 2000.0, 2000.0),
            (400.0, 400.0, 330.0, 120.0, 60.0, 60.0),
            (150.0, 150.0, 150.0, 28.0, 28.0, 28.0),
            strict=True,
        )
    ),
}
#: The same of a gripper: sliding fingers in N/m, Ns/m and N; a hinged linkage in Nm/rad, Nms/rad and Nm.
_SLIDING, _HINGED = (2000.0, 80.0, 35.0), (40.0, 1.6, 4.0)


def _servos(names: tuple[str, ...], finger: str) -> tuple[Servo, ...]:
    gains = (*_ARMS[len(names) - 1], _SLIDING if finger == "prismatic" else _HINGED)
    return tuple(
        Servo(joint=name, kp=kp, kv=kv, force=force)
        for name, (kp, kv, force) in zip(names, gains, strict=True)
    )


def robot_tree(robot: RobotModel) -> RobotTree:
    """What the simulator needs of a loaded robot: the very geometry that masks and robot flow are made from.

    Raises:
        InputError: the robot is not an arm of six or seven hinges with a gripper of one driven joint and a tool link.
    """
    driven = [joint for joint in robot.joints if joint.name in robot.joint_names]
    hinges = [joint.kind in ("revolute", "continuous") for joint in driven[:-1]]
    gripper = robot.gripper
    suits = (
        gripper is not None
        and robot.tool_link is not None
        and len(hinges) in _ARMS
        and all(hinges)
        and robot.joint_names[-1] == gripper.joint
    )
    if not suits or gripper is None or robot.tool_link is None:
        raise InputError(
            f"robot '{robot.name}' has the driven joints {list(robot.joint_names)} and the tool link "
            f"{robot.tool_link}; clips need six or seven arm hinges, then one gripper joint, and a tool link. "
            "Use fr3, panda_robotiq or ur5e_robotiq."
        )
    order = np.argsort(gripper.widths, kind="stable")
    visual: dict[str, tuple[Solid, ...]] = {}
    for item in robot.visuals:
        visual[item.link] = (*visual.get(item.link, ()), _solid(item.mesh))
    return RobotTree(
        root=robot.root_link,
        joints=robot.joints,
        collision={
            link: tuple(_solid(m) for m in meshes)
            for link, meshes in robot.collision_meshes.items()
        },
        visual=visual,
        gripper_links=robot.gripper_links,
        tool_link=robot.tool_link,
        joint_names=robot.joint_names,
        velocity=robot.velocity,
        home=np.asarray(robot.home[: len(hinges)], dtype=np.float64),
        servos=_servos(robot.joint_names, driven[-1].kind),
        finger_values=gripper.values[order],
        finger_widths=gripper.widths[order],
        tool_turn=0.0 if driven[-1].kind == "prismatic" else np.pi / 2,
    )


def _solid(mesh: trimesh.Trimesh) -> Solid:
    r, g, b = (float(v) / 255 for v in mesh.visual.main_color[:3])
    return Solid(vertices=np.asarray(mesh.vertices), faces=np.asarray(mesh.faces), rgb=(r, g, b))
