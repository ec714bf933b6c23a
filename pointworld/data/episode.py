"""One simulated motion: settle the objects, follow the joint path, record where everything is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pointworld.data.motions import WAYPOINT_DT, Motion
from pointworld.data.robot_tree import RobotTree
from pointworld.data.simulator import (
    ModelIndex,
    import_mujoco,
    index_model,
    servo_lag,
    set_joints,
)
from pointworld.data.tabletop import TabletopConfig

#: Vertices of soft bodies that are faster than this have burst; at time 0 they may already be pushed [m/s].
_MAX_VERTEX_SPEED, _MAX_VERTEX_START = 3.0, 0.6

#: A vertex of a cloth that is nearer than this to the middle of the fingertips is held by them [m].
_HOLD_RADIUS = 0.025


@dataclass(frozen=True, kw_only=True, eq=False)
class Episode:
    """What happened: qpos (steps, nq), body_poses (steps, bodies, 7), joint_positions (steps, joints), contact.

    vertices: (steps, vertices, 3) of all flexes [m].
    """

    qpos: np.ndarray
    body_poses: np.ndarray
    vertices: np.ndarray
    joint_positions: np.ndarray
    index: ModelIndex
    touched: bool


def simulate(
    model: Any,
    tree: RobotTree,
    path: np.ndarray,
    motion: Motion,
    config: TabletopConfig,
    *,
    settled_speed: float,
    settle_time: float,
) -> Episode | None:
    """Settle the objects, run the motion under the joint servos, record every step_dt from time 0.

    Returns None when the hand starts inside something, an object is not at rest at time 0 or leaves the world.
    """
    mujoco = import_mujoco()
    data = mujoco.MjData(model)
    index = index_model(model, tree)
    per_step = round(config.step_dt / config.timestep)
    lead_steps = round(motion.lead / config.timestep)
    controls = joint_controls(tree, path, config, lead_steps + per_step * config.horizon)
    set_joints(data, index, path[0])
    data.ctrl[:] = path[0]
    mujoco.mj_forward(model, data)
    # One more for the geom -1 of a contact with a flex.
    robot_geoms = np.append(np.isin(model.geom_bodyid, (*index.robot, *index.held)), False)
    if _touching(data, robot_geoms):
        return None
    mujoco.mj_step(model, data, nstep=round(settle_time / config.timestep))
    grip_step = None if motion.grip is None else lead_steps + round(motion.grip / config.timestep)
    records: list[tuple[np.ndarray, ...]] = []
    touched = False
    for step, control in enumerate(controls):
        if step == lead_steps and not _at_rest(model, data, index, settled_speed):
            return None
        if step >= lead_steps and (step - lead_steps) % per_step == 0:
            records.append(_record(data, index))
        if step >= lead_steps and step % 4 == 0 and not touched:
            touched = _touching(data, robot_geoms)
        if step == grip_step:
            touched = _hold(model, data, tree) or touched
        data.ctrl[:] = control
        mujoco.mj_step(model, data)
    records.append(_record(data, index))
    qpos, joints, poses, vertices = (np.stack(values) for values in zip(*records, strict=True))
    if _burst(vertices, config.step_dt):
        return None
    outside = poses[:, list(index.objects), :3]
    if not np.isfinite(qpos).all() or np.abs(outside).max(initial=0.0) > 1.6:
        return None
    return Episode(
        qpos=qpos,
        joint_positions=joints,
        body_poses=poses,
        vertices=vertices,
        index=index,
        touched=touched,
    )


def _hold(model: Any, data: Any, tree: RobotTree) -> bool:
    """Tie the cloth vertex nearest to the fingertips to the hand, where it is; False when none is near."""
    mujoco = import_mujoco()
    tool = int(model.body(tree.tool_link).id)
    kinds = (model.eq_type == mujoco.mjtEq.mjEQ_CONNECT) & (model.eq_obj2id == tool)
    ties = np.flatnonzero(kinds)
    if not len(ties):
        return False
    offsets = data.xpos[model.eq_obj1id[ties]] - data.xpos[tool]
    nearest = int(np.argmin(np.linalg.norm(offsets, axis=-1)))
    if np.linalg.norm(offsets[nearest]) > _HOLD_RADIUS:
        return False
    tie = ties[nearest]
    model.eq_data[tie, :3] = 0.0
    model.eq_data[tie, 3:6] = data.xmat[tool].reshape(3, 3).T @ offsets[nearest]
    data.eq_active[tie] = 1
    return True


def _burst(vertices: np.ndarray, step_dt: float) -> bool:
    """Whether a vertex (steps, vertices, 3) is lost or faster than _MAX_VERTEX_SPEED."""
    if not np.isfinite(vertices).all():
        return True
    speed = np.linalg.norm(np.diff(vertices, axis=0), axis=-1) / step_dt
    return bool(speed.max(initial=0.0) > _MAX_VERTEX_SPEED)


def joint_controls(
    tree: RobotTree, path: np.ndarray, config: TabletopConfig, steps: int
) -> np.ndarray:
    """Servo targets (steps, joints): the path, plus what makes up for the servos' lag, smoothly started."""
    from scipy.interpolate import CubicSpline

    spline = CubicSpline(np.arange(len(path)) * WAYPOINT_DT, path, bc_type="natural")
    t = np.minimum((np.arange(steps) + 1) * config.timestep, (len(path) - 1) * WAYPOINT_DT)
    start = np.clip(t / 0.1, 0.0, 1.0)[:, None]
    targets = spline(t) + start * servo_lag(tree) * spline(t, 1)
    fingers = np.sort(tree.finger_values)
    return np.concatenate(
        [targets[:, :-1], np.clip(spline(t)[:, -1:], fingers[0], fingers[-1])], -1
    )


def _record(data: Any, index: ModelIndex) -> tuple[np.ndarray, ...]:
    mujoco = import_mujoco()
    mujoco.mj_kinematics(data.model, data)
    if index.flexes:
        mujoco.mj_comPos(data.model, data)
        mujoco.mj_flex(data.model, data)
    poses = np.concatenate([data.xpos, data.xquat], -1)
    return data.qpos.copy(), data.qpos[index.arm].copy(), poses, data.flexvert_xpos.copy()


def _touching(data: Any, robot_geoms: np.ndarray) -> bool:
    contacts = data.contact
    if data.ncon == 0:
        return False
    pairs = np.asarray(contacts.geom).reshape(-1, 2)
    near = np.asarray(contacts.dist).ravel() < 1e-4
    return bool((robot_geoms[pairs].any(-1) & near).any())


def _at_rest(model: Any, data: Any, index: ModelIndex, limit: float) -> bool:
    for body in index.objects:
        dof, count = int(model.body_dofadr[body]), int(model.body_dofnum[body])
        velocity = data.qvel[dof : dof + count]
        if count == 6:
            speed = np.linalg.norm(velocity[:3]) + 0.06 * np.linalg.norm(velocity[3:])
        else:
            speed = 0.2 * np.linalg.norm(velocity)
        if speed > limit:
            return False
    for body in index.vertex_bodies:
        dof, count = int(model.body_dofadr[body]), int(model.body_dofnum[body])
        if float(np.linalg.norm(data.qvel[dof : dof + count])) > _MAX_VERTEX_START:
            return False
    return True
