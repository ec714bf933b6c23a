"""Dynamics: constant motion by hand, the world model against its own predict, the simulator against its records."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import pointworld
from pointworld.errors import InputError
from pointworld.model import WorldModel
from pointworld.plan import MPPI, Gradient
from pointworld.plan.actions import Actions, Body, ToolPathSpace
from pointworld.plan.costs import CostSum, Infeasible, TaskPoints, Term
from pointworld.plan.dynamics import ConstantMotion, PlanState, make_problem
from pointworld.plan.model_dynamics import ModelDynamics
from pointworld.plan.simulator_dynamics import SimulatorDynamics
from pointworld.plan.trajectory import Trajectory
from pointworld.robot import RobotModel
from tests.plan.scenes import Scene, push_scenes
from tests.two_devices import TwoDevices, is_there, there

Tensor = torch.Tensor


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return pointworld.load("tiny")


@pytest.fixture(scope="module")
def scenes(robot: RobotModel) -> list[Scene]:
    pytest.importorskip("mujoco", reason="mujoco is not installed")
    return push_scenes(robot, 77, 2)


@pytest.fixture(scope="module")
def full_body(robot: RobotModel) -> Body:
    return Body.of(robot, step_dt=0.1, num_steps=11, surface=192)


def pushes(body: Body, state: PlanState, count: int, seed: int = 0) -> tuple[ToolPathSpace, Tensor]:
    """Random plans around a push through the task points, and the space they live in."""
    space = ToolPathSpace(body=body)
    now = body.robot.tool_pose(state.joint_positions)[:3, 3]
    assert state.task_index is not None
    way = state.scene.points[state.task_index].mean(0).double() - now
    way[2] = 0.0
    plan = space.rest()
    plan[:, :3] = torch.linspace(0.4, 1.6, space.knots)[:, None] * way
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((count, *plan.shape), generator=generator, dtype=torch.float64)
    scale = torch.tensor([0.05, 0.05, 0.02, 0, 0, 0.2, 0], dtype=torch.float64)
    plans = plan + noise.cumsum(1) * scale
    return space, torch.minimum(torch.maximum(plans, space.lower), space.upper)


def ahead(state: PlanState) -> TaskPoints:
    assert state.task_index is not None
    points = state.scene.points[state.task_index]
    return TaskPoints(index=state.task_index, goals=points + torch.tensor([0.1, 0.05, 0.0]))


def test_constant_motion(body: Body, home: Tensor, scenes: list[Scene]) -> None:
    scene = scenes[0].state.scene
    actions = ToolPathSpace(body=body).decode(home, torch.zeros(3, 4, 7, dtype=torch.float64))
    still = ConstantMotion().rollout(PlanState(scene=scene, joint_positions=home), actions)
    assert torch.equal(still.positions, scene.points.expand(3, 11, -1, -1))
    speed = torch.ones(len(scene), 3) * torch.tensor([0.1, 0.0, 0.0])
    moving = ConstantMotion().rollout(
        PlanState(scene=scene, joint_positions=home, velocities=speed), actions
    )
    gone = moving.positions[:, -1] - scene.points
    assert torch.allclose(gone, torch.tensor([0.1, 0.0, 0.0]).expand_as(gone), atol=1e-6)


@pytest.mark.parametrize("context", [0, 300])
@pytest.mark.parametrize("horizon", [10, 15])
def test_a_model_on_another_device_plans(
    context: int, horizon: int, robot: RobotModel, scenes: list[Scene]
) -> None:
    """The arm in main memory, the network on a (simulated) second device, as `mpc --device cuda` has it."""
    state = scenes[0].state
    body = Body.of(robot, step_dt=0.1, num_steps=horizon + 1, surface=192)
    space, plans = pushes(body, state, 3)
    actions = space.decode(state.joint_positions, plans)
    expected = ModelDynamics(model=pointworld.load("tiny"), context=context).rollout(state, actions)
    far = ModelDynamics(model=there(pointworld.load("tiny")), context=context)
    with TwoDevices():
        found = far.rollout(state, space.decode(state.joint_positions, plans))
        cost = CostSum((Term(name="task", cost=ahead(state)),))
        problem = make_problem(space, far, cost, state)
        result = MPPI(samples=4, iterations=1).plan(problem, seed=0)
        assert not is_there(found.positions) and not is_there(result.actions)
    assert torch.equal(found.positions, expected.positions)


def test_whole_scene_equals_predict(
    model: WorldModel, full_body: Body, scenes: list[Scene]
) -> None:
    state = scenes[0].state
    space, plans = pushes(full_body, state, 4)
    actions = space.decode(state.joint_positions, plans)
    ours = ModelDynamics(model=model, context=0).rollout(state, actions)
    theirs = model.predict(state.scene, actions.robot_flow)
    assert float((ours.positions - state.scene.points - theirs.displacements).abs().max()) < 1e-5
    assert float(theirs.displacements.norm(dim=-1).max()) > 0.01
    assert ours.variance is not None
    scale = model.norm_stats_per_step_var[0].mean(-1)[1:, None]
    wanted = theirs.log_var[:, 1:, :, 0].exp().clamp(1e-6, 1e2) * scale
    assert torch.allclose(ours.variance[:, 1:], wanted, rtol=1e-3, atol=1e-9)
    assert float(ours.variance[:, 0].max()) == 0.0


def test_twenty_steps_are_chained_as_in_predict(
    model: WorldModel, robot: RobotModel, scenes: list[Scene]
) -> None:
    state = scenes[0].state
    long = Body.of(robot, step_dt=0.1, num_steps=21, surface=64)
    space, plans = pushes(long, state, 2)
    actions = space.decode(state.joint_positions, plans)
    ours = ModelDynamics(model=model, context=0).rollout(state, actions)
    theirs = model.predict(state.scene, actions.robot_flow).displacements
    assert ours.positions.shape[1] == 21
    assert float((ours.positions - state.scene.points - theirs).abs().max()) < 1e-4
    assert ours.variance is not None
    assert bool((ours.variance[:, 11:] >= ours.variance[:, 10:11]).all())


def test_memory_bound_and_order_change_nothing(
    model: WorldModel, full_body: Body, scenes: list[Scene]
) -> None:
    state = scenes[0].state
    space, plans = pushes(full_body, state, 6)
    actions = space.decode(state.joint_positions, plans)
    wide = ModelDynamics(model=model, max_tokens=10**6).rollout(state, actions).positions
    narrow = ModelDynamics(model=model, max_tokens=1).rollout(state, actions).positions
    assert torch.allclose(wide, narrow, atol=2e-4)
    flipped = space.decode(state.joint_positions, plans.flip(0))
    again = ModelDynamics(model=model, max_tokens=10**6).rollout(state, flipped).positions
    assert torch.allclose(wide, again.flip(0), atol=2e-4)


def ranking(model: WorldModel, body: Body, state: PlanState, count: int) -> tuple[float, float]:
    """Spearman correlation of the costs of the cropped path with the full one; spread of the full costs."""
    space, plans = pushes(body, state, count)
    actions = space.decode(state.joint_positions, plans)
    cost = ahead(state)
    quick = cost(ModelDynamics(model=model).rollout(state, actions))
    displacements = model.predict(state.scene, actions.robot_flow).displacements
    whole = cost(
        Trajectory(positions=state.scene.points + displacements, variance=None, actions=actions)
    )
    return float(spearmanr(quick, whole).statistic), float(whole.std() / whole.mean())


def test_cropped_ranking_agrees_with_the_full_one(
    model: WorldModel, full_body: Body, scenes: list[Scene]
) -> None:
    """Of 64 candidates, and 0.98 on average, as wanted; over 50 scenes: benchmarks/plan_latency.py."""
    found = [ranking(model, full_body, scene.state, 64) for scene in scenes]
    assert min(spread for _, spread in found) > 0.01
    agreement = [of for of, _ in found]
    assert sum(agreement) / len(agreement) > 0.98 and min(agreement) > 0.95


def test_gradients_flow_through_the_model(
    model: WorldModel, full_body: Body, scenes: list[Scene]
) -> None:
    state = scenes[0].state
    space, plans = pushes(full_body, state, 1)
    dynamics = ModelDynamics(model=model, gradients=True)
    problem = make_problem(space, dynamics, ahead(state), state, nominal=plans[0])
    result = Gradient(starts=2, iterations=3, learning_rate=0.05).plan(problem, seed=0)
    assert result.cost < result.nominal_cost
    frozen = make_problem(space, ModelDynamics(model=model), ahead(state), state, nominal=plans[0])
    with pytest.raises(InputError, match="differentiable"):
        Gradient(starts=2, iterations=1).plan(frozen, seed=0)


def test_planning_with_the_model_improves_on_the_nominal(
    model: WorldModel, full_body: Body, scenes: list[Scene]
) -> None:
    state = scenes[0].state
    space, plans = pushes(full_body, state, 1)
    cost = CostSum(
        (
            Term(name="task", cost=ahead(state)),
            Term(name="feasible", cost=Infeasible(), weight=10.0),
        )
    )
    problem = make_problem(space, ModelDynamics(model=model), cost, state, nominal=plans[0])
    result = MPPI(samples=16, iterations=2).plan(problem, seed=0)
    assert result.cost < result.nominal_cost


def _recorded(scene: Scene, body: Body) -> Actions:
    """The motion of the recorded clip as actions."""
    q = torch.from_numpy(scene.drawn.episode.joint_positions)[None]
    arm = q[..., list(body.chain.columns)]
    width = body.robot.gripper_width(q)
    limits = ToolPathSpace(body=body).limits
    return body.measure(scene.state.joint_positions, arm, width, None, limits)


def test_simulator_repeats_what_was_recorded(
    scenes: list[Scene], body: Body, robot: RobotModel
) -> None:
    """The recorded motion, started from rest, moves every point to where the record has it (the hand then moved)."""
    from pointworld.data.robot_tree import robot_tree

    for scene in scenes:
        actions = _recorded(scene, body)
        truth = scene.sample.positions
        out = SimulatorDynamics(model=scene.model, tree=robot_tree(robot)).rollout(
            scene.state, actions
        )
        moved = (truth[-1] - truth[0]).norm(dim=-1).max()
        assert float(moved) > 0.03
        assert float((out.positions[0] - truth).norm(dim=-1).mean()) < 0.1 * float(moved)
        assert float((out.positions[0, -1] - truth[-1]).norm(dim=-1).max()) < 0.5 * float(moved)


def only(actions: Actions, row: int) -> Actions:
    """One candidate of many."""
    fields = {
        f.name: getattr(actions, f.name)
        for f in dataclasses.fields(actions)
        if f.name not in ("robot_flow", "step_dt")
    }
    rows = {name: value[row : row + 1] for name, value in fields.items()}
    return dataclasses.replace(actions, **rows)


def test_simulated_candidates_do_not_touch_each_other(
    scenes: list[Scene], body: Body, robot: RobotModel
) -> None:
    from pointworld.data.robot_tree import robot_tree

    state = scenes[0].state
    space, plans = pushes(body, state, 3)
    dynamics = SimulatorDynamics(model=scenes[0].model, tree=robot_tree(robot), threads=1)
    actions = space.decode(state.joint_positions, plans)
    together = dynamics.rollout(state, actions).positions
    # Contacts amplify the last bits: the same joint paths, not decoded anew.
    alone = torch.cat(
        [dynamics.rollout(state, only(actions, row)).positions for row in range(len(plans))]
    )
    assert torch.allclose(together, alone, atol=1e-6)


@pytest.mark.rejects_input
def test_bad_states_are_refused(
    model: WorldModel, body: Body, home: Tensor, robot: RobotModel, scenes: list[Scene]
) -> None:
    from pointworld.data.robot_tree import robot_tree

    state = scenes[0].state
    actions = ToolPathSpace(body=body).decode(home, torch.zeros(1, 4, 7, dtype=torch.float64))
    simulator = SimulatorDynamics(model=scenes[0].model, tree=robot_tree(robot))
    for make in (
        lambda: replace(state, velocities=torch.zeros(3, 3)),
        lambda: replace(state, point_bodies=np.zeros(3)),
        lambda: replace(state, scene=state.scene.select(torch.arange(0))),
        lambda: simulator.rollout(replace(state, physics=None), actions),
        lambda: simulator.rollout(state, replace(actions, step_dt=0.1003)),
        lambda: ModelDynamics(model=model).rollout(state, replace(actions, step_dt=0.2)),
        lambda: ModelDynamics(model=model, context=-1),
    ):
        with pytest.raises(InputError):
            make()


@pytest.mark.gpu
def test_a_gpu_predicts_what_the_cpu_does(
    model: WorldModel, scenes: list[Scene], full_body: Body
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    state = scenes[0].state
    space, plans = pushes(full_body, state, 16)
    actions = space.decode(state.joint_positions, plans)
    here = ModelDynamics(model=model).rollout(state, actions)
    there = ModelDynamics(model=pointworld.load("tiny", device="cuda")).rollout(state, actions)
    assert there.positions.device == here.positions.device
    assert float((there.positions - here.positions).abs().max()) < 1e-4
