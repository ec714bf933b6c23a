"""The kinematic tree and convex parts of a robot, as the simulator needs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class TreeJoint:
    """One joint: T_parent_child at zero is `origin` (4, 4); axis in the child frame; limits [rad or m].

    kind: revolute, continuous, prismatic or fixed. mimic: (leader joint, multiplier, offset), or None.
    """

    name: str
    parent: str
    child: str
    origin: np.ndarray
    kind: str
    axis: np.ndarray
    lower: float = 0.0
    upper: float = 0.0
    mimic: tuple[str, float, float] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class RobotTree:
    """joints in an order in which parents come first; parts: link -> convex (vertices, faces), link frame.

    joint_names: driven joints, in the order of the robot's joint vector. tool_link: tool centre point.
    """

    root: str
    joints: tuple[TreeJoint, ...]
    parts: Mapping[str, tuple[tuple[np.ndarray, np.ndarray], ...]]
    gripper_links: tuple[str, ...]
    tool_link: str
    joint_names: tuple[str, ...]
    velocity: np.ndarray
