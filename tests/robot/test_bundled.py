"""The bundled robots: names, sizes, masses, geometry, grippers."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import robot_assets
from pointworld.robot import RobotModel, bundled_robots
from tests.robot.conftest import ROBOTS, to_tensor

ASSETS = Path(robot_assets.__file__).parent


def test_names() -> None:
    assert bundled_robots() == ROBOTS


def test_assets_are_small_and_carry_their_papers() -> None:
    files = [p for p in ASSETS.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert sum(p.stat().st_size for p in files) <= 8_000_000
    for name in ROBOTS:
        assert "Apache License" in (ASSETS / name / "LICENSE").read_text()
        assert "our own work" in (ASSETS / name / "SOURCE").read_text()


def test_fr3_interface(fr3: RobotModel) -> None:
    assert fr3.joint_names == (*(f"fr3_joint{i}" for i in range(1, 8)), "fr3_finger_joint1")
    arm = {f"fr3_link{i}" for i in range(9)}
    hand = {"fr3_hand", "fr3_hand_tcp", "fr3_leftfinger", "fr3_rightfinger"}
    assert set(fr3.link_names) == arm | hand
    assert fr3.tool_link == "fr3_hand_tcp"
    assert fr3.lower[3] == -3.077 and fr3.upper[5] == 4.6216
    assert list(fr3.velocity[:7]) == [2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26]


def test_home_is_within_limits_and_points_down(robot: RobotModel) -> None:
    robot.check_limits(robot.home)
    down = robot.tool_pose(to_tensor(robot.home))[:3, 2]
    assert down[2] < -0.9


def test_links_have_plausible_masses(robot: RobotModel) -> None:
    total = 0.0
    for link in ElementTree.parse(robot.source).getroot().findall("link"):
        if link.find("collision") is None:
            continue
        mass = float(link.find("inertial/mass").attrib["value"])  # type: ignore[union-attr]
        values = {k: float(v) for k, v in link.find("inertial/inertia").attrib.items()}  # type: ignore[union-attr]
        xx, xy, xz = values["ixx"], values["ixy"], values["ixz"]
        yy, yz, zz = values["iyy"], values["iyz"], values["izz"]
        moments = np.linalg.eigvalsh([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        assert mass > 0 and moments[0] > 0
        assert moments[2] < moments[0] + moments[1] + 1e-9  # a body that can exist
        total += mass
    assert 16 < total < 24


def test_collision_parts_are_convex_bodies(robot: RobotModel) -> None:
    count = 0
    for parts in robot.collision_meshes.values():
        for body in parts:
            assert body.is_watertight
            assert body.volume == pytest.approx(body.convex_hull.volume, rel=1e-4)
            count += 1
    assert count >= 30


def test_visual_surface_is_the_outside_of_the_parts(robot: RobotModel) -> None:
    """No visual triangle lies inside a part of its link, and each lies on the surface of one."""
    for link, mesh in robot.visual_meshes.items():
        centers = np.asarray(mesh.triangles_center)
        depth = np.stack([_height(centers, body) for body in robot.collision_meshes[link]])
        assert depth.min() > -2e-5, link
        assert np.abs(depth).min(0).max() < 2e-5, link


def _height(points: np.ndarray, body: object) -> np.ndarray:
    """Largest signed distance of points to the faces of a convex body [m]; negative inside."""
    normals = np.asarray(body.face_normals)  # type: ignore[attr-defined]
    offset = (normals * np.asarray(body.triangles)[:, 0]).sum(-1)  # type: ignore[attr-defined]
    return np.asarray((points @ normals.T - offset).max(1))


def test_hand_dimensions(fr3: RobotModel) -> None:
    hand = fr3.visual_meshes["fr3_hand"]
    assert np.allclose(hand.extents, [0.063, 0.207, 0.092], atol=4e-3)
    assert hand.bounds[1][2] == pytest.approx(0.066, abs=1e-3)
    finger = fr3.visual_meshes["fr3_leftfinger"]
    assert finger.extents[0] == pytest.approx(0.021, abs=1e-3)
    assert finger.bounds[0][1] == pytest.approx(0.0, abs=1e-6)  # pads meet at width 0
    assert 0.0584 + finger.bounds[1][2] == pytest.approx(0.1122, abs=1e-3)


@pytest.mark.parametrize("name", ["panda_robotiq", "ur5e_robotiq"])
def test_robotiq_linkage(name: str) -> None:
    robot = RobotModel.load(name)
    assert robot.gripper_max_width == pytest.approx(0.085, abs=1e-5)
    q = to_tensor(robot.home)
    closed = robot.with_gripper_width(q, 0.0)
    assert closed[-1] == pytest.approx(0.8, abs=2e-3)
    signs = {j.name: j.mimic[1] for j in robot.joints if j.mimic is not None}
    assert signs == {
        "left_inner_knuckle_joint": 1.0,
        "left_inner_finger_joint": -1.0,
        "right_outer_knuckle_joint": -1.0,
        "right_inner_knuckle_joint": -1.0,
        "right_inner_finger_joint": 1.0,
    }
    for value in (0.0, 0.3, 0.8):  # a parallel gripper: the finger tips never turn
        q[-1] = value
        poses = robot.forward_kinematics(q)
        base = poses[robot.link_names.index("robotiq_85_base_link"), :3, :3]
        for side in ("left", "right"):
            tip = poses[robot.link_names.index(f"{side}_inner_finger"), :3, :3]
            assert torch.allclose(tip, base, atol=1e-6)


def test_robotiq_on_panda_is_mounted_as_released() -> None:
    robot = RobotModel.load("panda_robotiq")
    poses = robot.forward_kinematics(to_tensor(robot.home))
    flange, base = (
        poses[robot.link_names.index(n)] for n in ("panda_link8", "robotiq_85_base_link")
    )
    relative = torch.linalg.inv(flange) @ base
    assert torch.atan2(relative[1, 0], relative[0, 0]) == pytest.approx(1.57, abs=1e-6)
    assert float(relative[:3, 3].norm()) < 1e-6


def test_released_rule_selects_nine_meshes() -> None:
    surface = RobotModel.load("panda_robotiq").sample_surface_released(500, seed=42)
    assert len(surface) == 500
    assert len(torch.unique(surface.link_index)) == 9


def test_gripper_width_round_trip(robot: RobotModel) -> None:
    widths = torch.linspace(0.001, robot.gripper_max_width, 40, dtype=torch.float64)
    q = to_tensor(robot.home).expand(40, -1)
    moved = robot.with_gripper_width(q, widths)
    assert torch.allclose(robot.gripper_width(moved), widths, atol=1e-6)
    assert torch.equal(moved[:, :-1], q[:, :-1])
    openness = robot.gripper_open(moved)[:, 0]
    assert (openness.diff() > 0).all() and openness[-1] == pytest.approx(1.0, abs=1e-4)


def test_width_is_the_distance_of_the_pads(robot: RobotModel) -> None:
    """Measured on the meshes: the gap between the two fingers along the opening direction."""
    width = 0.05
    q = robot.with_gripper_width(to_tensor(robot.home), width)
    T = robot.forward_kinematics(q).numpy()
    names = ("fr3_leftfinger", "fr3_rightfinger")
    if robot.name != "fr3":
        names = ("left_inner_finger", "right_inner_finger")
    first, second = (robot.link_names.index(n) for n in names)
    direction = T[first, :3, 3] - T[second, :3, 3]
    direction /= np.linalg.norm(direction)
    along = [
        np.asarray(robot.visual_meshes[n].vertices) @ T[i, :3, :3].T @ direction
        + T[i, :3, 3] @ direction
        for n, i in zip(names, (first, second), strict=True)
    ]
    assert along[0].min() - along[1].max() == pytest.approx(width, abs=1e-4)


def test_geometry_is_what_the_builder_writes(tmp_path: Path) -> None:
    from robot_assets.build_geometry import fr3
    from robot_assets.describe import write_robot

    write_robot(fr3(), tmp_path)
    rebuilt = RobotModel.load(tmp_path / "fr3.urdf")
    shipped = RobotModel.load("fr3")
    assert rebuilt.joint_names == shipped.joint_names
    for link, mesh in shipped.visual_meshes.items():
        assert rebuilt.visual_meshes[link].area == pytest.approx(mesh.area, rel=1e-6)
        assert np.allclose(rebuilt.visual_meshes[link].bounds, mesh.bounds, atol=1e-6)
