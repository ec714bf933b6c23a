"""A task in a simulated scene: what should go where, and the judge, who knows the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from pointworld.data.families.tools import HeldTool
from pointworld.data.render import world_triangles
from pointworld.data.robot_tree import RobotTree
from pointworld.data.simulator import import_mujoco
from pointworld.data.tabletop import CameraSpec, SceneSpec
from pointworld.geometry import make_transform, quat_wxyz_to_matrix, transform_points

Kind = Literal["rigid", "articulated", "deformable"]
#: Things that should stay may have moved by less than this [m].
STILL = 0.02
#: The goal must be held for this long [s].
HOLD = 1.0
#: A motion ends where this share of the tolerance is left, as seen: what cameras say is off by a little.
REACHED = 0.75
#: Largest error at success: mean distance of the task points [m], for hinges the angle [rad].
TOLERANCE = {"rigid": 0.02, "deformable": 0.03, "slide": 0.02, "hinge": float(np.radians(8.0))}


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """One thing to be moved.

    body: MuJoCo id of its body; for a flex the number of bodies + its index. points: (points, 3) of its surface at
    the start. motion: (4, 4) that carries them to their goals.
    """

    body: int
    points: np.ndarray
    motion: np.ndarray

    @property
    def goals(self) -> np.ndarray:
        """(points, 3) [m]."""
        return transform_points(self.motion, self.points)


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A scene at rest with the arm in it, and a goal.

    model: compiled scene. physics: its full state at the start. grip: (points,) whether the hand should act there,
    for all points of all targets in order. still: ids of bodies that should stay. hinge: address of the joint's
    value in the state and its value at the goal [rad], None for anything that is no hinge. tolerance: of the error.
    """

    name: str
    seed: int
    kind: Kind
    scene: SceneSpec
    cameras: tuple[CameraSpec, ...]
    image: tuple[int, int]
    tree: RobotTree
    model: Any
    physics: np.ndarray
    targets: tuple[Target, ...]
    grip: np.ndarray
    still: tuple[int, ...]
    hinge: tuple[int, float] | None
    tolerance: float

    @property
    def points(self) -> np.ndarray:
        """(points, 3) task points at the start [m]."""
        return np.concatenate([t.points for t in self.targets])

    @property
    def goals(self) -> np.ndarray:
        """(points, 3) [m]."""
        return np.concatenate([t.goals for t in self.targets])

    @property
    def tool(self) -> HeldTool | None:
        """What the hand holds."""
        return next((p for p in self.scene.props if isinstance(p, HeldTool)), None)

    def restart(self) -> Any:
        """MjData at the start."""
        mujoco = import_mujoco()
        data = mujoco.MjData(self.model)
        kind = int(mujoco.mjtState.mjSTATE_FULLPHYSICS)
        mujoco.mj_setState(self.model, data, self.physics, kind)
        mujoco.mj_forward(self.model, data)
        return data


def body_poses(data: Any) -> np.ndarray:
    """T_world_body (bodies, 4, 4) as last computed."""
    return make_transform(quat_wxyz_to_matrix(np.array(data.xquat)), np.array(data.xpos))


def surface_of(model: Any, data: Any, body: int, count: int, seed: int) -> np.ndarray:
    """(count, 3) points spread evenly over what is seen of a body or flex [m]."""
    triangles, owners, _ = world_triangles(model, data)
    mine = triangles[owners == body].astype(np.float64)
    rng = np.random.default_rng([seed, body])
    edges = mine[:, 1:] - mine[:, :1]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=-1)
    chosen = rng.choice(len(mine), count, p=area / area.sum())
    uv = rng.random((count, 2))
    uv = np.where(uv.sum(1, keepdims=True) > 1, 1 - uv, uv)
    return np.asarray(mine[chosen, 0] + (uv[:, :, None] * edges[chosen]).sum(1))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """error: in units of the task's tolerance, [m] or [rad]. distance: mean of the task points to their goals [m].

    moved: farthest that a thing which should stay has moved [m].
    """

    error: float
    distance: float
    moved: float
    tolerance: float

    @property
    def good(self) -> bool:
        return self.error <= self.tolerance and self.moved < STILL


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Of several moments, good only if every one is: the largest error, with its distance, and the largest motion."""
    largest = max(verdicts, key=lambda verdict: verdict.error)
    return replace(largest, moved=max(verdict.moved for verdict in verdicts))


class Judge:
    """Tells from the simulator's state how far a task is."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._start = body_poses(task.restart())
        self._soft = [self._anchors(t) for t in task.targets]

    def _anchors(self, target: Target) -> tuple[np.ndarray, np.ndarray] | None:
        """For a flex: the vertex nearest to every point, and the offset from it."""
        if target.body < self._task.model.nbody:
            return None
        vertices = np.array(self._task.restart().flexvert_xpos)
        nearest = np.linalg.norm(target.points[:, None] - vertices, axis=-1).argmin(1)
        return nearest, target.points - vertices[nearest]

    def positions(self, data: Any) -> np.ndarray:
        """(points, 3) where the task points are now [m]; kinematics must be up to date."""
        poses = body_poses(data)
        places = []
        for target, soft in zip(self._task.targets, self._soft, strict=True):
            if soft is not None:
                places.append(np.array(data.flexvert_xpos)[soft[0]] + soft[1])
                continue
            moved = poses[target.body] @ np.linalg.inv(self._start[target.body])
            places.append(transform_points(moved, target.points))
        return np.concatenate(places)

    def __call__(self, data: Any) -> Verdict:
        """How far the task is now."""
        task = self._task
        distance = float(np.linalg.norm(self.positions(data) - task.goals, axis=-1).mean())
        error = distance
        if task.hinge is not None:
            address, goal = task.hinge
            error = abs(float(data.qpos[address]) - goal)
        poses = body_poses(data)
        still = list(task.still)
        moved = np.linalg.norm(poses[still, :3, 3] - self._start[still, :3, 3], axis=-1)
        return Verdict(
            error=error,
            distance=distance,
            moved=float(moved.max(initial=0.0)),
            tolerance=task.tolerance,
        )
