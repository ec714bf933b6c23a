"""`pointworld predict`: the 3D flow of a captured scene under a planned joint motion."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from pointworld.capture import list_capture, read_capture
from pointworld.cli.common import console, parse, pick_device, stdout_json, write_run_json
from pointworld.errors import InputError
from pointworld.files import atomic_folder
from pointworld.geometry import invert
from pointworld.model import Precision, WorldModel, load
from pointworld.model.robot_surface import seen_surface
from pointworld.robot import (
    RobotModel,
    SurfacePoints,
    joint_path_to_positions,
    read_joint_path,
    resample_joint_path,
)
from pointworld.scene import Workspace, build_scene
from pointworld.scene.base_pose import resolve_base_pose
from pointworld.types import Capture, FlowPrediction, JointPath, RobotFlow, ScenePoints
from pointworld.view.result import TRUTH

#: At most this many frames make a scene when none are named: one per camera.
DEFAULT_FRAMES = 4
#: A frame's joints and the start of the path may differ by this much before a note is printed [rad or m].
START_TOLERANCE = 0.05
#: Displacement from which a point is reported as moving [m].
MOVING = 0.01


@dataclass(frozen=True, kw_only=True)
class PredictArgs:
    """Predict how every point of a captured scene moves when the robot follows a joint path.

    Example:
        pointworld predict my_capture --robot fr3 --trajectory push.npz --out result --base-pose auto

    Writes result/prediction.npz (points, colors, displacements, log_var, robot_positions, step_dt; in the robot's
    base frame, step 0 = now) and result/run.json.
    """

    capture: Annotated[Path, tyro.conf.Positional]
    """Folder of RGB-D frames in any supported layout."""
    robot: str
    """Name (fr3, panda_robotiq, ur5e_robotiq) or path of a URDF."""
    trajectory: Path
    """Joint path: .npz with joint_positions, joint_names, step_dt and optional gripper_width, or .csv."""
    out: Path
    """Folder for the results."""
    checkpoint: str = "tiny"
    """Bundled name, checkpoint folder or released .pt."""
    domain: str | None = None
    """Domain of a checkpoint that was trained on several; the first when absent."""
    frames: str | None = None
    """Frames to build the scene from, e.g. 0,8; by default the first of every camera."""
    base_pose: str | None = None
    """FILE, x,y,z,qw,qx,qy,qz or auto; by default what the capture says."""
    workspace: str | None = None
    """Box in the base frame that the scene is cropped to [m]: x0,y0,z0,x1,y1,z1."""
    seed: int = 0
    """Of the robot's surface points and of thinning a large scene."""
    device: str = "auto"
    """auto, cpu or cuda."""
    precision: Precision = "float32"
    """Of the matrix products: float32, or bfloat16, which is about twice as fast and differs by under 1 %."""
    json: bool = False
    """Print a summary as one JSON object on stdout."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PredictedCapture:
    """A prediction with everything it was made from, in the base frame.

    joint_positions: (steps, joints) in the robot's order, at the model's step_dt. notes: what the user should know.
    """

    capture: Capture
    scene: ScenePoints
    robot: RobotModel
    joint_positions: np.ndarray
    robot_flow: RobotFlow
    prediction: FlowPrediction
    T_world_base: np.ndarray
    base_description: str
    notes: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)


def main(argv: list[str]) -> int:
    """Run the command."""
    args = parse(PredictArgs, argv, prog="pointworld predict")
    result = predict_capture(args)
    summary = write_result(result, args)
    for note in result.notes:
        console.print(f"note: {note}")
    console.print(
        f"{summary['points']} points, {summary['steps']} steps of {summary['step_dt']:.4g} s; "
        f"{summary['moving_points']} points move more than {MOVING * 100:.0f} cm "
        f"(largest {summary['largest_displacement_m'] * 100:.1f} cm). Results in {args.out}"
    )
    if args.json:
        stdout_json(summary)
    return 0


def predict_capture(args: PredictArgs, *, model: WorldModel | None = None) -> PredictedCapture:
    """Everything but writing files.

    Args:
        model: used instead of `args.checkpoint` when it is loaded already.

    Raises:
        InputError: see the command's list of bad input; nothing was written.
    """
    clock = _Clock()
    device = pick_device(args.device)
    robot = RobotModel.load(args.robot)
    path = read_joint_path(args.trajectory)
    model = load(args.checkpoint, device=device) if model is None else model
    clock.lap("load")
    joints = _joint_positions(robot, path, model, args.domain)
    workspace = Workspace() if args.workspace is None else Workspace.parse(args.workspace)
    capture = read_capture(args.capture, frames=_frame_indices(args))
    T_world_base, description = resolve_base_pose(capture, args.base_pose)
    flow, notes = _robot_flow(robot, joints, model, args)
    _check_reach(flow, workspace)
    clock.lap("robot")
    masked, mask_notes = _joints_in_view(capture, robot, joints[0])
    scene = build_scene(
        capture.frames,
        T_world_base=T_world_base,
        workspace=workspace,
        voxel_size=model.spec.grid_size,
        robot=None if masked is None else robot,
        joint_positions=masked,
        encoder=model.image_encoder(device),
        sampling=model.spec.sampling,
        max_points=model.spec.max_scene_points,
        seed=args.seed,
        depth_threshold=model.spec.depth_threshold,
    )
    clock.lap("scene")
    prediction = model.predict(scene, flow, domain=args.domain, precision=args.precision)
    clock.lap("predict")
    return PredictedCapture(
        capture=capture,
        scene=scene,
        robot=robot,
        joint_positions=joints,
        robot_flow=flow,
        prediction=prediction,
        T_world_base=T_world_base,
        base_description=description,
        notes=(description, *notes, *mask_notes),
        timings=clock.laps,
    )


def write_result(result: PredictedCapture, args: PredictArgs) -> dict[str, Any]:
    """Write prediction.npz and run.json as a whole, and return the summary that `--json` prints."""
    displacements = result.prediction.displacements.cpu().numpy().astype(np.float32)
    largest = np.linalg.norm(displacements, axis=-1).max(0)
    summary = {
        "out": str(args.out),
        "points": len(result.scene),
        "steps": int(displacements.shape[0]),
        "step_dt": result.prediction.step_dt,
        "robot_points": int(result.robot_flow.positions.shape[-2]),
        "moving_points": int((largest > MOVING).sum()),
        "largest_displacement_m": float(largest.max()),
        "T_world_base": result.T_world_base.tolist(),
        "base_pose": result.base_description,
    }
    with atomic_folder(args.out) as folder:
        np.savez_compressed(
            folder / "prediction.npz",
            points=result.scene.points.cpu().numpy().astype(np.float32),
            colors=result.scene.colors.cpu().numpy().astype(np.float32),
            displacements=displacements,
            log_var=result.prediction.log_var.cpu().numpy().astype(np.float32),
            robot_positions=result.robot_flow.positions.cpu().numpy().astype(np.float32),
            step_dt=np.float64(result.prediction.step_dt),
        )
        write_run_json(
            folder,
            command="predict",
            config=args,
            seed=args.seed,
            timings=result.timings,
            extra={
                "summary": summary,
                "notes": result.notes,
                "frames": [frame.name for frame in result.capture.frames],
                "cameras": _cameras(result),
                "robot": result.robot.name,
                "joint_names": result.robot.joint_names,
                "joint_positions": result.joint_positions.tolist(),
            },
        )
    (args.out / TRUTH).unlink(missing_ok=True)  # it was another prediction's
    return summary


def _cameras(result: PredictedCapture) -> list[dict[str, Any]]:
    """Where the cameras stood, in the base frame."""
    T_base_world = invert(result.T_world_base)
    return [
        {
            "name": frame.name,
            "K": frame.K.tolist(),
            "T_base_cam": (T_base_world @ frame.T_world_cam).tolist(),
            "width": frame.width,
            "height": frame.height,
        }
        for frame in result.capture.frames
    ]


class _Clock:
    """Wall time of consecutive phases [s]."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now


def _frame_indices(args: PredictArgs) -> list[int]:
    if args.frames is not None:
        try:
            return [int(part) for part in args.frames.split(",")]
        except ValueError as error:
            raise InputError(
                f"--frames '{args.frames}' cannot be read; expected whole numbers, e.g. 0,8"
            ) from error
    first: dict[str, int] = {}
    for index, entry in enumerate(list_capture(args.capture).entries):
        first.setdefault(entry.camera, index)
    return list(first.values())[:DEFAULT_FRAMES]


def _joint_positions(
    robot: RobotModel, path: JointPath, model: WorldModel, domain: str | None
) -> np.ndarray:
    """(steps, joints) in the robot's order at the model's time step."""
    return joint_path_to_positions(robot, resample_joint_path(path, model.spec.step_dt_of(domain)))


def _robot_flow(
    robot: RobotModel, joints: np.ndarray, model: WorldModel, args: PredictArgs
) -> tuple[RobotFlow, list[str]]:
    surface, notes = _surface(robot, model, args)
    q = torch.from_numpy(np.ascontiguousarray(joints)).to(torch.float32)
    flow = robot.flow(surface, q, step_dt=model.spec.step_dt_of(args.domain))
    if flow.gripper_open.shape[-1] == 0:
        notes.append(f"robot '{robot.name}' has no known gripper: it counts as open")
        flow = replace(flow, gripper_open=flow.gripper_open.new_ones(len(joints), 1))
    return flow, notes


def _surface(
    robot: RobotModel, model: WorldModel, args: PredictArgs
) -> tuple[SurfacePoints, list[str]]:
    """Surface points that the model sees, and a note where the robot lacks the links that it knows."""
    spec = model.spec
    surface, absent = seen_surface(
        robot,
        spec.robot_links_of(args.domain),
        spec.max_robot_points,
        released=spec.features == "released",
        seed=args.seed,
    )
    if not absent:
        return surface, []
    note = (
        f"the model was trained on the links of '{spec.robot}', of which '{robot.name}' lacks {', '.join(absent)}: "
        f"using the gripper of '{robot.name}'"
    )
    return surface, [note]


def _check_reach(flow: RobotFlow, workspace: Workspace) -> None:
    points = flow.positions.reshape(-1, 3)
    if bool(workspace.contains(points).any()):
        return
    low, high = points.amin(0).tolist(), points.amax(0).tolist()
    ranges = ", ".join(f"{a} {x:.2f}..{y:.2f}" for a, x, y in zip("xyz", low, high, strict=True))
    raise InputError(
        f"no robot point comes into the workspace {workspace} at any step: the sampled links move within {ranges} m "
        "in the base frame. Check the joint path, its joint order, or --workspace"
    )


def measured_joints(capture: Capture, robot: RobotModel) -> np.ndarray | None:
    """Joint positions (frames, joints) at the capture's frames in the robot's order; None where one has none."""
    measured = [frame.joint_positions for frame in capture.frames]
    if any(values is None for values in measured):
        return None
    return np.stack(
        [robot.order_joints(np.asarray(values), capture.joint_names) for values in measured]
    )


def _joints_in_view(
    capture: Capture, robot: RobotModel, start: np.ndarray
) -> tuple[np.ndarray | None, list[str]]:
    """Joint positions (frames, joints) with which to mask the robot out of the images; None = it is not in view."""
    measured = measured_joints(capture, robot)
    if measured is not None:
        apart = float(np.abs(measured[-1] - start).max())
        far = apart > START_TOLERANCE
        note = f"the joint path starts {apart:.2f} rad or m away from the joints in the capture"
        return measured, [note] if far else []
    if capture.robot is not None:
        note = "the capture has no joint positions: the robot is masked out where the path starts"
        return np.stack([start] * len(capture.frames)), [note]
    return None, ["the capture names no robot in view: nothing is masked out of the images"]
