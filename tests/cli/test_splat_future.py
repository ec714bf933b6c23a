"""From a prediction's folder to scenes and pictures of every step: the robot, the later frames, the scores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pointworld.capture import write_capture
from pointworld.cli.app import main
from pointworld.cli.splat_future import (
    make_futures,
    read_prediction,
    robot_disks,
    robot_mode,
    robot_parts,
    robot_views,
    true_frames,
)
from pointworld.cli.splat_pictures import Look
from pointworld.robot import RobotModel
from pointworld.types import Capture
from pointworld.view.result import write_truth
from splat.io import read_native
from splat.raster import get_rasterizer
from tests.splat.fit.room import BALL, RADIUS, room

pytest.importorskip("numba", reason="needs the extra [splat]")
pytest.importorskip("av", reason="needs the extra [viewer]")

STEPS, SHIFT = 3, np.array([0.0, 0.0, 0.4])


def recording() -> Capture:
    """The room filmed by 6 cameras that stand still, at three times; the ball rises."""
    frames = []
    for step in range(STEPS):
        now = room(frames=6, ball=BALL + step / (STEPS - 1) * SHIFT)
        frames += [
            replace(frame, name=f"{i}-{step}", camera=f"cam{i}", timestamp=0.1 * step)
            for i, frame in enumerate(now.frames)
        ]
    return replace(now, frames=tuple(frames))


def write_prediction(folder: Path, capture: Path, share: float = 1.0) -> Path:
    """A prediction in which the ball rises by a share of what it really does; the truth is beside it."""
    directions = np.random.default_rng(0).normal(size=(500, 3))
    ball = BALL + RADIUS * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    true = np.linspace(0, 1, STEPS)[:, None, None] * SHIFT * np.ones((1, 500, 1))
    folder.mkdir(parents=True)
    np.savez(
        folder / "prediction.npz",
        points=ball.astype(np.float32),
        colors=np.zeros((500, 3), np.float32),
        displacements=(share * true).astype(np.float32),
        step_dt=np.float64(0.1),
    )
    write_truth(folder, true)
    record = {"summary": {"T_world_base": np.eye(4).tolist()}, "config": {"capture": str(capture)}}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("future")
    write_capture(recording(), folder / "capture")
    frames = ["--frames", *map(str, range(6)), "--holdout-every", "0", "--max-width", "80"]
    options = ["--fit.gaussians", "4000", "--fit.iterations", "40", "--out", str(folder / "fit")]
    assert main(["splat", "fit", str(folder / "capture"), *frames, *options]) == 0
    write_prediction(folder / "flow", folder / "capture")
    return folder


def test_render_measures_against_the_later_frames(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["splat", "render", str(made / "fit"), "--flow", str(made / "flow"), "--scale", "2"]
    capsys.readouterr()
    shown = ["--camera", "0-0", "3", "--repeats", "1", "--out", str(tmp_path / "o"), "--json"]
    assert main([*command, *shown]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["cameras"] == ["0-0", "3-0"] and summary["robot"] == "none"
    future = summary["future"]
    assert set(future) == {"predicted", "no_motion", "true_motion"}
    assert future["predicted"]["psnr_moving"] > future["no_motion"]["psnr_moving"] + 1
    assert future["predicted"]["psnr_moving"] == pytest.approx(
        future["true_motion"]["psnr_moving"], abs=0.01
    )
    for key in ("psnr", "ssim", "depth_l1_m", "gaussians", "seconds", "peak_memory_mb", "out"):
        assert key in summary
    # Two cameras below each other; in the sheet three panels of colour and depth over three steps.
    assert Image.open(tmp_path / "o" / "color_last.png").size == (160, 240)
    assert Image.open(tmp_path / "o" / "sheet.png").size == (3 * 160, 6 * 240)
    assert not (tmp_path / "o" / "features.mp4").exists()
    assert json.loads((tmp_path / "o" / "run.json").read_text())["summary"]["future"] == future


def test_later_frames_are_those_of_a_camera_that_stands_still(made: Path, tmp_path: Path) -> None:
    found = true_frames(made / "capture", "2-0", steps=STEPS, step_dt=0.1)
    assert {step: frame.name for step, frame in found.items()} == {0: "2-0", 1: "2-1", 2: "2-2"}
    assert true_frames(made / "capture", "nobody", steps=STEPS, step_dt=0.1) == {}
    assert set(true_frames(made / "capture", "2-0", steps=2, step_dt=0.2)) == {0, 1}
    moving = recording()
    T = moving.frames[8].T_world_cam.copy()
    T[0, 3] += 0.01
    frames = [replace(f, T_world_cam=T) if i == 8 else f for i, f in enumerate(moving.frames)]
    write_capture(replace(moving, frames=tuple(frames)), tmp_path / "moved")
    assert true_frames(tmp_path / "moved", "2-0", steps=STEPS, step_dt=0.1) == {}


def test_links_move_as_the_robot_does() -> None:
    robot = RobotModel.load("fr3")
    rng = np.random.default_rng(0)
    q = rng.uniform(-0.5, 0.5, (STEPS, len(robot.joint_names)))
    q[:, -1] = np.linspace(0.01, 0.03, STEPS)
    q[:, 3] -= 2.0
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]], [0.3, 0.1, -0.2]
    parts = robot_parts(robot, q, T, count=300, seed=1)
    surface = robot.sample_surface(300, links="all", seed=1)
    flow = robot.flow(surface, torch.from_numpy(q), step_dt=0.1).positions.double()
    wanted = flow @ torch.from_numpy(T[:3, :3]).T + torch.from_numpy(T[:3, 3])
    motion = parts.motions[:, parts.part]
    got = (motion[..., :3, :3] @ parts.points.double()[..., None])[..., 0] + motion[..., :3, 3]
    assert (got - wanted).abs().max() < 1e-5
    disks, links = robot_disks(robot, q[0], T)
    assert len(disks) == len(links) and 0.2 < float((0.5 + 0.282 * disks.sh[:, 0]).mean()) < 1
    # A camera in front sees the robot where its disks are.
    viewmat = torch.eye(4)
    viewmat[:3, :3] = torch.tensor([[0.0, 1, 0], [0, 0, -1], [-1, 0, 0]])
    viewmat[:3, 3] = torch.tensor([0.0, 0.3, 2.0])
    look = Look(
        viewmat=viewmat,
        K=torch.tensor([[480.0, 0, 320], [0, 480, 240], [0, 0, 1]]),
        size=(640, 480),
    )
    (view,) = robot_views(disks, [look], robot, q[0], T, get_rasterizer("cpu"))
    local = disks.means @ viewmat[:3, :3].T + viewmat[:3, 3]
    uv = (480 * local[:, :2] / local[:, 2:] + torch.tensor([320.0, 240.0])).long()
    inside = (uv >= 0).all(1) & (uv[:, 0] < 640) & (uv[:, 1] < 480)
    assert int(inside.sum()) > 1000
    assert float(view.mask[uv[inside, 1], uv[inside, 0]].float().mean()) > 0.9
    assert 0.02 < float(view.mask.float().mean()) < 0.6


def test_a_robot_that_no_camera_saw_is_put_in(made: Path) -> None:
    stored = read_native(made / "fit" / "scene.safetensors")
    prediction = read_prediction(made / "flow")
    assert prediction.capture is not None and robot_mode(prediction) == "none"
    robot = RobotModel.load("fr3")
    q = np.zeros((STEPS, len(robot.joint_names)))
    q[:, 3], q[:, 5], q[:, -1] = -1.5, 1.5, 0.02
    q[:, 0] = np.linspace(0, 0.4, STEPS)
    result = replace(prediction.result, robot="fr3", joint_positions=q)
    with_robot = replace(prediction, result=result)
    assert robot_mode(with_robot) == "add"
    looks = [
        Look(
            viewmat=stored.tensors["camera_viewmats"][i],
            K=stored.tensors["camera_K"][i],
            size=(80, 60),
        )
        for i in range(2)
    ]
    futures = make_futures(
        stored.scene, with_robot, looks=looks, rasterizer=get_rasterizer("cpu"), fill=False
    )
    disks = len(futures.predicted[0]) - len(stored.scene)
    assert disks == int((futures.owner >= 0).sum()) > 10_000
    # Nothing that was in the scene is taken for the robot.
    assert not bool((futures.owner[: len(stored.scene)] >= 0).any())
    hand = futures.owner == robot.link_names.index(robot.gripper_links[0])
    turned = futures.still[-1].means[hand] - futures.still[0].means[hand]
    assert float(turned.norm(dim=1).min()) > 0.1
    assert torch.equal(futures.still[-1].means[: len(stored.scene)], stored.scene.means)


@pytest.mark.rejects_input
def test_refusals(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "o")]
    command = ["splat", "render", str(made / "fit"), *out]
    capsys.readouterr()
    assert main([*command, "--flow", str(made / "flow"), "--robot", "add"]) == 2
    assert "does not say which robot" in capsys.readouterr().err
    assert main([*command, "--scale", "0"]) == 2
    assert "--scale 0" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
