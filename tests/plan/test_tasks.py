"""Task families: scenes and goals, the judge, what is seen of them, and pushes by rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pointworld.data.robot_tree import RobotTree, robot_tree
from pointworld.data.simulator import import_mujoco
from pointworld.errors import InputError
from pointworld.geometry import transform_points
from pointworld.plan.actions import Body, ToolPathSpace
from pointworld.plan.tasks import TASKS, Judge, Task, make_task
from pointworld.plan.tasks.draw import FAR, FAR_ANGLE
from pointworld.plan.tasks.push_paths import Push, at_contact, path_plan, plan_push, waypoints
from pointworld.plan.tasks.register import register
from pointworld.plan.tasks.seen import TrueView, turns
from pointworld.plan.tasks.task import STILL, surface_of
from pointworld.plan.tasks.way import Hand
from pointworld.robot import RobotModel

pytest.importorskip("mujoco", reason="mujoco is not installed")


@pytest.fixture(scope="module")
def tree(robot: RobotModel) -> RobotTree:
    return robot_tree(robot)


@pytest.fixture(scope="module")
def box(tree: RobotTree) -> Task:
    return make_task("tissue_box", 0, tree)


@pytest.mark.parametrize("name", TASKS)
def test_goals_are_far_and_scenes_are_cluttered(name: str, tree: RobotTree) -> None:
    task = make_task(name, 3, tree)
    verdict = Judge(task)(task.restart())
    if task.hinge is None:
        assert verdict.distance >= FAR - 1e-6
    else:
        assert verdict.error >= FAR_ANGLE
    assert not verdict.good and verdict.moved == 0.0
    assert 1 <= len(task.still) <= 4, "two to five things"
    assert task.grip.any()
    assert turns(task) is (name in ("tissue_box", "book", "pillow")), "what is pushed and turned"


@pytest.mark.parametrize("seed", [0, 2, 5, 7])
def test_a_finger_fits_behind_the_handle_that_is_to_be_pulled(seed: int, tree: RobotTree) -> None:
    """Of a handle on a stem in front of a face: the hand acts on the handle alone, and comes down on neither."""
    task = make_task("drawer", seed, tree)
    handle = task.points[task.grip]
    assert 100 < len(handle) < len(task.points), "pulled"
    way = (task.goals - task.points)[0, :2]
    along = handle[:, :2] @ way / np.linalg.norm(way)
    assert np.ptp(along) < 0.013, "not on what carries it"
    seen = TrueView(task).see(task.restart(), np.zeros(8))
    push = plan_push(seen, task.scene.table_height)
    assert np.allclose(push.ahead, way / np.linalg.norm(way), atol=1e-6)
    close = surface_of(task.model, task.restart(), task.targets[0].body, 20000, 3)
    assert Hand().fits(push, close, 0.0)
    assert handle[:, 2].min() < push.contact[2] < handle[:, 2].max() - 0.005, (
        "and does not pass over it"
    )


def test_one_straight_push_does_not_do(tree: RobotTree, box: Task) -> None:
    R = box.targets[0].motion[:3, :3]
    assert 0.3 <= abs(np.arctan2(R[1, 0], R[0, 0])) <= 0.6
    sweep = make_task("broom", 0, tree)
    assert len(sweep.targets) == 2
    ways = [(t.goals - t.points).mean(0) for t in sweep.targets]
    assert ways[0] @ ways[1] < np.cos(1.19) * np.linalg.norm(ways[0]) * np.linalg.norm(ways[1])
    seen = TrueView(sweep).see(sweep.restart(), np.zeros(8))
    far = [np.linalg.norm(way) for way in ways]
    assert seen.owner[seen.focus].tolist() == [int(np.argmax(far))] * int(seen.focus.sum())


def test_the_same_seed_is_the_same_task(tree: RobotTree, box: Task) -> None:
    again, other = make_task("tissue_box", 0, tree), make_task("tissue_box", 1, tree)
    assert np.array_equal(again.physics, box.physics)
    assert np.array_equal(again.points, box.points) and np.array_equal(again.goals, box.goals)
    assert not np.allclose(other.goals, box.goals)


@pytest.mark.rejects_input
def test_unknown_families_are_refused(tree: RobotTree) -> None:
    with pytest.raises(InputError, match="tissue_box"):
        make_task("tissue", 0, tree)


def test_the_judge_knows_a_box_at_its_goal(box: Task) -> None:
    data, judge = box.restart(), Judge(box)
    target = box.targets[0]
    joint = int(box.model.body_jntadr[target.body])
    address = int(box.model.jnt_qposadr[joint])
    at_goal = target.motion[:3, :3] @ data.qpos[address : address + 3] + target.motion[:3, 3]
    turned, both = np.zeros(4), np.array(data.qpos[address + 3 : address + 7])
    quat = np.zeros(4)
    import_mujoco().mju_mat2Quat(quat, target.motion[:3, :3].ravel())
    import_mujoco().mju_mulQuat(turned, quat, both)
    data.qpos[address : address + 7] = [*at_goal, *turned]
    import_mujoco().mj_forward(box.model, data)
    assert judge(data).distance == pytest.approx(0.0, abs=1e-6) and judge(data).good
    data.qpos[address] += box.tolerance + 0.001
    import_mujoco().mj_forward(box.model, data)
    assert judge(data).distance == pytest.approx(box.tolerance + 0.001, abs=1e-6)
    assert not judge(data).good


def test_the_judge_sees_what_should_have_stayed(box: Task) -> None:
    data, judge = box.restart(), Judge(box)
    address = int(box.model.jnt_qposadr[int(box.model.body_jntadr[box.still[-1]])])
    data.qpos[address] += STILL + 0.001
    import_mujoco().mj_forward(box.model, data)
    assert judge(data).moved == pytest.approx(STILL + 0.001, abs=1e-6)


def test_the_judge_measures_a_door_by_its_angle(tree: RobotTree) -> None:
    task = make_task("microwave", 0, tree)
    assert task.hinge is not None
    data, (address, goal) = task.restart(), task.hinge
    data.qpos[address] = goal + np.radians(7.0)
    import_mujoco().mj_forward(task.model, data)
    assert Judge(task)(data).error == pytest.approx(np.radians(7.0)) and Judge(task)(data).good
    data.qpos[address] = goal + np.radians(9.0)
    import_mujoco().mj_forward(task.model, data)
    assert not Judge(task)(data).good
    data.qpos[address] = goal
    import_mujoco().mj_forward(task.model, data)
    assert Judge(task)(data).distance < 1e-3, "goal points belong to the goal angle"


@pytest.mark.parametrize("seed", range(4))
def test_a_part_of_a_surface_is_found_where_it_went(seed: int) -> None:
    rng = np.random.default_rng(seed)
    surface = rng.uniform(-1, 1, (900, 3))
    side = rng.integers(0, 3, 900)
    surface[np.arange(900), side] = np.sign(surface[np.arange(900), side])
    surface = surface * (0.08, 0.05, 0.04)
    angle, way = rng.uniform(-0.2, 0.2), np.append(rng.uniform(-0.02, 0.02, 2), 0.0)
    truth = np.eye(4)
    truth[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    truth[:3, 3] = way
    seen = transform_points(truth, surface)
    seen = seen[seen[:, 0] - seen[:, 2] < 0.03] + rng.normal(0, 0.001, 3)
    elsewhere = rng.uniform(0.2, 0.3, (50, 3))
    found = register(surface, np.eye(4), np.concatenate([seen, elsewhere]))
    error = np.linalg.norm(
        transform_points(found, surface) - transform_points(truth, surface), axis=-1
    )
    assert error.mean() < 0.006
    assert np.array_equal(register(surface, np.eye(4), elsewhere), np.eye(4)), "nothing near"


def test_a_push_goes_through_the_target_towards_the_goal(box: Task) -> None:
    data = box.restart()
    seen = TrueView(box).see(data, np.zeros(8))
    assert seen.error == pytest.approx(Judge(box)(data).distance, abs=1e-6)
    push = plan_push(seen, box.scene.table_height)
    centre, goal = box.points.mean(0), box.goals.mean(0)
    assert push.way == pytest.approx(np.linalg.norm((goal - centre)[:2]))
    line = goal[:2] - push.contact[:2]
    beside = line[0] * push.ahead[1] - line[1] * push.ahead[0]
    assert abs(beside) < 1e-6
    near = np.abs((box.points[:, :2] - centre[:2]) @ [-push.ahead[1], push.ahead[0]]) < 0.015
    assert (((box.points[near, :2] - push.contact[:2]) @ push.ahead) > 0.011).all(), "outside it"


def test_the_hand_goes_over_things_and_comes_down_behind() -> None:
    push = Push(contact=np.array([0.5, 0.0, 0.03]), ahead=np.array([0.0, 1.0]), way=0.1, over=0.2)
    low = waypoints(np.array([0.4, 0.1, 0.03]), push)
    above = np.append(push.behind[:2], 0.2)
    assert np.allclose(low, [[0.4, 0.1, 0.2]]), "straight up, then over: no corner is cut"
    assert np.allclose(waypoints(np.array([0.4, 0.1, 0.25]), push), [above])
    assert np.allclose(waypoints(np.append(push.behind[:2], 0.1), push), [push.behind])
    assert at_contact(push.behind, push) and not at_contact(above, push)
    assert np.allclose(waypoints(push.behind, push), [push.end])
    assert np.allclose(push.end, [0.5, 0.1, 0.03])


def test_a_path_keeps_its_speed_and_turns_by_less_than_a_quarter(
    body: Body, robot: RobotModel, home: torch.Tensor
) -> None:
    space = ToolPathSpace(body=body, rotation=(0.0, 0.0, 1.2))
    pose = robot.tool_pose(home).numpy()
    plan = path_plan(space, home, [pose[:3, 3] + (0.0, 0.5, 0.0)], 2.8, 0.2)
    assert np.allclose(plan[:, 1].numpy(), [0.05, 0.1, 0.15, 0.2])
    assert torch.allclose(plan[:, [0, 2]], torch.zeros(4, 2, dtype=torch.float64))
    assert float(plan[:, 5].abs().max()) <= np.pi / 2
