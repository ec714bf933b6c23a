"""Drawing, simulating and rendering clips: clip i depends on (seed, i, configuration) and nothing else."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pointworld.data.clip import Clip, ClipView, clip_path, write_clip
from pointworld.data.ik import ArmKinematics
from pointworld.data.motions import WAYPOINT_DT, Motion, draw_motion, joint_path
from pointworld.data.render import RenderedView, SceneRenderer, make_renderer
from pointworld.data.robot_tree import RobotTree
from pointworld.data.simulator import (
    ModelIndex, import_mujoco, index_model, move_cameras, scene_model, servo_lag, set_joints,
)
from pointworld.data.tabletop import FAMILIES, CameraSpec, SceneSpec, TabletopConfig, draw_cameras, draw_scene
from pointworld.errors import InputError, PointWorldError
from pointworld.files import write_json

#: Objects must be slower than this at time 0, anywhere on their surface [m/s].
_SETTLED_SPEED = 0.006
_SETTLE_TIME = 0.3
_SCENE_TRIES, _MOTION_TRIES, _CAMERA_TRIES = 60, 25, 4
_MIN_TARGET_PIXELS = 60


@dataclass(kw_only=True, eq=False)
class ClipGenerator:
    """Makes clips of one robot; holds what is the same for all of them.

    timings: seconds spent per stage, summed over the clips made so far.
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
            tree=tree, robot_name=robot_name, config=config,
            renderer=make_renderer(renderer, config.height, config.width), arm=ArmKinematics(tree),
        )

    def make(self, seed: int, index: int) -> Clip:
        """Clip `index` of the data set `seed`.

        Raises:
            PointWorldError: no usable scene found, which means a bug or an impossible configuration.
        """
        drawn = self._draw(seed, index)
        return self._pack(drawn, seed, index)

    def views_at(self, seed: int, index: int, step: int) -> tuple[ClipView, ...]:
        """Images of a later `step` of clip `index` from the clip's cameras; the clip is drawn again."""
        mujoco = import_mujoco()
        drawn = self._draw(seed, index)
        data = mujoco.MjData(drawn.model)
        data.qpos[:] = drawn.episode.qpos[step]
        mujoco.mj_forward(drawn.model, data)
        views = self.renderer.render(drawn.model, data, drawn.cameras)
        return _clip_views(drawn.model, drawn.cameras, views)

    def _draw(self, seed: int, index: int) -> Drawn:
        rng = np.random.default_rng([seed, index])
        weights = np.array(self.config.family_weights) / sum(self.config.family_weights)
        family = FAMILIES[int(rng.choice(len(FAMILIES), p=weights))]
        for _ in range(_SCENE_TRIES):
            drawn = self._attempt(rng, family)
            if drawn is not None:
                return drawn
        raise PointWorldError(f"clip {seed}/{index}: no usable '{family}' scene in {_SCENE_TRIES} draws")

    def _attempt(self, rng: np.random.Generator, family: str) -> Drawn | None:
        clock = _Clock(self.timings)
        scene = draw_scene(rng, self.config, family)
        if not scene.objects:
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
        episode = simulate(model, self.tree, path, motion, self.config)
        clock.lap("simulate")
        if episode is None:
            return None
        cameras, views = self._render(rng, model, scene, cameras, episode)
        clock.lap("render")
        return Drawn(model=model, scene=scene, motion=motion, episode=episode, cameras=cameras, views=tuple(views))

    def _plan(
        self, rng: np.random.Generator, scene: SceneSpec, family: str
    ) -> tuple[Motion, np.ndarray] | None:
        duration = self.config.horizon * self.config.step_dt
        for _ in range(_MOTION_TRIES):
            motion = draw_motion(rng, scene, family, duration)
            if motion is not None:
                path = joint_path(self.arm, motion, scene.table_height)
                if path is not None:
                    return motion, path
        return None

    def _render(
        self, rng: np.random.Generator, model: Any, scene: SceneSpec, cameras: tuple[CameraSpec, ...],
        episode: Episode,
    ) -> tuple[tuple[CameraSpec, ...], list[RenderedView]]:
        """First images; other cameras are drawn while the target is hidden from all of them."""
        mujoco = import_mujoco()
        data = mujoco.MjData(model)
        data.qpos[:] = episode.qpos[0]
        target = episode.index.objects[scene.target] + 1
        for attempt in range(_CAMERA_TRIES):
            if attempt > 0:
                config = replace(self.config, min_cameras=len(cameras), max_cameras=len(cameras))
                cameras = draw_cameras(rng, config, scene.table_height)
                move_cameras(model, cameras, self.config)
            mujoco.mj_forward(model, data)
            views = self.renderer.render(model, data, cameras)
            if sum(int((view.segmentation == target).sum()) for view in views) >= _MIN_TARGET_PIXELS:
                break
        return cameras, views

    def _pack(self, drawn: Drawn, seed: int, index: int) -> Clip:
        model, episode, scene = drawn.model, drawn.episode, drawn.scene
        robot, objects = set(episode.index.robot), set(episode.index.objects)
        bodies = range(1, model.nbody)
        return Clip(
            views=_clip_views(model, drawn.cameras, drawn.views),
            body_names=tuple(model.body(b).name for b in bodies),
            body_kinds=tuple("robot" if b in robot else "object" if b in objects else "static" for b in bodies),
            body_poses=episode.body_poses[:, 1:],
            joint_names=self.tree.joint_names,
            joint_positions=episode.joint_positions,
            gripper_width=2.0 * episode.joint_positions[:, -1],
            step_dt=self.config.step_dt, family=drawn.motion.family, robot=self.robot_name, seed=seed, index=index,
            info={
                "shapes": [item.shape.name for item in scene.objects],
                "masses": [float(model.body_mass[b]) for b in episode.index.objects],
                "frictions": [item.friction for item in scene.objects],
                "table_height": scene.table_height, "target": f"object{scene.target}", "touched": episode.touched,
            },
        )


def _clip_views(
    model: Any, cameras: tuple[CameraSpec, ...], views: Sequence[RenderedView]
) -> tuple[ClipView, ...]:
    """Rendered views with segmentation as index into the clip's bodies + 1 (all bodies but the world)."""
    remap = np.zeros(model.nbody + 1, np.uint8)
    remap[2:] = np.arange(1, model.nbody)
    return tuple(
        ClipView(
            rgb=view.rgb, depth=view.depth, segmentation=remap[view.segmentation], K=camera.K,
            T_world_cam=camera.T_world_cam,
        )
        for camera, view in zip(cameras, views, strict=True)
    )


class _Clock:
    def __init__(self, totals: dict[str, float]) -> None:
        self.totals, self.last = totals, time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.totals[stage] = self.totals.get(stage, 0.0) + now - self.last
        self.last = now


@dataclass(frozen=True, kw_only=True, eq=False)
class Episode:
    """What happened: qpos (steps, nq), body_poses (steps, bodies, 7), joint_positions (steps, joints), contact."""

    qpos: np.ndarray
    body_poses: np.ndarray
    joint_positions: np.ndarray
    index: ModelIndex
    touched: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """All that was drawn, simulated and rendered for one clip."""

    model: Any
    scene: SceneSpec
    motion: Motion
    episode: Episode
    cameras: tuple[CameraSpec, ...]
    views: tuple[RenderedView, ...]


def simulate(
    model: Any, tree: RobotTree, path: np.ndarray, motion: Motion, config: TabletopConfig
) -> Episode | None:
    """Settle the objects, run the motion under the joint servos, record every step_dt from time 0.

    Returns None when the hand starts inside something, an object is not at rest at time 0 or leaves the world.
    """
    mujoco = import_mujoco()
    data = mujoco.MjData(model)
    index = index_model(model, tree)
    per_step = round(config.step_dt / config.timestep)
    lead_steps = round(motion.lead / config.timestep)
    controls = _controls(tree, path, config, lead_steps + per_step * config.horizon)
    set_joints(data, index, path[0])
    data.ctrl[:] = path[0]
    mujoco.mj_forward(model, data)
    robot_geoms = np.isin(model.geom_bodyid, index.robot)
    if _touching(data, robot_geoms):
        return None
    mujoco.mj_step(model, data, nstep=round(_SETTLE_TIME / config.timestep))
    settled = _SETTLED_SPEED if motion.family != "grasp_lift" else 5 * _SETTLED_SPEED
    records: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    touched = False
    for step, control in enumerate(controls):
        if step == lead_steps and not _at_rest(model, data, index, settled):
            return None
        if step >= lead_steps and (step - lead_steps) % per_step == 0:
            records.append(_record(data, index))
        if step >= lead_steps and step % 4 == 0 and not touched:
            touched = _touching(data, robot_geoms)
        data.ctrl[:] = control
        mujoco.mj_step(model, data)
    records.append(_record(data, index))
    qpos, joints, poses = (np.stack(values) for values in zip(*records, strict=True))
    outside = poses[:, list(index.objects), :3]
    if not np.isfinite(qpos).all() or np.abs(outside).max() > 1.6:
        return None
    return Episode(qpos=qpos, joint_positions=joints, body_poses=poses, index=index, touched=touched)


def _controls(tree: RobotTree, path: np.ndarray, config: TabletopConfig, steps: int) -> np.ndarray:
    """Servo targets (steps, joints): the path, plus what makes up for the servos' lag, smoothly started."""
    from scipy.interpolate import CubicSpline

    spline = CubicSpline(np.arange(len(path)) * WAYPOINT_DT, path, bc_type="natural")
    t = np.minimum((np.arange(steps) + 1) * config.timestep, (len(path) - 1) * WAYPOINT_DT)
    start = np.clip(t / 0.1, 0.0, 1.0)[:, None]
    targets = spline(t) + start * servo_lag(tree) * spline(t, 1)
    return np.concatenate([targets[:, :-1], np.clip(spline(t)[:, -1:], 0.0, 0.04)], -1)


def _record(data: Any, index: ModelIndex) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import_mujoco().mj_kinematics(data.model, data)
    poses = np.concatenate([data.xpos, data.xquat], -1)
    return data.qpos.copy(), data.qpos[index.arm].copy(), poses


def _touching(data: Any, robot_geoms: np.ndarray) -> bool:
    contacts = data.contact
    if data.ncon == 0:
        return False
    pairs = np.asarray(contacts.geom).reshape(-1, 2)
    near = np.asarray(contacts.dist).ravel() < 1e-4
    return bool((robot_geoms[pairs].any(-1) & near).any())


def _at_rest(model: Any, data: Any, index: ModelIndex, limit: float) -> bool:
    for body in index.objects:
        dof = int(model.body_dofadr[body])
        velocity = data.qvel[dof : dof + 6]
        if np.linalg.norm(velocity[:3]) + 0.06 * np.linalg.norm(velocity[3:]) > limit:
            return False
    return True


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One data set: how many clips, from which seed, of what."""

    clips: int
    seed: int
    robot: str = "fr3"
    renderer: str = "auto"
    tabletop: TabletopConfig = field(default_factory=TabletopConfig)

    def __post_init__(self) -> None:
        if self.clips < 1:
            raise InputError(f"clips is {self.clips}, expected at least 1")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}, expected a number that is not negative")


_GENERATOR: ClipGenerator | None = None


def _start_worker(spec: DatasetSpec) -> None:
    """Runs once in each spawned worker, before MuJoCo is imported there."""
    global _GENERATOR
    os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ["LP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    _GENERATOR = dataset_generator(spec)


def dataset_generator(spec: DatasetSpec) -> ClipGenerator:
    """The clip generator of a data set."""
    from pointworld.data.robot_tree import robot_tree
    from pointworld.robot import RobotModel

    robot = RobotModel.load(spec.robot)
    return ClipGenerator.create(robot_tree(robot), spec.robot, spec.tabletop, spec.renderer)


def _make_one(task: tuple[str, int, int]) -> dict[str, Any]:
    folder, seed, index = task
    assert _GENERATOR is not None
    before = dict(_GENERATOR.timings)
    start = time.perf_counter()
    clip = _GENERATOR.make(seed, index)
    stage = time.perf_counter()
    path = clip_path(folder, index)
    write_clip(clip, path)
    end = time.perf_counter()
    laps = {name: value - before.get(name, 0.0) for name, value in _GENERATOR.timings.items()}
    laps |= {"write": end - stage, "total": end - start}
    return {"index": index, "laps": laps, "bytes": path.stat().st_size, **clip_facts(clip)}


def clip_facts(clip: Clip) -> dict[str, Any]:
    """Family; was anything touched, did anything move (> 1 cm), did anything upright tip (> 30 degrees)."""
    objects = list(clip.bodies_of_kind("object"))
    centres = clip.body_poses[:, objects, :3]
    travel = np.linalg.norm(centres - centres[:1], axis=-1).max(0)
    upright = clip.body_transforms()[:, objects, 2, 2]
    round_ones = np.array([name in ("sphere", "capsule") for name in clip.info["shapes"]])
    tipped = (upright[0] > 0.95) & (upright.min(0) < np.cos(np.radians(30))) & ~round_ones
    return {
        "family": clip.family,
        "touched": bool(clip.info.get("touched", False)),
        "moved": bool((travel > 0.01).any()),
        "tipped": bool(tipped.any()),
    }


def generate_dataset(
    spec: DatasetSpec, folder: str | Path, *, workers: int = 2, advance: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Make the clips of `spec` that `folder` lacks, in spawned workers, and write `manifest.json`.

    Returns:
        A summary: counts, clips per second, seconds per stage and clip, mean bytes, shares of moving and tipped.

    Raises:
        InputError: the folder holds a data set of another specification.
    """
    root = Path(folder)
    _check_manifest(root, spec)
    missing = [i for i in range(spec.clips) if not clip_path(root, i).is_file()]
    write_json(root / "manifest.json", _manifest(spec, complete=not missing))
    if advance is not None:
        advance(spec.clips - len(missing))
    start = time.perf_counter()
    facts = _run_workers(spec, root, missing, workers, advance)
    wall = time.perf_counter() - start
    write_json(root / "manifest.json", _manifest(spec, complete=True))
    return _summary(spec, facts, wall)


def _run_workers(
    spec: DatasetSpec, root: Path, missing: list[int], workers: int, advance: Callable[[int], None] | None
) -> list[dict[str, Any]]:
    import multiprocessing

    if not missing:
        return []
    facts = []
    context = multiprocessing.get_context("spawn")
    tasks = [(str(root), spec.seed, i) for i in missing]
    with context.Pool(max(1, min(workers, len(missing))), _start_worker, (spec,)) as pool:
        for fact in pool.imap_unordered(_make_one, tasks, chunksize=1):
            facts.append(fact)
            if advance is not None:
                advance(1)
    return facts


def _manifest(spec: DatasetSpec, *, complete: bool) -> dict[str, Any]:
    return {"format": "pointworld-clips-1", "complete": complete, **asdict(spec)}


def _check_manifest(root: Path, spec: DatasetSpec) -> None:
    import json

    path = root / "manifest.json"
    if not path.is_file():
        return
    old = json.loads(path.read_text())
    new = json.loads(json.dumps(_manifest(spec, complete=False)))
    different = [
        name for name in new if name not in ("complete", "clips", "renderer") and old.get(name) != new[name]
    ]
    if different:
        raise InputError(
            f"{root} holds a data set made with another {', '.join(different)}. Choose another --out, or remove it."
        )


def _summary(spec: DatasetSpec, facts: list[dict[str, Any]], wall: float) -> dict[str, Any]:
    count = max(len(facts), 1)
    stages: dict[str, float] = {}
    families: dict[str, int] = {}
    for fact in facts:
        families[fact["family"]] = families.get(fact["family"], 0) + 1
        for stage, seconds in fact["laps"].items():
            stages[stage] = stages.get(stage, 0.0) + seconds / count
    shares: Mapping[str, float] = {
        name: sum(bool(fact[name]) for fact in facts) / count for name in ("touched", "moved", "tipped")
    }
    return {
        "clips": spec.clips, "made": len(facts), "wall_seconds": wall, "clips_per_second": len(facts) / max(wall, 1e-9),
        "seconds_per_clip": stages, "bytes_mean": sum(f["bytes"] for f in facts) / count,
        "bytes_max": max((f["bytes"] for f in facts), default=0), "families": families, "shares": dict(shares),
    }
