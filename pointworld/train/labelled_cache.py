"""Labelled recordings as the tensors of a cached sample; what has no label is marked, and gets no weight."""

from __future__ import annotations

import numpy as np
import torch

from pointworld.data.recordings import LabelledClip
from pointworld.errors import InputError
from pointworld.robot import RobotModel
from pointworld.train.preparation import Preparation, known_gripper

Tensor = torch.Tensor

#: A motion counts as moving beyond this at any point that follows it [m].
MOVING = 1e-3


def cache_labelled(
    clip: LabelledClip, robot: RobotModel, preparation: Preparation
) -> dict[str, Tensor]:
    """The tensors of one cached sample, without its names; `supervised` says where there is a label.

    Raises:
        InputError: the clip's joints are not the robot's.
    """
    if tuple(robot.joint_names) != clip.joint_names:
        raise InputError(
            f"clip {clip.key} was labelled with joints {list(clip.joint_names)}, the robot '{robot.name}' has "
            f"{list(robot.joint_names)}. Label it again with this description of the robot."
        )
    joints = torch.from_numpy(clip.joint_positions)
    flow = robot.flow(preparation.surface(robot), joints, step_dt=clip.step_dt)
    flow = flow.to(dtype=torch.float32)
    points = torch.from_numpy(clip.points)
    positions = clip.positions()
    moved = np.linalg.norm(positions - positions[:1], axis=-1).max(0) > MOVING
    moving = torch.zeros(clip.motions.shape[1], dtype=torch.bool)
    moving[torch.from_numpy(np.unique(clip.motion_ids[moved]))] = True
    reach = torch.stack([torch.cdist(points, r).min(-1).values for r in flow.positions])
    tensors = {
        "points": points,
        "colors": torch.from_numpy(clip.colors),
        "normals": torch.from_numpy(clip.normals).half(),
        "body_ids": torch.from_numpy(clip.motion_ids),
        "motions": torch.from_numpy(clip.motions).float(),
        "moving": moving,
        "held": torch.zeros_like(moving),
        "robot_positions": flow.positions,
        "robot_normals": flow.normals.half(),
        "gripper_open": known_gripper(flow.gripper_open),
        "reach": reach.min(0).values,
        "supervised": torch.from_numpy(clip.known),
    }
    if preparation.encoder is not None:
        tensors["features"] = preparation.image_features(points, clip.frames).half()
    return {name: value.contiguous() for name, value in tensors.items()}
