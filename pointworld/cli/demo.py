"""`pointworld demo`: the whole pipeline on the bundled simulated capture, or on your own, with a report."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pointworld.capture import read_capture, write_capture
from pointworld.cli.common import console, parse, stdout_json
from pointworld.cli.demo_loop import close_loop
from pointworld.cli.demo_pictures import make_pictures, write_page
from pointworld.cli.demo_splat import splat_demo
from pointworld.cli.predict import (
    PredictArgs,
    PredictedCapture,
    measured_joints,
    predict_capture,
    write_result,
)
from pointworld.data import (
    Clip,
    clip_to_capture,
    clip_to_joint_path,
    moving_bodies,
    point_bodies,
    read_clip,
    tabletop_workspace,
    true_positions,
)
from pointworld.errors import InputError
from pointworld.files import atomic_path, write_json
from pointworld.robot import RobotModel, straight_path
from pointworld.scene import build_scene
from pointworld.scene.base_pose import resolve_base_pose, save_base_pose
from pointworld.train import flow_errors, no_motion
from pointworld.types import JointPath
from pointworld.view.result import TRUTH, read_result, write_truth

#: Things standing on the table are looked for between these heights above the robot's base [m].
STANDING = (0.02, 0.25)
#: The demo motion goes from this far before the things to this far behind them [m].
RUN_UP, RUN_OUT = 0.12, 0.10


@dataclass(frozen=True, kw_only=True)
class DemoArgs:
    """Show the whole pipeline: capture, scene points, robot flow, predicted flow, pictures, video, report.

    Without --capture it runs on a bundled simulated capture, whose true future is known, and then closes the loop in
    simulation: look, plan, act, look again, with plan, prediction and outcome side by side (needs the extra 'sim').
    Gaussians fitted to the capture show the predicted future as a video, in colour and in features.

    Example: pointworld demo --out out/demo
    Example: pointworld demo --capture my_capture --frames 0,8 --out out/mine
    """

    out: Path = Path("out/demo")
    """Folder for the results; open report.html in it."""
    capture: Path | None = None
    """Your own capture in any supported layout."""
    frames: str | None = None
    """Frames of --capture to use, e.g. 0,8."""
    base_pose: str | None = None
    """Where the robot stands, for captures that do not say: FILE, x,y,z,qw,qx,qy,qz or auto (the default here)."""
    checkpoint: str = "tiny"
    """Name of a bundled checkpoint, or a checkpoint folder."""
    seed: int = 0
    """Of everything that is drawn at random."""
    loop: bool = True
    """Close the loop in simulation at the end; --no-loop leaves it out."""
    splat: bool = True
    """Render the predicted future with Gaussians (needs the extra 'splat'); --no-splat leaves it out."""
    json: bool = False
    """Print a summary as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command."""
    args = parse(DemoArgs, argv, prog="pointworld demo")
    start = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.capture is None:
        result, errors = simulated(args)
    else:
        result, errors = captured(args, args.capture), None
    console.print("drawing pictures and the video ...")
    pictures = make_pictures(read_result(args.out), result, args.out)
    gaussians = None
    if args.splat:
        console.print("fitting Gaussians, rendering the predicted future ...")
        gaussians = splat_demo(args.out, result, args.capture or args.out / "capture")
    loop = None
    if args.loop and args.capture is None:
        console.print("closing the loop: look, plan, act, look again ...")
        loop = close_loop(args.out, args.checkpoint)
    sections = [] if gaussians is None else gaussians.sections()
    sections += [] if loop is None else [loop.section()]
    write_page(args.out, result, pictures, errors, sections)
    seconds = time.perf_counter() - start
    summary: dict[str, Any] = {
        "report": str(args.out / "report.html"),
        "points": len(result.scene),
        "seconds": round(seconds, 2),
        "errors": errors,
        "splat": None if gaussians is None else gaussians.summary,
        "loop": None if loop is None else loop.summary,
    }
    write_json(args.out / "demo.json", summary)
    if errors is not None:
        console.print(
            f"mover error {errors['model_mm']:.1f} mm, against {errors['no_motion_mm']:.1f} mm for predicting no "
            f"motion (ratio {errors['ratio']:.2f})"
        )
    if loop is not None:
        console.print(loop.sentence, soft_wrap=True)
    for note in result.notes:
        console.print(f"note: {note}", soft_wrap=True)
    console.print(f"done in {seconds:.0f} s. Open {args.out / 'report.html'}")
    if args.json:
        stdout_json(summary)
    return 0


def bundled_clip() -> Clip:
    """The simulated clip that comes with the package."""
    with resources.as_file(resources.files("pointworld") / "demo_data" / "push.npz") as path:
        return read_clip(path)


def simulated(args: DemoArgs) -> tuple[PredictedCapture, dict[str, float]]:
    """Predict the bundled clip through the same files a user would have, and measure against the simulator."""
    clip = bundled_clip()
    console.print("bundled capture: a simulated tabletop, three cameras, an FR3 about to push")
    write_capture(clip_to_capture(clip), args.out / "capture")
    _write_path(clip_to_joint_path(clip), args.out / "joints.npz")
    box = tabletop_workspace()
    corners = [*np.asarray(box.lower).tolist(), *np.asarray(box.upper).tolist()]
    result = _predict(args, args.out / "capture", workspace=",".join(map(str, corners)))
    points = result.scene.points.double().numpy()
    bodies = point_bodies(clip, points)
    positions = true_positions(clip, points, bodies)
    truth = torch.from_numpy(positions - positions[:1]).float()
    write_truth(args.out, truth.numpy())
    never = ~np.isin(bodies, moving_bodies(clip))
    scores = flow_errors(result.prediction.displacements, truth, torch.from_numpy(never))
    still = flow_errors(no_motion(truth[0], len(truth)), truth, torch.from_numpy(never))
    return result, {
        "model_mm": scores["l2_moved"] * 1e3,
        "no_motion_mm": still["l2_moved"] * 1e3,
        "ratio": scores["l2_moved"] / still["l2_moved"],
        "never_moving_mm": scores["l2_never_moving"] * 1e3,
        "false_motion_percent": scores["false_motion_share"] * 1e2,
    }


def captured(args: DemoArgs, folder: Path) -> PredictedCapture:
    """Predict a sweep of an FR3 through what stands on the table of a real capture."""
    frames = None if args.frames is None else [int(part) for part in args.frames.split(",")]
    capture = read_capture(folder, frames=[0] if frames is None else frames)
    spec = args.base_pose
    if spec is None and capture.T_world_base is None:
        spec = "auto"
    T_world_base, description = resolve_base_pose(capture, spec)
    pose_file = args.out / "base_pose.json"
    save_base_pose(pose_file, T_world_base, description)
    robot = RobotModel.load("fr3")
    joints_in_view = measured_joints(capture, robot)
    # An arm in view stands higher than anything else there, and is not to be pushed.
    scene = build_scene(
        capture.frames,
        T_world_base=T_world_base,
        workspace=tabletop_workspace(),
        robot=None if joints_in_view is None else robot,
        joint_positions=joints_in_view,
        seed=args.seed,
    )
    joints = sweep(robot, scene.points.numpy())
    path = JointPath(
        joint_positions=joints, joint_names=robot.joint_names, step_dt=0.1, source="demo sweep"
    )
    _write_path(path, args.out / "joints.npz")
    indices = "0" if args.frames is None else args.frames
    box = tabletop_workspace()
    corners = [*np.asarray(box.lower).tolist(), *np.asarray(box.upper).tolist()]
    result = _predict(
        replace(args, frames=indices),
        folder,
        workspace=",".join(map(str, corners)),
        base_pose=str(pose_file),
    )
    forget_bundled(args.out, folder)
    # The prediction read the pose back from the file; the user should hear how it was chosen.
    chosen = f"{description} (saved to {pose_file})"
    return replace(result, notes=(chosen, *result.notes[1:]))


def forget_bundled(out: Path, capture: Path) -> None:
    """Remove what an earlier run on the bundled capture left in `out` and a run on one's own would not replace.

    Its truth, which is none of the new prediction, its capture, loop and Gaussians. Only such a run writes a truth;
    where there is none, nothing is removed.

    Args:
        capture: the own one; a folder that holds it stays.
    """
    if not (out / TRUTH).is_file():
        return
    for name in ("capture", "loop", "splat"):
        folder = out / name
        own = capture.resolve().is_relative_to(folder.resolve())
        if folder.is_dir() and not folder.is_symlink() and not own:
            shutil.rmtree(folder)
    for name in ("truth.png", "error.png", "loop.png", TRUTH):
        (out / name).unlink(missing_ok=True)


def sweep(robot: RobotModel, points: np.ndarray) -> np.ndarray:
    """A straight push of the closed gripper through the middle of what stands on the table, away from the base.

    Args:
        points: (points, 3) scene in the base frame [m]; the table is at z = 0.

    Raises:
        InputError: nothing stands there.
    """
    standing = points[(points[:, 2] > STANDING[0]) & (points[:, 2] < STANDING[1])]
    if len(standing) < 20:
        raise InputError(
            f"only {len(standing)} scene points stand between {STANDING[0]} and {STANDING[1]} m above the base: "
            "nothing to push. Check --base-pose, or plan your own motion and use pointworld predict."
        )
    near = np.linalg.norm(standing[:, None, :2] - standing[None, ::7, :2], axis=-1) < 0.06
    center = standing[near.sum(1).argmax()]
    around = standing[np.linalg.norm(standing[:, :2] - center[:2], axis=-1) < 0.06]
    middle = around.mean(0)
    height = max(0.03, 0.5 * float(np.percentile(around[:, 2], 95)))
    direction = middle[:2] / np.linalg.norm(middle[:2])
    start = np.array([*(middle[:2] - RUN_UP * direction), height])
    stop = np.array([*(middle[:2] + RUN_OUT * direction), height])
    return straight_path(robot, start, stop, steps=11, gripper_width=0.0)


def _predict(
    args: DemoArgs, capture: Path, *, workspace: str, base_pose: str | None = None
) -> PredictedCapture:
    request = PredictArgs(
        capture=capture,
        robot="fr3",
        trajectory=args.out / "joints.npz",
        out=args.out,
        checkpoint=args.checkpoint,
        frames=args.frames,
        base_pose=base_pose,
        workspace=workspace,
        seed=args.seed,
        device="cpu",
    )
    console.print("scene points, robot flow, prediction ...")
    result = predict_capture(request)
    write_result(result, request)
    return result


def _write_path(path: JointPath, target: Path) -> None:
    arrays: dict[str, Any] = {
        "joint_positions": path.joint_positions,
        "joint_names": np.array(path.joint_names),
        "step_dt": np.float64(path.step_dt),
    }
    if path.gripper_width is not None:
        arrays["gripper_width"] = path.gripper_width
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
