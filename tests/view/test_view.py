"""`pointworld view` off-screen, its refusal without a display, and the timeline."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pointworld.cli.app import main
from pointworld.view.result import write_truth
from pointworld.view.timeline import Timeline


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


@pytest.mark.slow
def test_the_window_opens_and_plays(result_folder: Path, tmp_path: Path) -> None:
    """On a virtual display: the panel stands on the right, and the points move between two pictures."""
    pytest.importorskip("open3d")
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed")
    display = ":97"
    server = subprocess.Popen(["Xvfb", display, "-screen", "0", "900x600x24"])
    environment = {**os.environ, "DISPLAY": display, "XDG_SESSION_TYPE": "x11"}
    command = [sys.executable, "-m", "pointworld.cli.app", "view", str(result_folder)]
    try:
        time.sleep(2)
        window = subprocess.Popen([*command, "--width", "800", "--height", "500"], env=environment)
        try:
            shots = _grab_until_drawn(display, deadline=time.monotonic() + 120)
        finally:
            window.terminate()
            window.wait(20)
    finally:
        server.terminate()
        server.wait(20)
    assert len(shots) == 2
    middle = (slice(100, 500), slice(60, 560))
    assert (np.abs(shots[0][middle] - shots[1][middle]) > 60).any()


def _grab_until_drawn(display: str, *, deadline: float) -> list[np.ndarray]:
    """Two different pictures of the display after the window is there."""
    from PIL import ImageGrab

    shots: list[np.ndarray] = []
    while len(shots) < 2 and time.monotonic() < deadline:
        image = np.asarray(ImageGrab.grab(xdisplay=display)).astype(int)
        drawn = (image > 230).all(-1).mean() > 0.2
        if drawn and not any(np.array_equal(image, shot) for shot in shots):
            shots.append(image)
        time.sleep(0.35)
    return shots
