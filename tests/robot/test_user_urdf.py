"""Robots of users: mesh formats, packages, foreign namespaces, mimic chains, robot.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from pointworld.errors import InputError
from pointworld.robot import RobotModel
from tests.robot.conftest import GOOD, Writer, oracle_poses, to_tensor

ARM = '<mesh filename="arm.stl"/>'


def _wedge() -> trimesh.Trimesh:
    """A lopsided tetrahedron, so that a swapped axis, scale or mirror shows."""
    vertices = np.array([[0, 0, 0], [0.1, 0, 0], [0, 0.2, 0], [0, 0, 0.3]])
    return trimesh.convex.convex_hull(vertices)


@pytest.mark.parametrize("kind", ["stl", "obj", "dae"])
@pytest.mark.parametrize("scale", ["1 1 1", "0.5 2 1", "1 -1 1"])
def test_mesh_formats_and_scales(write_urdf: Writer, kind: str, scale: str) -> None:
    path = write_urdf((ARM, f'<mesh filename="arm.{kind}" scale="{scale}"/>'))
    data = _wedge().export(file_type=kind)
    (path.parent / f"arm.{kind}").write_bytes(data if isinstance(data, bytes) else data.encode())
    mesh = RobotModel.load(path).visual_meshes["arm"]
    factor = np.array([float(v) for v in scale.split()])
    corners = np.sort([np.zeros(3), [0.1, 0.2, 0.3] * factor], axis=0)
    assert np.allclose(mesh.bounds, corners, atol=1e-6)
    mesh.merge_vertices()
    assert mesh.volume == pytest.approx(
        abs(factor.prod()) * 0.001, rel=1e-4
    )  # winding kept outward


def test_primitives_and_origins(write_urdf: Writer) -> None:
    shapes = (
        '<collision><origin xyz="1 0 0" rpy="0 1.5707963267948966 0"/><geometry>'
        '<cylinder radius="0.1" length="0.4"/></geometry></collision>'
        '<collision><geometry><sphere radius="0.2"/></geometry></collision></link>\n  <joint'
    )
    robot = RobotModel.load(write_urdf(("</link>\n  <joint", shapes)))
    cylinder, ball = robot.collision_meshes["arm"]
    assert np.allclose(cylinder.bounds, [[0.8, -0.1, -0.1], [1.2, 0.1, 0.1]], atol=1e-3)
    assert np.allclose(ball.extents, 0.4, atol=2e-3)


def test_materials_color_the_mesh(write_urdf: Writer) -> None:
    path = write_urdf(
        (
            "</geometry></visual></link>\n  <joint",
            '</geometry><material name="red"/></visual></link>\n  <joint',
        ),
        (
            '<robot name="two">',
            '<robot name="two"><material name="red"><color rgba="1 0 0 1"/></material>',
        ),
    )
    colors = np.asarray(RobotModel.load(path).visual_meshes["arm"].visual.face_colors)
    assert (colors == [255, 0, 0, 255]).all()


def test_package_names_and_urdf_folder(tmp_path: Path) -> None:
    root = tmp_path / "my_robot"
    (root / "urdf").mkdir(parents=True)
    (root / "meshes").mkdir()
    (root / "meshes" / "arm.stl").write_bytes(_wedge().export(file_type="stl"))
    for name in ("package://my_robot/meshes/arm.stl", "../meshes/arm.stl"):
        urdf = root / "urdf" / "arm.urdf"
        urdf.write_text(GOOD.replace("arm.stl", name))
        assert "arm" in RobotModel.load(urdf).visual_meshes


def test_foreign_namespaces_and_transmissions_are_skipped(write_urdf: Writer) -> None:
    path = write_urdf(
        ('velocity="1"', 'velocity="1" drake:acceleration="2"'),
        (
            "</robot>",
            '<transmission name="t">text<joint name="turn"/></transmission><gazebo/></robot>',
        ),
    )
    assert RobotModel.load(path).velocity.tolist() == [1.0]


def test_loading_and_moving_is_silent(
    write_urdf: Writer, capfd: pytest.CaptureFixture[str]
) -> None:
    robot = RobotModel.load(write_urdf())
    robot.forward_kinematics(torch.zeros(1))
    output = capfd.readouterr()
    assert output.out == "" and output.err == ""


def _chain(*extra: str) -> str:
    joints = "".join(
        f'<link name="l{i}"/><joint name="j{i}" type="{kind}"><parent link="l{i - 1}"/><child link="l{i}"/>'
        f'<origin xyz="0.1 0 {i / 10}" rpy="0.3 {1.5707963267948966 if i == 2 else 0.1} -0.2"/>'
        f'<axis xyz="1 2 {i}"/><limit lower="-2" upper="2" velocity="1"/>{mimic}</joint>'
        for i, (kind, mimic) in enumerate(
            [
                ("revolute", ""),
                ("continuous", '<mimic joint="j1" multiplier="-2" offset="0.3"/>'),
                ("prismatic", '<mimic joint="j2" multiplier="0.5" offset="0.1"/>'),
                ("fixed", ""),
                ("revolute", ""),
            ],
            start=1,
        )
    )
    return f'<robot name="chain"><link name="l0"/>{joints}{"".join(extra)}</robot>'


def test_mimic_of_mimic_and_odd_axes(write_urdf: Writer) -> None:
    path = write_urdf(text=_chain())
    robot = RobotModel.load(path)
    assert robot.joint_names == ("j1", "j5")
    for q in np.random.default_rng(0).uniform(-1, 1, (20, 2)):
        expected = oracle_poses(path, {"j1": q[0], "j5": q[1]})
        poses = robot.forward_kinematics(to_tensor(q)).numpy()
        for i, name in enumerate(robot.link_names):
            assert np.abs(poses[i] - expected[name]).max() < 1e-6


def test_robot_without_moving_joints(write_urdf: Writer) -> None:
    path = write_urdf(text='<robot name="r"><link name="only"/></robot>')
    robot = RobotModel.load(path)
    assert robot.joint_names == ()
    assert torch.equal(robot.forward_kinematics(torch.zeros(5, 0))[2, 0], torch.eye(4))
    welded = '<joint name="w" type="fixed"><parent link="a"/><child link="b"/><origin xyz="0 0 2"/></joint>'
    path = write_urdf(text=f'<robot name="r"><link name="a"/><link name="b"/>{welded}</robot>')
    assert RobotModel.load(path).forward_kinematics(torch.zeros(3, 0))[1, 1, 2, 3] == 2.0


def test_gripper_from_a_sidecar(write_urdf: Writer) -> None:
    fingers = "".join(
        f'<link name="{side}_finger"/><joint name="{side}" type="prismatic"><parent link="arm"/>'
        f'<child link="{side}_finger"/><axis xyz="{sign} 0 0"/><limit lower="0" upper="0.03" velocity="1"/>{mimic}'
        "</joint>"
        for side, sign, mimic in (("left", 1, ""), ("right", -1, '<mimic joint="left"/>'))
    )
    path = write_urdf(("</robot>", fingers + "</robot>"))
    assert RobotModel.load(path).gripper is None
    with pytest.raises(InputError, match=r"robot\.json"):
        RobotModel.load(path).gripper_width(torch.zeros(2))
    pads = {"left_finger": [0, 0, 0], "right_finger": [0, 0, 0]}
    (path.parent / "robot.json").write_text(
        json.dumps({"tool_link": "arm", "gripper_joint": "left", "finger_pads": pads})
    )
    robot = RobotModel.load(path)
    assert robot.gripper_max_width == pytest.approx(0.06, abs=1e-6)
    assert robot.gripper_links == ("left_finger", "right_finger")


def test_joints_by_name_and_limits(fr3: RobotModel) -> None:
    q = np.arange(8.0)
    names = list(reversed(fr3.joint_names))
    assert fr3.order_joints(q[None], names)[0].tolist() == list(reversed(q))
    with pytest.raises(InputError, match="lack fr3_finger_joint1"):
        fr3.order_joints(q[:7], fr3.joint_names[:7])
    with pytest.raises(InputError, match="Did you mean 'fr3_joint4'"):
        fr3.order_joints(q, [*fr3.joint_names[:3], "fr3_jont4", *fr3.joint_names[4:]])
    fr3.check_limits(fr3.upper + 5e-4)
    with pytest.raises(InputError, match=r"fr3_joint2 is 1\.9361 at step 1"):
        fr3.check_limits(
            np.stack([fr3.home, np.where(np.arange(8) == 1, fr3.upper + 0.1, fr3.home)])
        )
    with pytest.raises(InputError, match="NaN"):
        fr3.check_limits(np.full((2, 8), np.nan))
