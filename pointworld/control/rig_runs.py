"""Runs on a rig: a goal.json or a task, on a simulated or a real arm, judged by the simulation where there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pointworld.capture import write_capture
from pointworld.control.allowed import Allowed, joint_bounds
from pointworld.control.filming import export_capture
from pointworld.control.goal_view import GoalTracker
from pointworld.control.recording import read_recording
from pointworld.control.rig import Look, check_cameras
from pointworld.control.rig_mpc import RigResult, WatchedPlanner, lost, run_on_rig
from pointworld.control.rig_open import OpenRig, RigConfig, open_rig
from pointworld.control.rig_truth import GoalTruth, HeldTruth, Truth, task_truth
from pointworld.control.rig_world import RigWorld
from pointworld.control.safety import SafetyFilter
from pointworld.control.task_runs import RunConfig, build_planner, scene_renderer, world_model
from pointworld.control.task_setup import held_depth, held_width
from pointworld.control.types import Reason
from pointworld.data.motions import CLEARANCE
from pointworld.data.render import SceneRenderer
from pointworld.data.robot_tree import robot_tree
from pointworld.data.simulator import import_mujoco
from pointworld.errors import InputError
from pointworld.plan import ConstantMotion
from pointworld.plan.actions import Body, PathLimits, ToolPathSpace
from pointworld.plan.dynamics import Dynamics
from pointworld.plan.goal import Goal
from pointworld.plan.mpc import MpcSettings
from pointworld.plan.tasks import Task, make_task
from pointworld.plan.tasks.push_paths import FLOOR, PRESS, THIN
from pointworld.plan.tasks.seen import CameraView, Seen
from pointworld.plan.tasks.task import STILL, body_poses
from pointworld.robot import RobotModel
from pointworld.scene import Workspace
from pointworld.types import Capture, RGBDFrame

#: A plan that takes ten times this is a fault [s]; with a time budget, the budget counts.
DEADLINE = 3.0
#: A hand turns this fast for every metre per second that it may move [rad/m], 0.7 rad/s at most.
_TURNING = 3.5
#: Scene points are taken from this far below the lowest place of the tool [m].
_BELOW = 0.06


@dataclass(frozen=True, kw_only=True, eq=False)
class RigRun:
    """What to do on which rig.

    run: planner, model and, for simulated cameras, the scene. rig: arm and cameras. goal: None for the task's own.
    look_only: nothing is planned. arm: let the arm move; else a dry run. tolerance: mean distance at which a goal
    counts as reached [m]. tool_speed: of planned paths [m/s].
    """

    run: RunConfig
    rig: RigConfig
    goal: Goal | None = None
    look_only: bool = False
    arm: bool = False
    tolerance: float = 0.02
    tool_speed: float = 0.1

    def __post_init__(self) -> None:
        if self.run.dynamics == "oracle":
            raise InputError("the oracle predicts with the simulator: only with --robot sim --task")
        if self.goal is None and not self.look_only and self.rig.kind != "sim":
            raise InputError("--task is a simulated scene: for other cameras give --goal goal.json")
        if self.arm and self.rig.kind == "replay":
            raise InputError("replayed pictures cannot steer an arm: leave --arm out for a dry run")
        if not (self.tolerance > 0 and self.tool_speed > 0):
            raise InputError("--tolerance and the tool's speed must be above 0")


def run_rig(
    what: RigRun, seed: int, *, record: Path | None = None, model: Any = None
) -> dict[str, Any]:
    """One run. Args: seed: of the scene and the planner. model: loaded world model, where the dynamics need one.

    Returns:
        `RigResult` as a dictionary, with `truth` of the simulation (None without one), `calibration`: per camera the
        share of the arm's surface that was seen in its place, and `pictures`: frames written for training.

    Raises:
        InputError: something is missing or does not fit. ControlError: an arm or camera does not answer.
    """
    robot = RobotModel.load(what.rig.model_name)
    task = make_task(what.run.task, seed, robot_tree(robot)) if what.rig.kind == "sim" else None
    if robot.gripper is None or robot.joint_names[-1] != robot.gripper.joint:
        raise InputError(f"robot '{robot.name}': planning needs a gripper, as the last joint")
    opened, recorder = open_rig(
        what.rig, robot, task=task, renderer=lambda t: _renderer(what, t), record=record
    )
    try:
        if recorder is not None:
            recorder.event(opened.rig.clock.now(), "opened", Reason.NONE, what.rig.robot)
        result = _run(what, robot, opened, task, seed, recorder, model)
    finally:
        opened.rig.close()
        if recorder is not None:
            recorder.close()
    if record is not None:
        result["pictures"] = _export(record)
    return result


def _renderer(what: RigRun, task: Task) -> SceneRenderer:
    return scene_renderer(what.run.renderer, *task.image)


def _export(record: Path) -> int:
    recording = read_recording(record)
    if not any(record.glob("frame-*.npz")):
        return 0
    return export_capture(recording, record / "capture")


def _run(
    what: RigRun,
    robot: RobotModel,
    opened: OpenRig,
    task: Task | None,
    seed: int,
    recorder: Any,
    model: Any,
) -> dict[str, Any]:
    dynamics = _dynamics(what.run, model)
    encoder = None if model is None else model.image_encoder(model.device)
    perceive, scene_truth = _perception(what, robot, opened, task, encoder)
    truth = None if scene_truth is None else HeldTruth(scene_truth)
    dry_run = not what.arm and (what.rig.robot != "sim" or what.rig.kind == "replay")
    world = RigWorld(
        opened.rig,
        perceive,
        dry_run=dry_run or what.run.dry_run,
        recorder=recorder,
        dynamics=dynamics,
        oldest=what.rig.max_frame_age,
    )
    tolerance = task_tolerance(scene_truth) if what.goal is None else what.tolerance
    settings = _settings(what, world.dry_run, tolerance)
    try:
        world.observe()
    except InputError as error:
        if what.goal is not None:
            # A goal that chooses nothing is an error of the caller's.
            raise
        return {**asdict(lost(world, settings, str(error))), "truth": None, "calibration": {}}
    agreeing = check_cameras(opened.rig) if not world.dry_run else {}
    config, allowed = what.run, Allowed(safety=opened.safety)
    box = opened.safety.config.space
    table = box.table if box.table is not None else box.lower[2]
    depth = 0.0 if task is None else held_depth(task)
    space = _space(what, robot, opened.safety, world.look(), table, depth)
    planner = build_planner(
        config,
        space,
        dynamics,
        world.look,
        allowed,
        table=table,
        depth=depth,
        wide=0.0 if task is None else held_width(task),
    )
    result = run_on_rig(
        world,
        space,
        WatchedPlanner(planner=planner, rig=opened.rig, deadline=config.budget_s or DEADLINE),
        allowed=allowed,
        table=table,
        settings=settings,
        seed=seed,
        depth=depth,
        uncertainty=config.uncertainty,
        judge=truth,
    )
    return {
        **asdict(judged(result, truth)),
        "truth": truth() if truth else None,
        "calibration": agreeing,
    }


def task_tolerance(truth: Truth | None) -> float:
    """Mean distance of the task points to their goals [m] at which a task is done: of hinges it is an angle."""
    assert truth is not None, "a task is a simulated one"
    start = truth()
    return start["distance"] * start["tolerance"] / start["error"]


def _settings(what: RigRun, dry_run: bool, tolerance: float) -> MpcSettings:
    config = what.run
    return MpcSettings(
        execute=config.execute,
        max_steps=config.execute if dry_run else config.max_steps,
        budget_s=config.budget_s or None,
        tolerance=tolerance,
    )


def judged(result: RigResult, truth: Truth | None) -> RigResult:
    """Whether the goal is reached and held: by the simulation, where there is one, else by the last look."""
    if truth is None or result.outcome not in ("success", "missed"):
        return result
    now = truth()
    if now["error"] > now["tolerance"]:
        return replace(result, outcome="missed")
    return replace(result, outcome="disturbed" if now["moved"] >= STILL else "success")


def _dynamics(config: RunConfig, model: Any) -> Dynamics:
    if model is None:
        return ConstantMotion()
    return world_model(config, model)


def _space(
    what: RigRun, robot: RobotModel, safety: SafetyFilter, seen: Seen, table: float, depth: float
) -> ToolPathSpace:
    """Paths of the upright hand within the filter's box, a finger's width inside it; down to a cloth, if there is one.

    Raises:
        InputError: there is one, and the filter does not let the hand touch the table.
    """
    box = safety.config.space
    pressed = depth == 0 and _has_cloth(seen)
    if pressed and box.table is not None and box.table_clearance > 0:
        raise InputError(
            "what should move is as flat as a cloth, which a hand presses onto the table and drags; here the hand must "
            "stay above the table. Add --press if it may touch the table"
        )
    lower, upper = np.array(box.lower) + 0.05, np.array(box.upper) - 0.05
    simulated = what.rig.robot == "sim"
    limits = PathLimits(
        workspace_lower=(
            float(lower[0]),
            float(lower[1]),
            max(
                table + (PRESS if pressed else depth + CLEARANCE if depth else FLOOR), box.lower[2]
            ),
        ),
        workspace_upper=(float(upper[0]), float(upper[1]), float(upper[2])),
        speed=0.35 if simulated else what.tool_speed,
        turn_speed=0.7 if simulated else min(_TURNING * what.tool_speed, 0.7),
    )
    return ToolPathSpace(
        body=Body.of(robot, step_dt=0.1, num_steps=what.run.horizon + 1, surface=96),
        limits=limits,
        translation=(0.3, 0.3, 0.3),
        rotation=(0.0, 0.0, 1.2),
        bounds=joint_bounds(safety.limits),
    )


def _has_cloth(seen: Seen) -> bool:
    """Whether one of the things is dragged rather than pushed."""
    heights = [seen.points[seen.owner == k, 2] for k in np.unique(seen.owner)]
    return any(float(np.ptp(z)) < THIN for z in heights)


def _perception(
    what: RigRun, robot: RobotModel, opened: OpenRig, task: Task | None, encoder: Any
) -> tuple[Callable[[Look], Seen], Truth | None]:
    """What a look shows, and what the simulation knows."""
    scene = opened.scene
    if what.goal is None:
        assert task is not None and scene is not None
        view = CameraView(task, robot, encoder=encoder, track=what.run.perception == "rgbd")
        return lambda look: _see_task(view, opened, look), task_truth(task, scene)
    box = opened.safety.config.space
    lower = (box.lower[0], box.lower[1], min(box.lower[2], box.table or 0.0) - _BELOW)
    tracker = GoalTracker(
        what.goal, robot, workspace=Workspace(lower=lower, upper=box.upper), encoder=encoder
    )
    truth = (
        None if scene is None or task is None else GoalTruth(task, scene, tracker, what.tolerance)
    )

    def see(look: Look) -> Seen:
        opened.follows()
        seen = tracker.see(look.frames, look.joints)
        if truth is not None:
            truth.begin()
        return seen

    return see, truth


def _see_task(view: CameraView, opened: OpenRig, look: Look) -> Seen:
    scene = opened.scene
    assert scene is not None
    opened.follows()
    with scene.lock:
        import_mujoco().mj_forward(scene.model, scene.data)
        bodies = body_poses(scene.data)
    return view.see(look.frames, look.joints, bodies)


def take_look(what: RigRun, seed: int, folder: Path) -> int:
    """Write what the cameras see now as a capture with a frame per camera, named like it. The arm stays disarmed.

    Returns:
        How many frames there are.
    """
    return record_moments(what, seed, folder, count=1, named=lambda camera, number: camera)


def record_moments(
    what: RigRun,
    seed: int,
    folder: Path,
    *,
    count: int,
    every: float = 0.1,
    before: Callable[[int], object] = lambda number: None,
    named: Callable[[str, int], str] = lambda camera, number: f"{camera}-{number:04d}",
) -> int:
    """Write what the cameras see at several moments, with the arm's joints, as a capture. The arm stays disarmed.

    Args:
        count: moments. every: least time between two [s]. before: called before each, may wait for a person.

    Returns:
        How many frames there are.
    """
    robot = RobotModel.load(what.rig.model_name)
    task = make_task(what.run.task, seed, robot_tree(robot)) if what.rig.kind == "sim" else None
    opened, _ = open_rig(
        what.rig, robot, task=task, renderer=lambda t: _renderer(what, t), record=None
    )
    rig, frames = opened.rig, list[RGBDFrame]()
    try:
        due = rig.clock.now()
        for number in range(count):
            before(number)
            rig.wait(due)
            due = max(due + every, rig.clock.now())
            frames += [replace(f, name=named(f.camera, number)) for f in rig.look().frames]
    finally:
        rig.close()
    capture = Capture(
        frames=tuple(frames),
        source=str(folder),
        T_world_base=np.eye(4),
        joint_names=robot.joint_names,
        robot=robot.name,
    )
    write_capture(capture, folder)
    return len(frames)
