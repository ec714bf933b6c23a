"""The simulator as dynamics: what really happens in a simulated scene (an oracle that a planner can be measured by)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline

from pointworld.data.robot_tree import RobotTree
from pointworld.data.simulator import (
    ModelIndex,
    import_mujoco,
    index_model,
    servo_lag,
    set_joints,
)
from pointworld.errors import InputError
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
    tree: RobotTree,
    joint_positions: np.ndarray,
    *,
    step_dt: float,
    timestep: float,
    speeds: np.ndarray | None = None,
) -> np.ndarray:
    """Targets (candidates, physics steps, joints) that make the servos follow joint paths (candidates, steps, joints).

    A cubic spline through the path plus what makes up for the servos' lag.

    Args:
        speeds: (candidates or 1, joints) that the servos run at already [rad/s]; None = at rest.
    """
    times = step_dt * np.arange(joint_positions.shape[1])
    count = round(times[-1] / timestep)
    t = timestep * (np.arange(count) + 1)
    fade = np.clip(t / _FADE, 0.0, 1.0)[:, None]
    if speeds is None:
        spline = CubicSpline(times, joint_positions, axis=1, bc_type="natural")
        return np.asarray(spline(t) + fade * servo_lag(tree) * spline(t, 1))
    first = np.broadcast_to(speeds, joint_positions[:, 0].shape)
    spline = CubicSpline(times, joint_positions, axis=1, bc_type=((1, first), (2, 0.0 * first)))
    pace = first[:, None] + fade * (spline(t, 1) - first[:, None])
    return np.asarray(spline(t) + servo_lag(tree) * pace)


@dataclass(frozen=True, kw_only=True, eq=False)
class SimulatorDynamics:
    """A compiled MuJoCo scene with the robot of `tree` (see pointworld.data.simulator.scene_model).

    The state must carry `physics` (from `read_physics`) and `point_bodies`: MuJoCo body ids, for points on a flex the
    number of bodies + its index. A candidate that starts at other joints than the state's is put there first, at
    rest. threads: candidates that are simulated at once; 0 = one per core. Candidates do not share anything: their
    order changes no result.
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
        self._check(state, actions)
        index = index_model(self.model, self.tree)
        starts = self._starts(state, actions, index)
        states, sent = self._simulate(starts, state, actions)
        points = state.scene.points.double().cpu().numpy()
        moved, arm = self._carry(points, np.asarray(state.point_bodies), states, index)
        # Fingers yield to what they hold; the arm's joints alone tell how hard it presses.
        strain = np.abs(arm - sent)[..., :-1].max(-1)
        return Trajectory(
            positions=torch.from_numpy(moved).to(state.scene.points),
            variance=None,
            actions=actions,
            strain=torch.from_numpy(strain).to(state.scene.points),
        )

    def _starts(self, state: PlanState, actions: Actions, index: ModelIndex) -> np.ndarray:
        """Full physics states (candidates, values) to start from."""
        mujoco = import_mujoco()
        starts = np.repeat(np.asarray(state.physics)[None], len(actions), 0)
        first = actions.joint_positions[:, 0].detach().double().cpu().numpy()
        away = np.abs(first - state.joint_positions.double().cpu().numpy()).max(-1) > 1e-6
        data = mujoco.MjData(self.model)
        kind = int(mujoco.mjtState.mjSTATE_FULLPHYSICS)
        for row in np.flatnonzero(away):
            mujoco.mj_setState(self.model, data, starts[row], kind)
            set_joints(data, index, first[row])
            data.qvel[index.dofs] = 0.0
            mujoco.mj_getState(self.model, data, starts[row], kind)
        return starts

    def _simulate(
        self, starts: np.ndarray, state: PlanState, actions: Actions
    ) -> tuple[np.ndarray, np.ndarray]:
        """States (candidates, steps, values), and where the servos were sent (candidates, steps, joints)."""
        mujoco = import_mujoco()
        from mujoco import rollout

        model = self.model
        sent = actions.joint_positions.detach().double().cpu().numpy()
        speeds = state.joint_velocities
        controls = servo_targets(
            self.tree,
            sent,
            step_dt=actions.step_dt,
            timestep=model.opt.timestep,
            speeds=None if speeds is None else speeds.double().cpu().numpy(),
        )
        threads = min(self.threads or os.cpu_count() or 1, len(actions))
        with rollout.Rollout(nthread=threads) as pool:
            states, _ = pool.rollout(
                model, [mujoco.MjData(model) for _ in range(threads)], starts, controls
            )
        per_step = round(actions.step_dt / model.opt.timestep)
        return np.concatenate([starts[:, None], states[:, per_step - 1 :: per_step]], 1), sent

    def _carry(
        self, points: np.ndarray, owners: np.ndarray, states: np.ndarray, index: ModelIndex
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where points of the first state are in all states (*states, points, 3), and the joints (*states, joints)."""
        mujoco = import_mujoco()
        model, data = self.model, mujoco.MjData(self.model)
        kind = int(mujoco.mjtState.mjSTATE_FULLPHYSICS)
        riders = _Riders(model, owners)
        moved = np.zeros((*states.shape[:2], *points.shape))
        joints = np.zeros((*states.shape[:2], len(index.arm)))
        for row in np.ndindex(states.shape[:2]):
            mujoco.mj_setState(model, data, states[row], kind)
            mujoco.mj_kinematics(model, data)
            if riders.soft:
                mujoco.mj_flex(model, data)
            if row == (0, 0):
                riders.mount(data, points)
            moved[row] = riders.places(data)
            joints[row] = data.qpos[index.arm]
        return moved, joints

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


class _Riders:
    """Points that ride on bodies, or with the nearest vertex of a flex."""

    def __init__(self, model: Any, owners: np.ndarray) -> None:
        self._bodies = np.unique(owners[owners < model.nbody])
        self._rows = [np.flatnonzero(owners == body) for body in self._bodies]
        self._flexes = [
            (
                np.flatnonzero(owners == model.nbody + k),
                int(model.flex_vertadr[k]) + np.arange(int(model.flex_vertnum[k])),
            )
            for k in range(model.nflex)
        ]
        self.soft = any(len(rows) for rows, _ in self._flexes)

    def mount(self, data: Any, points: np.ndarray) -> None:
        """Take the points (points, 3) up where they are now."""
        self._local = points.copy()
        self._vertex = np.zeros(len(points), dtype=np.int64)
        for body, rows in zip(self._bodies, self._rows, strict=True):
            R = data.xmat[body].reshape(3, 3)
            self._local[rows] = (points[rows] - data.xpos[body]) @ R
        for rows, vertices in self._flexes if self.soft else ():
            places = np.array(data.flexvert_xpos)[vertices]
            nearest = np.linalg.norm(points[rows, None] - places, axis=-1).argmin(1)
            self._vertex[rows] = vertices[nearest]
            self._local[rows] = points[rows] - places[nearest]

    def places(self, data: Any) -> np.ndarray:
        """(points, 3) where they are now."""
        out = np.empty_like(self._local)
        for body, rows in zip(self._bodies, self._rows, strict=True):
            R = data.xmat[body].reshape(3, 3)
            out[rows] = self._local[rows] @ R.T + data.xpos[body]
        for rows, _ in self._flexes if self.soft else ():
            out[rows] = data.flexvert_xpos[self._vertex[rows]] + self._local[rows]
        return out
