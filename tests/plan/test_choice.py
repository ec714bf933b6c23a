"""Choosing pushes, and what the simulator knows of strain, soft things and hands that are put elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from pointworld.data.robot_tree import RobotTree, robot_tree
from pointworld.plan.actions import Actions, Body, ToolPathSpace
from pointworld.plan.costs import Strain, TaskPoints
from pointworld.plan.dynamics import ConstantMotion, PlanState, make_problem
from pointworld.plan.follow import take_over
from pointworld.plan.simulator_dynamics import SimulatorDynamics
from pointworld.plan.tasks import Task, make_task
from pointworld.plan.tasks.choice import PushChooser
from pointworld.plan.tasks.push_paths import Aim, plan_push, push_plan
from pointworld.plan.tasks.pushing import OpenLoop
from pointworld.plan.tasks.seen import Seen, TrueView
from pointworld.plan.tasks.way import Hand
from pointworld.plan.trajectory import Trajectory
from pointworld.robot import RobotModel

pytest.importorskip("mujoco", reason="mujoco is not installed")


@pytest.fixture(scope="module")
def tree(robot: RobotModel) -> RobotTree:
    return robot_tree(robot)


@pytest.fixture(scope="module")
def box(tree: RobotTree) -> Task:
    return make_task("tissue_box", 0, tree)


@pytest.fixture(scope="module")
def space(robot: RobotModel) -> ToolPathSpace:
    body = Body.of(robot, step_dt=0.1, num_steps=11, surface=16)
    return ToolPathSpace(body=body, rotation=(0.0, 0.0, 1.2))


def look(task: Task) -> Seen:
    data = task.restart()
    joints = np.array([data.joint(name).qpos[0] for name in task.tree.joint_names])
    return TrueView(task).see(data, joints)


def test_the_chosen_push_is_the_one_that_the_simulator_likes(
    box: Task, space: ToolPathSpace
) -> None:
    seen, table = look(box), box.scene.table_height
    oracle = SimulatorDynamics(model=box.model, tree=box.tree)
    chooser = PushChooser(space=space, dynamics=oracle, table=table, draws=10)
    choice = chooser.choose(seen, 0)
    off = seen.goals - seen.state.scene.points[seen.index]
    turn = (off - off.mean(0)).square().sum(-1).mean()
    left = float(turn + 0.5 * off.mean(0).square().sum())
    assert choice.before == pytest.approx(left, rel=1e-4), "a way counts half of a turn"
    assert choice.after < 0.35 * choice.before
    towards = Aim.of(seen, table, 0.0).way
    assert float(choice.push.ahead @ towards) > 0


def test_without_a_prediction_the_straight_push_is_chosen(box: Task, space: ToolPathSpace) -> None:
    seen, table = look(box), box.scene.table_height
    chooser = PushChooser(space=space, dynamics=ConstantMotion(), table=table, draws=6)
    choice, straight = chooser.choose(seen, 0), plan_push(seen, table)
    assert choice.after == pytest.approx(choice.before)
    assert np.allclose(choice.push.contact, straight.contact)
    assert choice.push.way == pytest.approx(straight.way)


def test_a_hand_does_not_come_down_on_other_things(box: Task, space: ToolPathSpace) -> None:
    seen, table = look(box), box.scene.table_height
    chooser = PushChooser(space=space, dynamics=ConstantMotion(), table=table)
    push = plan_push(seen, table)
    assert (
        chooser._clear(beside(seen, push.behind + np.array([0.3, 0.3, 0.0])), push, 1.0) is not None
    )
    assert (
        chooser._clear(beside(seen, push.behind + np.array([0.015, 0.0, 0.0])), push, 1.0) is None
    )
    close = push.behind + np.array([0.015, 0.0, 0.0])
    assert chooser._clear(beside(seen, close), push, 0.0) is not None, "it just fits"
    above = push.behind + 0.09 * np.array([-push.ahead[1], push.ahead[0], 0.6])
    assert chooser._clear(beside(seen, above), push, 1.0) is None, (
        "the palm is wider than the fingers"
    )


@dataclass(frozen=True)
class Doubtful:
    """Dynamics that move nothing and are unsure of what hands at one side do."""

    def rollout(self, state: PlanState, actions: Actions) -> Trajectory:
        trajectory = ConstantMotion().rollout(state, actions)
        unsure = (actions.tool_poses[:, :, 1, 3] > 0).float()[..., None]
        variance = unsure.expand(trajectory.positions.shape[:3])
        return replace(trajectory, variance=variance)


def test_a_push_of_unsure_outcome_costs_more(box: Task, space: ToolPathSpace) -> None:
    seen, table = look(box), box.scene.table_height
    bold = PushChooser(space=space, dynamics=Doubtful(), table=table, draws=6)
    careful = replace(bold, uncertainty=0.5)
    plans = space.std * torch.randn(
        5, *space.rest().shape, generator=torch.Generator().manual_seed(3)
    )
    actions = space.decode(seen.state.joint_positions, plans.to(space.rest()))
    trajectory = Doubtful().rollout(seen.state, actions)
    more = careful.rate(seen, trajectory) - bold.rate(seen, trajectory)
    sides = actions.tool_poses[:, :, 1, 3] > 0
    assert torch.allclose(more, 0.5 * sides.to(more)) and bool(sides.any())


def test_an_open_loop_looks_once(box: Task, space: ToolPathSpace) -> None:
    seen, table = look(box), box.scene.table_height
    oracle = SimulatorDynamics(model=box.model, tree=box.tree)
    chooser = PushChooser(space=space, dynamics=oracle, table=table, draws=6)
    now = [seen]
    planner = OpenLoop(space, lambda: now[0], chooser)
    problem = make_problem(
        space, oracle, TaskPoints(index=seen.index, goals=seen.goals), seen.state
    )
    first = planner.plan(problem, seed=0).actions
    moved = replace(seen, points=seen.points + np.array([0.05, 0.05, 0.0]))
    now[0] = moved
    assert torch.equal(planner.plan(problem, seed=1).actions, first), "it does not see that"
    # What was chosen first is what a search that looks would choose.
    push = chooser.choose(seen, 0).push
    assert torch.equal(first, push_plan(space, seen, push))


def beside(seen: Seen, place: np.ndarray) -> Seen:
    """The same look with all other things at one place."""
    points = seen.state.scene.points.clone()
    points[seen.still_index] = torch.from_numpy(place).float()
    scene = replace(seen.state.scene, points=points)
    return replace(seen, state=replace(seen.state, scene=scene))


def test_the_hand_flies_over_what_lies_on_its_way_and_no_higher() -> None:
    hand = Hand()
    post = np.array([[0.5, 0.0, z] for z in (0.05, 0.1, 0.15)])
    start, end = np.array([0.4, 0.0, 0.02]), np.array([0.6, 0.0, 0.02])
    assert hand.over(start, end, post) == pytest.approx(0.18)
    assert hand.over(start, end, post + np.array([0.0, 0.09, 0.0])) == pytest.approx(0.13), (
        "under the palm"
    )
    assert hand.over(start, end, post + np.array([0.0, 0.2, 0.0])) == -np.inf
    tool = Hand(depth=0.1, wide=0.05)
    assert tool.over(start, end, post) == pytest.approx(0.28)


def test_points_of_a_cloth_ride_on_its_vertices(tree: RobotTree, space: ToolPathSpace) -> None:
    task = make_task("scarf", 0, tree)
    seen = look(task)
    short = replace(space, body=replace(space.body, num_steps=3))
    actions = short.decode(seen.state.joint_positions, short.rest()[None])
    trajectory = SimulatorDynamics(model=task.model, tree=tree).rollout(seen.state, actions)
    assert torch.allclose(trajectory.positions[0, 0], seen.state.scene.points, atol=1e-5)
    assert float((trajectory.positions[0, -1] - seen.state.scene.points).norm(dim=-1).max()) < 5e-3
    assert trajectory.strain is not None and float(trajectory.strain.max()) < 0.03


def test_strain_is_free_in_air_and_costs_against_what_does_not_give_way(
    box: Task, space: ToolPathSpace
) -> None:
    seen = look(box)
    actions = space.decode(seen.state.joint_positions, space.rest()[None].expand(2, -1, -1))
    positions = seen.state.scene.points.expand(2, 11, -1, -1)
    strain = torch.zeros(2, 11)
    strain[1, 5] = 0.16
    known = Trajectory(positions=positions, variance=None, actions=actions, strain=strain)
    assert Strain()(known).tolist() == pytest.approx([0.0, 4.0])
    unknown = replace(known, strain=None)
    assert Strain()(unknown).tolist() == [0.0, 0.0]


def test_a_path_goes_on_at_the_speed_that_the_arm_has() -> None:
    path = torch.zeros(1, 11, 2, dtype=torch.float64)
    path[..., 0] = torch.linspace(0, 1, 11)
    taken = take_over(path, torch.tensor([1.0, 0.5]), 0.1)
    assert torch.allclose(taken[..., 0], path[..., 0]), "it runs at that speed already"
    assert torch.allclose(taken[:, 0], path[:, 0]) and torch.allclose(taken[:, 3:], path[:, 3:])
    assert 0.005 < float(taken[0, 1, 1]) < 0.05


def test_candidates_that_start_elsewhere_are_put_there(box: Task, space: ToolPathSpace) -> None:
    seen = look(box)
    still = space.rest()[None].expand(2, -1, -1)
    actions = space.decode(seen.state.joint_positions, still)
    q = actions.joint_positions.clone()
    q[1, :, 0] += 0.3
    moved = replace(actions, joint_positions=q)
    trajectory = SimulatorDynamics(model=box.model, tree=box.tree).rollout(seen.state, moved)
    assert trajectory.strain is not None
    assert float(trajectory.strain.max()) < 0.02, "nothing had to jump"
