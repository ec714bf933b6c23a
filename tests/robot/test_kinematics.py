"""Forward kinematics against two independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pointworld.errors import InputError
from pointworld.robot import RobotModel
from tests.robot.conftest import oracle_poses, random_positions, rodrigues, to_tensor


def test_every_link_matches_a_float64_walk_over_the_urdf(robot: RobotModel) -> None:
    q = random_positions(robot, 200, seed=3)
    walks = [
        oracle_poses(robot.source, dict(zip(robot.joint_names, row, strict=True))) for row in q
    ]
    expected = np.stack([np.stack([walk[name] for name in robot.link_names]) for walk in walks])
    for dtype in (torch.float64, torch.float32):
        poses = robot.forward_kinematics(to_tensor(q, dtype))
        assert poses.dtype == dtype
        assert np.abs(poses.double().numpy() - expected).max() <= 1e-5


def _franka_flange(q: np.ndarray) -> np.ndarray:
    """T_base_flange from the published modified Denavit-Hartenberg table (a, d, alpha)."""
    table = [
        (0, 0.333, 0),
        (0, 0, -np.pi / 2),
        (0, 0.316, np.pi / 2),
        (0.0825, 0, np.pi / 2),
        (-0.0825, 0.384, -np.pi / 2),
        (0, 0, np.pi / 2),
        (0.088, 0, np.pi / 2),
        (0, 0.107, 0),
    ]
    T = np.eye(4)
    for (a, d, alpha), theta in zip(table, [*q, 0.0], strict=True):
        step = np.eye(4)
        step[:3, :3] = rodrigues([1, 0, 0], alpha) @ rodrigues([0, 0, 1], theta)
        step[:3, 3] = [a, -d * np.sin(alpha), d * np.cos(alpha)]
        T = T @ step
    return T


def _ur5e_tool(q: np.ndarray) -> np.ndarray:
    """T_base_tool0 from the published standard Denavit-Hartenberg table; ROS base_link is turned by pi."""
    a = [0, -0.425, -0.3922, 0, 0, 0]
    d = [0.1625, 0, 0, 0.1333, 0.0997, 0.0996]
    alpha = [np.pi / 2, 0, 0, np.pi / 2, -np.pi / 2, 0]
    T = np.diag([-1.0, -1.0, 1.0, 1.0])
    for i in range(6):
        turn, shift = np.eye(4), np.eye(4)
        turn[:3, :3] = rodrigues([0, 0, 1], q[i])
        shift[:3, :3] = rodrigues([1, 0, 0], alpha[i])
        shift[:3, 3] = [a[i], 0, d[i]]
        T = T @ turn @ shift
    return T


@pytest.mark.parametrize(
    ("name", "link", "joints", "table"),
    [
        ("fr3", "fr3_link8", 7, _franka_flange),
        ("panda_robotiq", "panda_link8", 7, _franka_flange),
        ("ur5e_robotiq", "tool0", 6, _ur5e_tool),
    ],
)
def test_flange_matches_the_makers_table(name: str, link: str, joints: int, table: object) -> None:
    robot = RobotModel.load(name)
    q = random_positions(robot, 50, seed=4)
    poses = robot.forward_kinematics(to_tensor(q))[:, robot.link_names.index(link)].numpy()
    expected = np.stack([table(row[:joints]) for row in q])  # type: ignore[operator]
    assert np.abs(poses - expected).max() < 1e-6


def test_hand_and_tool_frames(fr3: RobotModel) -> None:
    poses = fr3.forward_kinematics(torch.zeros(8, dtype=torch.float64))
    flange, hand, tool = (
        poses[fr3.link_names.index(n)] for n in ("fr3_link8", "fr3_hand", "fr3_hand_tcp")
    )
    yaw = torch.linalg.inv(flange) @ hand
    assert torch.allclose(yaw[:3, :3], torch.as_tensor(rodrigues([0, 0, 1], -np.pi / 4)), atol=1e-6)
    assert (torch.linalg.inv(hand) @ tool)[2, 3] == pytest.approx(0.1034, abs=1e-6)


def test_mimic_finger_follows(fr3: RobotModel) -> None:
    q = torch.zeros(8, dtype=torch.float64)
    q[-1] = 0.03
    poses = fr3.forward_kinematics(q)
    left, right = (poses[fr3.link_names.index(f"fr3_{s}finger"), :3, 3] for s in ("left", "right"))
    assert float((left - right).norm()) == pytest.approx(0.06, abs=1e-6)


def test_batches_of_any_shape(robot: RobotModel) -> None:
    q = to_tensor(random_positions(robot, 12, seed=5))
    flat = robot.forward_kinematics(q)
    assert torch.equal(
        robot.forward_kinematics(q.reshape(3, 4, -1)), flat.reshape(3, 4, *flat.shape[1:])
    )
    assert torch.allclose(robot.forward_kinematics(q[7]), flat[7], atol=1e-12)
    assert robot.forward_kinematics(q[:0]).shape == (0, len(robot.link_names), 4, 4)


def test_gradient_matches_finite_differences(robot: RobotModel) -> None:
    q = to_tensor(random_positions(robot, 1, seed=6)[0]) * 0.9
    tool = robot.link_names.index(robot.tool_link)

    def height(x: torch.Tensor) -> torch.Tensor:
        return robot.forward_kinematics(x)[..., tool, 2, 3]

    x = q.clone().requires_grad_()
    height(x).sum().backward()
    steps = torch.eye(len(q), dtype=q.dtype) * 1e-6
    numeric = torch.stack([(height(q + s) - height(q - s)) / 2e-6 for s in steps])
    assert x.grad is not None
    assert torch.allclose(x.grad, numeric, atol=1e-6)


@pytest.mark.rejects_input
def test_wrong_joint_count_is_refused(fr3: RobotModel) -> None:
    with pytest.raises(InputError, match=r"expected \(\.\.\., 8\)"):
        fr3.forward_kinematics(torch.zeros(3, 7))
