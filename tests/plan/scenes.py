"""Simulated scenes for planning tests: drawn, simulated and turned into plan states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pointworld.data import ClipGenerator, FlowSample, TabletopConfig, clip_to_sample
from pointworld.data.generate import Drawn
from pointworld.data.robot_tree import robot_tree
from pointworld.data.simulator import import_mujoco
from pointworld.data.tabletop import FAMILIES
from pointworld.plan.dynamics import PlanState
from pointworld.plan.simulator_dynamics import read_physics
from pointworld.robot import RobotModel


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A drawn scene, its sample and the state at time 0 with everything at rest."""

    drawn: Drawn
    sample: FlowSample
    state: PlanState
    model: Any


def push_scenes(robot: RobotModel, seed: int, count: int) -> list[Scene]:
    """Scenes in which the hand is about to push an object."""
    config = TabletopConfig(
        family_weights=tuple(1.0 if family == "push" else 0.0 for family in FAMILIES)
    )
    generator = ClipGenerator.create(robot_tree(robot), "fr3", config, "rays")
    return [_scene(generator, robot, seed, index) for index in range(count)]


def _scene(generator: ClipGenerator, robot: RobotModel, seed: int, index: int) -> Scene:
    mujoco = import_mujoco()
    drawn, clip = generator.draw(seed, index), generator.make(seed, index)
    sample = clip_to_sample(clip, robot)
    data = mujoco.MjData(drawn.model)
    data.qpos[:] = drawn.episode.qpos[0]
    data.ctrl[:] = drawn.episode.joint_positions[0]
    target = clip.body_names.index(f"object{drawn.scene.target}")
    state = PlanState(
        scene=sample.scene,
        joint_positions=torch.from_numpy(drawn.episode.joint_positions[0]),
        task_index=(sample.body_ids == target).nonzero()[:, 0],
        physics=read_physics(drawn.model, data),
        point_bodies=np.asarray(sample.body_ids) + 1,
    )
    return Scene(drawn=drawn, sample=sample, state=state, model=drawn.model)
