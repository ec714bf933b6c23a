"""A cloth chosen by a goal.json: told from its table by its colours, and followed while the hand drags it."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree

from pointworld.cli.mpc import MpcArgs
from pointworld.cli.mpc import main as mpc_main
from pointworld.control import rig_runs
from pointworld.control.goal_view import GoalTracker
from pointworld.control.limits import read_joint_limits
from pointworld.control.rig_open import RigConfig
from pointworld.control.rig_runs import RigRun
from pointworld.control.rig_truth import GoalTruth
from pointworld.control.safety import SafetyConfig, SafetyFilter
from pointworld.control.task_runs import scene_renderer
from pointworld.data.robot_tree import robot_tree
from pointworld.data.simulator import import_mujoco
from pointworld.errors import InputError
from pointworld.plan.goal import (
    BoxSelection,
    ClickSelection,
    Goal,
    PointSet,
    PoseGoal,
    Selection,
    Target,
    TranslationGoal,
    write_goal,
)
from pointworld.plan.tasks import Task, make_task
from pointworld.plan.tasks.push_paths import PRESS
from pointworld.plan.tasks.task import surface_of
from pointworld.robot import RobotModel
from pointworld.types import RGBDFrame
from tests.control.test_goal_view import BOX

pytest.importorskip("mujoco", reason="mujoco is not installed")

SEED = 3


class Scarf:
    """A scene with a scarf as it lies at first, and its pixels in the first camera."""

    def __init__(self, fr3: RobotModel) -> None:
        self.robot = fr3
        self.task: Task = make_task("scarf", SEED, robot_tree(fr3))
        renderer = scene_renderer("auto", *self.task.image)
        data = self.task.restart()
        import_mujoco().mj_forward(self.task.model, data)
        views = renderer.render(self.task.model, data, self.task.cameras)
        self.joints = data.qpos[: len(fr3.joint_names)].copy()
        rng = np.random.default_rng(0)
        self.frames = [
            RGBDFrame(
                rgb=view.rgb,
                depth=_noisy(view.depth, rng),
                valid=view.depth > 0,
                K=camera.K,
                T_world_cam=camera.T_world_cam,
                name=f"cam{k}-0",
                camera=f"cam{k}",
            )
            for k, (camera, view) in enumerate(zip(self.task.cameras, views, strict=True))
        ]
        body = self.task.targets[0].body
        self.pixels = np.argwhere(views[0].segmentation == body + 1)[:, ::-1] + 0.5
        self.true = surface_of(self.task.model, data, body, 3000, 0)

    @property
    def box(self) -> BoxSelection:
        low, high = self.pixels.min(0), self.pixels.max(0)
        return BoxSelection(pixels=(float(low[0]), float(low[1]), float(high[0]), float(high[1])))

    def tracker(self, select: Selection) -> GoalTracker:
        return GoalTracker(
            _goal(select, TranslationGoal(vector=(0.05, 0, 0))), self.robot, workspace=BOX
        )


def _noisy(depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noisy = depth + 0.0015 * depth**2 * rng.standard_normal(depth.shape)
    return np.where(depth > 0, noisy, 0.0).astype(np.float32)


def _goal(select: Selection, wish: Target, folder: Path = Path()) -> Goal:
    item = PointSet(name="scarf", camera="cam0", frame="start", select=select, goal=wish)
    return Goal(sets=(item,), folder=folder)


@pytest.fixture(scope="module")
def scarf(fr3: RobotModel) -> Scarf:
    return Scarf(fr3)


@pytest.mark.parametrize("by", ["box", "click"])
def test_a_box_or_a_click_means_the_whole_cloth_and_no_table(scarf: Scarf, by: str) -> None:
    u, v = np.median(scarf.pixels, axis=0)
    click = ClickSelection(pixels=((float(u), float(v)),), radius=0.03)
    seer = scarf.tracker(scarf.box if by == "box" else click)
    seen = seer.see(scarf.frames, scarf.joints)
    surface = seer.surfaces[0]
    assert (cKDTree(scarf.true).query(surface)[0] < 0.01).mean() > 0.98
    assert (cKDTree(surface).query(scarf.true)[0] < 0.012).mean() > 0.95
    assert np.ptp(surface[:, 2]) == 0.0 and len(seen.index) > 80
    assert seen.state.bodies is None, "no rigid thing"
    assert seen.error == pytest.approx(0.05, abs=0.004)


@pytest.mark.rejects_input
def test_a_piece_of_the_table_is_no_cloth(scarf: Scarf) -> None:
    left, top = scarf.pixels.min(0)
    beside = BoxSelection(pixels=(float(left) - 45, float(top), float(left) - 8, float(top) + 40))
    with pytest.raises(InputError, match="other colours than the table"):
        scarf.tracker(beside).see(scarf.frames, scarf.joints)


def test_a_cloth_that_was_to_stay_and_was_dragged_counts(scarf: Scarf) -> None:
    """A goal for another thing: `moved` is of everything else, cloth included."""
    mujoco, task = import_mujoco(), scarf.task
    data = task.restart()
    mujoco.mj_forward(task.model, data)
    box = task.still[0]
    tracker: Any = SimpleNamespace(
        surfaces=[surface_of(task.model, data, box, 50, 0)], motions=[np.eye(4)]
    )
    scene: Any = SimpleNamespace(lock=Lock(), model=task.model, data=data)
    truth = GoalTruth(task, scene, tracker, 0.02)
    truth.begin()
    assert truth()["moved"] < 1e-6
    for body in np.unique(task.model.flex_vertbodyid):
        data.qpos[task.model.jnt_qposadr[task.model.body_jntadr[body]]] += 0.05
    assert truth()["moved"] == pytest.approx(0.05, abs=0.002) and truth()["error"] < 1e-6


@pytest.mark.rejects_input
@pytest.mark.parametrize("press", [False, True])
def test_a_cloth_is_dragged_only_where_the_hand_may_touch_the_table(
    scarf: Scarf, press: bool
) -> None:
    seen = scarf.tracker(scarf.box).see(scarf.frames, scarf.joints)
    words = MpcArgs(robot="fake", camera=("replay:x",), goal=None, press=press, task="scarf")
    space = words.space()
    assert space is not None and (space.table_clearance == 0.0) is press
    limits = read_joint_limits(scarf.robot.source, scarf.robot.joint_names[:7])
    safety = SafetyFilter(limits, SafetyConfig(space=space), body=None)
    what = RigRun(run=words.config(), rig=RigConfig(robot="fake", space=space))
    table = 0.0
    if not press:
        with pytest.raises(InputError, match="--press"):
            rig_runs._space(what, scarf.robot, safety, seen, table, 0.0)
        return
    found = rig_runs._space(what, scarf.robot, safety, seen, table, 0.0)
    assert found.limits.workspace_lower[2] == pytest.approx(table + PRESS)


def test_a_scarf_of_a_goal_json_is_followed_while_it_is_dragged(
    scarf: Scarf,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through the cameras of the running scene, with the hand on it; the simulator tells where it really is."""
    truths: list[GoalTruth] = []
    off: list[tuple[float, float]] = []

    class Noted(GoalTruth):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            truths.append(self)

    see = GoalTracker.see

    def compared(self: GoalTracker, frames: Any, joints: np.ndarray) -> Any:
        seen = see(self, frames, joints)
        truths[0].begin()
        here, start = truths[0].surfaces()[0], self.surfaces[0]
        gap = np.linalg.norm(seen.points - here, axis=-1).mean()
        off.append((float(gap), float(np.linalg.norm(here - start, axis=-1).mean())))
        return seen

    monkeypatch.setattr(rig_runs, "GoalTruth", Noted)
    monkeypatch.setattr(GoalTracker, "see", compared)
    motion = scarf.task.targets[0].motion
    way = motion[:3, :3] @ scarf.true.mean(0) + motion[:3, 3] - scarf.true.mean(0)
    half = 0.5 * np.arctan2(motion[1, 0], motion[0, 0])
    pose = PoseGoal(
        vector=(float(way[0]), float(way[1]), 0.0), quat_wxyz=(np.cos(half), 0.0, 0.0, np.sin(half))
    )
    path = tmp_path / "goal.json"
    write_goal(_goal(scarf.box, pose, tmp_path), path)
    words = ["--goal", str(path), "--task", "scarf", "--seed", str(SEED), "--planner", "straight"]
    assert mpc_main([*words, "--max-steps", "40", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["outcomes"][0]
    gaps, moved = np.array(off).T
    assert moved.max() > 0.05, "it was dragged"
    assert gaps.max() < 0.01
    assert result["truth"]["error"] == pytest.approx(result["distance"], abs=0.01)
    assert result["truth"]["error"] < result["start_distance"] - 0.04
