"""From a drawn scene to a task: everything at rest, the arm in its place, the goal within reach."""

from __future__ import annotations

from typing import Any

import numpy as np

from pointworld.data.families.articulated import Articulated
from pointworld.data.families.tools import HeldTool
from pointworld.data.ik import ArmKinematics
from pointworld.data.motions import tool_rotation
from pointworld.data.robot_tree import RobotTree
from pointworld.data.scene_model import scene_model
from pointworld.data.simulator import ModelIndex, import_mujoco, index_model, set_joints
from pointworld.data.tabletop import Rng, TabletopConfig, draw_cameras
from pointworld.errors import InputError, PointWorldError
from pointworld.plan.simulator_dynamics import read_physics
from pointworld.plan.tasks.draw import FAR, TASKS, Draft
from pointworld.plan.tasks.push_paths import THIN
from pointworld.plan.tasks.task import STILL, TOLERANCE, Target, Task, body_poses, surface_of

_POINTS, _TRIES, _SETTLE = 120, 400, 0.6
#: Points among which those of a handle are found.
_CLOSE_POINTS = 6000
#: Distances from the base at which the upright hand works low over the table [m].
_NEAREST, _FARTHEST = 0.37, 0.74


def make_task(name: str, seed: int, tree: RobotTree, *, timestep: float = 0.005) -> Task:
    """Task `seed` of a family; the same seed gives the same task.

    Args:
        timestep: of the simulator [s].

    Raises:
        InputError: unknown family.
        PointWorldError: no usable scene in many draws.
    """
    if name not in TASKS:
        raise InputError(f"task is '{name}', expected one of {', '.join(TASKS)}")
    rng = np.random.default_rng([seed, *name.encode()])
    config = TabletopConfig(shapes="test", timestep=timestep, min_cameras=3, max_cameras=3)
    arm = ArmKinematics(tree)
    for _ in range(_TRIES):
        draft = TASKS[name](rng, config)
        if draft is None:
            continue
        task = _settle(rng, draft, config, arm, name, seed)
        if task is not None:
            return task
    raise PointWorldError(f"task {name}/{seed}: no usable scene in {_TRIES} draws")


def _settle(
    rng: Rng, draft: Draft, config: TabletopConfig, arm: ArmKinematics, name: str, seed: int
) -> Task | None:
    """Simulate until all is at rest; None when it does not stay, or the arm cannot start."""
    mujoco = import_mujoco()
    tree, scene = arm.tree, draft.scene
    joints = _start_joints(rng, draft, arm)
    if joints is None:
        return None
    cameras = draw_cameras(rng, config, scene.table_height)
    model = scene_model(tree, scene, cameras, config)
    data, index = mujoco.MjData(model), index_model(model, tree)
    set_joints(data, index, joints)
    data.ctrl[:] = joints
    mujoco.mj_forward(model, data)
    before = body_poses(data)
    mujoco.mj_step(model, data, nstep=round(_SETTLE / config.timestep))
    mujoco.mj_forward(model, data)
    loose = [i for i in index.objects if i not in index.held]
    drift = np.linalg.norm(body_poses(data)[loose, :3, 3] - before[loose, :3, 3], axis=-1)
    if drift.max(initial=0.0) > STILL / 2 or np.abs(data.qvel).max() > 0.2:
        return None
    targets = tuple(_target(model, data, draft, body, seed) for body in draft.motions)
    goals = np.concatenate([t.goals - t.points for t in targets])
    if draft.kind != "articulated" and np.linalg.norm(goals, axis=-1).mean() < FAR:
        return None
    points = np.concatenate([t.points for t in targets])
    grip = _grip(draft, points)
    owner = np.repeat(np.arange(len(targets)), [len(t.points) for t in targets])
    pressed = draft.kind == "deformable" and bool(np.ptp(points[:, 2]) < THIN)
    for k in range(len(targets)):
        mine = grip & (owner == k)
        room = 0.0 if pressed else 0.035
        if not mine.any() or not _reachable(points[mine], goals[mine], behind=room):
            return None
    return Task(
        name=name,
        seed=seed,
        kind=draft.kind,
        scene=scene,
        cameras=cameras,
        image=(config.height, config.width),
        tree=tree,
        model=model,
        physics=read_physics(model, data),
        targets=targets,
        grip=grip,
        still=_still(index, targets),
        hinge=_hinge(model, data, draft),
        tolerance=_tolerance(draft),
    )


def _start_joints(rng: Rng, draft: Draft, arm: ArmKinematics) -> np.ndarray | None:
    """The hand above the table with closed fingers, or around the handle of its tool."""
    scene = draft.scene
    held = next((p for p in scene.props if isinstance(p, HeldTool)), None)
    below = held.length if held is not None else 0.0
    T = np.eye(4)
    T[:3, :3] = tool_rotation(0.0, 0.0, 0.0)
    T[:3, 3] = rng.uniform(0.38, 0.46), rng.uniform(-0.1, 0.1), scene.table_height + below + 0.26
    width = held.grip + 0.001 if held is not None else 0.0
    start = np.append(arm.tree.home, arm.tree.finger_position(width))
    return arm.solve(T, start, iterations=150)


def _reachable(points: np.ndarray, way: np.ndarray, *, behind: float) -> bool:
    """Whether the hand can be behind the target at its start and goal without folding the arm or stretching it."""
    step = way.mean(0)[:2]
    ahead = step / max(float(np.linalg.norm(step)), 1e-9)
    centre = points.mean(0)[:2]
    back = float(((points[:, :2] - centre) @ ahead).min()) - behind if behind else 0.0
    away = [float(np.hypot(*(centre + back * ahead + share * step))) for share in (0.0, 1.0)]
    return min(away) > _NEAREST and max(away) < _FARTHEST


def _target(model: Any, data: Any, draft: Draft, name: str, seed: int) -> Target:
    mujoco = import_mujoco()
    body = int(mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name))
    if body < 0:
        body = model.nbody + int(mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_FLEX, name))
    points = surface_of(model, data, body, _POINTS, seed)
    if draft.grip is not None:
        # A handle is small against the whole: its outline needs points of its own.
        close = surface_of(model, data, body, _CLOSE_POINTS, seed + 1)
        points = np.concatenate([points, close[_grip(draft, close)][:_POINTS]])
    return Target(body=body, points=points, motion=draft.motions[name])


def _grip(draft: Draft, points: np.ndarray) -> np.ndarray:
    """Which task points the hand should act on: all, or those of a handle."""
    if draft.grip is None:
        return np.ones(len(points), dtype=bool)
    prop = draft.scene.props[0]
    assert isinstance(prop, Articulated)
    T = np.linalg.inv(prop.T_world_fixture)
    local = points @ T[:3, :3].T + T[:3, 3]
    lower, upper = draft.grip
    return np.asarray(((local > lower) & (local < upper)).all(1))


def _still(index: ModelIndex, targets: tuple[Target, ...]) -> tuple[int, ...]:
    moving = {t.body for t in targets} | set(index.held)
    return tuple(i for i in index.objects if i not in moving)


def _hinge(model: Any, data: Any, draft: Draft) -> tuple[int, float] | None:
    if draft.joint is None or not draft.joint[2]:
        return None
    # The compiled joint is zero at the start.
    return int(model.joint(draft.joint[0]).qposadr[0]), draft.joint[1]


def _tolerance(draft: Draft) -> float:
    if draft.joint is None:
        return TOLERANCE[draft.kind]
    return TOLERANCE["hinge" if draft.joint[2] else "slide"]
