"""Action spaces: exact kinematics, limits that are never broken, honest reports of what cannot be done."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pointworld.errors import InputError
from pointworld.plan.actions import Actions, Body, JointPathSpace, PathLimits, ToolPathSpace
from pointworld.plan.arm_chain import ArmChain
from pointworld.plan.rotations import rotation_exp, rotation_log
from pointworld.plan.self_collision import SelfCollision
from pointworld.robot import RobotModel

Tensor = torch.Tensor


def draw(
    space: ToolPathSpace | JointPathSpace, count: int, seed: int, scale: float = 1.0
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rest = space.rest()
    noise = 2 * torch.rand((count, *rest.shape), generator=generator, dtype=torch.float64) - 1
    return scale * noise * space.upper


def test_rotation_vectors_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 3))
    vectors *= (rng.uniform(0, 3.0, 200) / np.linalg.norm(vectors, axis=1))[:, None]
    vectors[:3] = [[0, 0, 0], [1e-9, 0, 0], [0, 5e-5, 5e-5]]
    R = rotation_exp(torch.from_numpy(vectors))
    assert np.allclose(R.numpy(), Rotation.from_rotvec(vectors).as_matrix(), atol=1e-12)
    assert np.allclose(rotation_log(R).numpy(), vectors, atol=1e-9)


def test_rotation_gradients_are_finite_at_zero() -> None:
    vectors = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(rotation_exp, vectors)
    rotation_log(rotation_exp(vectors)).sum().backward()
    assert torch.allclose(vectors.grad, torch.ones_like(vectors))


@pytest.mark.parametrize("name", ["fr3", "ur5e_robotiq"])
def test_chain_agrees_with_the_robot_and_its_derivative(name: str) -> None:
    robot = RobotModel.load(name)
    chain = ArmChain.of(robot)
    generator = torch.Generator().manual_seed(0)
    share = torch.rand(6, len(robot.joint_names), generator=generator, dtype=torch.float64)
    lower, upper = torch.from_numpy(robot.lower), torch.from_numpy(robot.upper)
    q = lower + share * (upper - lower)
    arm = q[:, list(chain.columns)]
    T, J = chain.tool_and_jacobian(arm)
    assert torch.allclose(T, robot.tool_pose(q), atol=1e-6)
    step = 1e-6 * torch.eye(arm.shape[1], dtype=torch.float64)
    for row in range(len(arm)):
        ahead, behind = (chain.tool_and_jacobian(arm[row] + sign * step)[0] for sign in (1.0, -1.0))
        linear = (ahead[:, :3, 3] - behind[:, :3, 3]) / 2e-6
        angular = rotation_log(ahead[:, :3, :3] @ behind[:, :3, :3].transpose(-1, -2)) / 2e-6
        assert torch.allclose(J[row].T, torch.cat([linear, angular], -1), atol=1e-6)


def test_gentle_paths_are_followed(body: Body, home: Tensor) -> None:
    space = ToolPathSpace(body=body, rotation=(0.2, 0.2, 0.5), width=0.04)
    actions = space.decode(home, draw(space, 32, 0, scale=0.3))
    assert actions.joint_positions.shape == (32, 11, 8)
    assert float(actions.position_error.max()) < 1e-3
    assert float(actions.rotation_error.max()) < 5e-3
    real = body.robot.tool_pose(actions.joint_positions)
    assert torch.allclose(actions.tool_poses, real, atol=1e-6)
    assert torch.allclose(
        body.robot.gripper_width(actions.joint_positions), actions.gripper_width, atol=1e-6
    )
    assert actions.robot_flow.positions.shape == (32, 11, 64, 3)


def test_knots_are_passed(body: Body, home: Tensor) -> None:
    space = ToolPathSpace(body=body, knots=2)
    plan = space.rest()
    plan[0, 0], plan[1, 1], plan[1, 5] = 0.05, -0.08, 0.3
    actions = space.decode(home, plan[None])
    now = actions.tool_poses[0, 0]
    middle, last = actions.tool_poses[0, 5], actions.tool_poses[0, 10]
    assert torch.allclose(middle[:3, 3] - now[:3, 3], plan[0, :3], atol=2e-3)
    assert torch.allclose(last[:3, 3] - now[:3, 3], plan[1, :3], atol=2e-3)
    assert torch.allclose(rotation_log(last[:3, :3] @ now[:3, :3].T), plan[1, 3:6], atol=5e-3)


def test_rest_stays(body: Body, home: Tensor) -> None:
    for space in (ToolPathSpace(body=body), JointPathSpace(body=body)):
        actions = space.decode(home, space.rest()[None])
        assert torch.allclose(actions.joint_positions, home.expand(1, 11, -1), atol=1e-9)


def _check_limits(actions: Actions, body: Body, limits: PathLimits) -> None:
    robot, q, dt = body.robot, actions.joint_positions, body.step_dt
    assert torch.isfinite(q).all()
    assert (q >= torch.from_numpy(robot.lower) - 1e-9).all()
    assert (q <= torch.from_numpy(robot.upper) + 1e-9).all()
    columns = list(body.chain.columns)
    assert (q.diff(dim=1).abs()[..., columns] <= body.chain.velocity * dt + 1e-9).all()
    width = actions.gripper_width
    assert (width >= 0).all()
    assert (width <= robot.gripper_max_width + 1e-9).all()
    assert (width.diff(dim=1).abs() <= limits.gripper_speed * dt + 1e-9).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0, 1), speed=st.floats(0.05, 2.0))
def test_limits_are_never_broken(
    body: Body, home: Tensor, seed: int, scale: float, speed: float
) -> None:
    limits = PathLimits(speed=speed, workspace_upper=(0.6, 0.2, 0.5))
    space = ToolPathSpace(body=body, limits=limits, rotation=(1.0, 1.0, 1.5), width=0.08)
    actions = space.decode(home, draw(space, 8, seed, scale))
    _check_limits(actions, body, limits)
    reached = actions.position_error < 1e-3
    assert (actions.workspace_excess[reached] < 2e-3).all()
    both = reached[:, 1:] & reached[:, :-1]
    assert (actions.speed_excess[:, 1:][both] < 2e-3 / body.step_dt).all()
    joint = JointPathSpace(body=body, limits=limits, turn=2.0, width=0.08)
    _check_limits(joint.decode(home, draw(joint, 8, seed, scale)), body, limits)


def test_what_cannot_be_reached_is_reported(body: Body, home: Tensor) -> None:
    far = PathLimits(workspace_upper=(3.0, 3.0, 3.0), speed=2.0)
    space = ToolPathSpace(body=body, limits=far, translation=(2.0, 2.0, 2.0))
    plan = space.rest()
    plan[:, 0] = torch.linspace(0.4, 1.6, 4)
    actions = space.decode(home, torch.stack([plan, space.rest()]))
    assert float(actions.position_error[0, -1]) > 0.3
    assert float(actions.position_error[1].max()) < 1e-6
    assert torch.isfinite(actions.joint_positions).all()


def test_joint_space_reports_workspace_and_speed(body: Body, home: Tensor) -> None:
    limits = PathLimits(
        workspace_lower=(0.25, -0.1, 0.0), workspace_upper=(0.8, 0.1, 0.6), speed=0.1
    )
    space = JointPathSpace(body=body, limits=limits, turn=1.0)
    plan = space.rest()
    plan[:, 0] = torch.linspace(0.25, 1.0, 4)
    actions = space.decode(home, plan[None])
    assert float(actions.workspace_excess[0, -1]) > 0.05
    assert float(actions.speed_excess.max()) > 0.1


def test_batch_does_not_change_a_candidate(body: Body, home: Tensor) -> None:
    space = ToolPathSpace(body=body)
    plans = draw(space, 9, 3)
    whole = space.decode(home, plans).joint_positions
    parts = torch.cat([space.decode(home, part).joint_positions for part in plans.split(2)])
    assert torch.allclose(whole, parts, atol=1e-9)


def test_shifted_plan_continues_the_path(body: Body, home: Tensor) -> None:
    """After three steps, the shifted plan leads where the old one led (within what a new spline can follow)."""
    for space in (
        ToolPathSpace(body=body, knots=5, rotation=(0.0, 0.0, 0.8)),
        JointPathSpace(body=body, knots=5, turn=0.3),
    ):
        plan = draw(space, 1, 0, scale=0.4)[0].cumsum(0) / 3
        old = space.decode(home, plan[None])
        new = space.decode(old.joint_positions[0, 3], space.shift(plan, 3)[None])
        rest = old.tool_poses[0, 3:, :3, 3]
        assert float((new.tool_poses[0, : len(rest), :3, 3] - rest).norm(dim=-1).max()) < 0.012
        assert torch.allclose(space.shift(plan, 0), plan, atol=1e-9)
        assert torch.allclose(space.shift(plan, 10), space.rest(), atol=1e-9)


def test_gradients_reach_the_knots(body: Body, home: Tensor) -> None:
    space = ToolPathSpace(body=body)
    plans = draw(space, 2, 0, scale=0.3)
    plans[1] = 0.0
    plans.requires_grad_(True)
    actions = space.decode(home, plans)
    (actions.robot_flow.positions[:, -1].sum() + actions.self_clearance.sum()).backward()
    assert torch.isfinite(plans.grad).all()
    assert float(plans.grad[:, -1, :3].abs().min()) > 0.1


def test_self_collision_sees_a_folded_arm(robot: RobotModel, home: Tensor) -> None:
    watch = SelfCollision.of(robot)
    folded = home.clone()
    folded[3], folded[5], folded[1] = -3.0, 0.6, -1.2
    poses = robot.forward_kinematics(torch.stack([home, folded]))
    clear, hit = watch.clearance(poses).tolist()
    assert clear > 0.005
    assert hit < clear - 0.02
    assert hit < 0.0


def test_clearance_is_the_least_gap_between_spheres() -> None:
    links = torch.tensor([0, 1, 1])
    centres = torch.tensor([[0.0, 0, 0], [0.0, 0, 0], [0.3, 0, 0]])
    allowance = torch.full((3, 3), -torch.inf)
    allowance[0, 1], allowance[0, 2] = 0.25, 0.1
    poses = torch.eye(4).repeat(5, 2, 1, 1)
    poses[:, 1, 0, 3] = torch.linspace(0.2, 1.0, 5)
    gap = SelfCollision(links=links, centres=centres, allowance=allowance).clearance(poses)
    assert torch.allclose(gap, torch.linspace(0.2, 1.0, 5) - 0.25, atol=1e-6)


@pytest.mark.rejects_input
def test_bad_spaces_are_refused(body: Body, robot: RobotModel) -> None:
    for make in (
        lambda: ToolPathSpace(body=body, knots=0),
        lambda: ToolPathSpace(body=body, width=-1.0),
        lambda: PathLimits(workspace_lower=(1.0, 0.0, 0.0)),
        lambda: PathLimits(speed=0.0),
        lambda: Body.of(robot, step_dt=0.1, num_steps=1),
        lambda: ToolPathSpace(body=body).shift(ToolPathSpace(body=body).rest(), -1),
    ):
        with pytest.raises(InputError):
            make()
    assert replace(ToolPathSpace(body=body), knots=2).rest().shape == (2, 7)
