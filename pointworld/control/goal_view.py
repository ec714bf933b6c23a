"""What a planner knows of a goal.json while it runs: the chosen things, found again in every look of the cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial import cKDTree

from pointworld.control.goal_cloth import FLAT, find_cloth
from pointworld.encoders import ImageEncoder
from pointworld.errors import InputError
from pointworld.geometry import SUPPORT, fit_rigid
from pointworld.plan.goal import Goal, StillGoal
from pointworld.plan.goal_points import ResolvedSet, resolve_goal
from pointworld.plan.tasks.following import Follower
from pointworld.plan.tasks.register import Background
from pointworld.plan.tasks.seen import Seen, find_targets
from pointworld.plan.tasks.shades import Shades
from pointworld.plan.tasks.strays import stray_points
from pointworld.robot import RobotModel
from pointworld.scene import Workspace, build_scene
from pointworld.types import Capture, RGBDFrame, ScenePoints

#: Fine points within this of a chosen one belong to its thing [m].
_NEAR = 0.012
#: Spacing of the points that stand for a thing's surface [m].
_FINE = 0.006
#: A choice of fewer points than this (single clicks) grows to the piece of the scene around it, up to `_REACH` [m].
_LEAST, _REACH = 12, 0.10


@dataclass(frozen=True, kw_only=True, eq=False)
class _Thing:
    """What should move. surface: (samples, 3) at the start. motion: (4, 4) that carries it to its goal.

    weight: of its points against those of other things. shades: of a cloth; None for what stands out of the table.
    """

    name: str
    surface: np.ndarray
    motion: np.ndarray
    weight: float
    shades: Shades | None


class GoalTracker:
    """Resolves a goal in the first look, and finds its things again in each later one.

    The first pictures take the place of the frames that the goal names: the scene must be as it was then. Only what
    the cameras saw of a thing at the start is followed; it may move and turn about the vertical, and be pushed along by
    the hand while that hides it. A cloth is told from its table by its colours, and taken for a flat sheet. Everything
    else that stands free should stay where it is.
    """

    def __init__(
        self,
        goal: Goal,
        robot: RobotModel,
        *,
        workspace: Workspace,
        encoder: ImageEncoder | None = None,
    ) -> None:
        self._goal, self._robot = goal, robot
        self._workspace, self._encoder = workspace, encoder
        self._things: list[_Thing] = []
        self._backgrounds: list[Background] = []
        self._follower = Follower([], rigid=[])
        self.table = 0.0

    @property
    def surfaces(self) -> list[np.ndarray]:
        """(samples, 3) of every thing at the start, [m] in the base frame."""
        return [thing.surface for thing in self._things]

    @property
    def motions(self) -> list[np.ndarray]:
        """(4, 4) that carry the things from the start to their goals."""
        return [thing.motion for thing in self._things]

    def see(self, frames: Sequence[RGBDFrame], joints: np.ndarray) -> Seen:
        """The task now.

        Args:
            frames: of one moment, posed in the base frame. joints: (joints,) of the arm then, in the robot's order.

        Raises:
            InputError: the goal chooses nothing in the first look, or a thing is out of sight.
        """
        scene = self._scene(frames, joints, encoder=self._encoder)
        if not self._things:
            self._begin(frames, joints, scene)
        able = self._follow(scene, joints)
        seen = find_targets(
            scene,
            joints,
            surfaces=self.surfaces,
            poses=self._follower.moves,
            motions=self.motions,
            able=able,
            weights=[thing.weight for thing in self._things],
        )
        if seen is None:
            names = ", ".join(thing.name for thing in self._things)
            raise InputError(f"{names}: out of sight of all cameras")
        if any(thing.shades for thing in self._things):
            # Nothing here moves as one rigid piece for sure.
            return replace(seen, state=replace(seen.state, bodies=None))
        return seen

    def _follow(self, scene: ScenePoints, joints: np.ndarray) -> np.ndarray:
        """Find all things again. Returns: (points,) which of the scene's may belong to one of them."""
        assert scene.clusters is not None
        points, colors = scene.points.double().numpy(), scene.colors.double().numpy()
        free = (scene.clusters != SUPPORT).numpy() & ~stray_points(scene)
        able = [free if t.shades is None else t.shades.find(points, colors) for t in self._things]
        start = np.concatenate(self.surfaces)
        shown = [
            background.without(points[mine], start)
            for background, mine in zip(self._backgrounds, able, strict=True)
        ]
        tool = self._robot.tool_pose(torch.from_numpy(np.asarray(joints, dtype=np.float64)))
        self._follower.update(shown, tool[:3, 3].numpy())
        return np.asarray(np.any(able, axis=0))

    def _scene(
        self,
        frames: Sequence[RGBDFrame],
        joints: np.ndarray,
        *,
        encoder: ImageEncoder | None = None,
        voxel: float = 0.015,
    ) -> ScenePoints:
        return build_scene(
            frames,
            T_world_base=np.eye(4),
            workspace=self._workspace,
            voxel_size=voxel,
            robot=self._robot,
            joint_positions=joints,
            encoder=encoder,
        )

    def _begin(self, frames: Sequence[RGBDFrame], joints: np.ndarray, scene: ScenePoints) -> None:
        by_camera = {frame.camera: frame for frame in frames}
        wishes = dict.fromkeys((item.camera, item.frame) for item in self._goal.sets)
        named = tuple(
            replace(by_camera[camera], name=name) for camera, name in wishes if camera in by_camera
        )
        if not named:
            wanted = sorted({item.camera for item in self._goal.sets})
            raise InputError(
                f"the goal names the camera {', '.join(wanted)}; this run has {', '.join(sorted(by_camera))}"
            )
        capture = Capture(
            frames=named,
            source="first look",
            T_world_base=np.eye(4),
            joint_names=self._robot.joint_names,
        )
        fine = self._scene(frames, joints, voxel=_FINE)
        support = scene.points[scene.clusters == SUPPORT]
        self.table = float(support[:, 2].median()) if len(support) else 0.0
        for item in resolve_goal(self._goal, scene, capture).sets:
            still = item.goals is None and item.targets is None
            if not still:
                surface, shades = _surface_of(item, scene, fine)
                thing = _Thing(
                    name=item.name,
                    surface=surface,
                    motion=_motion_of(item, scene, surface),
                    weight=item.weight,
                    shades=shades,
                )
                self._things.append(thing)
        self._backgrounds = [Background() for _ in self._things]
        self._follower = Follower(
            self.surfaces,
            rigid=[thing.shades is None for thing in self._things],
        )
        if not self._things:
            names = [s.name for s in self._goal.sets if isinstance(s.goal, StillGoal)]
            raise InputError(f"nothing has anywhere to go: {', '.join(names)} should stay still")


def _surface_of(
    item: ResolvedSet, scene: ScenePoints, fine: ScenePoints
) -> tuple[np.ndarray, Shades | None]:
    """(samples, 3) of what a set means: its points without the table, finely; and its colours, if it is a cloth."""
    assert scene.clusters is not None and fine.clusters is not None
    chosen = torch.zeros(len(scene), dtype=torch.bool)
    chosen[item.index] = True
    free = scene.clusters != SUPPORT
    above = int((chosen & free).sum())
    if above < FLAT * int(chosen.sum()):
        cloth = find_cloth(chosen.numpy(), scene, fine)
        if cloth is not None:
            return cloth
    if above == 0:
        raise InputError(
            f"goal set '{item.name}' chooses only points of the table; choose a thing on it, or a cloth of other "
            "colours than the table's (by a box as well as by a click, if one of them does not tell it)"
        )
    chosen &= free
    if int(chosen.sum()) < _LEAST:
        same = torch.isin(scene.clusters, scene.clusters[chosen].unique())
        near = torch.cdist(scene.points, scene.points[chosen]).amin(1) < _REACH
        chosen = free & same & near
    tree = cKDTree(scene.points[chosen].double().numpy())
    dense = fine.points[fine.clusters != SUPPORT].double().numpy()
    surface = dense[tree.query(dense)[0] < _NEAR]
    if len(surface) < _LEAST:
        raise InputError(
            f"goal set '{item.name}': the cameras see {len(surface)} points of it, too few to find it again"
        )
    return np.asarray(surface), None


def _motion_of(item: ResolvedSet, scene: ScenePoints, surface: np.ndarray) -> np.ndarray:
    """(4, 4) rigid motion that a set asks for; unpaired targets ask for their centre."""
    start = scene.points[item.index].double()
    if item.goals is not None:
        return fit_rigid(start, item.goals.double()).numpy()
    assert item.targets is not None
    T = np.eye(4)
    T[:3, 3] = item.targets.double().mean(0).numpy() - surface.mean(0)
    return T
