"""The guided search: when it keeps to a push, when it makes another one, and ways that the arm can follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from pointworld.data.robot_tree import robot_tree
from pointworld.plan import MPPI
from pointworld.plan.actions import Body, ToolPathSpace
from pointworld.plan.costs import TaskPoints
from pointworld.plan.dynamics import ConstantMotion, make_problem
from pointworld.plan.problem import Problem
from pointworld.plan.tasks import Task, make_task
from pointworld.plan.tasks.choice import PushChooser
from pointworld.plan.tasks.push_paths import Push, path_plan
from pointworld.plan.tasks.pushing import Guided, _Memory, gives_up
from pointworld.plan.tasks.seen import Seen, TrueView
from pointworld.robot import RobotModel

pytest.importorskip("mujoco", reason="mujoco is not installed")


@pytest.fixture(scope="module")
def box(robot: RobotModel) -> Task:
    return make_task("tissue_box", 0, robot_tree(robot))


@pytest.fixture(scope="module")
def space(robot: RobotModel) -> ToolPathSpace:
    body = Body.of(robot, step_dt=0.1, num_steps=11, surface=16)
    return ToolPathSpace(body=body, rotation=(0.0, 0.0, 1.2))


@pytest.fixture
def seen(box: Task) -> Seen:
    data = box.restart()
    joints = np.array([data.joint(name).qpos[0] for name in box.tree.joint_names])
    return TrueView(box).see(data, joints)


@pytest.fixture
def problem(space: ToolPathSpace, seen: Seen) -> Problem:
    cost = TaskPoints(index=seen.index, goals=seen.goals)
    return make_problem(space, ConstantMotion(), cost, seen.state)


def guided(space: ToolPathSpace, look: Callable[[], Seen], table: float) -> Guided:
    chooser = PushChooser(space=space, dynamics=ConstantMotion(), table=table, draws=4)
    planner = MPPI(samples=2, iterations=1)
    return Guided(planner=planner, space=space, look=look, table=table, chooser=chooser)


def test_a_push_is_kept_while_it_helps_and_dropped_when_it_does_not() -> None:
    memory = _Memory()
    assert all(memory.keeps(left) for left in (1.0, 0.95, 0.85, 0.82, 0.75, 0.6))
    assert memory.keeps(0.6) and memory.keeps(0.58) and not memory.keeps(0.59), "no progress"
    memory = _Memory()
    assert memory.keeps(1.0) and memory.keeps(1.2) and not memory.keeps(1.3), "it does harm"


def test_an_arm_that_does_not_get_there_is_noticed() -> None:
    memory, place = _Memory(), torch.zeros(8)
    assert memory.arrives(place) and memory.arrives(place)
    assert not memory.arrives(place + 0.01)
    assert memory.arrives(place + 0.1), "it moves again"


def test_what_is_refused_or_gets_nowhere_is_followed_by_another_choice(
    space: ToolPathSpace, seen: Seen, box: Task, problem: Problem
) -> None:
    now = [seen]
    planner = guided(space, lambda: now[0], box.scene.table_height)
    planner.plan(problem, seed=0)
    first = planner.memory.choice
    planner.plan(problem, seed=1)
    assert planner.memory.choice is first, "it is on its way"
    now[0] = replace(seen, blocked=True)
    planner.plan(problem, seed=2)
    second = planner.memory.choice
    assert second is not first
    now[0] = seen
    for seed in (3, 4):
        planner.plan(problem, seed=seed)
    assert planner.memory.choice is not second, "the arm stood all the time"


def test_a_hand_that_can_get_to_no_push_waits_above_until_it_gives_up(
    space: ToolPathSpace, seen: Seen, box: Task, problem: Problem
) -> None:
    planner = guided(space, lambda: seen, box.scene.table_height)
    nowhere = replace(space.limits, workspace_lower=(0.25, 0.44, 0.0))
    chooser = replace(planner.chooser, space=replace(space, limits=nowhere))
    planner = replace(planner, chooser=chooser)
    tool = space.body.robot.tool_pose(seen.state.joint_positions)[:3, 3]
    for look in range(6):
        assert not gives_up(planner)
        result = planner.plan(problem, seed=look)
        way = space.decode(seen.state.joint_positions, result.actions[None]).tool_poses[0, :, :3, 3]
        assert float(way[:, 2].min()) > float(tool[2]) - 0.01, "it does not come down"
    assert gives_up(planner)


def test_pushes_begin_inside_the_workspace(space: ToolPathSpace, seen: Seen, box: Task) -> None:
    table = box.scene.table_height
    chooser = guided(space, lambda: seen, table).chooser
    push = Push(
        contact=np.array([0.5, -0.2, table + 0.03]), ahead=np.array([1.0, 0.0]), way=0.1, over=0.2
    )
    assert chooser._clear(seen, push, 1.0) is not None
    limits = replace(space.limits, workspace_lower=(0.49, -0.45, 0.0))
    narrow = replace(chooser, space=replace(space, limits=limits))
    assert narrow._clear(seen, push, 1.0) is None, "the hand comes down 2 cm behind its contact"


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_a_way_is_slowed_down_until_the_arm_keeps_to_it(
    space: ToolPathSpace, seen: Seen, side: float
) -> None:
    """A wrist that has far to turn holds back a hand that travels fast, which then sinks."""
    joints = seen.state.joint_positions
    pose = space.body.robot.tool_pose(joints).numpy()
    chain = space.body.chain
    bounds = chain.velocity * 0.25
    slow = replace(space, body=replace(space.body, chain=replace(chain, velocity=bounds)))
    stop = pose[:3, 3] + (0.2, 0.25 * side, 0.0)

    def astray(wanted: ToolPathSpace) -> float:
        plan = path_plan(wanted, joints, [stop], 1.2 * side, 0.3)
        return float(slow.decode(joints, plan[None]).position_error.max())

    assert astray(space) > 0.02, "the plan of a quick arm"
    assert astray(slow) < 0.008
