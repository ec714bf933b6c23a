"""The joints between base and tool: tool pose and Jacobian in one pass, for many configurations at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from pointworld.errors import InputError
from pointworld.plan.rotations import skew
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
        local, ends = self._motions(q), self._ends.to(q)
        T = torch.eye(4, dtype=q.dtype, device=q.device).expand(*q.shape[:-1], 4, 4)
        before = []
        for motion in local.unbind(-3):
            before.append(T)
            T = T @ motion
        T = T @ self.tail.to(q)
        places, directions = (torch.stack(before, -3) @ ends)[..., :3, :].unbind(-1)
        turns = torch.tensor(self.revolute, device=q.device)[:, None]
        lever = torch.linalg.cross(directions, T[..., None, :3, 3] - places)
        linear = torch.where(turns, lever, directions)
        angular = torch.where(turns, directions, 0.0)
        return T, torch.cat([linear, angular], -1).transpose(-1, -2)

    def _motions(self, q: Tensor) -> Tensor:
        """(..., arm joints, 4, 4) from the frame after the previous joint to that after this one."""
        turns = torch.tensor(self.revolute, dtype=q.dtype, device=q.device)
        angle, slide = (q * turns)[..., None, None], (q * (1 - turns))[..., None]
        # Rodrigues' formula, with what does not depend on the angle known beforehand.
        still, sine, cosine = self._turns.to(q).unbind(1)
        R = still + angle.sin() * sine + (1 - angle.cos()) * cosine
        places, directions = self._ends.to(q)[:, :3].unbind(-1)
        t = places + slide * directions
        bottom = q.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*q.shape, 1, 4)
        return torch.cat([torch.cat([R, t[..., None]], -1), bottom], -2)

    @cached_property
    def _turns(self) -> Tensor:
        """(arm joints, 3, 3, 3) parts of a joint's rotation: as it stands, times sine, times one minus cosine."""
        R, K = self.origins[:, :3, :3], skew(self.axes)
        return torch.stack([R, R @ K, R @ K @ K], 1)

    @cached_property
    def _ends(self) -> Tensor:
        """(arm joints, 4, 2) a joint's place and axis in the frame after the previous joint, homogeneous."""
        axis = (self.origins[:, :3, :3] @ self.axes[..., None])[..., 0]
        axis = torch.cat([axis, torch.zeros_like(axis[:, :1])], -1)
        return torch.stack([self.origins[..., 3], axis], -1)
