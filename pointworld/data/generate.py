"""Drawing, simulating and rendering clips: clip i depends on (seed, i, configuration) and nothing else."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pointworld.data.clip import Clip, ClipView
from pointworld.data.episode import Episode, simulate
from pointworld.data.families import REGISTRY, Family, family_shares
from pointworld.data.ik import ArmKinematics
from pointworld.data.motions import Motion, joint_path
from pointworld.data.render import RenderedView, SceneRenderer, make_renderer
from pointworld.data.robot_tree import RobotTree
from pointworld.data.scene_model import move_cameras, scene_model
from pointworld.data.simulator import ModelIndex, flex_faces, flex_names, import_mujoco
from pointworld.data.tabletop import CameraSpec, SceneSpec, TabletopConfig, draw_cameras
from pointworld.errors import PointWorldError

#: Raised whenever the clips of one seed change: sets of two versions must not be mixed in one folder.
GENERATOR_VERSION = 1

_SCENE_TRIES, _MOTION_TRIES, _CAMERA_TRIES = 60, 25, 4
_MIN_TARGET_PIXELS = 60


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """All that was drawn, simulated and rendered for one clip."""

    model: Any
    scene: SceneSpec
    motion: Motion
    episode: Episode
    cameras: tuple[CameraSpec, ...]
    views: tuple[RenderedView, ...]


@dataclass(kw_only=True, eq=False)
class ClipGenerator:
    """Makes clips of one robot; holds what is the same for all of them.

    timings: processor seconds spent per stage, summed over the clips made so far.
    """

    tree: RobotTree
    robot_name: str
    config: TabletopConfig
    renderer: SceneRenderer
    arm: ArmKinematics
    timings: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def create(
        tree: RobotTree, robot_name: str, config: TabletopConfig, renderer: str = "auto"
    ) -> ClipGenerator:
        """A generator with its own renderer; MUJOCO_GL is set to egl here unless it is set."""
        os.environ.setdefault("MUJOCO_GL", "egl")
        return ClipGenerator(
            tree=tree,
            robot_name=robot_name,
            config=config,
            renderer=make_renderer(renderer, config.height, config.width),
            arm=ArmKinematics(tree),
        )

    def make(self, seed: int, index: int) -> Clip:
        """Clip `index` of the data set `seed`.

        Raises:
            PointWorldError: no usable scene found, which means a bug or an impossible configuration.
        """
        drawn = self.draw(seed, index)
        return self._pack(drawn, seed, index)

    def views_at(self, seed: int, index: int, step: int) -> tuple[ClipView, ...]:
        """Images of a later `step` of clip `index` from the clip's cameras; the clip is drawn again."""
        mujoco = import_mujoco()
        drawn = self.draw(seed, index)
        data = mujoco.MjData(drawn.model)
        data.qpos[:] = drawn.episode.qpos[step]
        mujoco.mj_forward(drawn.model, data)
        views = self.renderer.render(drawn.model, data, drawn.cameras)
        return _clip_views(drawn.model, drawn.episode.index, drawn.cameras, views)

    def draw(self, seed: int, index: int) -> Drawn:
        """Draw, simulate and render clip `index` of the data set `seed`; `make` packs the result."""
        rng = np.random.default_rng([seed, index])
        shares = family_shares(self.config)
        weights = np.array(list(shares.values()))
        family = REGISTRY[list(shares)[int(rng.choice(len(shares), p=weights / weights.sum()))]]
        for _ in range(_SCENE_TRIES):
            drawn = self._attempt(rng, family)
            if drawn is not None:
                return drawn
        raise PointWorldError(
            f"clip {seed}/{index}: no usable '{family.name}' scene in {_SCENE_TRIES} draws"
        )

    def _attempt(self, rng: np.random.Generator, family: Family) -> Drawn | None:
        clock = _Clock(self.timings)
        scene = family.draw_scene(rng, self.config)
        if scene is None:
            return None
        cameras = draw_cameras(rng, self.config, scene.table_height)
        clock.lap("draw")
        planned = self._plan(rng, scene, family)
        clock.lap("plan")
        if planned is None:
            return None
        motion, path = planned
        model = scene_model(self.tree, scene, cameras, self.config)
        clock.lap("compile")
        episode = simulate(
            model,
            self.tree,
            path,
            motion,
            self.config,
            settled_speed=family.settled_speed,
            settle_time=family.settle_time,
        )
        clock.lap("simulate")
        if episode is None:
            return None
        cameras, views = self._render(rng, model, scene, cameras, episode)
        clock.lap("render")
        return Drawn(
            model=model,
            scene=scene,
            motion=motion,
            episode=episode,
            cameras=cameras,
            views=tuple(views),
        )

    def _plan(
        self, rng: np.random.Generator, scene: SceneSpec, family: Family
    ) -> tuple[Motion, np.ndarray] | None:
        duration = self.config.horizon * self.config.step_dt
        for _ in range(_MOTION_TRIES):
            motion = family.draw_motion(rng, scene, duration)
            if motion is not None:
                path = joint_path(self.arm, motion, scene.table_height)
                if path is not None:
                    return motion, path
        return None

    def _render(
        self,
        rng: np.random.Generator,
        model: Any,
        scene: SceneSpec,
        cameras: tuple[CameraSpec, ...],
        episode: Episode,
    ) -> tuple[tuple[CameraSpec, ...], list[RenderedView]]:
        """First images; other cameras are drawn while the target is hidden from all of them."""
        mujoco = import_mujoco()
        data = mujoco.MjData(model)
        data.qpos[:] = episode.qpos[0]
        target = _target_ids(model, _target_name(scene))
        for attempt in range(_CAMERA_TRIES):
            if attempt > 0:
                config = replace(self.config, min_cameras=len(cameras), max_cameras=len(cameras))
                cameras = draw_cameras(rng, config, scene.table_height)
                move_cameras(model, cameras, self.config)
            mujoco.mj_forward(model, data)
            views = self.renderer.render(model, data, cameras)
            if (
                sum(int(np.isin(view.segmentation, target).sum()) for view in views)
                >= _MIN_TARGET_PIXELS
            ):
                break
        return cameras, views

    def _pack(self, drawn: Drawn, seed: int, index: int) -> Clip:
        model, episode = drawn.model, drawn.episode
        robot, objects = set(episode.index.robot), set(episode.index.objects)
        bodies = episode.index.carried_bodies(model.nbody)
        names = tuple(str(model.body(b).name) for b in bodies)
        soft = flex_names(model)
        faces = [flex_faces(model, k) for k in range(model.nflex)]
        none = np.zeros((0, 3), np.int32)
        return Clip(
            views=_clip_views(model, episode.index, drawn.cameras, drawn.views),
            body_names=names + soft,
            body_kinds=tuple(
                "robot" if b in robot else "object" if b in objects else "static" for b in bodies
            )
            + ("soft",) * len(soft),
            body_poses=episode.body_poses[:, bodies],
            joint_names=self.tree.joint_names,
            joint_positions=episode.joint_positions,
            gripper_width=self.tree.finger_width(episode.joint_positions[:, -1]),
            step_dt=self.config.step_dt,
            family=drawn.motion.family,
            robot=self.robot_name,
            seed=seed,
            index=index,
            info=_info(drawn),
            soft_vertices=episode.vertices.astype(np.float32),
            soft_faces=np.concatenate([none, *faces]).astype(np.int32),
            soft_bodies=np.repeat(
                np.arange(len(names), len(names) + len(soft)), [len(f) for f in faces]
            ).astype(np.int32),
        )


def _target_name(scene: SceneSpec) -> str:
    return scene.target_name or f"object{scene.target}"


def _target_ids(model: Any, name: str) -> list[int]:
    """What the renderers' segmentation shows of a body, of the whole free chain that it is in, or of a flex."""
    flexes = flex_names(model)
    if name in flexes:
        return [int(model.nbody) + 1 + flexes.index(name)]
    body = int(model.body(name).id)
    root = int(model.body_rootid[body])
    if int(model.body_dofnum[root]) != 6:
        return [body + 1]
    return [int(b) + 1 for b in np.flatnonzero(model.body_rootid == root)]


def _info(drawn: Drawn) -> dict[str, Any]:
    """Facts about every body that can move, in the order of the clip's bodies."""
    model, scene = drawn.model, drawn.scene
    shapes = {f"object{k}": item.shape.name for k, item in enumerate(scene.objects)}
    frictions = {f"object{k}": item.friction for k, item in enumerate(scene.objects)}
    for prop in scene.props:
        shapes |= prop.shapes
    objects = [(b, str(model.body(b).name)) for b in drawn.episode.index.objects]
    held = [str(model.body(b).name) for b in drawn.episode.index.held]
    soft = [shapes[name] for name in flex_names(model)]
    return {
        "shapes": [shapes[name] for _, name in objects],
        "masses": [float(model.body_mass[b]) for b, _ in objects],
        "frictions": [
            frictions.get(name, float(model.geom_friction[model.body_geomadr[b], 0]))
            for b, name in objects
        ],
        "table_height": scene.table_height,
        "target": _target_name(scene),
        "touched": drawn.episode.touched,
        **({"held": held} if held else {}),
        **({"soft": soft} if soft else {}),
    }


def _clip_views(
    model: Any, index: ModelIndex, cameras: tuple[CameraSpec, ...], views: Sequence[RenderedView]
) -> tuple[ClipView, ...]:
    """Rendered views with segmentation as index into the clip's bodies + 1: rigid ones, then flexes."""
    shown = index.carried_bodies(model.nbody)
    shown += [model.nbody + k for k in range(model.nflex)]
    remap = np.zeros(model.nbody + model.nflex + 1, np.uint8)
    remap[np.array(shown) + 1] = np.arange(1, len(shown) + 1)
    return tuple(
        ClipView(
            rgb=view.rgb,
            depth=view.depth,
            segmentation=remap[view.segmentation],
            K=camera.K,
            T_world_cam=camera.T_world_cam,
        )
        for camera, view in zip(cameras, views, strict=True)
    )


class _Clock:
    def __init__(self, totals: dict[str, float]) -> None:
        self.totals, self.last = totals, time.process_time()

    def lap(self, stage: str) -> None:
        now = time.process_time()
        self.totals[stage] = self.totals.get(stage, 0.0) + now - self.last
        self.last = now
