"""A simulated scene as the world of the control loop, with true points: every scene point rides on its body."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pointworld.data.robot_tree import RobotTree
from pointworld.data.simulator import import_mujoco, index_model
from pointworld.errors import InputError
from pointworld.geometry import make_transform, quat_wxyz_to_matrix
from pointworld.plan.actions import Actions
from pointworld.plan.dynamics import PlanState
from pointworld.plan.simulator_dynamics import read_physics, servo_targets


class SimulatorWorld:
    """Starts where `state` is; holds its own simulation, so that planning in copies does not disturb it."""

    def __init__(self, model: Any, tree: RobotTree, state: PlanState) -> None:
        """Args: state: with `physics` and `point_bodies`.

        Raises:
            InputError: the state has no physics.
        """
        if state.physics is None or state.point_bodies is None:
            raise InputError("a simulated world needs a state with physics and point_bodies")
        mujoco = import_mujoco()
        self._model, self._tree, self._first = model, tree, state
        self._data = mujoco.MjData(model)
        mujoco.mj_setState(
            model, self._data, state.physics, int(mujoco.mjtState.mjSTATE_FULLPHYSICS)
        )
        mujoco.mj_forward(model, self._data)
        self._index = index_model(model, tree)
        self._start = np.linalg.inv(self._poses())

    def _poses(self) -> np.ndarray:
        mujoco = import_mujoco()
        mujoco.mj_kinematics(self._model, self._data)
        return make_transform(quat_wxyz_to_matrix(self._data.xquat), self._data.xpos)

    def observe(self) -> PlanState:
        """The true state: every point where its body carried it."""
        bodies = np.asarray(self._first.point_bodies)
        motion = (self._poses() @ self._start)[bodies]
        scene = self._first.scene
        points = scene.points.double().cpu().numpy()
        moved = (motion[:, :3, :3] @ points[..., None])[..., 0] + motion[:, :3, 3]
        normals = (motion[:, :3, :3] @ scene.normals.double().cpu().numpy()[..., None])[..., 0]
        return replace(
            self._first,
            scene=replace(
                scene,
                points=torch.from_numpy(moved).to(scene.points),
                normals=torch.from_numpy(normals).to(scene.normals),
            ),
            joint_positions=torch.from_numpy(self._data.qpos[self._index.arm].copy()),
            physics=read_physics(self._model, self._data),
        )

    def execute(self, actions: Actions, steps: int) -> None:
        """Let the servos follow the first `steps` of a motion."""
        mujoco = import_mujoco()
        targets = servo_targets(
            self._tree,
            actions.joint_positions[:1].detach().double().cpu().numpy(),
            step_dt=actions.step_dt,
            timestep=self._model.opt.timestep,
        )[0]
        for target in targets[: round(steps * actions.step_dt / self._model.opt.timestep)]:
            self._data.ctrl[:] = target
            mujoco.mj_step(self._model, self._data)
