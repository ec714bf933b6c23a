"""`pointworld calibrate` from pictures to the file: boards rendered in front of an FR3, in both mountings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pointworld.capture import write_capture
from pointworld.cli import calibrate
from pointworld.control.calibration import read_calibration
from pointworld.control.charuco import Board
from pointworld.errors import InputError
from pointworld.robot import RobotModel
from pointworld.types import Capture, RGBDFrame
from tests.control.conftest import HOME

pytest.importorskip("cv2", reason="needs the extra [calibration]")

WIDTH, HEIGHT, VIEWS = 640, 480, 12
K = np.array([[610.0, 0, 322.0], [0, 608.0, 238.5], [0, 0, 1]])
BOARD = Board()
#: The board in front of the camera with the arm at home: half a metre away, upright and centred.
AHEAD = (-0.5 * BOARD.columns * BOARD.square, -0.5 * BOARD.rows * BOARD.square, 0.5)


def pose(rotvec: tuple[float, ...], t: tuple[float, ...]) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = Rotation.from_rotvec(rotvec).as_matrix(), t
    return T


def tool_pose(robot: RobotModel, q: np.ndarray) -> np.ndarray:
    return np.asarray(robot.tool_pose(torch.from_numpy(q)))


def render(picture: np.ndarray, T_cam_board: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a camera sees of the board: two rays a pixel, a white margin, a dark room, and noise."""
    normal, origin = T_cam_board[:3, 2], T_cam_board[:3, 3]
    total = np.zeros((HEIGHT, WIDTH))
    for du, dv in ((0.25, 0.4), (0.75, 0.6)):
        u, v = np.meshgrid(np.arange(WIDTH) + du, np.arange(HEIGHT) + dv)
        rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], -1)
        hits = rays * ((normal @ origin) / (rays @ normal))[..., None]
        x, y = (((hits - origin) @ T_cam_board[:3, :2]) / BOARD.square).transpose(2, 0, 1)
        row = np.clip(np.floor(y * 120), 0, picture.shape[0] - 1).astype(np.int64)
        column = np.clip(np.floor(x * 120), 0, picture.shape[1] - 1).astype(np.int64)
        on_board = (x >= 0) & (y >= 0) & (x < BOARD.columns) & (y < BOARD.rows)
        margin = (np.abs(x / BOARD.columns - 0.5) < 0.6) & (np.abs(y / BOARD.rows - 0.5) < 0.6)
        total += np.where(on_board, picture[row, column], np.where(margin, 255.0, 60.0)) / 2
    seen = 20 + 0.8 * total + 4.0 * rng.standard_normal(total.shape)
    return np.repeat(np.clip(seen, 0, 255).astype(np.uint8)[..., None], 3, -1)


def whole(T_cam_board: np.ndarray) -> bool:
    """All corners are in the picture, and the board is seen from its front."""
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * [BOARD.columns, BOARD.rows]
    flat = np.concatenate([corners * BOARD.square, np.zeros((4, 1))], 1)
    p = flat @ T_cam_board[:3, :3].T + T_cam_board[:3, 3]
    uv = p[:, :2] / p[:, 2:] * [K[0, 0], K[1, 1]] + K[:2, 2]
    inside = (p[:, 2] > 0.2).all() and (uv > 10).all() and (uv < [WIDTH - 10, HEIGHT - 10]).all()
    return bool(inside and T_cam_board[2, 2] > 0.5)


def record(
    mode: str, folder: Path, *, views: int = VIEWS, wrong_joints: bool = False
) -> np.ndarray:
    """A capture of boards as a person would take it; returns the camera's true pose in its parent's frame."""
    robot, rng = RobotModel.load("fr3"), np.random.default_rng(5)
    home = tool_pose(robot, np.append(HOME, 0.04))
    if mode == "eye_in_hand":
        truth = pose((0.05, -0.1, 0.6), (0.06, 0.02, -0.05))
        T_base_board = home @ truth @ pose((0, 0, 0), AHEAD)
    else:
        T_tool_board = pose((0.1, 0.2, -0.3), (-0.1, -0.08, 0.07))
        truth = home @ T_tool_board @ np.linalg.inv(pose((0, 0, 0), AHEAD))
    picture, frames = BOARD.picture(), list[RGBDFrame]()
    while len(frames) < views:
        q = np.append(HOME + rng.uniform(-1, 1, 7) * [0.2, 0.2, 0.2, 0.2, 0.4, 0.4, 0.7], 0.04)
        tool = tool_pose(robot, q)
        if mode == "eye_in_hand":
            T_cam_board = np.linalg.inv(tool @ truth) @ T_base_board
        else:
            T_cam_board = np.linalg.inv(truth) @ tool @ T_tool_board
        if whole(T_cam_board):
            frames.append(
                RGBDFrame(
                    rgb=render(picture, T_cam_board, rng),
                    depth=np.ones((HEIGHT, WIDTH), np.float32),
                    valid=np.ones((HEIGHT, WIDTH), bool),
                    K=K,
                    T_world_cam=np.eye(4),
                    name=f"view{len(frames):02d}",
                    camera="side",
                    joint_positions=q + (0.1 * rng.standard_normal(8) if wrong_joints else 0.0),
                )
            )
    write_capture(Capture(frames=tuple(frames), source="t", joint_names=robot.joint_names), folder)
    return truth


@pytest.mark.parametrize("mode", ["eye_to_hand", "eye_in_hand"])
def test_rendered_boards_give_the_camera_to_millimetres(
    mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = record(mode, tmp_path / "board")
    output = tmp_path / "side.json"
    words = [str(tmp_path / "board"), "--mode", mode, "--output", str(output), "--json"]
    assert calibrate.main(words) == 0
    report = json.loads(capsys.readouterr().out)
    found = read_calibration(output)
    assert found.camera == "side" and found.mode == mode and np.allclose(found.K, K)
    off = np.linalg.inv(truth) @ found.T_parent_cam
    assert np.linalg.norm(off[:3, 3]) <= 3e-3
    assert np.rad2deg(Rotation.from_matrix(off[:3, :3]).magnitude()) <= 0.3
    assert report["rms_px"] < 0.5 and len(report["residuals_px"]) >= VIEWS - 2
    assert np.linalg.norm(report["translation_std_mm"]) < 3


@pytest.mark.rejects_input
def test_joints_that_do_not_belong_to_the_pictures_are_refused(tmp_path: Path) -> None:
    record("eye_to_hand", tmp_path / "board", views=6, wrong_joints=True)
    output = tmp_path / "side.json"
    with pytest.raises(InputError, match="off by"):
        calibrate.main([str(tmp_path / "board"), "--output", str(output)])
    assert not output.exists()
