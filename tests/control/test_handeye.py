"""Hand-eye calibration on boards whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pointworld.control.calibration import (
    check_against_arm,
    read_calibration,
    write_calibration,
)
from pointworld.control.charuco import Board
from pointworld.control.handeye import BoardView, HandEye, Mode, board_pose, solve_hand_eye
from pointworld.control.types import CameraFrame, Reason
from pointworld.errors import InputError
from pointworld.robot import RobotModel
from tests.control.conftest import HOME, depth_of_arm

K = np.array([[615.0, 0, 322.5], [0, 612.0, 241.0], [0, 0, 1]])
BOARD = Board()


def pose(rotvec: tuple[float, ...], t: tuple[float, ...]) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = Rotation.from_rotvec(rotvec).as_matrix(), t
    return T


#: Camera and board poses for both mountings.
TRUTH: dict[Mode, tuple[np.ndarray, np.ndarray]] = {
    "eye_to_hand": (
        pose((0, np.pi * 0.9, 0), (0.5, 0.1, 1.2)),
        pose((0.1, -0.2, 0.3), (0.05, -0.1, 0.08)),
    ),
    "eye_in_hand": (
        pose((0.05, 0.1, 1.5), (0.06, 0.01, -0.05)),
        pose((np.pi, 0.05, 0.1), (0.45, 0.1, 0.01)),
    ),
}


def make_views(
    mode: Mode, rng: np.random.Generator, *, count: int = 20, noise: float = 0.3, tilt: float = 0.5
) -> list[BoardView]:
    """Views of the whole board under the noise of a corner detector [px]."""
    cam, board = TRUTH[mode]
    views: list[BoardView] = []
    for _ in range(20000):
        if len(views) == count:
            return views
        wish = pose(tuple(rng.uniform(-tilt, tilt, 3)), tuple(rng.uniform(-0.12, 0.12, 3)))
        wish[2, 3] += 0.55
        # Where the tool must be for the camera to see the board like this.
        cam_board = wish @ pose((0, 0, 0), (-0.14, -0.10, 0))
        G = cam @ cam_board @ np.linalg.inv(board)
        tool = G if mode == "eye_to_hand" else np.linalg.inv(G)
        points = BOARD.corners()
        p = points @ cam_board[:3, :3].T + cam_board[:3, 3]
        px = p[:, :2] / p[:, 2:] * [K[0, 0], K[1, 1]] + K[:2, 2]
        if (px > 0).all() and (px < [640, 480]).all():
            px = px + noise * rng.standard_normal(px.shape)
            views.append(BoardView(T_base_tool=tool, pixels=px, points=points))
    raise AssertionError("no views")


def errors(result: HandEye, mode: Mode) -> tuple[float, float]:
    """Translation [m] and rotation [degrees] from the truth."""
    off = np.linalg.inv(TRUTH[mode][0]) @ result.T_parent_cam
    turn = Rotation.from_matrix(off[:3, :3]).magnitude()
    return float(np.linalg.norm(off[:3, 3])), float(np.rad2deg(turn))


@pytest.mark.parametrize("mode", TRUTH)
def test_three_tenths_of_a_pixel_give_millimetres(mode: Mode, rng: np.random.Generator) -> None:
    for _ in range(3):
        result = solve_hand_eye(make_views(mode, rng), K, mode=mode)
        translation, rotation = errors(result, mode)
        assert translation <= 3e-3 and rotation <= 0.3
        assert result.rms == pytest.approx(0.3 * np.sqrt(2), rel=0.15)
        assert np.linalg.norm(result.translation_std) < 3e-3


@pytest.mark.parametrize("mode", TRUTH)
def test_without_noise_it_is_exact(mode: Mode, rng: np.random.Generator) -> None:
    result = solve_hand_eye(make_views(mode, rng, count=6, noise=0.0), K, mode=mode)
    assert max(errors(result, mode)) < 1e-5


def test_one_bad_view_does_little_harm(rng: np.random.Generator) -> None:
    views = make_views("eye_to_hand", rng)
    moved = views[3].T_base_tool.copy()
    moved[:3, 3] += 0.05
    views[3] = BoardView(T_base_tool=moved, pixels=views[3].pixels, points=views[3].points)
    result = solve_hand_eye(views, K, mode="eye_to_hand")
    assert errors(result, "eye_to_hand")[0] < 0.01
    assert int(result.residuals.argmax()) == 3, "and it is named by its residual"


@pytest.mark.rejects_input
def test_too_little_is_refused(rng: np.random.Generator) -> None:
    views = make_views("eye_to_hand", rng, count=6)
    with pytest.raises(InputError, match="usable views"):
        solve_hand_eye(views[:3], K, mode="eye_to_hand")
    still = [
        BoardView(T_base_tool=views[0].T_base_tool, pixels=v.pixels, points=v.points) for v in views
    ]
    with pytest.raises(InputError, match="one axis"):
        solve_hand_eye(still, K, mode="eye_to_hand")
    with pytest.raises(InputError, match="expected at least 3 x 3"):
        Board(columns=2)


def test_calibrations_are_written_and_read(tmp_path: Path, rng: np.random.Generator) -> None:
    result = solve_hand_eye(make_views("eye_in_hand", rng), K, mode="eye_in_hand")
    write_calibration(tmp_path / "wrist.json", "wrist", result)
    read = read_calibration(tmp_path / "wrist.json")
    tool = pose((0.1, 0.2, 0.3), (0.4, 0, 0.3))
    assert np.allclose(read.T_base_cam(tool), tool @ result.T_parent_cam)
    (tmp_path / "broken.json").write_text('{"format": "pointworld-calibration", "version": 1}')
    with pytest.raises(InputError, match="no calibration file"):
        read_calibration(tmp_path / "broken.json")


def test_the_board_is_found_in_rendered_images(rng: np.random.Generator) -> None:
    cv2 = pytest.importorskip("cv2")
    picture = BOARD.picture(100)
    views = []
    for view in make_views("eye_to_hand", rng, count=10, noise=0.0):
        T = board_pose(view.pixels, view.points, K)
        scale = np.diag([BOARD.square / 100, BOARD.square / 100, 1.0])
        half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
        H = np.linalg.inv(half) @ K @ T[:3, [0, 1, 3]] @ scale @ half
        image = cv2.warpPerspective(picture, H, (640, 480), flags=cv2.INTER_AREA, borderValue=128)
        image = np.clip(
            cv2.GaussianBlur(image, (3, 3), 0.6) + rng.normal(0, 3, image.shape), 0, 255
        )
        numbers, pixels = BOARD.find(np.repeat(image.astype(np.uint8)[..., None], 3, -1))
        assert len(numbers) >= 12
        assert np.abs(pixels - view.pixels[numbers]).max() < 1.0
        views.append(
            BoardView(T_base_tool=view.T_base_tool, pixels=pixels, points=BOARD.corners()[numbers])
        )
    translation, rotation = errors(solve_hand_eye(views, K, mode="eye_to_hand"), "eye_to_hand")
    assert translation <= 3e-3 and rotation <= 0.3


def test_a_camera_that_moved_is_noticed(fr3: RobotModel) -> None:
    joints = np.append(HOME, 0.04)
    small = np.array([[150.0, 0, 80], [0, 150.0, 60], [0, 0, 1]])
    T, depth = depth_of_arm(fr3, joints, small, (120, 160))
    frame = CameraFrame(
        camera="side",
        rgb=np.zeros((120, 160, 3), np.uint8),
        depth=depth,
        K=small,
        time=0.0,
        sequence=0,
    )
    good = check_against_arm(frame, fr3, joints, T)
    assert good.reason is Reason.NONE and good.agreeing > 0.8 and good.median < 0.005
    for moved in (
        pose((0, 0, 0), (0, 0, 0.05)),
        pose((0.1, 0, 0), (0, 0, 0)),
        pose((0, 3.0, 0), (0, 0, 0)),
    ):
        bad = check_against_arm(frame, fr3, joints, T @ moved)
        assert bad.reason is Reason.CAMERA_CALIBRATION
    other = joints.copy()
    other[0] += 0.3
    assert check_against_arm(frame, fr3, other, T).reason is Reason.CAMERA_CALIBRATION
