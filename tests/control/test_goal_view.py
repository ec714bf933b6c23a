"""A goal.json in a running scene: its things are chosen in the first look and found again where they went."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pointworld.control.goal_view import GoalTracker
from pointworld.data.robot_tree import robot_tree
from pointworld.data.simulator import import_mujoco
from pointworld.errors import InputError
from pointworld.geometry import transform_points
from pointworld.plan.goal import (
    BoxSelection,
    ClickSelection,
    Goal,
    ObjectSelection,
    PointSet,
    PointsGoal,
    PoseGoal,
    Selection,
    StillGoal,
    Target,
    TranslationGoal,
)
from pointworld.plan.tasks import Task, make_task
from pointworld.plan.tasks.task import body_poses, surface_of
from pointworld.robot import RobotModel
from pointworld.scene import Workspace
from pointworld.types import RGBDFrame

pytest.importorskip("mujoco", reason="mujoco is not installed")

MOVE = np.array([0.03, -0.025, 0.0])
BOX = Workspace(lower=(0.2, -0.55, -0.15), upper=(0.95, 0.55, 0.8))


class Stage:
    """A task's scene, in which the target is put somewhere and looked at."""

    def __init__(self) -> None:
        from pointworld.control.task_runs import scene_renderer

        self.robot = RobotModel.load("fr3")
        self.task: Task = make_task("tissue_box", 1, robot_tree(self.robot))
        self.renderer = scene_renderer("auto", *self.task.image)
        self.data = self.task.restart()
        self.joints = self.data.qpos[: len(self.robot.joint_names)].copy()
        self.body = self.task.targets[0].body
        self.start = body_poses(self.data)[self.body]
        self.ids = self.look()[1]

    def look(self) -> tuple[list[RGBDFrame], np.ndarray]:
        """Frames of now, and the first camera's image of bodies + 1."""
        import_mujoco().mj_forward(self.task.model, self.data)
        views = self.renderer.render(self.task.model, self.data, self.task.cameras)
        frames = [
            RGBDFrame(
                rgb=view.rgb,
                depth=view.depth,
                valid=view.depth > 0,
                K=camera.K,
                T_world_cam=camera.T_world_cam,
                name=f"cam{k}-0",
                camera=f"cam{k}",
                joint_positions=self.joints,
            )
            for k, (camera, view) in enumerate(zip(self.task.cameras, views, strict=True))
        ]
        return frames, views[0].segmentation

    def put(self, offset: np.ndarray, turn: float) -> np.ndarray:
        """Move the target from its start; returns the motion (4, 4) in the world."""
        joint = self.task.model.body_jntadr[self.body]
        at = self.task.model.jnt_qposadr[joint]
        c, s = np.cos(turn), np.sin(turn)
        new = np.eye(4)
        new[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]) @ self.start[:3, :3]
        new[:3, 3] = self.start[:3, 3] + offset
        import_mujoco().mju_mat2Quat(self.data.qpos[at + 3 : at + 7], new[:3, :3].ravel())
        self.data.qpos[at : at + 3] = new[:3, 3]
        return np.asarray(new @ np.linalg.inv(self.start))


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage()


@pytest.fixture(autouse=True)
def _at_start(stage: Stage) -> None:
    stage.put(np.zeros(3), 0.0)


def tracker(stage: Stage, select: Selection, goal: Target, folder: Path = Path()) -> GoalTracker:
    item = PointSet(name="box", camera="cam0", frame="any", select=select, goal=goal)
    return GoalTracker(Goal(sets=(item,), folder=folder), stage.robot, workspace=BOX)


def pixels(stage: Stage) -> np.ndarray:
    """(seen, 2) of the target in the first camera."""
    return np.argwhere(stage.ids == stage.body + 1)[:, ::-1] + 0.5


def around(stage: Stage) -> BoxSelection:
    low, high = pixels(stage).min(0), pixels(stage).max(0)
    return BoxSelection(pixels=(float(low[0]), float(low[1]), float(high[0]), float(high[1])))


def test_a_thing_is_found_where_it_went(stage: Stage) -> None:
    wish = (0.06, -0.05, 0.0)
    seer = tracker(stage, around(stage), TranslationGoal(vector=wish))
    first = seer.see(stage.look()[0], stage.joints)
    assert first.error == pytest.approx(np.linalg.norm(wish), abs=0.004)
    assert len(first.index) > 20 and len(first.still_index) > 20
    motion = stage.put(MOVE, 0.12)
    second = seer.see(stage.look()[0], stage.joints)
    true = transform_points(motion, seer.surfaces[0])
    assert np.linalg.norm(second.points - true, axis=-1).mean() < 0.006
    # The goal is a place in the world: it did not move along.
    assert np.abs(second.places - first.places).max() < 1e-9
    expected = np.linalg.norm(true - second.places, axis=-1).mean()
    assert second.error == pytest.approx(expected, abs=0.006)


def test_a_pose_turns_the_thing_about_its_centre(stage: Stage) -> None:
    half = np.deg2rad(15.0)
    pose = PoseGoal(vector=(0.05, 0.0, 0.0), quat_wxyz=(np.cos(half), 0.0, 0.0, np.sin(half)))
    seer = tracker(stage, around(stage), pose)
    seer.see(stage.look()[0], stage.joints)
    T = seer.motions[0]
    assert np.arctan2(T[1, 0], T[0, 0]) == pytest.approx(np.deg2rad(30.0), abs=1e-3)


def test_one_click_means_the_thing_around_it(stage: Stage) -> None:
    u, v = np.median(pixels(stage), axis=0)
    click = ClickSelection(pixels=((float(u), float(v)),), radius=0.02)
    seer = tracker(stage, click, PointsGoal(points=((0.6, 0.1, 0.05),)))
    seer.see(stage.look()[0], stage.joints)
    surface = surface_of(stage.task.model, stage.data, stage.body, 3000, 0)
    seen = seer.surfaces[0]
    near = np.linalg.norm(seen[:, None] - surface[None], axis=-1).min(1) < 0.01
    assert len(seen) > 300 and near.mean() > 0.9
    assert np.allclose(
        transform_points(seer.motions[0], seen.mean(0)[None])[0, :2], (0.6, 0.1), atol=0.06
    )


def test_several_sets_of_one_picture_are_followed_together(stage: Stage) -> None:
    box, rest = around(stage), BoxSelection(pixels=(0.0, 0.0, 320.0, 180.0))
    sets = (
        PointSet(name="box", camera="cam0", frame="a", select=box, goal=StillGoal()),
        PointSet(
            name="all",
            camera="cam0",
            frame="a",
            select=rest,
            goal=TranslationGoal(vector=(0.05, 0.0, 0.0)),
        ),
    )
    seer = GoalTracker(Goal(sets=sets, folder=Path()), stage.robot, workspace=BOX)
    seen = seer.see(stage.look()[0], stage.joints)
    assert len(seer.surfaces) == 1 and seen.error == pytest.approx(0.05, abs=0.006)


def test_the_weight_of_a_set_is_that_of_its_points(stage: Stage) -> None:
    wish, half = TranslationGoal(vector=(0.05, 0.0, 0.0)), around(stage)
    _left, top, right, bottom = half.pixels
    rest = BoxSelection(pixels=(right + 2, top, 320.0, bottom + 40))
    sets = (
        PointSet(name="box", camera="cam0", frame="a", select=half, goal=wish, weight=3.0),
        PointSet(name="rest", camera="cam0", frame="a", select=rest, goal=wish),
    )
    seer = GoalTracker(Goal(sets=sets, folder=Path()), stage.robot, workspace=BOX)
    seen = seer.see(stage.look()[0], stage.joints)
    assert seen.weights is not None and seen.state.bodies is not None
    assert seen.weights[seen.state.bodies == 0].unique().tolist() == [3.0]
    assert seen.weights[seen.state.bodies == 1].unique().tolist() == [1.0]
    assert seen.task.weights is seen.weights


@pytest.mark.rejects_input
def test_goals_that_cannot_be_followed_are_refused(stage: Stage) -> None:
    frames = stage.look()[0]
    table = BoxSelection(pixels=(0.0, 0.0, 40.0, 40.0))
    with pytest.raises(InputError, match=r"table|selects no"):
        tracker(stage, table, TranslationGoal(vector=(0.1, 0.0, 0.0))).see(frames, stage.joints)
    with pytest.raises(InputError, match="stay still"):
        tracker(stage, around(stage), StillGoal()).see(frames, stage.joints)
    elsewhere = tracker(stage, around(stage), TranslationGoal(vector=(0.1, 0.0, 0.0)))
    with pytest.raises(InputError, match="this run has left"):
        elsewhere.see([replace(frames[0], camera="left")], stage.joints)
    ids = ObjectSelection(id=3, file="absent.png")
    with pytest.raises(InputError, match=r"absent\.png"):
        tracker(stage, ids, TranslationGoal(vector=(0.1, 0.0, 0.0))).see(frames, stage.joints)


def test_a_thing_that_is_gone_is_said_to_be(stage: Stage) -> None:
    seer = tracker(stage, around(stage), TranslationGoal(vector=(0.05, 0.0, 0.0)))
    seer.see(stage.look()[0], stage.joints)
    stage.put(np.array([0.0, 0.0, -2.0]), 0.0)
    with pytest.raises(InputError, match="out of sight"):
        seer.see(stage.look()[0], stage.joints)
