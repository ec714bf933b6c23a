"""Runs on a rig: a goal through RGB-D, dry runs, overlapping plans, real processes, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pointworld.capture import read_capture
from pointworld.cli.mpc import main as mpc_main
from pointworld.control import rig_open
from pointworld.control.allowed import Allowed, joint_bounds
from pointworld.control.recording import read_recording
from pointworld.control.rig_mpc import RigResult, WatchedPlanner, run_on_rig
from pointworld.control.rig_open import RigConfig, open_rig
from pointworld.control.rig_runs import RigRun, judged, run_rig, take_look
from pointworld.control.rig_world import RigWorld
from pointworld.control.task_runs import RunConfig, scene_renderer
from pointworld.control.types import CameraFrame, Chunk, ControlError, Reason, SafetyMode
from pointworld.data.render import make_renderer
from pointworld.data.tabletop import CameraSpec
from pointworld.errors import InputError
from pointworld.plan import MPPI, ConstantMotion
from pointworld.plan.actions import Body, PathLimits, ToolPathSpace
from pointworld.plan.goal import Goal, PointSet, TranslationGoal, read_goal, write_goal
from pointworld.plan.mpc import MpcSettings, run_mpc
from pointworld.plan.problem import PlanResult, Problem
from pointworld.plan.tasks import Task
from pointworld.plan.tasks.pushing import given_plan
from tests.control.test_cameras import calibration
from tests.control.test_goal_view import Stage, around

pytest.importorskip("mujoco", reason="mujoco is not installed")

PUSH = {"task": "tissue_box", "dynamics": "none", "planner": "straight"}


def runs(**more: Any) -> RunConfig:
    settings: dict[str, Any] = {**PUSH, **more}
    return RunConfig(**settings)


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage()


@pytest.fixture(scope="module")
def goal(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The box of scene 1, 12 cm to the right."""
    item = PointSet(
        name="box",
        camera="cam0",
        frame="start",
        select=around(stage),
        goal=TranslationGoal(vector=(-0.06, -0.11, 0.0)),
    )
    path = tmp_path_factory.mktemp("goal") / "goal.json"
    write_goal(Goal(sets=(item,), folder=path.parent), path)
    return path


def test_a_goal_of_ones_own_is_pushed_to_through_cameras(
    goal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tmp_path / "record"
    words = ["--goal", str(goal), "--seed", "1", "--dynamics", "none", "--planner", "straight"]
    steps = ["--execute", "8", "--max-steps", "40", "--record", str(record), "--json"]
    assert mpc_main([*words, *steps]) == 0
    summary = json.loads(capsys.readouterr().out)
    result = summary["outcomes"][0]
    assert summary["faults"] == [] and result["seed"] == 1 and result["plans"] == 5
    assert result["start_distance"] == pytest.approx(0.125, abs=0.01)
    assert result["distance"] < result["start_distance"] - 0.03
    # What the cameras think is what is true.
    assert result["truth"]["error"] == pytest.approx(result["distance"], abs=0.012)
    run = record / "episode_00001"
    recording = read_recording(run)
    assert recording.complete and recording.ticks["sent"].any()
    capture = read_capture(run / "capture")
    assert len(capture.frames) == result["pictures"] > 40
    assert len([p for p in recording.plans() if "predicted" in p]) == 5


def test_a_recorded_scene_is_planned_for_and_nothing_is_sent(goal: Path, tmp_path: Path) -> None:
    assert take_look(RigRun(run=runs(), rig=RigConfig(), look_only=True), 1, tmp_path / "look") == 3
    assert read_capture(tmp_path / "look").robot == "fr3"
    rig = RigConfig(cameras=(f"replay:{tmp_path / 'look'}",))
    what = RigRun(run=runs(execute=8), rig=rig, goal=read_goal(goal))
    result = run_rig(what, 1, record=tmp_path / "record")
    assert result["outcome"] == "dry run" and result["plans"] == 1 and result["truth"] is None
    recording = read_recording(tmp_path / "record")
    ticks = recording.ticks
    assert not ticks["sent"].any() and set(ticks["mode"]) <= {"dry_run", "disarmed"}
    dry = ticks["mode"] == "dry_run"
    planned = np.isfinite(ticks["commanded"]).all(-1) & dry
    assert planned.sum() > 70, "what would have been sent is there, tick by tick"
    assert np.ptp(ticks["measured"], axis=0).max() == 0.0
    assert np.ptp(ticks["commanded"][planned], axis=0).max() > 0.02
    plan = next(iter(recording.plans()))
    there = recording.ticks["commanded"][planned][-1]
    # The chunk is followed as the filter's limits allow, from a standing start.
    assert np.abs(there - plan["joint_positions"][:9, :7]).max(-1).min() < 0.15


def _ended(outcome: str, distance: float) -> RigResult:
    numbers = dict.fromkeys(
        ("plan_seconds", "look_seconds", "frame_age", "seconds", "tolerance"), 0.0
    )
    counts = dict.fromkeys(("steps", "plans", "overlapped", "slowed", "held"), 1)
    return RigResult(outcome=outcome, distance=distance, start_distance=0.1, **numbers, **counts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("outcome", "distance", "truth", "judgement"),
    [
        ("success", 0.016, None, "success"),
        ("missed", 0.021, None, "missed"),
        ("success", 0.016, (0.021, 0.0), "missed"),
        ("missed", 0.025, (0.019, 0.0), "success"),
        ("success", 0.016, (0.016, 0.03), "disturbed"),
        ("missed", 0.05, (0.05, 0.03), "missed"),
        ("fault", 0.01, (0.01, 0.0), "fault"),
        ("dry run", 0.01, (0.01, 0.0), "dry run"),
    ],
)
def test_the_simulation_judges_where_there_is_one(
    outcome: str, distance: float, truth: tuple[float, float] | None, judgement: str
) -> None:
    def knows() -> dict[str, float]:
        assert truth is not None
        return {"error": truth[0], "moved": truth[1], "tolerance": 0.02}

    result = judged(_ended(outcome, distance), None if truth is None else knows)
    assert result.outcome == judgement


class Thinking:
    """A planner that takes `seconds` of the rig's time and always moves the hand the same way."""

    def __init__(self, world: RigWorld, space: ToolPathSpace, seconds: float) -> None:
        self.world, self.space, self.seconds = world, space, seconds

    def plan(self, problem: Problem, *, seed: int, budget_s: float | None = None) -> PlanResult:
        rig = self.world.rig
        rig.wait(rig.clock.now() + self.seconds)
        plan = self.space.rest()
        plan[:, 1] = torch.linspace(0.015, 0.06, len(plan))
        return given_plan(plan)


def simulated_rig(stage: Stage) -> tuple[Any, ToolPathSpace]:
    """A rig of the stage's scene, and paths of its tool."""
    opened, _ = open_rig(
        RigConfig(),
        stage.robot,
        task=stage.task,
        renderer=lambda task: scene_renderer("auto", *task.image),
        record=None,
    )
    body = Body.of(stage.robot, step_dt=0.1, num_steps=11, surface=96)
    space = ToolPathSpace(body=body, limits=PathLimits(workspace_lower=(0.2, -0.4, 0.03)))
    return opened, space


@pytest.mark.parametrize(("seconds", "overlaps"), [(0.1, True), (0.9, False)])
def test_quick_planning_overlaps_the_motion_and_slow_planning_waits(
    stage: Stage, seconds: float, overlaps: bool
) -> None:
    """Time goes on while this planner thinks, as on a real arm."""
    opened, space = simulated_rig(stage)
    rig: Any = opened.rig
    rig.real_time = True
    seen = _blank(stage)
    world = RigWorld(rig, lambda look: seen, dynamics=ConstantMotion())
    chunks: list[tuple[float, float]] = []
    paths: list[np.ndarray] = []
    submit = rig.submit

    def note(chunk: Any) -> None:
        chunks.append((rig.clock.now(), chunk.start_time))
        paths.append(chunk.joint_positions)
        submit(chunk)

    rig.submit = note
    run_mpc(
        world,
        space,
        ConstantMotion(),
        Thinking(world, space, seconds),
        lambda state: lambda trajectory: trajectory.positions.sum((1, 2, 3)),
        lambda state: 1.0,
        settings=MpcSettings(execute=4, max_steps=24),
        seed=0,
    )
    world.rest()
    assert rig.loop.status().mode is not SafetyMode.FAULT and len(chunks) == 6
    starts = np.array([start for _, start in chunks])
    assert all(now == pytest.approx(start) for now, start in chunks), "no chunk from the past"
    if overlaps:
        assert world.overlapped >= 4 and np.allclose(np.diff(starts)[1:], 0.4, atol=0.02)
    else:
        assert world.overlapped == 0 and np.diff(starts).min() > 0.4 + seconds
        # The target waits for an arm that starts gently.
        assert all(len(path) == 9 and np.ptp(path[4:], axis=0).max() == 0.0 for path in paths)
    rig.close()


@pytest.mark.slow
def test_quick_planning_overlaps_the_motion_of_an_arm_behind_its_processes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In real time: robot server, controller, and here a planner that searches and small pictures.

    Ticks are rare, so that a chunk's rehearsal is quick on a machine that is busy with other things, and steps long.
    """
    safety = rig_open._safety
    monkeypatch.setattr(rig_open, "_safety", lambda *words: replace(safety(*words), period=0.05))
    opened, _ = open_rig(
        RigConfig(robot="fake"),
        stage.robot,
        task=_seen_small(stage.task),
        renderer=lambda task: make_renderer("rays", *task.image),
        record=None,
    )
    rig: Any = opened.rig
    try:
        seen, start = _blank(stage), rig.measured()[0]
        world = RigWorld(rig, lambda look: seen, dynamics=ConstantMotion())
        space = ToolPathSpace(
            body=Body.of(stage.robot, step_dt=0.25, num_steps=11, surface=8),
            limits=PathLimits(workspace_lower=(0.2, -0.4, 0.03), speed=0.03, turn_speed=0.1),
            bounds=joint_bounds(opened.safety.limits),
        )
        result = run_on_rig(
            world,
            space,
            WatchedPlanner(planner=MPPI(samples=2, iterations=1), rig=rig, deadline=3.0),
            allowed=Allowed(safety=opened.safety),
            table=0.0,
            settings=MpcSettings(execute=10, max_steps=100),
            seed=0,
        )
        told = rig.controller.status().fields
        moved = float(np.abs(rig.measured()[0] - start).max())
    finally:
        rig.close()
    assert (result.outcome, result.steps, result.reason) == ("missed", 100, ""), result
    assert told["reason"] == Reason.NONE.value and moved > 0.01
    # A machine that stands still for a while now and then makes a plan late, and that one is not carried out.
    assert result.overlapped > 0 and result.late <= 3, result


def _seen_small(task: Task) -> Task:
    """A scene seen by the first of its cameras, in a picture that takes no time."""
    height, width = 36, 64
    small = np.diag([width / task.image[1], height / task.image[0], 1.0])
    first = task.cameras[0]
    camera = CameraSpec(K=small @ first.K, T_world_cam=first.T_world_cam)
    return replace(task, cameras=(camera,), image=(height, width))


class Idle:
    """A planner that knows of nothing that helps."""

    def __init__(self, space: ToolPathSpace) -> None:
        self.space, self.idle = space, 0

    def plan(self, problem: Problem, *, seed: int, budget_s: float | None = None) -> PlanResult:
        self.idle += 1
        return given_plan(self.space.rest())


def test_a_run_ends_when_the_planner_gives_up(stage: Stage) -> None:
    opened, _ = open_rig(
        RigConfig(),
        stage.robot,
        task=stage.task,
        renderer=lambda task: scene_renderer("auto", *task.image),
        record=None,
    )
    seen = _blank(stage)
    world = RigWorld(opened.rig, lambda look: seen, dynamics=ConstantMotion())
    body = Body.of(stage.robot, step_dt=0.1, num_steps=11, surface=96)
    space = ToolPathSpace(body=body, limits=PathLimits(workspace_lower=(0.2, -0.4, 0.03)))
    result = run_on_rig(
        world,
        space,
        WatchedPlanner(planner=Idle(space), rig=opened.rig, deadline=3.0),
        allowed=Allowed(safety=opened.safety),
        table=0.0,
        settings=MpcSettings(execute=4, max_steps=200),
        seed=0,
    )
    assert (result.outcome, result.plans, result.steps) == ("missed", 6, 24)
    opened.rig.close()


def _blank(stage: Stage) -> Any:
    """A look at the scene that is not looked at again."""
    from pointworld.control.goal_view import GoalTracker
    from tests.control.test_goal_view import BOX

    item = PointSet(
        name="box",
        camera="cam0",
        frame="any",
        select=around(stage),
        goal=TranslationGoal(vector=(0.05, 0.0, 0.0)),
    )
    seer = GoalTracker(Goal(sets=(item,), folder=Path()), stage.robot, workspace=BOX)
    return seer.see(stage.look()[0], stage.joints)


class Broken:
    """A camera whose frames are changed on their way."""

    def __init__(self, camera: Any, change: Callable[[CameraFrame], CameraFrame]) -> None:
        self.camera, self.change = camera, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self.camera, name)

    def read_latest(self, max_age_s: float = 0.3) -> CameraFrame:
        return self.change(self.camera.read_latest(max_age_s))


def _swapped(frame: CameraFrame) -> CameraFrame:
    K = frame.K.copy()
    K[0, 2], K[1, 2] = frame.K[1, 2], frame.K[0, 2]
    return replace(frame, K=K)


FRAME_FAULTS: dict[str, tuple[Callable[[CameraFrame], CameraFrame], Reason]] = {
    "half a second old": (lambda f: replace(f, time=f.time - 0.5), Reason.CAMERA_STALE),
    "NaN": (lambda f: replace(f, depth=f.depth * np.float32(np.nan)), Reason.CAMERA_INVALID),
    "black": (lambda f: replace(f, depth=np.zeros_like(f.depth)), Reason.CAMERA_INVALID),
    "x1000": (lambda f: replace(f, depth=1000 * f.depth), Reason.CAMERA_UNITS),
    "swapped intrinsics": (_swapped, Reason.CAMERA_CALIBRATION),
    "from tomorrow": (lambda f: replace(f, time=f.time + 86400), Reason.CAMERA_INVALID),
}


def test_camera_faults_stop_an_arm_that_moves(stage: Stage) -> None:
    """At the next look, each with its reason, at rest in time, and for good until a person has looked."""
    opened, _ = open_rig(
        RigConfig(),
        stage.robot,
        task=stage.task,
        renderer=lambda task: scene_renderer("auto", *task.image),
        record=None,
    )
    rig: Any = opened.rig
    mounted = rig.cameras[1]
    good, home = mounted.camera, np.asarray(stage.joints[:-1])
    number = 0

    def go() -> None:
        """Arm, and turn slowly to and fro."""
        nonlocal number
        rig.arm(dry_run=False)
        number += 1
        path = np.repeat(rig.loop.status().commanded[None], 11, 0)
        path[:, 0] += 0.1 * np.linspace(0, 1, 11) * (1 if path[0, 0] < home[0] + 0.05 else -1)
        chunk = Chunk(
            sequence=number, start_time=rig.clock.now(), joint_positions=path, step_dt=0.1
        )
        rig.submit(chunk)
        rig.wait(rig.clock.now() + 0.4)
        rig.look()

    def check(reason: Reason, match: str) -> None:
        with pytest.raises(ControlError, match=match) as caught:
            rig.look()
        status = rig.loop.status()
        assert caught.value.reason is status.reason is reason and status.message
        assert status.mode is SafetyMode.FAULT
        for _ in range(round((opened.safety.stop_time + 0.05) / opened.safety.config.period)):
            rig.clock.time += opened.safety.config.period
            rig.loop.tick()
        assert np.abs(opened.scene.data.qvel[opened.scene.index.dofs]).max() < 0.02  # type: ignore[union-attr]
        mounted.camera = good
        with pytest.raises(ControlError):
            rig.arm(dry_run=False)
        rig.loop.recover(acknowledged=True)
        rig.clock.time += 0.01
        rig.loop.tick()

    for change, reason in FRAME_FAULTS.values():
        go()
        mounted.camera = Broken(good, change)
        check(reason, "cam1")
    go()
    seen = good.read_latest()
    mounted.camera = Broken(
        good, lambda f: replace(seen, time=f.time, sequence=f.sequence, rgb=seen.rgb.copy())
    )
    for _ in range(mounted.watch.rules.still):
        rig.wait(rig.clock.now() + 0.1)
        rig.look()
    rig.wait(rig.clock.now() + 0.1)
    check(Reason.CAMERA_FROZEN, "4 frames in a row")
    go()
    mounted.camera.disconnect()
    check(Reason.CAMERA_STALE, "cam1")
    rig.close()


def test_a_camera_that_was_pushed_keeps_the_arm_disarmed(
    goal: Path, stage: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    T = stage.task.cameras[0].T_world_cam
    pushed = T.copy()
    pushed[:3, 3] += T[:3, 0] * 0.06
    words = ["--goal", str(goal), "--seed", "1", "--dynamics", "none", "--planner", "straight"]
    short = ["--execute", "1", "--max-steps", "1", "--json", "--calibration"]
    right = calibration(tmp_path / "right.json", "cam0", T)
    assert mpc_main([*words, *short, str(right)]) == 0
    result = json.loads(capsys.readouterr().out)["outcomes"][0]
    assert result["steps"] == 1 and result["calibration"]["cam0"] > 0.6
    wrong = calibration(tmp_path / "wrong.json", "cam0", pushed)
    assert mpc_main([*words, *short, str(wrong)]) == 2
    summary = json.loads(capsys.readouterr().out)
    assert summary["outcomes"][0]["steps"] == 0 and summary["success_rate"] == 0.0
    assert "camera_calibration" in summary["faults"][0]["reason"]


@pytest.mark.slow
def test_an_arm_behind_its_processes_pushes_in_a_twin(
    goal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--robot", "fake", "--goal", str(goal), "--seed", "1", "--execute", "8", "--json"]
    words += ["--max-frame-age", "2"]
    rule = ["--dynamics", "none", "--planner", "straight"]
    assert mpc_main([*words, *rule, "--record", str(tmp_path / "dry")]) == 0
    dry = json.loads(capsys.readouterr().out)["outcomes"][0]
    assert dry["outcome"] == "dry run" and dry["truth"]["error"] == pytest.approx(0.125, abs=0.01)
    ticks = read_recording(tmp_path / "dry" / "episode_00001").ticks
    assert not ticks["sent"].any() and np.isfinite(ticks["commanded"]).all(-1).any()
    armed = [*words, *rule, "--max-steps", "96", "--arm", "--record", str(tmp_path / "armed")]
    assert mpc_main(armed) == 0
    result = json.loads(capsys.readouterr().out)["outcomes"][0]
    assert result["truth"]["error"] < 0.1 and result["frame_age"] > 0
    recording = read_recording(tmp_path / "armed" / "episode_00001")
    assert recording.complete and recording.ticks["sent"].any() and result["pictures"] > 10


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--robot", "franka"], "--host"),
        (["--robot", "ur", "--host", "1.2.3.4", "--camera", "sim", "replay:x"], "same kind"),
        (["--robot", "xarm", "--host", "1.2.3.4"], "--model"),
        (["--robot", "franka-sim"], "pip install franky-control franky-sim"),
        (["--robot", "fake", "--camera", "webcam"], "expected sim, replay:DIR"),
        (["--robot", "fake", "--camera", "replay:"], "name one folder"),
        (["--robot", "sim", "--camera", "realsense:1"], "does not see a simulated arm"),
        (["--robot", "fake", "--camera", "replay:x"], "--goal goal.json"),
        (["--robot", "fake", "--dynamics", "oracle", "--perception", "true"], "oracle"),
        (["--robot", "fake", "--ray", "local"], "--ray and --out"),
        (["--arm"], "for arms other than sim"),
        (["--robot", "fake", "--speed", "2"], "--speed"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_words_that_do_not_fit_together_are_refused(words: list[str], hint: str) -> None:
    rule = ["--planner", "straight"] if "--dynamics" not in words else []
    with pytest.raises(InputError, match=hint):
        mpc_main([*words, *rule])


@pytest.mark.rejects_input
def test_real_arms_run_one_episode_at_a_time(goal: Path) -> None:
    """Before each somebody sets the scene again."""
    words = ["--robot", "ur", "--host", "192.0.2.1", "--camera", "realsense:1", "--goal", str(goal)]
    with pytest.raises(InputError, match="Run the command once for each"):
        mpc_main([*words, "--calibration", str(goal), "--arm", "--episodes", "2"])


@pytest.mark.rejects_input
def test_replayed_pictures_steer_no_arm(goal: Path) -> None:
    with pytest.raises(InputError, match="replayed pictures"):
        mpc_main(["--robot", "fake", "--camera", "replay:x", "--goal", str(goal), "--arm"])
