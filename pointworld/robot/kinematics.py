"""Batched forward kinematics of a tree through pytorch-kinematics.

The library ignores mimic joints, rejects much of what real URDFs contain and writes noise to stderr, so it only sees
a reduced description (links and joints), and all joints are expanded here: q_moving = A q_actuated + b.
Its constants are built in float32: link poses carry an error of about 1e-7 m even in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lxml import etree

from pointworld.robot.tree import KinematicTree
from pointworld.robot.urdf import UrdfJoint

_UNBOUNDED = 1e6


class TreeKinematics:
    """Forward kinematics with one chain per dtype and device, made when first asked for."""

    def __init__(self, tree: KinematicTree) -> None:
        self.tree = tree
        self._chains: dict[tuple[torch.dtype, torch.device], _Chain] = {}

    def link_poses(self, q: torch.Tensor) -> torch.Tensor:
        """T_base_link of all links.

        Args:
            q: (*batch, actuated) floating [rad or m].

        Returns:
            (*batch, links, 4, 4) in the order of `tree.link_names`, dtype and device of q; differentiable.
        """
        key = (q.dtype, q.device)
        if key not in self._chains:
            self._chains[key] = _Chain(self.tree, q.dtype, q.device)
        chain = self._chains[key]
        batch = q.shape[:-1]
        flat = q.reshape(batch.numel(), q.shape[-1])
        if chain.forward is None or flat.shape[0] == 0:
            still = torch.eye(4, dtype=q.dtype, device=q.device)
            return still.expand(*batch, len(self.tree.link_names), 4, 4)
        joints = flat @ chain.coupling.T + chain.offset
        poses = chain.forward(joints)[chain.frames].transpose(0, 1)
        return poses.reshape(*batch, len(self.tree.link_names), 4, 4)


class _Chain:
    """A pytorch-kinematics chain with the coupling in its joint order and its frames in ours."""

    def __init__(self, tree: KinematicTree, dtype: torch.dtype, device: torch.device) -> None:
        self.forward: Any = None
        if not tree.joints:
            return
        import pytorch_kinematics as pk

        chain = pk.build_chain_from_urdf(_reduced_urdf(tree)).to(dtype=dtype, device=device)
        order = [tree.moving.index(name) for name in chain.get_joint_parameter_names()]
        self.coupling = torch.as_tensor(tree.coupling[order], dtype=dtype, device=device)
        self.offset = torch.as_tensor(tree.offset[order], dtype=dtype, device=device)
        self.frames = chain.get_frame_indices(*tree.link_names).to(device)
        self.forward = chain.forward_kinematics_tensor


def _reduced_urdf(tree: KinematicTree) -> bytes:
    """Links and joints only, with every joint independent and bounded."""
    root = etree.Element("robot", name="robot")
    for name in tree.link_names:
        etree.SubElement(root, "link", name=name)
    for joint in tree.joints:
        _reduced_joint(root, joint)
    return bytes(etree.tostring(root))


def _reduced_joint(root: Any, joint: UrdfJoint) -> None:
    kind = "revolute" if joint.kind == "continuous" else joint.kind
    element = etree.SubElement(root, "joint", name=joint.name, type=kind)
    etree.SubElement(element, "parent", link=joint.parent)
    etree.SubElement(element, "child", link=joint.child)
    rpy = matrix_to_rpy(joint.origin[:3, :3])
    etree.SubElement(element, "origin", xyz=_text(joint.origin[:3, 3]), rpy=_text(rpy))
    if kind == "fixed":
        return
    etree.SubElement(element, "axis", xyz=_text(joint.axis))
    bound = repr(_UNBOUNDED)
    etree.SubElement(element, "limit", lower=f"-{bound}", upper=bound, velocity=bound, effort=bound)


def matrix_to_rpy(R: np.ndarray) -> np.ndarray:
    """URDF roll, pitch, yaw [rad] of a rotation (3, 3); at pitch +-90 degrees the roll is zero."""
    pitch = np.arctan2(-R[2, 0], np.hypot(R[0, 0], R[1, 0]))
    if abs(abs(pitch) - np.pi / 2) < 1e-7:
        return np.array([0.0, pitch, np.arctan2(-R[0, 1], R[1, 1])])
    return np.array([np.arctan2(R[2, 1], R[2, 2]), pitch, np.arctan2(R[1, 0], R[0, 0])])


def _text(values: np.ndarray) -> str:
    return " ".join(repr(float(v)) for v in values)
