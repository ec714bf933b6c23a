"""The control loop: bookkeeping on a toy world, and a real push in the simulator with the oracle."""

from __future__ import annotations

import pytest
import torch

from pointworld.data.robot_tree import robot_tree
from pointworld.errors import InputError
from pointworld.plan import MPPI, ConstantMotion, PlanState, ToolPathSpace
from pointworld.plan.actions import Actions, Body
from pointworld.plan.costs import (
    Approach,
    Cost,
    CostSum,
    Infeasible,
    SceneCollision,
    TaskPoints,
    Term,
)
from pointworld.plan.mpc import MpcResult, MpcSettings, mean_distance, run_mpc
from pointworld.plan.simulator_dynamics import SimulatorDynamics
from pointworld.plan.simulator_world import SimulatorWorld
from pointworld.plan.trajectory import Trajectory
from pointworld.robot import RobotModel
from pointworld.types import ScenePoints
from tests.plan.scenes import Scene, push_scenes

Tensor = torch.Tensor


class FreeTool:
    """A world without objects, in which the arm does exactly what is planned."""

    def __init__(self, joints: Tensor) -> None:
        self.joints = joints
        self.executed: list[int] = []
        points = torch.zeros(1, 3)
        self.scene = ScenePoints(points=points, colors=points, normals=points)

    def observe(self) -> PlanState:
        return PlanState(scene=self.scene, joint_positions=self.joints)

    def execute(self, actions: Actions, steps: int) -> None:
        self.executed.append(steps)
        self.joints = actions.joint_positions[0, steps]


def _reach_for(
    body: Body, goal: Tensor, world: FreeTool, *, samples: int = 24, **settings: object
) -> MpcResult:
    def cost(state: PlanState) -> Cost:
        def away(trajectory: Trajectory) -> Tensor:
            place = trajectory.actions.tool_poses[..., :3, 3]
            return (place - goal).square().sum(-1)[:, 1:].sum(1)

        return away

    def error(state: PlanState) -> float:
        return float((body.robot.tool_pose(state.joint_positions)[:3, 3] - goal).norm())

    return run_mpc(
        world,
        ToolPathSpace(body=body),
        ConstantMotion(),
        MPPI(samples=samples, iterations=3, decay=0.5),
        cost,
        error,
        settings=MpcSettings(**settings),  # type: ignore[arg-type]
        seed=0,
    )


def test_the_tool_reaches_a_place(body: Body, home: Tensor) -> None:
    goal = body.robot.tool_pose(home)[:3, 3] + torch.tensor([0.1, 0.25, -0.1], dtype=torch.float64)
    world = FreeTool(home)
    result = _reach_for(body, goal, world, tolerance=0.02)
    assert result.outcome == "reached"
    assert result.error <= 0.02
    assert result.steps == sum(world.executed)
    errors = [item.error for item in result.rounds]
    assert errors[0] > 0.25
    assert errors[-1] < 0.3 * errors[0]
    again = _reach_for(body, goal, FreeTool(home), tolerance=0.02)
    assert again.error == result.error


def test_steps_are_never_exceeded(body: Body, home: Tensor) -> None:
    world = FreeTool(home)
    far = torch.tensor([2.0, 0.0, 0.5], dtype=torch.float64)
    result = _reach_for(body, far, world, samples=4, execute=4, max_steps=10)
    assert result.outcome == "steps used up"
    assert world.executed == [4, 4, 2]
    assert result.steps == 10
    assert [item.step for item in result.rounds] == [0, 4, 8]


@pytest.fixture(scope="module")
def scene(robot: RobotModel) -> Scene:
    pytest.importorskip("mujoco", reason="mujoco is not installed")
    return push_scenes(robot, 78, 1)[0]


def test_oracle_pushes_an_object_to_its_goal(scene: Scene, body: Body, robot: RobotModel) -> None:
    state, tree = scene.state, robot_tree(robot)
    assert state.task_index is not None
    index = state.task_index
    centre = state.scene.points[index].mean(0)
    way = centre - robot.tool_pose(state.joint_positions)[:3, 3].float()
    way[2] = 0.0
    goals = state.scene.points[index] + 0.06 * way / way.norm()
    cost = CostSum(
        (
            Term(name="task", cost=TaskPoints(index=index, goals=goals)),
            Term(name="approach", cost=Approach(index=index, goal=goals.mean(0)), weight=0.05),
            Term(name="feasible", cost=Infeasible(), weight=1.0),
            Term(
                name="table",
                cost=SceneCollision(
                    index=index[:0], floor=scene.drawn.scene.table_height, margin=0.01
                ),
            ),
        )
    )
    result = run_mpc(
        SimulatorWorld(scene.model, tree, state),
        ToolPathSpace(body=body),
        SimulatorDynamics(model=scene.model, tree=tree),
        MPPI(samples=12, iterations=2),
        lambda _: cost,
        lambda now: mean_distance(now, index, goals),
        settings=MpcSettings(execute=5, max_steps=25, tolerance=0.02),
        seed=0,
    )
    assert result.rounds[0].error == pytest.approx(0.06, abs=1e-4)
    assert result.outcome == "reached"


def test_world_and_dynamics_are_the_same_physics(
    scene: Scene, body: Body, robot: RobotModel
) -> None:
    tree, state = robot_tree(robot), scene.state
    world = SimulatorWorld(scene.model, tree, state)
    space = ToolPathSpace(body=body)
    plan = space.rest()
    assert state.task_index is not None
    way = state.scene.points[state.task_index].mean(0).double()
    plan[:, :2] = (
        torch.linspace(0.3, 1.2, 4)[:, None]
        * (way - robot.tool_pose(state.joint_positions)[:3, 3])[:2]
    )
    actions = space.decode(state.joint_positions, plan[None])
    predicted = SimulatorDynamics(model=scene.model, tree=tree).rollout(state, actions)
    world.execute(actions, 10)
    after = world.observe()
    assert torch.allclose(predicted.positions[0, -1], after.scene.points, atol=1e-5)
    assert float((after.scene.points - state.scene.points).norm(dim=1).max()) > 0.01
    assert torch.equal(state.scene.points, scene.state.scene.points)


@pytest.mark.rejects_input
def test_bad_settings_are_refused(scene: Scene, robot: RobotModel) -> None:
    with pytest.raises(InputError):
        MpcSettings(execute=0)
    bare = PlanState(scene=scene.state.scene, joint_positions=scene.state.joint_positions)
    with pytest.raises(InputError, match="physics"):
        SimulatorWorld(scene.model, robot_tree(robot), bare)
