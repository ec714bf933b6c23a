"""`pointworld splat render`: a still orbit, and a predicted future that moves the ball of the room."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pointworld.capture import write_capture
from pointworld.cli.app import main
from pointworld.geometry import invert, transform_points
from pointworld.view.video import import_av
from tests.splat.fit.room import BALL, RADIUS, room

pytest.importorskip("av", reason="needs the extra [viewer]")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("room")
    write_capture(room(), folder / "capture")
    options = ["--holdout-every", "0", "--max-width", "80", "--fit.gaussians", "3000"]
    command = ["splat", "fit", str(folder / "capture"), "--out", str(folder / "fit"), *options]
    assert main([*command, "--fit.iterations", "30"]) == 0
    return folder / "fit"


def prediction(folder: Path, T_world_base: np.ndarray, shift: np.ndarray) -> Path:
    """A prediction folder in which points on the ball move by `shift` [m, world]."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(400, 3))
    ball = BALL + RADIUS * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    points = transform_points(invert(T_world_base), ball).astype(np.float32)
    base_shift = T_world_base[:3, :3].T @ shift
    displacements = np.linspace(0, 1, 3)[:, None, None] * base_shift * np.ones((1, 400, 1))
    folder.mkdir()
    np.savez(
        folder / "prediction.npz",
        points=points,
        colors=np.zeros_like(points),
        displacements=displacements.astype(np.float32),
        step_dt=np.float64(0.1),
    )
    record = {"summary": {"T_world_base": T_world_base.tolist()}}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_the_predicted_future_moves_the_ball_and_nothing_else(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    T = np.eye(4)
    T[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    T[:3, 3] = [0.4, -0.2, 0.1]
    flow = prediction(tmp_path / "flow", T, np.array([0.0, 0.0, 0.5]))
    out = tmp_path / "out"
    command = ["splat", "render", str(fitted), "--flow", str(flow), "--out", str(out), "--json"]
    capsys.readouterr()
    assert main([*command, "--repeats", "2", "--scale", "1"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["frames"] == 6 and 50 < summary["moving_gaussians"] < summary["gaussians"] / 2
    first, last = (
        np.asarray(Image.open(out / f"color_{name}.png")).astype(int) for name in ("first", "last")
    )
    frame = room().frames[0]
    changed = np.abs(first - last).max(-1) > 25
    pose = invert(frame.T_world_cam)
    for centre in (BALL, BALL + np.array([0, 0, 0.5])):
        x, y, z = transform_points(pose, np.array([centre]))[0]
        u, v = 60 * x / z + 40, 60 * y / z + 30
        assert changed[int(v) - 2 : int(v) + 3, int(u) - 2 : int(u) + 3].mean() > 0.5
    assert changed[40:, :15].mean() < 0.05 and changed[40:, -15:].mean() < 0.05
    with import_av().open(str(out / "color.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 6


def test_an_orbit_comes_back(fitted: Path, tmp_path: Path) -> None:
    command = ["splat", "render", str(fitted), "--orbit", "4", "--out", str(tmp_path / "o")]
    assert main([*command, "--scale", "1"]) == 0
    assert (tmp_path / "o" / "depth.mp4").is_file()


@pytest.mark.rejects_input
def test_what_cannot_be_rendered_is_refused(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "o")]
    assert main(["splat", "render", str(tmp_path), *out]) == 2
    assert "splat fit" in capsys.readouterr().err
    assert main(["splat", "render", str(fitted), "--camera", "99", *out]) == 2
    assert "the scene has no camera '99'" in capsys.readouterr().err
    assert main(["splat", "render", str(fitted), "--flow", str(tmp_path), *out]) == 2
    assert not (tmp_path / "o").exists()
