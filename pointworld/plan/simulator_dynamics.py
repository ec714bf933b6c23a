"""The simulator as dynamics: what really happens in a simulated scene (an oracle that a planner can be measured by)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline

from pointworld.data.robot_tree import RobotTree
from pointworld.data.simulator import import_mujoco, servo_lag
from pointworld.errors import InputError
from pointworld.geometry import make_transform, quat_wxyz_to_matrix
from pointworld.plan.actions import Actions
from pointworld.plan.dynamics import PlanState
from pointworld.plan.trajectory import Trajectory

Tensor = torch.Tensor
#: Time over which the servo targets fade into a motion that starts at rest [s].
_FADE = 0.1


def read_physics(model: Any, data: Any) -> np.ndarray:
    """The full state vector of a MuJoCo simulation, for `PlanState.physics`."""
    mujoco = import_mujoco()
    kind = int(mujoco.mjtState.mjSTATE_FULLPHYSICS)
    state = np.zeros(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, state, kind)
    return state


def servo_targets(
    tree: RobotTree, joint_positions: np.ndarray, *, step_dt: float, timestep: float
) -> np.ndarray:
    """Targets (candidates, physics steps, joints) that make the servos follow joint paths (candidates, steps, joints).

    A cubic spline through the path plus what makes up for the servos' lag.
    """
    times = step_dt * np.arange(joint_positions.shape[1])
    count = round(times[-1] / timestep)
    t = timestep * (np.arange(count) + 1)
    spline = CubicSpline(times, joint_positions, axis=1, bc_type="natural")
    fade = np.clip(t / _FADE, 0.0, 1.0)[:, None]
    return np.asarray(spline(t) + fade * servo_lag(tree) * spline(t, 1))


@dataclass(frozen=True, kw_only=True, eq=False)
class SimulatorDynamics:
    """A compiled MuJoCo scene with the robot of `tree` (see pointworld.data.simulator.scene_model).

    The state must carry `physics` (from `read_physics`) and `point_bodies` (MuJoCo body ids). threads: candidates
    that are simulated at once; 0 = one per core. Candidates do not share anything: their order changes no result.
    """

    model: Any
    tree: RobotTree
    threads: int = 0

    def rollout(self, state: PlanState, actions: Actions) -> Trajectory:
        """See `Dynamics`.

        Raises:
            MissingExtraError: mujoco is not installed.
            InputError: the state is not one of this simulator, or the step is no multiple of the simulator's.
        """
        poses = self._body_poses(state, actions)
        bodies = np.asarray(state.point_bodies)
        motion = poses[:, :, bodies] @ np.linalg.inv(poses[:1, :1, bodies])
        points = state.scene.points.double().cpu().numpy()
        moved = (motion[..., :3, :3] @ points[..., None])[..., 0] + motion[..., :3, 3]
        positions = torch.from_numpy(moved).to(state.scene.points)
        return Trajectory(positions=positions, variance=None, actions=actions)

    def _body_poses(self, state: PlanState, actions: Actions) -> np.ndarray:
        """T_world_body (samples, steps, bodies, 4, 4) of all bodies."""
        mujoco = import_mujoco()
        from mujoco import rollout

        model = self.model
        self._check(state, actions)
        controls = servo_targets(
            self.tree,
            actions.joint_positions.detach().double().cpu().numpy(),
            step_dt=actions.step_dt,
            timestep=model.opt.timestep,
        )
        threads = min(self.threads or os.cpu_count() or 1, len(actions))
        with rollout.Rollout(nthread=threads) as pool:
            states, _ = pool.rollout(
                model,
                [mujoco.MjData(model) for _ in range(threads)],
                np.asarray(state.physics)[None],
                controls,
            )
        per_step = round(actions.step_dt / model.opt.timestep)
        states = states[:, per_step - 1 :: per_step]
        start = np.broadcast_to(np.asarray(state.physics), (len(actions), 1, states.shape[2]))
        return self._place(mujoco, np.concatenate([start, states], 1))

    def _place(self, mujoco: Any, states: np.ndarray) -> np.ndarray:
        model, data = self.model, mujoco.MjData(self.model)
        kind = int(mujoco.mjtState.mjSTATE_FULLPHYSICS)
        poses = np.zeros((*states.shape[:2], model.nbody, 7))
        for index in np.ndindex(states.shape[:2]):
            mujoco.mj_setState(model, data, states[index], kind)
            mujoco.mj_kinematics(model, data)
            poses[index] = np.concatenate([data.xpos, data.xquat], -1)
        # The world body's quaternion is the identity, so that all poses are proper ones.
        return make_transform(quat_wxyz_to_matrix(poses[..., 3:]), poses[..., :3])

    def _check(self, state: PlanState, actions: Actions) -> None:
        if state.physics is None or state.point_bodies is None:
            raise InputError(
                "the simulator needs its own state: give PlanState physics (read_physics) and point_bodies"
            )
        joints = actions.joint_positions.shape[-1]
        if joints != self.model.nu:
            raise InputError(
                f"actions move {joints} joints, the simulated robot has {self.model.nu}"
            )
        ratio = actions.step_dt / self.model.opt.timestep
        if abs(ratio - round(ratio)) > 1e-6:
            raise InputError(
                f"a step of {actions.step_dt} s is no multiple of the simulator's {self.model.opt.timestep} s"
            )
