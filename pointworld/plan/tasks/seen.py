"""What a planner knows of a task: from the simulator itself, or from its cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree

from pointworld.data.render import RenderedView, SceneRenderer, world_triangles
from pointworld.data.sample import tabletop_workspace
from pointworld.data.tabletop import CameraSpec
from pointworld.encoders import ImageEncoder
from pointworld.errors import InputError
from pointworld.geometry import SUPPORT, transform_points
from pointworld.plan.costs import TaskPoints
from pointworld.plan.dynamics import Held, PlanState
from pointworld.plan.simulator_dynamics import read_physics
from pointworld.plan.tasks.following import NEAR, THIN, Follower
from pointworld.plan.tasks.held_view import HeldView
from pointworld.plan.tasks.register import Background, JointTracker
from pointworld.plan.tasks.shades import Shades
from pointworld.plan.tasks.strays import stray_points
from pointworld.plan.tasks.task import Judge, Task, body_poses, surface_of
from pointworld.robot import RobotModel
from pointworld.scene import build_scene
from pointworld.types import RGBDFrame, ScenePoints

Tensor = torch.Tensor

_TEMPLATE, _STILL_POINTS = 900, 40
#: A jointed thing has one way to go, so its place can be told to a millimetre, by a surface sampled that closely.
_JOINT_TEMPLATE = 12000
#: What the way of a rigid thing counts against its turn while one plans.
_MOVE = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """One look at a task.

    state: for the dynamics; `task_index` are the task points. goals: one per task point (chosen, 3) [m].
    grip_index: those of them that the hand should act on. still_index: points that should stay.
    error: mean distance to the goals over the whole target, seen or not [m]. points, places: the whole target's
    surface now and its goals (all, 3) [m], grip: (all,) where the hand should act. top: height of what stands
    around [m]. groups: (all,) which of several targets each belongs to, None = there is one. blocked: the arm gave way
    to what it pressed against since the last look. weights: of the task points (chosen,), None = all the same.
    """

    state: PlanState
    goals: Tensor
    grip_index: Tensor
    still_index: Tensor
    points: np.ndarray
    places: np.ndarray
    grip: np.ndarray
    top: float
    groups: np.ndarray | None = None
    blocked: bool = False
    weights: Tensor | None = None

    @property
    def owner(self) -> np.ndarray:
        """(all,) number of the target that a point of `points` belongs to."""
        return np.zeros(len(self.points), dtype=np.int64) if self.groups is None else self.groups

    @property
    def focus(self) -> np.ndarray:
        """(all,) where the hand should act, of the target that is farthest from its goal."""
        off = np.linalg.norm(self.points - self.places, axis=-1)
        means = [off[self.owner == k].mean() for k in range(int(self.owner.max()) + 1)]
        return np.asarray(self.grip & (self.owner == int(np.argmax(means))))

    @property
    def index(self) -> Tensor:
        """(chosen,) task points."""
        assert self.state.task_index is not None
        return self.state.task_index

    @property
    def task(self) -> TaskPoints:
        """What is left to do: the turns of what is pushed count more than its ways."""
        bodies = self.state.bodies
        move = 1.0 if bodies is None else _MOVE
        return TaskPoints(
            index=self.index, goals=self.goals, weights=self.weights, bodies=bodies, move=move
        )

    @property
    def error(self) -> float:
        return float(np.linalg.norm(self.points - self.places, axis=-1).mean())


def turns(task: Task) -> bool:
    """Whether the targets are things that the hand itself pushes and turns, unlike a door or a cloth."""
    cloth = task.kind == "deformable" and np.ptp(task.points[:, 2]) < THIN
    return task.kind != "articulated" and task.tool is None and not cloth


def _handles(task: Task) -> list[np.ndarray]:
    """(points, 3) of every target's handle [m]: none of one that may be pushed anywhere."""
    ends = np.cumsum([len(t.points) for t in task.targets])[:-1]
    grips = np.split(task.grip, ends)
    return [t.points[grip & ~grip.all()] for t, grip in zip(task.targets, grips, strict=True)]


def _fixed_top(task: Task, data: Any) -> float:
    """Height of the fixtures of a scene, which no point of target or others tells [m]."""
    triangles, owners, _ = world_triangles(task.model, data)
    fixed = [b for b in range(task.model.nbody) if task.model.body(b).name.startswith("fixture")]
    heights = triangles[np.isin(owners, fixed)][..., 2]
    return float(heights.max(initial=task.scene.table_height))


class TrueView:
    """The simulator's truth, without images: points on the target and on what should stay. For the oracle."""

    def __init__(self, task: Task) -> None:
        self._task, self._judge = task, Judge(task)
        data = task.restart()
        self._start = body_poses(data)
        surfaces = [surface_of(task.model, data, b, _STILL_POINTS, task.seed) for b in task.still]
        self._still = np.concatenate([np.zeros((0, 3)), *surfaces])
        self._bodies = np.repeat(np.array(task.still, dtype=np.int64), _STILL_POINTS)
        self._fixed_top = _fixed_top(task, data)

    def see(self, data: Any, joints: np.ndarray) -> Seen:
        """Args: data: the simulation now, with kinematics up to date. joints: (joints,) measured."""
        task = self._task
        moved = (body_poses(data) @ np.linalg.inv(self._start))[self._bodies]
        still = (moved[:, :3, :3] @ self._still[..., None])[..., 0] + moved[:, :3, 3]
        places = self._judge.positions(data)
        points = torch.from_numpy(np.concatenate([places, still])).float()
        count = len(places)
        up = torch.zeros_like(points)
        up[:, 2] = 1.0
        owners = np.concatenate([np.full(len(t.points), t.body) for t in task.targets])
        groups = np.repeat(np.arange(len(task.targets)), [len(t.points) for t in task.targets])
        state = PlanState(
            scene=ScenePoints(points=points, colors=torch.full_like(points, 0.5), normals=up),
            joint_positions=torch.from_numpy(joints),
            task_index=torch.arange(count),
            physics=read_physics(task.model, data),
            point_bodies=np.concatenate([owners, self._bodies]),
            bodies=torch.from_numpy(groups) if turns(task) else None,
        )
        return Seen(
            state=state,
            goals=torch.from_numpy(task.goals).float(),
            grip_index=torch.from_numpy(np.flatnonzero(task.grip)),
            still_index=torch.arange(count, len(points)),
            points=places,
            places=task.goals,
            grip=task.grip,
            top=max(float(points[:, 2].max()), self._fixed_top),
            groups=groups,
        )


class CameraView:
    """The scene points of the task's cameras, rebuilt at every look with the robot masked out.

    The target is found again by fitting its surface, as known from the task's selection, to the new points near where
    it was: it turns about the vertical and moves; jointed things stay on their joint's way.
    `track=False` takes its place from the simulator instead (true points with real images).
    """

    def __init__(
        self,
        task: Task,
        robot: RobotModel,
        *,
        encoder: ImageEncoder | None = None,
        track: bool = True,
    ) -> None:
        self._task, self._robot = task, robot
        self._encoder, self._track = encoder, track
        data = task.restart()
        self._start = body_poses(data)
        handles = _handles(task)
        known = [surface_of(task.model, data, t.body, _TEMPLATE, task.seed) for t in task.targets]
        self._surfaces = [np.concatenate(pair) for pair in zip(known, handles, strict=True)]
        self._grip = np.concatenate(
            [
                np.repeat((not len(h), True), (len(s), len(h)))
                for s, h in zip(known, handles, strict=True)
            ]
        )
        self._joints = [
            JointTracker(surface_of(task.model, data, t.body, _JOINT_TEMPLATE, task.seed), t.motion)
            for t in task.targets
            if task.kind == "articulated"
        ]
        tool = task.tool
        self._background = Background()
        self._held = None if tool is None else HeldView(tool.length, tool.half_width)
        self._thin = (
            task.kind == "deformable" and np.ptp(np.concatenate(self._surfaces)[:, 2]) < THIN
        )
        rigid = [t.body < task.model.nbody for t in task.targets]
        self._follower = Follower(
            self._surfaces,
            rigid=rigid,
            depth=0.0 if tool is None else tool.length,
        )
        self._shades: Shades | None = None

    def see(self, frames: Sequence[RGBDFrame], joints: np.ndarray, bodies: np.ndarray) -> Seen:
        """The task in pictures of one moment.

        Args:
            frames: posed in the base frame. joints: (joints,) measured then. bodies: (bodies, 4, 4) where the
                simulation has them then, of use without `track` only.

        Raises:
            InputError: the target cannot be found any more.
        """
        task = self._task
        scene = build_scene(
            frames,
            T_world_base=np.eye(4),
            workspace=tabletop_workspace(),
            robot=self._robot,
            joint_positions=joints,
            encoder=self._encoder,
        )
        points = scene.points.double().numpy()
        assert scene.clusters is not None
        free = (scene.clusters != SUPPORT).numpy() & ~stray_points(scene)
        tool = self._robot.tool_pose(torch.from_numpy(joints))
        mine = np.zeros(len(points), dtype=bool)
        if self._held is not None:
            mine[free] = self._held.find(points[free], tool.numpy())
        if self._thin:
            colors = scene.colors.double().numpy()
            if self._shades is None:
                self._shades = Shades(np.concatenate(self._surfaces), points, colors)
            free = self._shades.find(points, colors)
        self._update(bodies, points[free & ~mine], tool[:3, 3].numpy())
        moves = self._follower.moves
        whole = np.concatenate(
            [transform_points(T, s) for T, s in zip(moves, self._surfaces, strict=True)]
        )
        seen = find_targets(
            scene,
            joints,
            surfaces=self._surfaces,
            poses=moves,
            motions=[t.motion for t in task.targets],
            able=points[:, 2] > self._floor(whole),
            grip=self._grip,
            held=mine,
        )
        if seen is None:
            raise InputError(f"{task.name}/{task.seed}: the target is out of sight of all cameras")
        if not turns(task):
            seen = replace(seen, state=replace(seen.state, bodies=None))
        if not mine.any():
            return seen
        held = Held(index=torch.from_numpy(np.flatnonzero(mine)), T_base_tool=tool)
        return replace(seen, state=replace(seen.state, held=held))

    def _floor(self, whole: np.ndarray) -> float:
        """Points below this are the table, unless the target itself is as flat as the table."""
        lowest = self._task.scene.table_height
        return lowest + min(0.006, 0.3 * (float(whole[:, 2].max()) - lowest))

    def _update(self, bodies: np.ndarray, free: np.ndarray, tool: np.ndarray) -> None:
        """Where every target is now, as the motion from its start."""
        task = self._task
        if self._track:
            free = self._background.without(free, np.concatenate(self._surfaces))
        known: dict[int, np.ndarray] = {}
        for i, target in enumerate(task.targets):
            if not self._track and target.body < task.model.nbody:
                known[i] = bodies[target.body] @ np.linalg.inv(self._start[target.body])
            elif self._joints:
                known[i] = self._joints[i].find(free)
        self._follower.update([free] * len(task.targets), tool, known)


class SimulatedView:
    """What a task's cameras show of a simulation that stands still while they are rendered."""

    def __init__(
        self,
        task: Task,
        view: CameraView,
        renderer: SceneRenderer,
        *,
        depth_noise: float = 0.0015,
    ) -> None:
        """Args: depth_noise: standard deviation at 1 m, growing with the square of the distance [m]."""
        self._task, self._view, self._renderer = task, view, renderer
        self._noise, self._rng = depth_noise, np.random.default_rng([task.seed, 17])

    def see(self, data: Any, joints: np.ndarray) -> Seen:
        """Args: data: the simulation now, to be rendered. joints: (joints,) measured.

        Raises:
            InputError: the target cannot be found any more.
        """
        cameras = self._task.cameras
        rendered = self._renderer.render(self._task.model, data, cameras)
        pairs = enumerate(zip(cameras, rendered, strict=True))
        return self._view.see([self._frame(i, *p) for i, p in pairs], joints, body_poses(data))

    def _frame(self, number: int, camera: CameraSpec, view: RenderedView) -> RGBDFrame:
        depth = view.depth.astype(np.float64)
        depth = depth + self._noise * depth**2 * self._rng.standard_normal(depth.shape)
        valid = view.depth > 0
        return RGBDFrame(
            rgb=view.rgb,
            depth=np.where(valid, np.maximum(depth, 1e-3), 0.0).astype(np.float32),
            valid=valid,
            K=camera.K,
            T_world_cam=camera.T_world_cam,
            name=f"cam{number}",
            camera=f"cam{number}",
        )


def find_targets(
    scene: ScenePoints,
    joints: np.ndarray,
    *,
    surfaces: Sequence[np.ndarray],
    poses: Sequence[np.ndarray],
    motions: Sequence[np.ndarray],
    able: np.ndarray,
    grip: np.ndarray | None = None,
    held: np.ndarray | None = None,
    weights: Sequence[float] | None = None,
) -> Seen | None:
    """What a scene shows of targets whose places are known.

    Args:
        joints: (joints,) measured. surfaces: (samples, 3) of every target at its start. poses, motions: (4, 4) that
            carry them to where they are now, and to their goals. able: (points,) scene points that may belong to a
            target. grip: (all samples,) where the hand should act, None = anywhere. held: (points,) scene points that
            belong to a tool in the hand, None = there is none. weights: of the targets, None = all the same.

    Returns:
        None where fewer than three points of the scene lie on the targets.
    """
    points = scene.points.double().numpy()
    assert scene.clusters is not None
    free = (scene.clusters != SUPPORT).numpy() & ~stray_points(scene)
    surface = [transform_points(T, s) for T, s in zip(poses, surfaces, strict=True)]
    moves = [M @ np.linalg.inv(T) for M, T in zip(motions, poses, strict=True)]
    places = [transform_points(M, s) for M, s in zip(moves, surface, strict=True)]
    whole = np.concatenate(surface)
    owner = np.repeat(np.arange(len(surface)), [len(s) for s in surface])
    grip = np.ones(len(whole), dtype=bool) if grip is None else grip
    distance, nearest = cKDTree(whole).query(points)
    loose = np.ones(len(points), dtype=bool) if held is None else ~held
    index = np.flatnonzero((distance < NEAR) & able & loose)
    if len(index) < 3:
        return None
    carry = np.stack(moves)[owner[nearest[index]]]
    goals = (carry[:, :3, :3] @ points[index][..., None])[..., 0] + carry[:, :3, 3]
    gripped = grip[nearest[index]]
    rest = free & loose & (distance >= 2 * NEAR)
    state = PlanState(
        scene=scene,
        joint_positions=torch.from_numpy(joints),
        task_index=torch.from_numpy(index),
        bodies=torch.from_numpy(owner[nearest[index]]),
    )
    return Seen(
        state=state,
        goals=torch.from_numpy(goals).float(),
        grip_index=torch.from_numpy(index[gripped] if gripped.any() else index),
        still_index=torch.from_numpy(np.flatnonzero(rest)),
        points=whole,
        places=np.concatenate(places),
        grip=grip,
        top=float(max(points[rest, 2].max(initial=-1.0), whole[:, 2].max())),
        groups=owner,
        weights=None if weights is None else torch.tensor(weights)[owner[nearest[index]]],
    )
