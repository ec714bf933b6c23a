"""The joints between base and tool: tool pose and Jacobian in one pass, for many configurations at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pointworld.errors import InputError
from pointworld.plan.rotations import rotation_exp
from pointworld.robot import RobotModel

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class ArmChain:
    """The driven joints on the way to the tool.

    columns: (arm joints,) their places in the robot's joint vector. origins: (arm joints, 4, 4) from the frame after
    the previous joint to the frame before this one. axes: (arm joints, 3). revolute: (arm joints,) else prismatic.
    tail: (4, 4) from the last joint to the tool. lower, upper, velocity: (arm joints,) limits.
    """

    columns: tuple[int, ...]
    origins: Tensor
    axes: Tensor
    revolute: tuple[bool, ...]
    tail: Tensor
    lower: Tensor
    upper: Tensor
    velocity: Tensor

    @staticmethod
    def of(robot: RobotModel) -> ArmChain:
        """The chain of `robot`, float64 on the CPU.

        Raises:
            InputError: a joint on the way to the tool follows another joint, or there is no joint.
        """
        parents = {joint.child: joint for joint in robot.joints}
        path, link = [], robot.tool_link
        while link in parents:
            path.append(parents[link])
            link = parents[link].parent
        origins, axes, revolute, columns, pending = [], [], [], [], np.eye(4)
        for joint in reversed(path):
            pending = pending @ joint.origin
            if joint.kind == "fixed":
                continue
            if joint.name not in robot.joint_names:
                raise InputError(
                    f"robot '{robot.name}': joint '{joint.name}' between base and tool follows another joint; planning "
                    "needs driven joints there"
                )
            origins.append(pending)
            axes.append(joint.axis / np.linalg.norm(joint.axis))
            revolute.append(joint.kind != "prismatic")
            columns.append(robot.joint_names.index(joint.name))
            pending = np.eye(4)
        if not columns:
            raise InputError(f"robot '{robot.name}' has no driven joint before '{robot.tool_link}'")
        return ArmChain(
            columns=tuple(columns),
            origins=torch.from_numpy(np.stack(origins)),
            axes=torch.from_numpy(np.stack(axes)),
            revolute=tuple(revolute),
            tail=torch.from_numpy(pending),
            lower=torch.from_numpy(robot.lower[columns]),
            upper=torch.from_numpy(robot.upper[columns]),
            velocity=torch.from_numpy(robot.velocity[columns]),
        )

    def tool_and_jacobian(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """T_base_tool (..., 4, 4) and J (..., 6, arm joints), for arm joint positions q (..., arm joints).

        J maps joint speeds to the tool's velocity in base axes: rows 0-2 linear [m/s], rows 3-5 angular [rad/s].
        """
        origins, axes = self.origins.to(q), self.axes.to(q)
        R = torch.eye(3, dtype=q.dtype, device=q.device).expand(*q.shape[:-1], 3, 3)
        t = q.new_zeros(*q.shape[:-1], 3)
        places, directions = [], []
        for index, turns in enumerate(self.revolute):
            t = t + R @ origins[index, :3, 3]
            R = R @ origins[index, :3, :3]
            direction = R @ axes[index]
            places.append(t)
            directions.append(direction)
            if turns:
                R = R @ rotation_exp(q[..., index, None] * axes[index])
            else:
                t = t + direction * q[..., index, None]
        tail = self.tail.to(q)
        t, R = t + R @ tail[:3, 3], R @ tail[:3, :3]
        zero = torch.zeros_like(t)
        columns = [
            torch.cat([torch.linalg.cross(z, t - p), z] if turns else [z, zero], -1)
            for p, z, turns in zip(places, directions, self.revolute, strict=True)
        ]
        bottom = q.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*q.shape[:-1], 1, 4)
        T = torch.cat([torch.cat([R, t[..., None]], -1), bottom], -2)
        return T, torch.stack(columns, -1)
