"""Robot descriptions that must be refused, each with a message that names the trouble."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import trimesh

from pointworld.errors import AssetError
from pointworld.robot import RobotModel
from tests.robot.conftest import GOOD, Writer

pytestmark = pytest.mark.rejects_input

ARM = '<mesh filename="arm.stl"/>'
LIMIT = '<limit lower="-1" upper="1" velocity="1" effort="1"/>'


def test_the_good_one_loads(write_urdf: Writer) -> None:
    robot = RobotModel.load(write_urdf())
    assert robot.joint_names == ("turn",) and robot.link_names == ("base", "arm")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('upper="1"', 'upper="nan"', "upper limit is 'nan'"),
        ('lower="-1"', 'lower="-inf"', "lower limit is '-inf'"),
        ('lower="-1"', 'lower="2"', "lower limit 2.0 is above the upper limit 1.0"),
        ('velocity="1"', 'velocity="-1"', "velocity limit is -1.0"),
        ('velocity="1"', 'velocity="nan"', "velocity limit is 'nan'"),
        (LIMIT, "", "needs <limit"),
        ('axis xyz="0 0 1"', 'axis xyz="0 0 0"', "axis is"),
        ('axis xyz="0 0 1"', 'axis xyz="0 0"', "axis is '0 0', expected 3"),
        ('axis xyz="0 0 1"', 'axis xyz="0 0 nan"', "expected 3 finite"),
        ('xyz="0 0 0.1"', 'xyz="0 0 inf"', "origin xyz"),
        ('rpy="0 0 0"', 'rpy="0 zero 0"', "origin rpy"),
        ('type="revolute"', 'type="floating"', "type 'floating' is not supported"),
        ('type="revolute"', 'type="planar"', "type 'planar' is not supported"),
        ('type="revolute"', 'type="hinge"', "type 'hinge' is not supported"),
        ('<parent link="base"/>', '<parent link="bse"/>', "'bse', which does not exist"),
        ('<parent link="base"/>', "", "no <parent"),
        (
            '<parent link="base"/><child link="arm"/>',
            '<parent link="arm"/><child link="arm"/>',
            "2 links|cycle",
        ),
        ('<link name="arm">', '<link name="base">', "more than once: base"),
        ('<link name="arm">', "<link>", "has no name"),
        ('size="0.1 0.1 0.1"', 'size="0.1 0 0.1"', "sizes above zero"),
        ('size="0.1 0.1 0.1"', 'size="0.1 -1 0.1"', "sizes above zero"),
        ('<box size="0.1 0.1 0.1"/>', '<blob size="1"/>', "geometry 'blob'"),
        (ARM, '<mesh filename=""/>', "without a file name"),
        (ARM, '<mesh filename="arm.stl" scale="1 1 nan"/>', "mesh scale"),
        (ARM, '<mesh filename="missing.stl"/>', "not found"),
        (ARM, '<mesh filename="robot.urdf"/>', "must be STL, OBJ, DAE"),
        (LIMIT, LIMIT + '<mimic joint="nobody"/>', "mimics 'nobody'"),
        (LIMIT, LIMIT + '<mimic joint="turn"/>', "circle"),
        (LIMIT, LIMIT + '<mimic joint="turn" multiplier="nan"/>', "mimic multiplier"),
        ("</robot>", "", "not well-formed"),
        ("</robot>", '<link name="loose"/></robot>', "2 links have no parent"),
        ('<robot name="two">', '<sdf name="two">', "not well-formed"),
    ],
)
def test_broken_descriptions(write_urdf: Writer, old: str, new: str, message: str) -> None:
    with pytest.raises(AssetError, match=message) as caught:
        RobotModel.load(write_urdf((old, new)))
    assert "robot.urdf" in str(caught.value)


def test_cycle_of_links(write_urdf: Writer) -> None:
    joint = '<joint name="{0}" type="fixed"><parent link="{1}"/><child link="{2}"/></joint>'
    extra = (
        '<link name="a"/><link name="b"/>'
        + joint.format("ab", "a", "b")
        + joint.format("ba", "b", "a")
    )
    with pytest.raises(AssetError, match="cycle through the links a, b"):
        RobotModel.load(write_urdf(("</robot>", extra + "</robot>")))
    whole = (
        '<robot name="r"><link name="a"/><link name="b"/>'
        + joint.format("ab", "a", "b")
        + joint.format("ba", "b", "a")
        + "</robot>"
    )
    with pytest.raises(AssetError, match="every link is the child"):
        RobotModel.load(write_urdf(text=whole))


def test_two_parents(write_urdf: Writer) -> None:
    extra = (
        '<joint name="again" type="fixed"><parent link="base"/><child link="arm"/></joint></robot>'
    )
    with pytest.raises(AssetError, match="child of two joints"):
        RobotModel.load(write_urdf(("</robot>", extra)))


def test_entity_bomb_is_refused_at_once(write_urdf: Writer) -> None:
    levels = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    bomb = f'<?xml version="1.0"?><!DOCTYPE robot [<!ENTITY l0 "lol">{levels}]>' + GOOD.replace(
        'name="two"', 'name="&l9;"'
    )
    start = time.process_time()
    with pytest.raises(AssetError, match="document type"):
        RobotModel.load(write_urdf(text=bomb))
    assert time.process_time() - start < 1


def test_external_entity_is_refused(write_urdf: Writer, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("top secret")
    text = f'<!DOCTYPE robot [<!ENTITY x SYSTEM "file://{secret}">]>' + GOOD.replace("two", "&x;")
    with pytest.raises(AssetError, match="document type") as caught:
        RobotModel.load(write_urdf(text=text))
    assert "top secret" not in str(caught.value)


def test_other_encodings_are_refused(write_urdf: Writer) -> None:
    path = write_urdf()
    path.write_bytes(('<?xml version="1.0" encoding="UTF-16"?>' + GOOD).encode("utf-16"))
    with pytest.raises(AssetError, match="UTF-8"):
        RobotModel.load(path)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.stl",
        "meshes/../../secret.stl",
        "package://robot/../../secret.stl",
        "package://../secret.stl",
        "..%2fsecret.stl",
        "..\\secret.stl",
        "link.stl",
        "folder/secret.stl",
        "{file}",
        "file://{file}",
        "FILE://{file}",
        "http://127.0.0.1:9/arm.stl",
        "c:/secret.stl",
    ],
)
def test_meshes_outside_the_folder_are_refused(
    write_urdf: Writer, tmp_path: Path, name: str
) -> None:
    secret = tmp_path / "secret.stl"
    secret.write_bytes(trimesh.creation.box().export(file_type="stl"))
    path = write_urdf((ARM, f'<mesh filename="{name.format(file=secret)}"/>'))
    (path.parent / "link.stl").symlink_to(secret)
    (path.parent / "folder").symlink_to(tmp_path)
    with pytest.raises(AssetError, match=r"refused|not found"):
        RobotModel.load(path)


def test_obj_never_opens_what_it_names(write_urdf: Writer, tmp_path: Path) -> None:
    path = write_urdf((ARM, '<mesh filename="arm.obj"/>'))
    body = trimesh.creation.box().export(file_type="obj")
    (tmp_path / "secret.mtl").write_text("newmtl m\nKd 1 0 0\n")
    (path.parent / "arm.obj").write_text("mtllib ../secret.mtl\nusemtl m\n" + body)
    colors = np.asarray(RobotModel.load(path).visual_meshes["arm"].visual.face_colors)
    assert not (colors[:, :3] == [255, 0, 0]).all(1).any()


def _broken_meshes() -> dict[str, bytes]:
    box = trimesh.creation.box()
    stl = box.export(file_type="stl")
    nan = trimesh.Trimesh(np.full((3, 3), np.nan), [[0, 1, 2]], process=False)
    return {
        "truncated.stl": stl[:-30],
        "empty.stl": b"",
        "header.stl": stl[:84],
        "promise.stl": stl[:80] + (2**31).to_bytes(4, "little") + stl[84:],
        "noise.stl": bytes(range(256)) * 4,
        "ascii.stl": b"solid x\nfacet normal 0 0 1\n outer loop\n vertex 0 0 0\n",
        "nan.stl": nan.export(file_type="stl"),
        "empty.obj": b"# nothing\n",
        "words.obj": b"v a b c\nf 1 2 3\n",
        "index.obj": b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n",
        "empty.dae": b"",
        "broken.dae": b"<COLLADA><library_geometries>",
        "bomb.dae": b'<!DOCTYPE x [<!ENTITY a "b">]><COLLADA>&a;</COLLADA>',
    }


@pytest.mark.parametrize("name", sorted(_broken_meshes()))
def test_broken_meshes(write_urdf: Writer, name: str) -> None:
    path = write_urdf((ARM, f'<mesh filename="{name}"/>'))
    (path.parent / name).write_bytes(_broken_meshes()[name])
    with pytest.raises(AssetError, match=name):
        RobotModel.load(path)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"tool_lnk": "arm"}, "Did you mean 'tool_link'"),
        ({"tool_link": "hand"}, "no link 'hand'"),
        ({"gripper_joint": "tun", "finger_pads": {}}, "Did you mean 'turn'"),
        ({"gripper_joint": "turn"}, "exactly two links"),
        ({"home": [0, 0]}, "home has 2 values"),
        ({"home": "x"}, "wrong type"),
        ([1], "one JSON object"),
    ],
)
def test_broken_sidecar(write_urdf: Writer, facts: object, message: str) -> None:
    path = write_urdf()
    (path.parent / "robot.json").write_text(json.dumps(facts))
    with pytest.raises(AssetError, match=message):
        RobotModel.load(path)


def test_unknown_robot_names_the_known_ones() -> None:
    with pytest.raises(AssetError, match="Did you mean 'panda_robotiq'"):
        RobotModel.load("panda_robotik")
    with pytest.raises(AssetError, match="fr3, panda_robotiq, ur5e_robotiq"):
        RobotModel.load("nowhere/x.urdf")
