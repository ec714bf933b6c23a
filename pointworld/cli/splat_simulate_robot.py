"""The robot of a prediction in a scene whose objects `pointworld splat simulate` moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from pointworld.cli.splat_future import Prediction, robot_mode, with_robot
from pointworld.cli.splat_pictures import Look
from splat.future import RigidParts, bind_future, future_scenes
from splat.raster import Rasterizer
from splat.types import GaussianScene

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class RobotInScene:
    """A scene with a robot that goes its way; an imagined robot's Gaussians come last.

    owner: (N,) int64 link of every Gaussian, -1 = none. parts: the links' motions, one step per frame.
    """

    scene: GaussianScene
    owner: Tensor
    parts: RigidParts

    def at(self, frame: int) -> GaussianScene:
        """The scene with the robot where it is at a frame."""
        parts = replace(self.parts, motions=self.parts.motions[frame : frame + 1])
        bound = bind_future(self.scene, self.scene.means[:1], parts=parts, owner=self.owner)
        return future_scenes(bound, torch.zeros(1, 1, 3))[0]


def robot_in_scene(
    scene: GaussianScene,
    prediction: Prediction,
    times: np.ndarray,
    mask: Tensor,
    *,
    looks: Sequence[Look],
    rasterizer: Rasterizer,
) -> RobotInScene | None:
    """The robot of a prediction at `times` (frames,) [s]; None where its joint path is not known.

    Joints go straight from step to step, and stand still after the last.

    Args:
        mask: (N,) bool, what is simulated: no part of the robot, however near it is.
        looks: the cameras that the scene was fitted to.
    """
    joints = prediction.result.joint_positions
    if joints is None or robot_mode(prediction) == "none":
        return None
    steps = np.arange(len(joints)) * prediction.result.step_dt
    path = np.stack([np.interp(times, steps, column) for column in joints.T], 1)
    joined, parts, owner, _ = with_robot(
        scene, prediction, path, looks=looks, rasterizer=rasterizer
    )
    assert parts is not None and owner is not None
    chosen = torch.zeros(len(joined), dtype=torch.bool)
    chosen[: len(mask)] = mask
    return RobotInScene(scene=joined, owner=torch.where(chosen, -1, owner), parts=parts)
