"""Links and joints as a checked kinematic tree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pointworld.errors import AssetError
from pointworld.robot.urdf import UrdfDescription, UrdfJoint


@dataclass(frozen=True, kw_only=True, eq=False)
class KinematicTree:
    """A valid robot.

    root: the base link. link_names: parents before children. joints: ordered like the links they lead to.
    actuated: names of the driven joints (file order; fixed and mimic joints left out).
    moving: names of all joints that move. coupling, offset: q_moving = coupling @ q_actuated + offset.
    """

    root: str
    link_names: tuple[str, ...]
    joints: tuple[UrdfJoint, ...]
    actuated: tuple[str, ...]
    moving: tuple[str, ...]
    coupling: np.ndarray
    offset: np.ndarray

    def joint(self, name: str) -> UrdfJoint:
        """The joint of that name."""
        return next(j for j in self.joints if j.name == name)


def check_tree(robot: UrdfDescription) -> KinematicTree:
    """Check that links and joints form one tree and resolve mimic joints.

    Raises:
        AssetError: duplicate names, unknown links, a link with two parents, several roots, cycles, or mimic joints
            that follow nothing or each other.
    """
    where = robot.source
    links = [link.name for link in robot.links]
    if not links:
        raise AssetError(f"{where}: no <link>, a robot needs at least one")
    for kind, names in (("link", links), ("joint", [j.name for j in robot.joints])):
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise AssetError(f"{where}: {kind} name(s) used more than once: {', '.join(twice)}")
    known = set(links)
    parents: dict[str, UrdfJoint] = {}
    for joint in robot.joints:
        for end in (joint.parent, joint.child):
            if end not in known:
                raise AssetError(
                    f"{where}: joint '{joint.name}' names the link '{end}', which does not exist"
                )
        if joint.child in parents:
            raise AssetError(
                f"{where}: link '{joint.child}' is the child of two joints ('{parents[joint.child].name}' and "
                f"'{joint.name}'), expected a tree"
            )
        parents[joint.child] = joint
    roots = [name for name in links if name not in parents]
    if len(roots) != 1:
        raise AssetError(_roots_message(where, roots))
    order = _depth_first(roots[0], robot.joints)
    lost = [name for name in links if name not in set(order)]
    if lost:
        raise AssetError(
            f"{where}: joints form a cycle through the links {', '.join(lost)}, expected a tree"
        )
    joints = tuple(parents[name] for name in order[1:])
    moving = tuple(j.name for j in robot.joints if j.kind != "fixed")
    actuated = tuple(j.name for j in robot.joints if j.kind != "fixed" and j.mimic is None)
    coupling, offset = _coupling(robot, moving, actuated)
    return KinematicTree(
        root=roots[0],
        link_names=tuple(order),
        joints=joints,
        actuated=actuated,
        moving=moving,
        coupling=coupling,
        offset=offset,
    )


def _roots_message(where: str, roots: list[str]) -> str:
    if not roots:
        return f"{where}: every link is the child of a joint (the joints form a cycle), expected one base link"
    return (
        f"{where}: {len(roots)} links have no parent ({', '.join(roots)}), expected exactly one base link. "
        "Join them with fixed joints."
    )


def _depth_first(root: str, joints: tuple[UrdfJoint, ...]) -> list[str]:
    children: dict[str, list[str]] = {}
    for joint in joints:
        children.setdefault(joint.parent, []).append(joint.child)
    order, stack = [], [root]
    while stack:
        link = stack.pop()
        order.append(link)
        stack.extend(reversed(children.get(link, [])))
    return order


def _coupling(
    robot: UrdfDescription, moving: tuple[str, ...], actuated: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Matrix (moving, actuated) and offset (moving,) with q_moving = A q_actuated + b."""
    joints = {j.name: j for j in robot.joints}
    coupling, offset = np.zeros((len(moving), len(actuated))), np.zeros(len(moving))
    for row, name in enumerate(moving):
        scale, shift, seen, joint = 1.0, 0.0, {name}, joints[name]
        while joint.mimic is not None:
            leader, multiplier, constant = joint.mimic
            if leader not in joints or joints[leader].kind == "fixed":
                raise AssetError(
                    f"{robot.source}: joint '{joint.name}' mimics '{leader}', which is not a moving joint"
                )
            if leader in seen:
                raise AssetError(
                    f"{robot.source}: mimic joints follow each other in a circle at '{leader}'"
                )
            shift, scale = shift + scale * constant, scale * multiplier
            seen.add(leader)
            joint = joints[leader]
        coupling[row, actuated.index(joint.name)] = scale
        offset[row] = shift
    return coupling, offset
