"""`pointworld view` off-screen, its refusal without a display, and the timeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pointworld.cli.app import main
from pointworld.view.result import write_truth
from pointworld.view.window import Timeline


@pytest.fixture
def result_folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.1, 0.1, (200, 3)).astype(np.float32)
    displacements = np.zeros((11, 200, 3), np.float32)
    displacements[:, :100, 0] = np.linspace(0, 0.1, 11)[:, None]
    folder = tmp_path / "result"
    folder.mkdir()
    np.savez(
        folder / "prediction.npz",
        points=points,
        colors=np.full_like(points, 0.5),
        displacements=displacements,
        step_dt=np.float64(0.1),
    )
    return folder


def test_screenshot_shows_trails_and_truth_beside(result_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("open3d")
    still, moved, both = (tmp_path / f"{n}.png" for n in ("still", "moved", "both"))
    size = ["--width", "320", "--height", "240"]
    assert main(["view", str(result_folder), "--screenshot", str(still), "--step", "0", *size]) == 0
    assert main(["view", str(result_folder), "--screenshot", str(moved), *size]) == 0
    # Grey points have no colour; trails do.
    scene = (slice(30, 190), slice(None))
    spread = [np.ptp(np.asarray(Image.open(p))[scene].astype(int), axis=-1) for p in (still, moved)]
    assert (spread[0] > 60).sum() == 0
    assert (spread[1] > 60).sum() > 50
    write_truth(result_folder, np.zeros((11, 200, 3)))
    assert main(["view", str(result_folder), "--screenshot", str(both), *size]) == 0
    assert Image.open(both).size == (640, 240)


def test_without_a_display_and_without_a_file_it_says_so(
    result_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main(["view", str(result_folder)]) == 2
    assert "--screenshot" in capsys.readouterr().err


def test_timeline_plays_scrubs_and_keeps_speed_in_bounds() -> None:
    timeline = Timeline(11, 0.1)
    assert timeline.tick(1.0) and timeline.step == 1
    assert not timeline.tick(1.05)
    timeline.scrub(-2)
    assert timeline.step == 10 and not timeline.tick(9.0)
    for _ in range(10):
        timeline.change_speed(2.0)
    assert timeline.speed == 8.0
