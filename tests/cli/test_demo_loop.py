"""The picture at the end of the demo: a plan, what it predicts, what came of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pointworld.cli.demo_loop import best_camera, busiest, close_loop, draw_run, predicted_target
from pointworld.control.recording import Recording, read_recording
from pointworld.control.task_runs import RunConfig, run_one

pytest.importorskip("mujoco", reason="mujoco is not installed")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    folder = tmp_path_factory.mktemp("run") / "record"
    config = RunConfig(
        task="tissue_box", dynamics="none", planner="straight", max_steps=30, execute=6
    )
    run_one(config, 1, record=folder)
    return read_recording(folder)


def test_plan_prediction_and_outcome_are_drawn_side_by_side(recording: Recording) -> None:
    image, shown = draw_run(recording)
    assert image.shape == (720, 1920, 3) and image.dtype == np.uint8
    # Nothing was predicted to move, and the box moved: the picture says so.
    assert shown["predicted_mm"] == 0.0 and shown["seen_mm"] > 20
    assert shown["difference_mm"] == pytest.approx(shown["seen_mm"])
    panels = image.reshape(2, 360, 3, 640, 3).swapaxes(1, 2).reshape(6, 360, 640, 3)
    goal = ((panels == (230, 0, 190)).all(-1)).sum((1, 2))
    assert (goal[[0, 3, 4, 5]] > 200).all() and goal[1] == 0
    blue = (panels[2] == (0, 190, 255)).all(-1).sum()
    assert blue > 200


def test_a_prediction_carries_the_target(recording: Recording) -> None:
    looks = list(recording.plans())
    chosen = busiest(looks)
    look = dict(looks[chosen])
    flow = np.zeros_like(look["predicted"])
    flow[:, :, 0] = 0.01 * np.arange(len(flow))[:, None]
    look["predicted"] = flow
    moved = predicted_target(look, 4.5) - look["target"]
    assert np.allclose(moved, [0.045, 0.0, 0.0], atol=1e-6)
    frames = list(recording.frames())
    names = sorted({frame.camera for frame in frames})
    one = best_camera(frames, looks[:1])
    assert one in names
    # A camera that sees nothing of the target is never the best one.
    blind = [replace(f, depth=np.full_like(f.depth, 9.0)) if f.camera == one else f for f in frames]
    assert best_camera(blind, looks[:1]) in set(names) - {one}


@pytest.mark.slow
def test_the_demo_closes_the_loop_with_the_world_model(tmp_path: Path) -> None:
    shown = close_loop(tmp_path, "tiny")
    assert shown is not None and shown.summary["end_cm"] < 0.6 * shown.summary["start_cm"]
    assert shown.summary["predicted_mm"] > 0.3 * shown.summary["seen_mm"]
    assert Image.open(shown.picture).size == (1920, 720)
    assert shown.section().pictures[0][0] == shown.picture
    again = close_loop(tmp_path, "tiny")
    assert again is not None and again.summary["end_cm"] == shown.summary["end_cm"]
