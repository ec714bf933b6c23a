"""What `pointworld splat render --flow` and the demo draw: a Gaussian scene at every step of a prediction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from pointworld.capture import list_capture
from pointworld.capture.listing import load_frame
from pointworld.cli.splat_pictures import Look
from pointworld.errors import InputError
from pointworld.geometry import transform_points
from pointworld.robot import RobotModel
from pointworld.scene.robot_mask import pose_robot
from pointworld.types import RGBDFrame
from pointworld.view.result import FlowResult, read_result
from splat.fill import fill_support, find_support, seen_weights, surface_gaussians
from splat.fit.optimise import render
from splat.future import (
    MarkedView,
    RigidParts,
    bind_future,
    future_scenes,
    part_owners,
    will_move,
)
from splat.motion import bind
from splat.raster import Rasterizer
from splat.types import GaussianScene, concatenate

Tensor = torch.Tensor

#: What becomes of the robot: `scene` moves the Gaussians that the cameras saw of it, `add` puts an imagined one in.
RobotMode = Literal["auto", "scene", "add", "none"]
#: Points on the whole robot's surface that find its Gaussians, and disks that an imagined one is drawn with.
PART_POINTS, DISKS = 20_000, 30_000
#: Cameras that are asked which Gaussians are the robot's, and how far in front of its surface these may be [m].
ROBOT_CAMERAS, ROBOT_MARGIN = 16, 0.03
#: A later frame belongs to a step when its time is this near to it, as a share of the step.
TIME_TOLERANCE = 0.25
#: A camera stands still when no entry of its pose changes by more than this.
POSE_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Futures:
    """A scene at every step of a prediction.

    predicted, still: with the predicted flow; with the robot's motion alone. true: with the true flow, None where that
    is not known. robot: `scene`, `add` or `none`. owner: (N,) the robot's link of every Gaussian, -1 = none.
    step_dt: [s].
    """

    predicted: list[GaussianScene]
    still: list[GaussianScene]
    true: list[GaussianScene] | None
    robot: str
    owner: Tensor
    step_dt: float


def robot_parts(
    robot: RobotModel,
    joint_positions: np.ndarray,
    T_world_base: np.ndarray,
    *,
    count: int = PART_POINTS,
    seed: int = 0,
) -> RigidParts:
    """The links of a robot that follows a joint path (steps, joints), in the world where its base is T_world_base."""
    surface = robot.sample_surface(count, links="all", seed=seed)
    poses = _link_poses(robot, joint_positions, T_world_base)
    local = surface.points.double().cpu()
    T = poses[0, surface.link_index.cpu()]
    points = (T[:, :3, :3] @ local[..., None])[..., 0] + T[:, :3, 3]
    return RigidParts(
        points=points.float(),
        part=surface.link_index.cpu().long(),
        motions=poses @ torch.linalg.inv(poses[:1]),
    )


@torch.no_grad()
def robot_views(
    scene: GaussianScene,
    looks: Sequence[Look],
    robot: RobotModel,
    joints: np.ndarray,
    T_world_base: np.ndarray,
    rasterizer: Rasterizer,
) -> list[MarkedView]:
    """Which pixels of the cameras `looks` show the robot at `joints` (joints,): its mesh, not hidden by the scene."""
    caster = pose_robot(robot, joints)
    views = []
    for look in looks:
        T_cam_base = look.viewmat.double().numpy() @ T_world_base
        width, height = look.size
        mesh = torch.from_numpy(caster.depth(T_cam_base, look.K.double().numpy(), height, width))
        seen, _ = render(rasterizer, scene, look.viewmat, look.K, look.size, "ED")
        mask = torch.isfinite(mesh) & (seen[..., 0] >= mesh - ROBOT_MARGIN)
        views.append(MarkedView(mask=mask, viewmat=look.viewmat, K=look.K))
    return views


def robot_disks(
    robot: RobotModel, joints: np.ndarray, T_world_base: np.ndarray, *, seed: int = 0
) -> tuple[GaussianScene, Tensor]:
    """An imagined robot at `joints` (joints,): disks in the colours of its description, lit from above.

    Returns:
        The disks, and (M,) int64 the link of each.
    """
    surface = robot.sample_surface(DISKS, links="all", seed=seed)
    links = surface.link_index.cpu().long()
    T = _link_poses(robot, joints[None], T_world_base)[0, links]
    points = (T[:, :3, :3] @ surface.points.double().cpu()[..., None])[..., 0] + T[:, :3, 3]
    normals = (T[:, :3, :3] @ surface.normals.double().cpu()[..., None])[..., 0]
    plain, area = torch.full((len(robot.link_names), 3), 0.8), 0.0
    for number, name in enumerate(robot.link_names):
        if name in robot.visual_meshes:
            mesh = robot.visual_meshes[name]
            rgb = np.asarray(mesh.visual.face_colors)[:, :3].mean(0) / 255
            plain[number] = torch.from_numpy(rgb).float()
            area += float(mesh.area)
    light = 0.6 + 0.4 * (normals @ torch.from_numpy(T_world_base[:3, 2]).double()).clamp(-1, 1)
    colors = (plain[links] * light[:, None].float()).clamp(0, 1)
    spacing = (area / DISKS) ** 0.5
    return surface_gaussians(points.float(), normals.float(), colors, spacing), links


def _link_poses(robot: RobotModel, joints: np.ndarray, T_world_base: np.ndarray) -> Tensor:
    """(steps, links, 4, 4) T_world_link, float64."""
    q = torch.from_numpy(np.ascontiguousarray(joints, dtype=np.float64))
    return torch.from_numpy(T_world_base).double() @ robot.forward_kinematics(q).double().cpu()


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """What a folder of `pointworld predict` or `demo` says; the robot's base stands at T_world_base.

    capture: where its frames came from, None where that is not there any more.
    """

    result: FlowResult
    T_world_base: np.ndarray
    capture: Path | None


def read_prediction(folder: Path) -> Prediction:
    """Read a prediction with its place in the capture's world.

    Raises:
        InputError: no prediction, or it does not say where the robot's base stands.
    """
    result = read_result(folder)
    run = folder / "run.json"
    record = json.loads(run.read_text()) if run.is_file() else {}
    summary = record.get("summary", {})
    if "T_world_base" not in summary:
        raise InputError(f"{run} does not say where the robot stands; run pointworld predict again")
    source = record.get("config", {}).get("capture")
    path = None if source is None else Path(source)
    return Prediction(
        result=result,
        T_world_base=np.array(summary["T_world_base"], np.float64),
        capture=path if path is not None and path.is_dir() else None,
    )


def make_futures(
    scene: GaussianScene,
    prediction: Prediction,
    *,
    looks: Sequence[Look],
    rasterizer: Rasterizer,
    robot: RobotMode = "auto",
    fill: bool = True,
    seed: int = 0,
) -> Futures:
    """The scene at every step of a prediction, with the robot where its path puts it.

    Args:
        looks: the cameras that the scene was fitted to, at the time of the prediction.
        robot: `auto` moves the Gaussians of a robot that the capture's cameras saw, and puts an imagined one in
            where the capture has none.
        fill: make up what no camera saw of the support, under things that will move (`splat.fill`).

    Raises:
        InputError: the prediction does not fit the scene, or does not name the robot that is asked for.
    """
    result, T = prediction.result, prediction.T_world_base
    scene, parts, owner, mode = with_robot(
        scene,
        prediction,
        result.joint_positions,
        looks=looks,
        rasterizer=rasterizer,
        robot=robot,
        seed=seed,
    )
    world = transform_points(T, result.points.astype(np.float64))
    if fill:
        flows = (
            [result.displacements] if result.truth is None else [result.displacements, result.truth]
        )
        flow = torch.from_numpy(np.concatenate(flows)).float()
        scene, owner = fill_unseen(
            scene, torch.from_numpy(world).float(), flow, looks, owner, rasterizer
        )
    future = bind_future(scene, torch.from_numpy(world).float(), parts=parts, owner=owner)

    def scenes(displacements: np.ndarray) -> list[GaussianScene]:
        turned = displacements.astype(np.float64) @ T[:3, :3].T
        return future_scenes(future, torch.from_numpy(turned).float())

    return Futures(
        predicted=scenes(result.displacements),
        still=scenes(np.zeros_like(result.displacements)),
        true=None if result.truth is None else scenes(result.truth),
        robot=mode,
        owner=future.owner,
        step_dt=result.step_dt,
    )


def with_robot(
    scene: GaussianScene,
    prediction: Prediction,
    joints: np.ndarray | None,
    *,
    looks: Sequence[Look],
    rasterizer: Rasterizer,
    robot: RobotMode = "auto",
    seed: int = 0,
) -> tuple[GaussianScene, RigidParts | None, Tensor | None, RobotMode]:
    """The scene with the robot of a prediction in it, an imagined one last, and which Gaussians are its links.

    Args:
        joints: (steps, joints) that it goes through, the prediction's own or some between them.

    Returns:
        The scene, the links' motions, the link of every Gaussian (-1 = none), and `scene`, `add` or `none`; with `none`
        the scene is as it was and the others are None.

    Raises:
        InputError: the prediction does not name the robot that is asked for.
    """
    result, T = prediction.result, prediction.T_world_base
    mode = robot_mode(prediction) if robot == "auto" else robot
    if mode == "none":
        return scene, None, None, mode
    if result.robot is None or joints is None:
        raise InputError(
            f"--robot {mode}: the prediction does not say which robot moves how; run pointworld predict again, or "
            "give --robot none"
        )
    model = RobotModel.load(result.robot)
    parts = robot_parts(model, joints, T, seed=seed)
    if mode == "add":
        disks, links = robot_disks(model, joints[0], T, seed=seed)
        owner = torch.cat([links.new_full((len(scene),), -1), links])
        return with_disks(scene, disks), parts, owner, mode
    views = robot_views(scene, looks[:ROBOT_CAMERAS], model, joints[0], T, rasterizer)
    return scene, parts, part_owners(scene, parts, views=views, rasterizer=rasterizer), mode


@torch.no_grad()
def fill_unseen(
    scene: GaussianScene,
    points: Tensor,
    displacements: Tensor,
    looks: Sequence[Look],
    owner: Tensor | None,
    rasterizer: Rasterizer,
) -> tuple[GaussianScene, Tensor]:
    """The scene with its support filled where flow points (P, 3) are, and the parts of its Gaussians.

    As it is where no support is found.

    Args:
        displacements: (steps, P, 3) of the points, in any frame: what they move is no support.
        owner: (N,) parts of the robot, -1 = none; they are no support.
    """
    if owner is None:
        owner = torch.full((len(scene),), -1, dtype=torch.int64)
    eye = torch.linalg.inv(looks[0].viewmat.double())[:3, 3].numpy()
    plane = find_support(points.double().numpy(), eye)
    if plane is None:
        return scene, owner
    views = [(look.viewmat, look.K, look.size) for look in looks[:ROBOT_CAMERAS]]
    rest = owner < 0
    seen = seen_weights(scene, views, rasterizer)[rest]
    free = scene.select(rest)
    stays = ~will_move(bind(free, points), displacements)
    filled = fill_support(free, plane, points.double().numpy(), seen=seen, stays=stays)
    joined = concatenate([filled.scene, scene.select(~rest)])
    none = owner.new_full((len(filled.scene),), -1)
    return joined, torch.cat([none, owner[~rest]])


def robot_mode(prediction: Prediction) -> RobotMode:
    """`scene` where the capture's cameras saw the robot, `add` where they did not, `none` where it is not known."""
    if prediction.result.robot is None or prediction.result.joint_positions is None:
        return "none"
    if prediction.capture is None:
        return "none"
    listing = list_capture(prediction.capture)
    measured = all(entry.joint_positions is not None for entry in listing.entries)
    return "scene" if listing.robot is not None or measured else "add"


def with_disks(scene: GaussianScene, disks: GaussianScene) -> GaussianScene:
    """The scene and the disks behind it; they belong to no object and have features of zero."""
    count, coefficients = len(disks), scene.sh.shape[1]
    sh = disks.sh.new_zeros(count, coefficients, 3)
    sh[:, :1] = disks.sh
    features = scene.features
    disks = replace(
        disks,
        sh=sh,
        features=None if features is None else features.new_zeros(count, features.shape[1]),
        ids=None if scene.ids is None else scene.ids.new_full((count,), -1),
        moving=None if scene.moving is None else scene.moving.new_zeros(count),
    )
    return concatenate([scene, disks])


def true_frames(capture: Path, camera: str, *, steps: int, step_dt: float) -> dict[int, RGBDFrame]:
    """Later frames of the camera that took the frame named `camera`, by step of a prediction; step 0 is that frame.

    Nothing where the capture has no such frame, or where the camera does not stand still: then it is no recording of
    one motion.
    """
    entries = list_capture(capture).entries
    first = next((entry for entry in entries if entry.name == camera), None)
    if first is None:
        return {}
    found: dict[int, RGBDFrame] = {}
    for entry in entries:
        after = (entry.timestamp - first.timestamp) / step_dt
        step = round(after)
        wanted = 0 < step < steps and abs(after - step) <= TIME_TOLERANCE and step not in found
        if entry.camera != first.camera or not wanted:
            continue
        if np.abs(entry.T_world_cam - first.T_world_cam).max() > POSE_TOLERANCE:
            return {}
        found[step] = load_frame(entry)
    return {0: load_frame(first), **found} if found else {}
