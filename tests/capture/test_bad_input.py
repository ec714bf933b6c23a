"""Bad captures end in one clear error that names the file and the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pointworld.capture import read_capture, write_capture
from pointworld.errors import InputError
from pointworld.types import Capture
from tests.capture import formats
from tests.capture.synthetic import make_capture

pytestmark = pytest.mark.rejects_input


@pytest.fixture(scope="module")
def capture() -> Capture:
    return make_capture(2)


@pytest.fixture
def folder(capture: Capture, tmp_path: Path) -> Path:
    write_capture(capture, tmp_path / "c")
    return tmp_path / "c"


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    record = json.loads((folder / "capture.json").read_text())
    change(record)
    (folder / "capture.json").write_text(json.dumps(record))


def fails(folder: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_capture(folder)
    for word in words:
        assert word in str(caught.value), f"'{word}' is not in: {caught.value}"


def test_empty_and_unknown_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fails(
        tmp_path / "empty",
        "the folder is empty",
        "capture.json",
        "transforms.json",
        "trajectory.log",
    )
    (tmp_path / "empty" / "notes.txt").write_text("hello")
    fails(tmp_path / "empty", "no known capture layout", "7-Scenes", "TUM", "ScanNet")
    fails(tmp_path / "missing", "does not exist")
    fails(tmp_path / "empty" / "notes.txt", "this is a file")


def test_missing_intrinsics_in_every_format(capture: Capture, tmp_path: Path, folder: Path) -> None:
    formats.write_seven_scenes(capture, tmp_path / "s")
    (tmp_path / "s" / "camera-intrinsics.txt").unlink()
    fails(tmp_path / "s", "K is missing", "camera-intrinsics.txt")
    formats.write_tum(capture, tmp_path / "t")
    (tmp_path / "t" / "camera-intrinsics.txt").unlink()
    fails(tmp_path / "t", "K is missing")
    formats.write_redwood(capture, tmp_path / "r")
    (tmp_path / "r" / "camera_intrinsic.json").unlink()
    fails(tmp_path / "r", "K is missing", "camera_intrinsic.json")
    formats.write_scannet(capture, tmp_path / "n")
    (tmp_path / "n" / "intrinsic" / "intrinsic_depth.txt").unlink()
    fails(tmp_path / "n", "K is missing", "intrinsic_depth.txt")
    formats.write_nerfstudio(capture, tmp_path / "f")
    record = json.loads((tmp_path / "f" / "transforms.json").read_text())
    del record["fl_x"]
    (tmp_path / "f" / "transforms.json").write_text(json.dumps(record))
    fails(tmp_path / "f", "K is missing", "fl_x")

    def drop(record: dict[str, Any]) -> None:
        del record["cameras"]["cam0"]["K"]
        for frame in record["frames"]:
            del frame["K"]

    edit(folder, drop)
    fails(folder, "K is missing")


def test_intrinsics_must_be_upper_triangular(capture: Capture, tmp_path: Path) -> None:
    formats.write_seven_scenes(capture, tmp_path / "s")
    np.savetxt(tmp_path / "s" / "camera-intrinsics.txt", capture.frames[0].K.T)
    fails(tmp_path / "s", "upper-triangular", "transposed")
    np.savetxt(tmp_path / "s" / "camera-intrinsics.txt", np.ones((2, 3)))
    fails(tmp_path / "s", "6 numbers", "3x3")


def test_poses_must_be_rigid(capture: Capture, tmp_path: Path, folder: Path) -> None:
    formats.write_seven_scenes(capture, tmp_path / "s")
    np.savetxt(tmp_path / "s" / "frame-000001.pose.txt", np.diag([2.0, 2, 2, 1]))
    fails(tmp_path / "s", "frame-000001.pose.txt", "not a rigid transform")
    mirrored = np.diag([1.0, -1, 1, 1])
    np.savetxt(tmp_path / "s" / "frame-000001.pose.txt", mirrored)
    fails(tmp_path / "s", "not a rigid transform", "det = -1")

    def spoil(record: dict[str, Any]) -> None:
        record["frames"][1]["T_world_cam"][3][3] = 2.0

    edit(folder, spoil)
    fails(folder, "frame 1", "not a rigid transform")


def test_depth_in_the_wrong_unit(folder: Path) -> None:
    edit(folder, lambda record: record["cameras"]["cam0"]["depth"].update(scale=1.0))
    fails(folder, "wrong unit", "median depth", "expected 0.02 to 20 m")
    edit(folder, lambda record: record["cameras"]["cam0"]["depth"].update(scale=1e-7))
    fails(folder, "wrong unit", "frame-000000.depth.png")
    assert len(read_capture(folder, check_unit=False).frames) == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_depth_is_refused_unless_declared(
    capture: Capture, tmp_path: Path, bad: float
) -> None:
    write_capture(capture, tmp_path / "c", depth_format="npy")
    depth = np.load(tmp_path / "c" / "frame-000000.depth.npy")
    depth[5, 6] = bad
    np.save(tmp_path / "c" / "frame-000000.depth.npy", depth)
    fails(tmp_path / "c", "frame-000000.depth.npy", "NaN or infinite", '"nonfinite": "unknown"')
    edit(tmp_path / "c", lambda r: r["cameras"]["cam0"]["depth"].update(nonfinite="unknown"))
    frame = read_capture(tmp_path / "c").frames[0]
    assert not frame.valid[5, 6] and frame.depth[5, 6] == 0


def test_sizes_that_differ(folder: Path) -> None:
    Image.new("RGB", (80, 60)).save(folder / "frame-000001.color.png")
    fails(folder, "160x120", "80x60", "T_color_depth")


@pytest.mark.parametrize("kind", ["color", "depth"])
def test_truncated_images(folder: Path, kind: str) -> None:
    path = folder / f"frame-000001.{kind}.png"
    path.write_bytes(path.read_bytes()[:-2000])
    fails(folder, path.name, "truncated")
    path.write_bytes(b"\x89PNG\r\n")
    fails(folder, path.name)
    path.write_bytes(b"")
    fails(folder, path.name, "not an image")
    path.unlink()
    fails(folder, path.name, "does not exist")


def test_colour_image_as_depth(folder: Path) -> None:
    (folder / "frame-000000.depth.png").write_bytes(
        (folder / "frame-000000.color.png").read_bytes()
    )
    fails(folder, "one channel of 16 bits")


def test_pickled_and_truncated_arrays(capture: Capture, tmp_path: Path) -> None:
    write_capture(capture, tmp_path / "c", depth_format="npy")
    path = tmp_path / "c" / "frame-000000.depth.npy"
    whole = path.read_bytes()
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    fails(tmp_path / "c", "not a readable NPY file")
    path.write_bytes(whole[: len(whole) // 2])
    fails(tmp_path / "c", "not a readable NPY file")


def test_mistakes_in_capture_json(folder: Path) -> None:
    original = (folder / "capture.json").read_text()
    changes: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
        (lambda r: r.update(camera={}), "Did you mean 'cameras'?"),
        (lambda r: r["frames"][0].update(color="x"), "unknown key 'color'"),
        (lambda r: r["frames"][0].update(camera="left"), "camera 'left' is not among"),
        (lambda r: r["frames"][0].update(rgb="../../etc/passwd"), "outside the capture's folder"),
        (lambda r: r["frames"][0].update(rgb="/etc/passwd"), "outside the capture's folder"),
        (lambda r: r["frames"][0].pop("T_world_cam"), "T_world_cam is missing"),
        (lambda r: r["frames"][0].pop("depth"), "'depth' must name a file"),
        (lambda r: r["cameras"]["cam0"].update(pixel_centers=1), "pixel_centers"),
        (lambda r: r["cameras"]["cam0"]["depth"].update(scale=-1), "depth scale"),
        (lambda r: r["cameras"]["cam0"]["depth"].update(K=np.eye(3).tolist()), "T_color_depth"),
        (lambda r: r.update(version=9), "version 9"),
        (lambda r: r.update(frames=[]), "without frames"),
        (lambda r: r["frames"][1].update(name="frame-000000"), "same name"),
        (lambda r: r["frames"][1].update(joint_positions=[1.0]), "joint positions"),
    ]
    for change, message in changes:
        edit(folder, change)
        fails(folder, message)
        (folder / "capture.json").write_text(original)
    (folder / "capture.json").write_text(original[:-50])
    fails(folder, "not valid JSON")


def test_mistakes_in_other_layouts(capture: Capture, tmp_path: Path) -> None:
    formats.write_tum(capture, tmp_path / "t")
    (tmp_path / "t" / "groundtruth.txt").write_text("1 2 3\n4 5 6\n")
    fails(tmp_path / "t", "tx ty tz qx qy qz qw")
    formats.write_redwood(capture, tmp_path / "r")
    text = (tmp_path / "r" / "trajectory.log").read_text().splitlines()
    (tmp_path / "r" / "trajectory.log").write_text("\n".join(text[:5]) + "\n")
    fails(tmp_path / "r", "2 colour images", "1 poses")
    formats.write_nerfstudio(capture, tmp_path / "n")
    record = json.loads((tmp_path / "n" / "transforms.json").read_text())
    (tmp_path / "n" / "transforms.json").write_text(json.dumps({**record, "k1": 0.1}))
    fails(tmp_path / "n", "distorted", "k1")
    del record["frames"][0]["depth_file_path"]
    (tmp_path / "n" / "transforms.json").write_text(json.dumps(record))
    fails(tmp_path / "n", "depth_file_path")


def test_writing_leaves_nothing_half_done(capture: Capture, tmp_path: Path) -> None:
    far = replace(capture.frames[0], depth=np.full_like(capture.frames[0].depth, 80.0))
    with pytest.raises(InputError, match="npy"):
        write_capture(replace(capture, frames=(far,)), tmp_path / "c")
    assert list(tmp_path.iterdir()) == []
