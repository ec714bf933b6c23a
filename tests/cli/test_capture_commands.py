"""The commands that read captures: convert, doctor, reconstruct."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh

from pointworld.capture import read_capture, write_capture
from pointworld.cli.app import main
from pointworld.geometry import invert
from tests.capture import formats
from tests.capture.synthetic import make_capture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("captures") / "table"
    write_capture(make_capture(6), path)
    return path


def test_convert_writes_our_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capture = make_capture(5)
    formats.write_redwood(capture, tmp_path / "in")
    arguments = ["capture", "convert", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--every", "2", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["format"] == "redwood" and summary["frames"] == 3
    back = read_capture(tmp_path / "out")
    assert back.format == "pointworld" and [f.name for f in back.frames] == ["0", "2", "4"]
    np.testing.assert_allclose(back.frames[1].T_world_cam, capture.frames[2].T_world_cam, atol=1e-7)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["command"] == "capture convert"
    assert main(["capture", "convert", str(tmp_path / "out"), "--out", str(tmp_path / "out")]) == 2
    assert main([*arguments, "--every", "0"]) == 2


def test_doctor_reports_a_good_capture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "capture", str(folder), "--json"]) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert report["verdict"] == "good" and report["findings"] == [] and report["frames"] == 6
    assert 0 < report["geometric_residual_m"] < 0.003 and len(report["pairs"]) == 5
    assert report["depth_range_m"][0] < report["median_depth_m"] < report["depth_range_m"][1]
    assert "verdict: good" in printed.err


def test_doctor_ends_with_2_and_names_the_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture = make_capture(6)
    frames = tuple(replace(f, T_world_cam=invert(f.T_world_cam)) for f in capture.frames)
    write_capture(replace(capture, frames=frames), tmp_path / "c")
    assert main(["doctor", "capture", str(tmp_path / "c"), "--json"]) == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["findings"][0]["kind"] == "inverted_poses"
    assert "verdict: bad" in printed.err


def test_doctor_sees_a_wrong_depth_unit_that_reading_refuses(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source in folder.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    record = json.loads((tmp_path / "capture.json").read_text())
    record["cameras"]["cam0"]["depth"]["scale"] *= 1000
    (tmp_path / "capture.json").write_text(json.dumps(record))
    assert main(["doctor", "capture", str(tmp_path), "--json"]) == 2
    finding = json.loads(capsys.readouterr().out)["findings"][0]
    assert finding["kind"] == "depth_scale" and finding["estimate"] == pytest.approx(0.001)
    out = tmp_path / "result"
    assert main(["reconstruct", str(tmp_path), "--out", str(out)]) == 2
    assert "wrong unit" in capsys.readouterr().err and not out.exists()


def test_doctor_says_in_json_what_it_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "capture", str(tmp_path), "--json"]) == 2
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert (
        report["verdict"] == "unreadable" and "folder is empty" in report["findings"][0]["message"]
    )
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1


def test_reconstruct_writes_surface_and_report(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("open3d", reason="needs the viewer extra")
    out = tmp_path / "result"
    command = ["reconstruct", str(folder), "--out", str(out), "--voxel-size", "0.01", "--json"]
    assert main(command) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["residuals"]["verdict"] == "good" and summary["voxel_size_m"] == 0.01
    names = {"points.ply", "mesh.ply", "mesh.glb", "residuals.json", "run.json"}
    assert {path.name for path in out.iterdir()} == names
    points = trimesh.load(out / "points.ply")
    mesh, scene = trimesh.load(out / "mesh.ply"), trimesh.load(out / "mesh.glb")
    assert len(points.vertices) == summary["points"] > 3000
    assert len(mesh.faces) == summary["triangles"] > 3000 and mesh.visual.kind == "vertex"
    glb = next(iter(scene.geometry.values()))
    np.testing.assert_allclose(glb.bounds, mesh.bounds, atol=1e-5)
    # The table is the plane z = 0 in the world frame, and it is green.
    table = points.vertices[(np.abs(points.vertices[:, :2]) < 0.25).all(1)]
    low = np.abs(table[:, 2]) < 0.01
    assert low.mean() > 0.5 and abs(np.median(table[low, 2])) < 0.001
    colors = np.asarray(points.colors)[np.abs(points.vertices[:, 2]) < 0.005, :3].mean(0)
    assert colors[1] > colors[2] + 20


def test_reconstruct_leaves_nothing_behind_when_nothing_is_seen(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("open3d", reason="needs the viewer extra")
    out = tmp_path / "result"
    assert main(["reconstruct", str(folder), "--out", str(out), "--max-depth", "0.2"]) == 2
    assert "no surface" in capsys.readouterr().err and not out.exists()
