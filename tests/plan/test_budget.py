"""A time budget binds: groups of candidates, pushes and whole looks end when time is up, with the best so far."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from pointworld.data.robot_tree import robot_tree
from pointworld.plan import MPPI, Problem
from pointworld.plan.actions import Actions, Body, ToolPathSpace
from pointworld.plan.costs import TaskPoints
from pointworld.plan.dynamics import PlanState, make_problem
from pointworld.plan.planners.loop import evaluate
from pointworld.plan.problem import TIMED_GROUP
from pointworld.plan.tasks import Task, make_task
from pointworld.plan.tasks.choice import Choice, PushChooser
from pointworld.plan.tasks.push_paths import push_plan
from pointworld.plan.tasks.pushing import Guided, OpenLoop
from pointworld.plan.tasks.seen import Seen, TrueView
from pointworld.plan.trajectory import Trajectory
from pointworld.robot import RobotModel

pytest.importorskip("mujoco", reason="mujoco is not installed")

#: What a candidate costs, and what a busy machine may add [s].
EACH, SLACK = 0.01, 5.0


@dataclass
class Slow:
    """The target goes where the hand goes; each candidate takes `EACH` [s]. groups: how many came together."""

    groups: list[int] = field(default_factory=list)

    def rollout(self, state: PlanState, actions: Actions) -> Trajectory:
        self.groups.append(len(actions))
        time.sleep(EACH * len(actions))
        assert state.task_index is not None
        tool = actions.tool_poses[:, :, :3, 3].to(state.scene.points)
        positions = state.scene.points.repeat(*tool.shape[:2], 1, 1)
        positions[:, :, state.task_index] += (tool - tool[:, :1])[:, :, None]
        return Trajectory(positions=positions, variance=None, actions=actions)


@pytest.fixture(scope="module")
def box(robot: RobotModel) -> Task:
    return make_task("tissue_box", 0, robot_tree(robot))


@pytest.fixture(scope="module")
def space(robot: RobotModel) -> ToolPathSpace:
    body = Body.of(robot, step_dt=0.1, num_steps=11, surface=16)
    return ToolPathSpace(body=body, rotation=(0.0, 0.0, 1.2))


@pytest.fixture(scope="module")
def seen(box: Task) -> Seen:
    data = box.restart()
    joints = np.array([data.joint(name).qpos[0] for name in box.tree.joint_names])
    return TrueView(box).see(data, joints)


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def chooser(space: ToolPathSpace, slow: Slow, box: Task) -> PushChooser:
    return PushChooser(space=space, dynamics=slow, table=box.scene.table_height)


@pytest.fixture
def problem(space: ToolPathSpace, slow: Slow, seen: Seen) -> Problem:
    return make_problem(space, slow, TaskPoints(index=seen.index, goals=seen.goals), seen.state)


def guided(space: ToolPathSpace, seen: Seen, chooser: PushChooser) -> Guided:
    planner = MPPI(samples=24, iterations=1)
    return Guided(
        planner=planner, space=space, look=lambda: seen, table=chooser.table, chooser=chooser
    )


def from_here(chooser: PushChooser, seen: Seen) -> Choice:
    """A push as it is chosen, with its contact where the hand is."""
    choice = chooser.choose(seen, 0)
    tool = chooser.space.body.robot.tool_pose(seen.state.joint_positions).numpy()[:3, 3]
    return replace(choice, push=replace(choice.push, contact=tool))


def at_work(planner: Guided, seen: Seen) -> Guided:
    """With a push under way, its hand at the target."""
    planner.memory.choice, planner.memory.points = from_here(planner.chooser, seen), seen.points
    planner.memory.pushing = True
    return planner


def test_candidates_come_in_small_groups_only_where_time_counts(
    problem: Problem, slow: Slow
) -> None:
    plans = problem.clip(problem.std * torch.randn(20, *problem.nominal.shape).to(problem.nominal))
    at_once, _ = evaluate(problem, plans)
    assert slow.groups == [20]
    in_time, _ = evaluate(problem, plans, deadline=time.perf_counter() + 60)
    assert slow.groups[1:] == [TIMED_GROUP, TIMED_GROUP, 20 - 2 * TIMED_GROUP]
    assert torch.allclose(at_once, in_time)
    evaluate(replace(problem, chunk=5), plans[:7], deadline=time.perf_counter() + 60)
    assert slow.groups[4:] == [5, 2], "a chunk that was asked for stays"


def test_a_plan_is_there_in_time_and_is_the_best_so_far(problem: Problem, slow: Slow) -> None:
    budget = 1.5 * TIMED_GROUP * EACH
    result = MPPI(samples=24, iterations=1).plan(problem, seed=3, budget_s=budget)
    assert result.timed_out and result.evaluations == sum(slow.groups) < 24
    assert max(slow.groups) == TIMED_GROUP
    assert result.seconds < budget + TIMED_GROUP * EACH + SLACK
    best = evaluate(problem, result.actions[None])[0]
    assert float(best) == pytest.approx(result.cost) and result.cost <= result.nominal_cost


def test_without_a_budget_all_pushes_are_rated_at_once(
    chooser: PushChooser, seen: Seen, slow: Slow
) -> None:
    found = chooser.choose(seen, 0)
    assert len(slow.groups) == 2 and slow.groups[0] > TIMED_GROUP, "those drawn, then variations"
    ample = chooser.choose(seen, 0, deadline=time.perf_counter() + 60)
    assert np.allclose(found.push.contact, ample.push.contact, atol=1e-6)
    assert ample.after == pytest.approx(found.after, rel=1e-4)


def test_time_that_is_up_leaves_the_pushes_by_rule_and_their_group(
    chooser: PushChooser, seen: Seen, slow: Slow
) -> None:
    choice = chooser.choose(seen, 0, deadline=time.perf_counter())
    assert len(slow.groups) == 1 and 2 <= slow.groups[0] <= TIMED_GROUP
    shots = chooser.draw(seen, np.random.default_rng(0))[:TIMED_GROUP]
    _, best = chooser._judge(seen, shots)[0]
    assert choice.after == best.after and np.array_equal(choice.push.contact, best.push.contact)


def test_a_choice_takes_its_budget_and_one_group(
    chooser: PushChooser, space: ToolPathSpace, problem: Problem, seen: Seen, slow: Slow
) -> None:
    OpenLoop(space, lambda: seen, chooser).plan(problem, seed=0, budget_s=0.0)
    assert len(slow.groups) == 1
    guided(space, seen, chooser).plan(problem, seed=0, budget_s=0.0)
    assert len(slow.groups) == 2


def test_a_search_leaves_time_to_look_ahead(
    chooser: PushChooser, space: ToolPathSpace, problem: Problem, seen: Seen, slow: Slow
) -> None:
    planner = at_work(guided(space, seen, chooser), seen)
    slow.groups.clear()
    begun = time.perf_counter()
    result = planner.plan(problem, seed=0, budget_s=0.15)
    assert time.perf_counter() - begun < 0.15 + TIMED_GROUP * EACH + SLACK
    # Two starts, groups of the search, then what its plan and the push are predicted to leave.
    assert slow.groups[0] == slow.groups[-1] == 2 and max(slow.groups) <= TIMED_GROUP
    assert 4 <= sum(slow.groups) < 24 and planner.memory.begun
    assert result.actions.shape == problem.nominal.shape


def test_without_time_to_search_the_chosen_push_goes_on(
    chooser: PushChooser, space: ToolPathSpace, problem: Problem, seen: Seen, slow: Slow
) -> None:
    planner = at_work(guided(space, seen, chooser), seen)
    choice = planner.memory.choice
    assert choice is not None
    slow.groups.clear()
    result = planner.plan(problem, seed=0, budget_s=0.0)
    assert slow.groups == [2, 2], "no group of the search"
    wanted = problem.clip(push_plan(space, seen, choice.push, pushing=True).to(problem.nominal))
    assert torch.allclose(result.actions, wanted) and planner.memory.begun


@dataclass
class Still(Slow):
    """Nothing ever moves."""

    def rollout(self, state: PlanState, actions: Actions) -> Trajectory:
        trajectory = super().rollout(state, actions)
        return replace(trajectory, positions=trajectory.positions[:, :1].expand(-1, 11, -1, -1))


def test_another_push_is_chosen_at_the_next_look_when_time_is_up(
    space: ToolPathSpace, seen: Seen, box: Task
) -> None:
    still = Still()
    chooser = PushChooser(space=space, dynamics=still, table=box.scene.table_height)
    cost = TaskPoints(index=seen.index, goals=seen.goals)
    problem = make_problem(space, still, cost, seen.state)
    planner = at_work(guided(space, seen, chooser), seen)
    for wait in range(3):
        still.groups.clear()
        resting = planner.plan(problem, seed=wait, budget_s=0.0).actions
        assert torch.equal(resting, space.rest())
        if wait == 0:
            assert still.groups == [2, 2] and planner.memory.owed, "searched; time was up"
        else:
            assert len(still.groups) == 1 and still.groups[0] <= TIMED_GROUP, "chose"
            assert planner.idle == wait and not planner.memory.owed
    # With time there is both in one look.
    planner = at_work(guided(space, seen, chooser), seen)
    planner.plan(problem, seed=0)
    assert planner.idle == 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Given(PushChooser):
    """Knows its choice."""

    choice: Choice

    def choose(self, seen: Seen, seed: int, *, deadline: float = np.inf) -> Choice:
        return self.choice


def test_a_push_that_took_all_the_time_to_choose_is_begun_without_a_search(
    chooser: PushChooser, space: ToolPathSpace, problem: Problem, seen: Seen, slow: Slow
) -> None:
    there = from_here(chooser, seen)
    same = {name: getattr(chooser, name) for name in ("space", "dynamics", "table")}
    slow.groups.clear()
    planner = guided(space, seen, Given(choice=there, **same))
    result = planner.plan(problem, seed=0, budget_s=0.0)
    assert slow.groups == [] and planner.memory.pushing
    assert torch.equal(result.actions, push_plan(space, seen, there.push, pushing=True))
    guided(space, seen, Given(choice=there, **same)).plan(problem, seed=0, budget_s=10.0)
    assert slow.groups[0] == 2, "with time it is searched"
