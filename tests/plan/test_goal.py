"""goal.json: read strictly, written back, and resolved to the right points of a scene."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pointworld.errors import InputError
from pointworld.geometry import invert, transform_points, unproject
from pointworld.plan.costs import KeepStill, TaskPoints, TaskSurface
from pointworld.plan.goal import Goal, read_goal, write_goal
from pointworld.plan.goal_points import ResolvedGoal, resolve_goal
from pointworld.types import Capture, RGBDFrame, ScenePoints

HEIGHT, WIDTH = 24, 32


def record(**changes: Any) -> dict[str, Any]:
    entry = {
        "name": "box",
        "camera": "front",
        "frame": "f0",
        "select": {"kind": "box", "pixels": [0, 0, 16, 24]},
        "goal": {"kind": "translation", "vector": [0.1, 0, 0]},
    }
    return {"version": 1, "sets": [{**entry, **changes}]}


def save(folder: Path, value: Any) -> Path:
    path = folder / "goal.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.fixture
def capture() -> Capture:
    """One camera one metre above a flat scene, with the base half a metre from the world."""
    K = np.array([[30.0, 0, WIDTH / 2], [0, 30.0, HEIGHT / 2], [0, 0, 1]])
    T_world_cam = np.eye(4)
    T_world_cam[:3, :3] = np.diag([1.0, -1.0, -1.0])
    T_world_cam[2, 3] = 1.0
    T_world_base = np.eye(4)
    T_world_base[0, 3] = -0.5
    depth = np.ones((HEIGHT, WIDTH), np.float32)
    depth[:, -2:] = 0
    frame = RGBDFrame(
        rgb=np.zeros((HEIGHT, WIDTH, 3), np.uint8),
        depth=depth,
        valid=depth > 0,
        K=K,
        T_world_cam=T_world_cam,
        name="f0",
        camera="front",
    )
    return Capture(frames=(frame,), source="test", T_world_base=T_world_base)


@pytest.fixture
def scene(capture: Capture) -> ScenePoints:
    """Every pixel's point in the base frame, in row-major order, and ten hidden points below the surface."""
    frame = capture.frames[0]
    world = transform_points(
        frame.T_world_cam, unproject(np.ones((HEIGHT, WIDTH)), frame.K).reshape(-1, 3)
    )
    assert capture.T_world_base is not None
    base = transform_points(invert(capture.T_world_base), world)
    hidden = base[:10] - np.array([0, 0, 0.2])
    points = torch.from_numpy(np.concatenate([base, hidden])).float()
    return ScenePoints(points=points, colors=points * 0, normals=points * 0)


def pixels(mask: np.ndarray) -> torch.Tensor:
    mask = mask.copy()
    mask[:, -2:] = False
    return torch.from_numpy(np.flatnonzero(mask))


def resolve(
    folder: Path, value: Any, scene: ScenePoints, capture: Capture, **extra: Any
) -> ResolvedGoal:
    return resolve_goal(read_goal(save(folder, value)), scene, capture, **extra)


def test_box_and_translation(tmp_path: Path, scene: ScenePoints, capture: Capture) -> None:
    found = resolve(tmp_path, record(), scene, capture).sets[0]
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:, :16] = True
    assert torch.equal(found.index, pixels(mask))
    wanted = scene.points[found.index] + torch.tensor([0.1, 0, 0])
    assert found.goals is not None
    assert torch.allclose(found.goals, wanted)


def test_mask_file_and_pose(tmp_path: Path, scene: ScenePoints, capture: Capture) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[3:7, 4:11] = True
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "m.png")
    half = float(np.sqrt(0.5))
    goal = {"kind": "pose", "vector": [0, 0, 0.2], "quat_wxyz": [half, 0, 0, half]}
    value = record(select={"kind": "mask", "file": "m.png"}, goal=goal)
    found = resolve(tmp_path, value, scene, capture).sets[0]
    assert torch.equal(found.index, pixels(mask))
    points = scene.points[found.index]
    around = points - points.mean(0)
    turned = torch.stack([-around[:, 1], around[:, 0], around[:, 2] + 0.2], -1) + points.mean(0)
    assert found.goals is not None
    assert torch.allclose(found.goals, turned, atol=1e-6)


def test_clicks_with_targets_are_paired(
    tmp_path: Path, scene: ScenePoints, capture: Capture
) -> None:
    select = {"kind": "click", "pixels": [[10.5, 5.5], [20.5, 8.5]]}
    targets = [[0.5, 0, 0.1], [0.6, 0, 0.1]]
    value = record(select=select, goal={"kind": "points", "points": targets})
    found = resolve(tmp_path, value, scene, capture).sets[0]
    assert found.index.tolist() == [5 * WIDTH + 10, 8 * WIDTH + 20]
    assert found.goals is not None
    assert torch.allclose(found.goals, torch.tensor(targets))


def test_click_with_radius(tmp_path: Path, scene: ScenePoints, capture: Capture) -> None:
    value = record(select={"kind": "click", "pixels": [[10.5, 5.5]], "radius": 0.05})
    found = resolve(tmp_path, value, scene, capture).sets[0]
    distance = (scene.points - scene.points[5 * WIDTH + 10]).norm(dim=1)
    assert found.index.tolist() == (distance <= 0.05).nonzero()[:, 0].tolist()
    assert len(found.index) == 9


def test_object_ids_from_file_or_program(
    tmp_path: Path, scene: ScenePoints, capture: Capture
) -> None:
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[2:5, 2:5], ids[10:12, 3:9] = 3, 7
    value = record(select={"kind": "object", "id": 7})
    by_program = resolve(tmp_path, value, scene, capture, segmentations={("front", "f0"): ids})
    Image.fromarray(ids).save(tmp_path / "ids.png")
    value = record(select={"kind": "object", "id": 7, "file": "ids.png"})
    by_file = resolve(tmp_path, value, scene, capture)
    assert torch.equal(by_program.sets[0].index, pixels(ids == 7))
    assert torch.equal(by_file.sets[0].index, pixels(ids == 7))


def test_costs_of_sets(tmp_path: Path, scene: ScenePoints, capture: Capture) -> None:
    value = record()
    still = copy.deepcopy(value["sets"][0])
    still |= {"name": "rest", "goal": {"kind": "still"}, "weight": 5}
    still["select"]["pixels"] = [20, 0, 25, 24]
    cloud = copy.deepcopy(value["sets"][0])
    cloud |= {"name": "cloud", "goal": {"kind": "points", "points": [[0.5, 0, 0]]}}
    value["sets"] += [still, cloud]
    goal = resolve(tmp_path, value, scene, capture)
    terms = goal.terms()
    assert [term.name for term in terms] == ["box", "rest", "cloud"]
    assert [type(term.cost) for term in terms] == [TaskPoints, KeepStill, TaskSurface]
    assert [term.weight for term in terms] == [1.0, 5.0, 1.0]
    assert torch.equal(goal.task_index, goal.sets[0].index)


def test_written_goals_are_read_back(tmp_path: Path) -> None:
    value = record()
    for name, select, goal in (
        ("b", {"kind": "mask", "file": "m.png"}, {"kind": "still"}),
        ("c", {"kind": "click", "pixels": [[1, 2]]}, {"kind": "points", "points": [[0, 0, 1]]}),
        (
            "d",
            {"kind": "object", "id": 2},
            {"kind": "pose", "vector": [0, 0, 0], "quat_wxyz": [1, 0, 0, 0]},
        ),
    ):
        value["sets"].append({**value["sets"][0], "name": name, "select": select, "goal": goal})
    goal = read_goal(save(tmp_path, value))
    write_goal(goal, tmp_path / "again.json")
    assert read_goal(tmp_path / "again.json") == goal
    assert isinstance(goal, Goal)


def _without(key: str) -> dict[str, Any]:
    value = record()
    del value["sets"][0][key]
    return value


BAD: list[tuple[Any, str]] = [
    ("{", "not valid JSON"),
    ('{"version": 1, "sets": NaN}', "NaN"),
    ([], "expected an object"),
    ({"version": 1, "sets": []}, "at least one"),
    ({"version": 2, "sets": record()["sets"]}, "version"),
    ({"version": 1, "set": []}, "Did you mean 'sets'"),
    (_without("camera"), "'camera' is missing"),
    (record(wieght=2), "Did you mean 'weight'"),
    (record(weight=-1), "'weight' is -1"),
    (record(weight=True), "'weight' is True"),
    (record(name=""), "'name'"),
    (record(select={"kind": "boxx", "pixels": [0, 0, 1, 1]}), "Did you mean 'box'"),
    (record(select={"kind": "box", "pixels": [5, 0, 1, 1]}), "left < right"),
    (record(select={"kind": "box", "pixels": [0, 0, 1]}), "expected 4 numbers"),
    (record(select={"kind": "mask", "file": "../m.png"}), "beside goal.json"),
    (record(select={"kind": "mask", "file": "/m.png"}), "beside goal.json"),
    (record(select={"kind": "object", "id": 1.5}), "whole number"),
    (record(select={"kind": "click", "pixels": [], "radius": 1}), "at least one entry"),
    (record(select={"kind": "click", "pixels": [[1, 2]], "radius": 0}), "above 0"),
    (record(goal={"kind": "pose", "vector": [0, 0, 0], "quat_wxyz": [1, 1, 0, 0]}), "length 1.414"),
    (record(goal={"kind": "translation", "vector": ["a", 0, 0]}), "expected 3 numbers"),
    (record(goal={"kind": "still"}), "somewhere to go"),
    ({"version": 1, "sets": record()["sets"] * 2}, "two sets are named 'box'"),
]


@pytest.mark.rejects_input
@pytest.mark.parametrize(("value", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_files_are_refused(tmp_path: Path, value: Any, message: str) -> None:
    path = save(tmp_path, value)
    with pytest.raises(InputError) as error:
        read_goal(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.rejects_input
def test_missing_and_huge_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such"):
        read_goal(tmp_path / "no.json")
    with pytest.raises(InputError, match="larger"):
        read_goal(save(tmp_path, " " * 4_000_001))


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camera": "left"}, "the capture has front"),
        ({"frame": "f9"}, "its frames are f0"),
        ({"select": {"kind": "mask", "file": "no.png"}}, "no readable PNG"),
        ({"select": {"kind": "mask", "file": "small.png"}}, "3x4, the frame is 32x24"),
        ({"select": {"kind": "object", "id": 1}}, "no image of object ids"),
        ({"select": {"kind": "click", "pixels": [[99, 1]]}}, "outside"),
        ({"select": {"kind": "box", "pixels": [30.2, 0, 31.9, 24]}}, "selects no scene point"),
        (
            {
                "select": {"kind": "click", "pixels": [[5, 5], [9, 9]]},
                "goal": {"kind": "points", "points": [[0, 0, 0]]},
            },
            "2 clicks and 1 target points",
        ),
    ],
)
def test_goals_that_do_not_fit_the_scene_are_refused(
    tmp_path: Path, scene: ScenePoints, capture: Capture, changes: dict[str, Any], message: str
) -> None:
    Image.fromarray(np.ones((4, 3), np.uint8)).save(tmp_path / "small.png")
    with pytest.raises(InputError, match=message):
        resolve(tmp_path, record(**changes), scene, capture)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None)
@given(
    value=_json,
    where=st.sampled_from(["top", "sets", "entry", "select", "goal", "vector", "weight"]),
)
def test_damaged_files_end_in_one_error(
    tmp_path_factory: pytest.TempPathFactory, value: Any, where: str
) -> None:
    whole = record()
    entry = whole["sets"][0]
    if where == "top":
        whole = value
    elif where == "sets":
        whole["sets"] = value
    elif where == "entry":
        whole["sets"][0] = value
    elif where == "vector":
        entry["goal"]["vector"] = value
    else:
        entry[where] = value
    path = save(tmp_path_factory.mktemp("goal"), whole)
    try:
        read_goal(path)
    except InputError as error:
        assert "\n" not in str(error)
