"""A clip as evaluation sees it: the sample of inference, and what the baselines know beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pointworld.data import Clip, FlowSample
from pointworld.data.sensor import SensorConfig
from pointworld.errors import InputError
from pointworld.geometry import transform_points, unproject
from pointworld.robot import RobotModel
from pointworld.train.baselines import HandMotion
from pointworld.train.metrics import came_to_rest
from pointworld.train.preparation import (
    SURFACE_SEED,
    Preparation,
    held_bodies,
    held_tools,
    prepared_sample,
)

Tensor = torch.Tensor

#: Surface points of the gripper for the baselines: about 4 mm apart.
DENSE_SURFACE = 4000


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationClip:
    """A sample with what the baselines need beside it.

    dense_points, dense_bodies: every depth pixel, (pixels, 3) [m] and (pixels,). objects: bodies that can move.
    held_bodies: see `pointworld.train.preparation.held_bodies`.
    """

    clip: Clip
    sample: FlowSample
    hand: HandMotion
    objects: tuple[int, ...]
    held_bodies: tuple[int, ...]
    dense_points: Tensor
    dense_bodies: Tensor

    @property
    def never_moves(self) -> Tensor:
        """(points,) bool: the point's body does not move during the clip."""
        return ~self.sample.on_moving_body

    @property
    def held(self) -> Tensor:
        """(points,) bool: the point is on a tool that is fixed to the hand, or on the robot."""
        return torch.isin(
            self.sample.body_ids, torch.tensor(self.held_bodies, dtype=self.sample.body_ids.dtype)
        )

    @property
    def came_to_rest(self) -> Tensor:
        """(points,) bool: the point's body has moved and lies still at the end."""
        return came_to_rest(self.sample.displacements, self.sample.body_ids)


def read_evaluation_clip(
    clip: Clip,
    robot: RobotModel,
    *,
    preparation: Preparation | None = None,
    sensor: SensorConfig | None = None,
) -> EvaluationClip:
    """Build the sample by the path of inference: the robot is masked by ray casting its description.

    Args:
        preparation: what the model demands of its samples; that of our own models, without image features, if None.
        sensor: a camera's errors, drawn by the clip's seed and index; None = perfect images.
    """
    sample = prepared_sample(clip, robot, preparation or Preparation(), sensor=sensor)
    dense = robot.flow(
        robot.sample_surface(DENSE_SURFACE, links="gripper", seed=SURFACE_SEED + 1),
        sample.joint_positions,
        step_dt=clip.step_dt,
    ).to(dtype=torch.float32)
    if dense.gripper_pose is None:
        raise InputError(
            f"the robot '{robot.name}' has no tool link; the baselines need its motion"
        )
    points, bodies = pixel_points(clip)
    dense_points, dense_bodies = torch.from_numpy(points).float(), torch.from_numpy(bodies)
    tools = torch.tensor(held_tools(clip), dtype=dense_bodies.dtype)
    hand = HandMotion(surface=dense.positions, normals=dense.normals, pose=dense.gripper_pose)
    return EvaluationClip(
        clip=clip,
        sample=sample,
        hand=hand.holding(dense_points[torch.isin(dense_bodies, tools)]),
        objects=(*clip.bodies_of_kind("object"), *clip.bodies_of_kind("soft")),
        held_bodies=held_bodies(clip),
        dense_points=dense_points,
        dense_bodies=dense_bodies,
    )


def pixel_points(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Every depth pixel of all views: (pixels, 3) points [m] and (pixels,) body ids."""
    points, bodies = [], []
    for view in clip.views:
        seen = (view.depth > 0) & (view.segmentation > 0)
        points.append(transform_points(view.T_world_cam, unproject(view.depth, view.K)[seen]))
        bodies.append(view.segmentation[seen].astype(np.int64) - 1)
    return np.concatenate(points), np.concatenate(bodies)
