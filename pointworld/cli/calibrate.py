"""`pointworld calibrate`: where a camera is, from images of a ChArUco board and the arm's joints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from PIL import Image

from pointworld.capture import read_capture
from pointworld.cli.common import console, parse, progress, stdout_json
from pointworld.control.calibration import write_calibration
from pointworld.control.charuco import Board
from pointworld.control.handeye import BoardView, HandEye, solve_hand_eye
from pointworld.errors import InputError
from pointworld.robot import RobotModel
from pointworld.types import Capture


@dataclass(frozen=True, kw_only=True)
class CalibrateArgs:
    """Find where a camera is: beside the arm (the board is in the hand), or on the hand (the board lies still).

    Take 15 to 25 images in which the board is whole, near and tilted about different axes, with the arm standing
    still; a capture holds the images, the intrinsics and the joints. Needs the extra 'calibration' (OpenCV).

    Example: pointworld calibrate captures/board --robot fr3 --mode eye_to_hand --output side.json
    """

    capture: tyro.conf.Positional[Path | None] = None
    """Capture with an image and joint positions per posture."""
    robot: str = "fr3"
    """Bundled robot, or path of a URDF."""
    mode: Literal["eye_to_hand", "eye_in_hand"] = "eye_to_hand"
    """eye_to_hand: the camera stands, the board is in the hand. eye_in_hand: the other way round."""
    camera: str | None = None
    """Which camera of the capture; needed when it holds several."""
    board: Board = field(default_factory=Board)
    """The board: squares, sizes in metres, dictionary."""
    output: Path = Path("calibration.json")
    """The calibration file to write."""
    print_board: Path | None = None
    """Write the board's picture to this PNG for printing, and stop. Measure the squares after printing."""
    max_rms: float = 1.5
    """Refuse a result whose corners are off by more than this [px]."""
    json: bool = False
    """Print the result as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(CalibrateArgs, argv, prog="pointworld calibrate")
    if args.print_board is not None:
        Image.fromarray(args.board.picture()).save(args.print_board)
        console.print(f"board written to {args.print_board}; print it without scaling")
        return 0
    if args.capture is None:
        raise InputError("name a capture with images of the board, or --print-board FILE")
    capture = read_capture(args.capture, check_unit=False)
    camera = _choose_camera(capture, args.camera)
    views, names, K = _find_views(capture, camera, RobotModel.load(args.robot), args.board)
    result = solve_hand_eye(views, K, mode=args.mode)
    _describe(result, names)
    if args.json:
        stdout_json(_report(result, camera, names))
    if result.rms > args.max_rms:
        raise InputError(
            f"the corners are off by {result.rms:.2f} px (RMS), at most {args.max_rms} are accepted. Are the sizes of "
            "the squares right, did the arm stand still, and do image and joints belong together? Leave out the views "
            "with large residuals"
        )
    write_calibration(args.output, camera, result)
    console.print(f"written to {args.output}")
    return 0


def _choose_camera(capture: Capture, wanted: str | None) -> str:
    names = sorted({frame.camera for frame in capture.frames})
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted not in names:
        raise InputError(f"--camera is {wanted!r}, the capture has {', '.join(names)}")
    return str(wanted)


def _find_views(
    capture: Capture, camera: str, robot: RobotModel, board: Board
) -> tuple[list[BoardView], list[str], np.ndarray]:
    """Views with enough corners, their frames' names, and the intrinsics."""
    frames = [f for f in capture.frames if f.camera == camera and f.joint_positions is not None]
    if not frames:
        raise InputError(
            f"{capture.source}: no frame of camera '{camera}' has joint positions; calibration needs them per image"
        )
    corners, views, names = board.corners(), [], []
    with progress(len(frames), "finding the board") as advance:
        for frame in frames:
            numbers, pixels = board.find(frame.rgb)
            advance(1)
            if len(numbers) < 6:
                console.print(f"{frame.name}: {len(numbers)} corners, left out")
                continue
            q = robot.order_joints(
                np.asarray(frame.joint_positions), capture.joint_names, source=frame.name
            )
            tool = robot.tool_pose(torch.from_numpy(np.asarray(q, dtype=np.float64))).numpy()
            views.append(BoardView(T_base_tool=tool, pixels=pixels, points=corners[numbers]))
            names.append(frame.name)
    return views, names, frames[0].K


def _report(result: HandEye, camera: str, names: list[str]) -> dict[str, object]:
    return {
        "camera": camera,
        "mode": result.mode,
        "T_parent_cam": result.T_parent_cam.tolist(),
        "rms_px": result.rms,
        "translation_std_mm": (1e3 * result.translation_std).tolist(),
        "rotation_std_deg": np.rad2deg(result.rotation_std).tolist(),
        "residuals_px": dict(zip(names, result.residuals.tolist(), strict=False)),
    }


def _describe(result: HandEye, names: list[str]) -> None:
    """The result for people, on stderr."""
    where = "base" if result.mode == "eye_to_hand" else "tool"
    t = result.T_parent_cam[:3, 3]
    console.print(
        f"camera at {t[0]:.4f} {t[1]:.4f} {t[2]:.4f} m in the {where} frame, +- "
        f"{1e3 * np.linalg.norm(result.translation_std):.2f} mm and "
        f"{np.rad2deg(np.linalg.norm(result.rotation_std)):.3f} degrees (one standard deviation)"
    )
    console.print(f"corners off by {result.rms:.2f} px over {len(result.residuals)} views")
    for index in np.argsort(-result.residuals)[:3]:
        console.print(f"  {names[index]}: {result.residuals[index]:.2f} px")
