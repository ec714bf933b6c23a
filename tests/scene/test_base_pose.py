"""Where the robot stands: given, from a file, or found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

from pointworld.errors import InputError
from pointworld.geometry import transform_points, unproject
from pointworld.scene import Workspace, build_scene, resolve_base_pose, save_base_pose
from pointworld.types import Capture
from tests.scene.world import BOX_CENTER, TABLE_HEIGHT, frames, look_at, render, table_and_box

ANYWHERE = look_at([2.0, -1.0, 0.4], [0.1, 0.7, 1.0])


def tabletop(T_world_base: np.ndarray = ANYWHERE) -> Capture:
    return Capture(frames=tuple(frames(table_and_box(), T_world_base)), source="tabletop")


def test_auto_stands_upright_on_the_table() -> None:
    """In the table's own frame: z up, 0.55 m from the box, on the cameras' side, x towards the box."""
    T, text = resolve_base_pose(tabletop(), "auto")
    found = np.linalg.inv(ANYWHERE) @ T
    assert found[:3, 2] == pytest.approx([0, 0, 1], abs=0.01)
    assert found[2, 3] == pytest.approx(TABLE_HEIGHT, abs=0.003)
    to_box = BOX_CENTER[:2] - found[:2, 3]
    assert np.linalg.norm(to_box) == pytest.approx(0.55, abs=0.06)
    assert found[:2, 0] @ to_box / np.linalg.norm(to_box) > 0.99
    assert found[0, 3] > BOX_CENTER[0]
    assert "upright on the horizontal plane" in text
    again, _ = resolve_base_pose(tabletop(), "auto")
    assert np.array_equal(again, T)


def test_auto_does_not_depend_on_the_world() -> None:
    here = resolve_base_pose(tabletop(np.eye(4)), "auto")[0]
    there = np.linalg.inv(ANYWHERE) @ resolve_base_pose(tabletop(), "auto")[0]
    assert np.abs(here - there).max() < 0.01


def test_auto_prefers_the_table_to_the_floor() -> None:
    """The floor below fills more of the images than the table; the robot still stands on the table."""
    floor = trimesh.creation.box((6.0, 6.0, 0.02))
    floor.apply_translation([0.5, 0.0, -0.76])
    scene = trimesh.util.concatenate([table_and_box(), floor])
    eyes = ([1.7, -0.6, 1.0], [1.7, 0.6, 0.9])
    views = tuple(
        render(scene, look_at(eye, [0.5, 0.0, 0.0]), name=f"cam{i}", focal=110.0)
        for i, eye in enumerate(eyes)
    )
    heights = np.concatenate(
        [transform_points(v.T_world_cam, unproject(v.depth, v.K)[v.valid])[:, 2] for v in views]
    )
    assert (heights < -0.7).sum() > 1.2 * (np.abs(heights) < 0.01).sum()
    T, _ = resolve_base_pose(Capture(frames=views, source="room"), "auto")
    assert T[2, 3] == pytest.approx(0.0, abs=0.01)
    assert T[2, 2] > 0.999


def test_auto_with_a_given_centre() -> None:
    center = (ANYWHERE @ np.array([0.3, -0.2, 0.1, 1.0]))[:3]
    T, _ = resolve_base_pose(tabletop(), "auto", workspace_center=center)
    seen = np.linalg.inv(T) @ np.append(center, 1.0)
    assert seen[:3] == pytest.approx([0.55, 0.0, 0.1], abs=0.01)


def test_auto_without_a_table() -> None:
    """A camera that looks level along a wall finds nothing to stand on."""
    wall = trimesh.creation.box((0.02, 4.0, 4.0))
    frame = render(wall, look_at([1.0, 0.0, 0.0], [0.0, 1.2, 0.0]))
    with pytest.raises(InputError, match="no horizontal plane"):
        resolve_base_pose(Capture(frames=(frame,), source="wall"), "auto")


def test_from_the_capture() -> None:
    capture = replace(tabletop(), T_world_base=ANYWHERE)
    assert np.array_equal(resolve_base_pose(capture, None)[0], ANYWHERE)


def test_from_numbers_and_files(tmp_path: Path) -> None:
    capture = tabletop()
    T, text = resolve_base_pose(capture, "0.1,-0.2,0.3,0,0,0,1")
    assert T[:3, 3] == pytest.approx([0.1, -0.2, 0.3])
    assert T[:3, :3] == pytest.approx(np.diag([-1.0, -1.0, 1.0]))
    save_base_pose(tmp_path / "base.json", ANYWHERE, text)
    assert resolve_base_pose(capture, str(tmp_path / "base.json"))[0] == pytest.approx(ANYWHERE)
    np.save(tmp_path / "base.npy", ANYWHERE)
    assert np.array_equal(resolve_base_pose(capture, str(tmp_path / "base.npy"))[0], ANYWHERE)
    np.savetxt(tmp_path / "base.txt", ANYWHERE)
    assert resolve_base_pose(capture, str(tmp_path / "base.txt"))[0] == pytest.approx(ANYWHERE)


@pytest.mark.rejects_input
def test_absent_names_the_remedies() -> None:
    with pytest.raises(
        InputError, match=r"T_world_base in capture\.json.*--base-pose FILE.*qw,qx,qy,qz.*auto"
    ):
        resolve_base_pose(tabletop(), None)


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("0,0,0", "has 3 numbers"),
        ("0,0,0,1,0,0,nan", "seven finite"),
        ("a,b,c,d,e,f,g", "cannot be read"),
        ("0,0,0,1,1,0,0", "its order is qw,qx,qy,qz"),
        ("nowhere.json", "neither 'auto', nor seven numbers, nor an existing file"),
    ],
)
def test_refuses_specs(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_base_pose(tabletop(), spec)


@pytest.mark.rejects_input
def test_refuses_files(tmp_path: Path) -> None:
    path = tmp_path / "base.json"
    for text, message in (
        ("{}", "expected JSON with T_world_base"),
        ("{", "expected JSON"),
        (json.dumps({"T_world_base": np.diag([2.0, 1, 1, 1]).tolist()}), "not a rigid transform"),
        (json.dumps({"T_world_base": [1, 2]}), "expected"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            resolve_base_pose(tabletop(), str(path))


@pytest.mark.needs_shared
@pytest.mark.parametrize(
    ("name", "up"), [("kitchen_table", (0.0, -0.89, -0.45)), ("apc_shelf", (0.0, 0.0, 1.0))]
)
def test_auto_on_real_captures(name: str, up: tuple[float, float, float], shared_dir: Path) -> None:
    """The table and the floor of the shelf's bin, not the wall: a person looked at both once."""
    from pointworld.capture import read_capture

    capture = read_capture(shared_dir / "captures" / name, frames=[0, 8])
    T, _ = resolve_base_pose(capture, "auto")
    assert T[:3, 2] @ np.array(up) > 0.99
    cameras = [(np.linalg.inv(T) @ frame.T_world_cam)[2, 3] for frame in capture.frames]
    assert 0.05 < min(cameras) < max(cameras) < 0.9
    scene = build_scene(capture.frames, T_world_base=T, workspace=Workspace())
    near = (scene.points[:, :2] - scene.points.new_tensor([0.55, 0.0])).norm(dim=-1) < 0.3
    assert near.sum() > 200
    assert (scene.points[near, 2] > 0.02).sum() > 20
