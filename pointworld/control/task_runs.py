"""Many episodes of a task: what to run, one file per episode so that a stopped run goes on, and the success rate."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from pointworld.control.allowed import Allowed
from pointworld.control.filming import (
    FilmedRecorder,
    film_simulation,
    look_record,
    record_plans,
)
from pointworld.control.recording import holds_recording
from pointworld.control.task_setup import held_depth, held_width, task_space
from pointworld.control.task_world import TaskWorld, View
from pointworld.control.tasks import EpisodeResult, run_episode
from pointworld.data.render import SceneRenderer, make_renderer
from pointworld.data.robot_tree import robot_tree
from pointworld.errors import InputError
from pointworld.files import atomic_path, write_json
from pointworld.model.load import load
from pointworld.plan import CEM, ICEM, MPPI, ConstantMotion, Gradient, ModelDynamics, Nevergrad
from pointworld.plan.actions import ToolPathSpace
from pointworld.plan.dynamics import Dynamics
from pointworld.plan.mpc import MpcSettings
from pointworld.plan.planners import Planner
from pointworld.plan.rigid_dynamics import RigidTargets
from pointworld.plan.simulator_dynamics import SimulatorDynamics
from pointworld.plan.tasks import TASKS, Task, make_task
from pointworld.plan.tasks.choice import PushChooser
from pointworld.plan.tasks.pushing import Guided, OpenLoop, RandomMotion, StraightPush
from pointworld.plan.tasks.seen import CameraView, Seen, SimulatedView, TrueView
from pointworld.robot import RobotModel

DynamicsName = Literal["model", "oracle", "none"]
PlannerName = Literal[
    "mppi", "cem", "icem", "gradient", "nevergrad", "open_loop", "straight", "random"
]
Perception = Literal["rgbd", "true"]
#: Planners that follow a rule instead of predicting.
RULES = ("straight", "random")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything but the seed that decides how an episode goes.

    samples, iterations: of the planner. horizon, execute, max_steps: steps of 0.1 s planned ahead, carried out of
    each plan, and of the episode. budget_s: most time for a plan, 0 = no bound. checkpoint: of the world model.
    uncertainty: weight of the variance that the world model predicts [m^2 per m^2].
    """

    task: str
    dynamics: DynamicsName = "model"
    planner: PlannerName = "mppi"
    perception: Perception = "rgbd"
    samples: int = 24
    iterations: int = 1
    horizon: int = 10
    execute: int = 4
    max_steps: int = 200
    budget_s: float = 0.0
    checkpoint: str = "tiny"
    uncertainty: float = 0.0
    renderer: Literal["auto", "gl", "rays"] = "auto"
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise InputError(f"task is '{self.task}', expected one of {', '.join(TASKS)}")
        if self.dynamics == "oracle" and self.perception != "true":
            raise InputError(
                "the oracle predicts with the simulator's own state: use it with --perception true"
            )
        if not 1 <= self.execute <= self.horizon:
            raise InputError(f"execute is {self.execute}, expected 1 to the horizon {self.horizon}")
        if self.max_steps < 1 or self.budget_s < 0 or self.uncertainty < 0:
            raise InputError(
                f"max_steps is {self.max_steps}, expected at least 1; budget_s is {self.budget_s} and uncertainty "
                f"{self.uncertainty}, expected at least 0"
            )


#: Of scenes, goals and judging: episodes of other versions cannot be compared.
RULES_VERSION = 2


@lru_cache(maxsize=1)
def _robot() -> RobotModel:
    return RobotModel.load("fr3")


@lru_cache(maxsize=2)
def scene_renderer(name: str, height: int, width: int) -> SceneRenderer:
    """Pictures of that size; one per process: OpenGL contexts must not get in each other's way."""
    return make_renderer(name, height, width)


def make_planner(config: RunConfig) -> Planner:
    """The planner of that name that searches, at about samples x iterations predictions."""
    samples, iterations = config.samples, config.iterations
    if config.planner == "mppi":
        return MPPI(samples=samples, iterations=iterations, decay=0.5)
    if config.planner == "cem":
        return CEM(samples=samples, iterations=iterations, elites=max(2, samples // 8))
    if config.planner == "icem":
        return ICEM(samples=samples, iterations=iterations, elites=max(2, samples // 8))
    if config.planner == "gradient":
        return Gradient(starts=max(1, samples // 8), iterations=8 * iterations)
    return Nevergrad(samples=samples, iterations=iterations)


def run_one(
    config: RunConfig, seed: int, *, record: Path | None = None, model: Any = None
) -> EpisodeResult:
    """One episode. Args: record: folder for its recording. model: loaded world model, for `dynamics="model"`."""
    robot = _robot()
    task = make_task(config.task, seed, robot_tree(robot))
    recorder = None if record is None else _recorder(record, robot)
    world = TaskWorld(
        task, robot, _view(config, task, model), recorder=recorder, dry_run=config.dry_run
    )
    if recorder is not None:
        film_simulation(
            recorder, world.arm, task.cameras, scene_renderer(config.renderer, *task.image)
        )
    dynamics = _dynamics(config, task, model)
    space = task_space(task, robot, horizon=config.horizon, safety=world.loop.safety)
    try:
        if record is not None:
            save_picture(world, record / "start.png", config)
        result = run_episode(
            world,
            space,
            dynamics,
            build_planner(
                config,
                space,
                dynamics,
                world.look,
                world.allowed,
                table=task.scene.table_height,
                depth=held_depth(task),
                wide=held_width(task),
            ),
            settings=MpcSettings(
                execute=config.execute,
                max_steps=config.execute if config.dry_run else config.max_steps,
                budget_s=config.budget_s or None,
            ),
            seed=seed,
            corrects=config.planner not in ("open_loop", *RULES),
            uncertainty=config.uncertainty,
            on_round=None if recorder is None else record_plans(recorder, world, dynamics),
        )
        if recorder is not None and result.outcome != "lost":
            world.observe()
            recorder.plan(world.clock.now(), look_record(world.look()))
        if record is not None:
            save_picture(world, record / "end.png", config)
    finally:
        if recorder is not None:
            recorder.close()
    return result


def _recorder(folder: Path, robot: RobotModel) -> FilmedRecorder:
    joints = robot.joint_names
    return FilmedRecorder(folder, joints=joints[:-1], robot_joints=joints, robot=robot.name)


def _view(config: RunConfig, task: Task, model: Any) -> View:
    if config.perception == "true" and config.dynamics != "model":
        return TrueView(task)
    encoder = None if model is None else model.image_encoder(model.device)
    view = CameraView(task, _robot(), encoder=encoder, track=config.perception == "rgbd")
    return SimulatedView(task, view, scene_renderer(config.renderer, *task.image))


def _dynamics(config: RunConfig, task: Task, model: Any) -> Dynamics:
    if config.planner in RULES or config.dynamics == "none":
        return ConstantMotion()
    if config.dynamics == "oracle":
        return SimulatorDynamics(model=task.model, tree=task.tree)
    assert model is not None
    return world_model(config, model)


def world_model(config: RunConfig, model: Any) -> Dynamics:
    """A world model as dynamics, with rigid targets moving as one."""
    return RigidTargets(dynamics=ModelDynamics(model=model, gradients=config.planner == "gradient"))


def build_planner(
    config: RunConfig,
    space: ToolPathSpace,
    dynamics: Dynamics,
    look: Callable[[], Seen],
    allowed: Allowed,
    *,
    table: float,
    depth: float = 0.0,
    wide: float = 0.0,
) -> Planner:
    """The planner or rule of that name, for a target on a table.

    Args:
        look: the last observation. allowed: what the arm's safety filter asks for. table: its height [m]. depth:
            length of a tool in the hand [m]. wide: its half width [m].
    """
    if config.planner == "random":
        return RandomMotion(space=space)
    if config.planner == "straight" or config.dynamics == "none":
        again = config.planner != "straight"
        return StraightPush(space, look, table, depth=depth, again=again)
    chooser = PushChooser(
        space=space,
        dynamics=dynamics,
        table=table,
        depth=depth,
        wide=wide,
        shortfall=allowed.shortfall,
        draws=config.samples * config.iterations,
        uncertainty=config.uncertainty,
    )
    if config.planner == "open_loop":
        return OpenLoop(space, look, chooser)
    return Guided(
        planner=make_planner(config),
        space=space,
        look=look,
        table=table,
        depth=depth,
        chooser=chooser,
    )


def load_model(config: RunConfig, device: torch.device | str = "cpu") -> Any:
    """The world model that a configuration needs, on that device; None when it needs none."""
    if config.dynamics != "model" or config.planner in RULES:
        return None
    return load(config.checkpoint, device=device)


def save_picture(world: TaskWorld, path: Path, config: RunConfig) -> None:
    """What the first camera sees now, as PNG."""
    task = world.task
    renderer = scene_renderer(config.renderer, *task.image)
    view = renderer.render(task.model, world.arm.data, task.cameras)[0]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        Image.fromarray(view.rgb).save(file, format="PNG")


def run_many(
    config: RunConfig,
    seeds: Sequence[int],
    *,
    out: Path | None = None,
    record: Path | None = None,
    on_episode: Callable[[int, dict[str, Any]], None] | None = None,
    device: torch.device | str = "cpu",
) -> list[dict[str, Any]]:
    """Episodes in the order of their seeds; those whose file is in `out` are not run again.

    Args:
        device: where the world model predicts.

    Raises:
        InputError: a file in `out` comes from other settings, or is damaged.
    """
    episodes, model = [], None
    for seed in seeds:
        path = None if out is None else out / f"episode_{seed:05d}.json"
        known = None if path is None or not path.exists() else read_episode(path, config)
        if known is None:
            model = model or load_model(config, device)
            folder = recording_folder(record, seed, again=out is not None)
            result = run_one(config, seed, record=folder, model=model)
            known = episode_record(config, seed, result)
            if path is not None:
                write_json(path, known)
        episodes.append(known)
        if on_episode is not None:
            on_episode(seed, known)
    return episodes


def recording_folder(record: Path | None, seed: int, *, again: bool) -> Path | None:
    """Where an episode is recorded. Args: again: what an interrupted try has left there is removed."""
    if record is None:
        return None
    folder = record / f"episode_{seed:05d}"
    if again and holds_recording(folder):
        shutil.rmtree(folder)
    return folder


def episode_record(config: RunConfig, seed: int, result: EpisodeResult) -> dict[str, Any]:
    """What is kept of an episode; `read_episode` reads it."""
    return {
        "rules": RULES_VERSION,
        "seed": seed,
        "config": asdict(config),
        "result": asdict(result),
    }


def read_episode(path: Path, config: RunConfig) -> dict[str, Any]:
    """An episode that was run before.

    Raises:
        InputError: the file comes from other settings or other rules, or is damaged.
    """
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        rules = known.get("rules", 1)
        # A setting that came later had its default before.
        same = {**asdict(RunConfig(task=config.task)), **known["config"]} == asdict(config)
        known["result"]["outcome"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no episode of this program: {error}") from error
    if rules != RULES_VERSION:
        raise InputError(
            f"{path} was judged by other rules (version {rules}, now {RULES_VERSION}); choose another folder or remove "
            "it"
        )
    if not same:
        raise InputError(f"{path} was made with other settings; choose another folder or remove it")
    return dict(known)


def wilson(good: int, total: int, *, z: float = 1.96) -> tuple[float, float]:
    """Confidence interval of a success rate (95 % by default).

    Source: Wilson, J. Am. Stat. Assoc. 1927.
    """
    if total == 0:
        return 0.0, 1.0
    share, spread = good / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def summarise(episodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Success rate with its interval, steps, plan seconds, faults, and every episode's seed and outcome."""
    results = [e["result"] for e in episodes]
    good = sum(r["outcome"] == "success" for r in results)
    steps = [r["steps"] for r in results if r["outcome"] == "success"]
    return {
        "episodes": len(results),
        "successes": good,
        "success_rate": good / len(results) if results else 0.0,
        "interval_95": list(wilson(good, len(results))),
        "mean_steps_of_successes": float(np.mean(steps)) if steps else None,
        "mean_plan_seconds": float(np.mean([r["plan_seconds"] for r in results])) if results else 0,
        "faults": list(_faults(episodes)),
        "outcomes": [{"seed": e["seed"], **e["result"]} for e in episodes],
    }


def _faults(episodes: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for episode in episodes:
        if episode["result"]["outcome"] == "fault":
            yield {"seed": episode["seed"], "reason": episode["result"]["reason"]}
