"""Two-finger grippers: the one driven joint and the width between the finger pads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pointworld.errors import AssetError, InputError
from pointworld.robot.assets import RobotFacts
from pointworld.robot.kinematics import TreeKinematics
from pointworld.robot.tree import KinematicTree

_SAMPLES = 2049
_WIDTH_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class Gripper:
    """Width over joint value, measured once by forward kinematics.

    joint: the driven joint. values: (samples,) its range, increasing. widths: (samples,) [m] at `values`,
    strictly monotone. Between samples both directions interpolate linearly (error below 0.1 micrometre).
    """

    joint: str
    values: np.ndarray
    widths: np.ndarray

    @property
    def max_width(self) -> float:
        """Widest opening [m]."""
        return float(self.widths.max())

    @property
    def open_value(self) -> float:
        """Joint value at the widest opening [rad or m]."""
        return float(self.values[int(self.widths.argmax())])

    @classmethod
    def measure(cls, facts: RobotFacts, tree: KinematicTree, kinematics: TreeKinematics) -> Gripper:
        """Sweep the gripper's joint and measure the distance of the two pads.

        Raises:
            AssetError: the joint has no limits, or the width does not change steadily with it.
        """
        name = str(facts.gripper_joint)
        joint = tree.joint(name)
        if not np.isfinite([joint.lower, joint.upper]).all() or joint.upper <= joint.lower:
            raise AssetError(
                f"gripper joint '{name}' needs finite limits, got {joint.lower} .. {joint.upper}"
            )
        values = np.linspace(joint.lower, joint.upper, _SAMPLES)
        q = torch.zeros(_SAMPLES, len(tree.actuated), dtype=torch.float64)
        q[:, tree.actuated.index(name)] = torch.from_numpy(values)
        poses = kinematics.link_poses(q).numpy()
        first, second = (
            poses[:, tree.link_names.index(link), :3] @ np.array([*point, 1.0])
            for link, point in facts.finger_pads.items()
        )
        gap = first - second
        # Signed along the open direction, so that pads that would pass through each other count as closed.
        widest = gap[int(np.linalg.norm(gap, axis=1).argmax())]
        widths = gap @ (widest / np.linalg.norm(widest))
        steps = np.diff(widths)
        if not ((steps > 0).all() or (steps < 0).all()):
            raise AssetError(
                f"the width between the finger pads does not grow steadily with '{name}'"
            )
        return cls(joint=name, values=values, widths=np.maximum(widths, 0.0))

    def width(self, value: torch.Tensor) -> torch.Tensor:
        """Width [m] at joint values of any shape; differentiable."""
        return _interpolate(value, self.values, self.widths)

    def joint_value(self, width: torch.Tensor) -> torch.Tensor:
        """Joint value that opens by `width` [m], any shape.

        Raises:
            InputError: below zero or above the maximum by more than 1 mm.
        """
        low, high = float(width.min()), float(width.max())
        if not (low >= -_WIDTH_TOLERANCE and high <= self.max_width + _WIDTH_TOLERANCE):
            raise InputError(
                f"gripper width {low if low < 0 else high:.4f} m, expected 0 .. {self.max_width:.4f} m"
            )
        order = np.argsort(self.widths, kind="stable")
        return _interpolate(width, self.widths[order], self.values[order])


def _interpolate(x: torch.Tensor, xs: np.ndarray, ys: np.ndarray) -> torch.Tensor:
    """Linear interpolation in increasing xs, clamped at the ends."""
    grid = torch.as_tensor(xs, dtype=x.dtype, device=x.device)
    value = torch.as_tensor(ys, dtype=x.dtype, device=x.device)
    x = x.clamp(float(xs[0]), float(xs[-1]))
    right = torch.searchsorted(grid, x.detach().contiguous(), right=True).clamp(1, len(xs) - 1)
    left = right - 1
    span = (grid[right] - grid[left]).clamp_min(torch.finfo(x.dtype).tiny)
    return value[left] + (value[right] - value[left]) * ((x - grid[left]) / span)
