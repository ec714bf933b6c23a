"""What the hand holds is found among the points, and moves with the hand in every prediction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pointworld
from pointworld.data.render import make_renderer
from pointworld.data.robot_tree import robot_tree
from pointworld.geometry import transform_points
from pointworld.model import WorldModel
from pointworld.plan import Body, ModelDynamics, PlanState, ToolPathSpace
from pointworld.plan.dynamics import Held
from pointworld.plan.simulator_dynamics import SimulatorDynamics
from pointworld.plan.tasks import make_task
from pointworld.plan.tasks.choice import PushChooser
from pointworld.plan.tasks.held_view import HeldView
from pointworld.plan.tasks.seen import CameraView, SimulatedView, TrueView
from pointworld.robot import RobotModel
from pointworld.types import ScenePoints

Tensor = torch.Tensor
TOOL = 40


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return pointworld.load("tiny")


@pytest.fixture
def state(home: Tensor, body: Body) -> PlanState:
    """A flat tool 12 cm below the fingertips, a block 5 cm ahead of it along x, and a table far around."""
    rng = np.random.default_rng(0)
    T = body.robot.tool_pose(home).double()
    head = T[:3, 3].numpy() - (0, 0, 0.12) + rng.uniform(-1, 1, (TOOL, 3)) * (0.01, 0.06, 0.02)
    block = T[:3, 3].numpy() + (0.05, 0, -0.12) + rng.uniform(-1, 1, (30, 3)) * 0.015
    table = T[:3, 3].numpy() + (0, 0, -0.15) + rng.uniform(-1, 1, (300, 3)) * (0.3, 0.3, 0.001)
    points = torch.from_numpy(np.concatenate([head, block, table])).float()
    up = torch.zeros_like(points)
    up[:, 2] = 1.0
    clusters = torch.cat([torch.zeros(TOOL), torch.ones(30), -torch.ones(300)]).long()
    scene = ScenePoints(
        points=points, colors=torch.full_like(points, 0.5), normals=up, clusters=clusters
    )
    held = Held(index=torch.arange(TOOL), T_base_tool=T)
    return PlanState(
        scene=scene, joint_positions=home, task_index=torch.arange(TOOL, TOOL + 30), held=held
    )


def sweep(body: Body, home: Tensor) -> tuple[ToolPathSpace, Tensor]:
    space = ToolPathSpace(body=body)
    plans = space.rest().repeat(2, 1, 1)
    plans[1, :, 0] = torch.linspace(0.03, 0.12, 4, dtype=torch.float64)
    return space, plans


def test_a_held_tool_follows_the_hand(model: WorldModel, state: PlanState, body: Body) -> None:
    space, plans = sweep(body, state.joint_positions)
    actions = space.decode(state.joint_positions, plans)
    predicted = ModelDynamics(model=model, context=300).rollout(state, actions).positions
    assert state.held is not None
    T = state.held.motions(actions).float()[1, -1].numpy()
    exact = transform_points(T, state.scene.points[:TOOL].double().numpy())
    assert np.allclose(predicted[1, -1, :TOOL].numpy(), exact, atol=1e-5)


def test_the_sweep_of_a_tool_is_predicted_as_it_happens(
    model: WorldModel, robot: RobotModel
) -> None:
    pytest.importorskip("mujoco", reason="mujoco is not installed")
    task = make_task("duster", 1, robot_tree(robot))
    assert task.tool is not None
    data = task.restart()
    joints = np.array([data.joint(name).qpos[0] for name in task.tree.joint_names])
    true = TrueView(task).see(data, joints)
    view = SimulatedView(task, CameraView(task, robot), make_renderer("rays", *task.image))
    seen = view.see(data, joints)
    assert seen.state.held is not None and len(seen.state.held.index) > 20
    assert not np.isin(seen.state.held.index, seen.still_index).any()
    body = Body.of(robot, step_dt=0.1, num_steps=11, surface=96)
    space = ToolPathSpace(body=body, rotation=(0.0, 0.0, 1.2))
    facts = {"space": space, "table": task.scene.table_height, "depth": task.tool.length}
    facts |= {"wide": task.tool.half_width}
    ours = PushChooser(dynamics=ModelDynamics(model=model), draws=8, **facts)
    oracle = PushChooser(
        dynamics=SimulatorDynamics(model=task.model, tree=task.tree), draws=8, **facts
    )
    pushes = [shot.push() for shot in ours.draw(seen, np.random.default_rng(0))]
    ways = []
    for chooser, look in ((ours, seen), (oracle, true)):
        positions = chooser._predict(look, pushes)[0].positions[:, :, look.index]
        ways.append((positions[:, -1] - positions[:, 0]).mean(1))
    miss = (ways[0] - ways[1]).square().sum().sqrt() / ways[1].square().sum().sqrt()
    assert float(ways[1].norm(dim=-1).mean()) > 0.02, "these pushes move something"
    assert float(miss) < 0.5


def test_candidates_that_begin_elsewhere_take_the_tool_along(
    model: WorldModel, state: PlanState, body: Body
) -> None:
    space, plans = sweep(body, state.joint_positions)
    actions = space.decode(state.joint_positions, plans)
    columns = list(body.chain.columns)
    there = actions.joint_positions.clone()
    there[:, :, columns[0]] += 0.3
    width = actions.gripper_width
    moved = body.measure(state.joint_positions, there[..., columns], width, None, space.limits)
    positions = ModelDynamics(model=model, context=300).rollout(state, moved).positions
    hand = moved.tool_poses[1, 0, :3, 3].float()
    head = positions[1, 0, :TOOL].mean(0)
    assert float((head - hand)[:2].norm()) < 0.02, "below the hand, where that begins"
    assert torch.equal(positions[:, 0, TOOL:], state.scene.points[TOOL:].expand(2, -1, -1))


def test_a_tool_is_known_again_beside_what_it_touches() -> None:
    rng = np.random.default_rng(1)
    T = np.diag([1.0, -1.0, -1.0, 1.0])
    T[:3, 3] = 0.5, 0.0, 0.4
    tool = rng.uniform(-1, 1, (60, 3)) * (0.01, 0.05, 0.03) + (0.0, 0.0, 0.08)
    view = HeldView(length=0.12, half_width=0.05)
    here = transform_points(T, tool)
    assert view.find(here, T).all(), "alone in free air"
    low = T.copy()
    low[:3, 3] = 0.55, 0.1, 0.15
    block = rng.uniform(-1, 1, (20, 3)) * 0.01 + low[:3, 3] + np.array([0.045, 0.0, -0.1])
    found = view.find(np.concatenate([transform_points(low, tool), block]), low)
    assert found[:60].all() and not found[60:].any()
    fresh = HeldView(length=0.12, half_width=0.05)
    beside = np.concatenate([here, here.mean(0, keepdims=True) + np.array([0.09, 0.0, 0.0])])
    assert not fresh.find(beside, T).any(), "nothing is learned while something is near"
