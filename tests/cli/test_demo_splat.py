"""The Gaussian part of the demo: which camera looks and where it clicks, and on the bundled capture all of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from pointworld.capture import write_capture
from pointworld.cli.app import main
from pointworld.cli.demo_splat import best_view, frame_indices
from pointworld.cli.predict import PredictedCapture
from pointworld.types import Capture, FlowPrediction, ScenePoints
from pointworld.view.video import import_av
from tests.splat.fit.room import BALL, RADIUS, room


@dataclass(frozen=True)
class Made:
    """What `best_view` asks of a prediction."""

    capture: Capture
    scene: ScenePoints
    prediction: FlowPrediction
    T_world_base: np.ndarray


def prediction_on_the_ball(shift: float) -> PredictedCapture:
    """Points on the ball's side that faces the first camera move up by `shift` [m]; a wall's stand still."""
    capture = room(frames=4)
    towards = capture.frames[0].T_world_cam[:3, 3] - BALL
    directions = np.random.default_rng(0).normal(size=(400, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    ball = BALL + RADIUS * directions[directions @ towards > 0.6 * np.linalg.norm(towards)]
    points = torch.from_numpy(np.concatenate([ball, [[1.2, 0.1, 0.3]] * 50])).float()
    displacements = torch.zeros(3, len(points), 3)
    displacements[-1, : len(ball), 2] = shift
    zeros = torch.zeros_like(points)
    scene = ScenePoints(points=points, colors=zeros, normals=zeros, view_count=zeros[:, 0].long())
    flow = FlowPrediction(
        displacements=displacements, log_var=torch.zeros(3, len(points), 1), step_dt=0.1
    )
    return cast(
        PredictedCapture,
        Made(capture=capture, scene=scene, prediction=flow, T_world_base=np.eye(4)),
    )


def test_the_camera_that_sees_most_of_what_will_move_looks() -> None:
    made = prediction_on_the_ball(0.1)
    frame, pixel = best_view(made)
    assert frame.name == made.capture.frames[0].name and pixel is not None
    column, row = pixel
    K, T = frame.K, np.linalg.inv(frame.T_world_cam)
    ray = np.array([(column + 0.5 - K[0, 2]) / K[0, 0], (row + 0.5 - K[1, 2]) / K[1, 1], 1.0])
    centre = T[:3, :3] @ BALL + T[:3, 3]
    beside = np.linalg.norm(np.cross(ray, centre)) / np.linalg.norm(ray)
    assert beside < 0.6 * RADIUS
    assert best_view(prediction_on_the_ball(0.001))[1] is None


def test_frames_are_found_by_name(tmp_path: Path) -> None:
    capture = room(frames=4)
    write_capture(capture, tmp_path)
    assert frame_indices(tmp_path, [capture.frames[i].name for i in (2, 0)]) == [2, 0]


@pytest.mark.slow
def test_the_demo_ends_with_the_future_and_a_query(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("numba", "open3d"):
        pytest.importorskip(module)
    capsys.readouterr()
    assert main(["demo", "--out", str(tmp_path), "--no-loop", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])["splat"]
    assert summary["render"]["robot"] == "scene" and summary["render"]["moving_gaussians"] > 300
    assert summary["query"]["object_gaussians"] > 20 and summary["query"]["on_plane"]
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:video/mp4;base64,") == 3
    for name in ("color", "features"):
        with import_av().open(str(tmp_path / "splat" / "future" / f"{name}.mp4")) as video:
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        # Predicted beside true, the future three times over.
        assert len(frames) == 33 and frames[0].shape == (360, 1280, 3)
        assert np.abs(frames[0].astype(int) - frames[10].astype(int)).mean() > 1
