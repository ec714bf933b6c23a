"""Clips as training and evaluation samples: scene points with their exact later positions, and the robot's flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pointworld.data.clip import Clip
from pointworld.data.sensor import SensorConfig, observe
from pointworld.data.tabletop import TABLETOP_WORKSPACE
from pointworld.errors import InputError
from pointworld.geometry import invert, project, transform_points, unproject
from pointworld.robot import RobotModel, SurfacePoints
from pointworld.scene import Workspace, build_scene
from pointworld.types import Capture, JointPath, RGBDFrame, RobotFlow, ScenePoints

if TYPE_CHECKING:
    from pointworld.encoders import ImageEncoder

#: Points of a body that never moves farther than this count as static [m].
MOVING_THRESHOLD = 1e-3


def tabletop_workspace() -> Workspace:
    """The workspace box from which tabletop samples, the demo and predictions on clips take their points."""
    lower, upper = TABLETOP_WORKSPACE
    return Workspace(lower=lower, upper=upper)


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowSample:
    """One training or evaluation example, in the robot base frame; index 0 = now.

    scene: points at time 0. robot: surface flow of the recorded motion.
    positions: (steps, points, 3) true positions [m]; positions[0] = scene.points.
    supervised: (steps, points) bool, True where the truth is known.
    body_ids: (points,) int64 index into Clip.body_names. motion_ids: (points,) int64 index into
    Clip.body_motions(), which differs on soft bodies; None: the same as body_ids.
    surface: (points, 3) where the points really are at step 0 [m], under a sensor's errors; None: where they are seen.
    moving_bodies: those that move more than 1 mm.
    joint_positions: (steps, joints) as executed. family, key: from the clip.
    """

    scene: ScenePoints
    robot: RobotFlow
    positions: torch.Tensor
    supervised: torch.Tensor
    body_ids: torch.Tensor
    moving_bodies: tuple[int, ...]
    joint_positions: torch.Tensor
    family: str
    key: str
    motion_ids: torch.Tensor | None = None
    surface: torch.Tensor | None = None

    def __post_init__(self) -> None:
        steps, points = self.robot.num_steps, len(self.scene)
        if tuple(self.positions.shape) != (steps, points, 3):
            raise InputError(
                f"sample {self.key}: positions are {tuple(self.positions.shape)}, expected ({steps}, {points}, 3)"
            )
        if tuple(self.supervised.shape) != (steps, points) or tuple(self.body_ids.shape) != (
            points,
        ):
            raise InputError(
                f"sample {self.key}: supervised or body_ids do not match {steps} steps x {points} points"
            )

    @property
    def displacements(self) -> torch.Tensor:
        """(steps, points, 3) true motion from time 0 [m]."""
        return self.positions - self.positions[:1]

    @property
    def on_moving_body(self) -> torch.Tensor:
        """(points,) bool: the point's body moves during the clip."""
        moving = torch.tensor(self.moving_bodies, dtype=torch.int64)
        return torch.isin(self.body_ids, moving)


def clip_frames(clip: Clip) -> tuple[RGBDFrame, ...]:
    """The first images of a clip as calibrated frames; the world is the robot base."""
    frames = []
    for i, view in enumerate(clip.views):
        valid = view.depth > 0
        frames.append(
            RGBDFrame(
                rgb=view.rgb,
                depth=np.where(valid, view.depth, 0.0).astype(np.float32),
                valid=valid,
                K=view.K,
                T_world_cam=view.T_world_cam,
                name=f"cam{i}",
                camera=f"cam{i}",
                joint_positions=clip.joint_positions[0],
            )
        )
    return tuple(frames)


def clip_to_capture(clip: Clip) -> Capture:
    """A clip's first images as a capture with a known base pose and the robot's joints, robot in view."""
    return Capture(
        frames=clip_frames(clip),
        source=f"clip {clip.key}",
        format="clip",
        T_world_base=np.eye(4),
        joint_names=clip.joint_names,
        robot=clip.robot,
    )


def clip_to_joint_path(clip: Clip) -> JointPath:
    """The recorded motion as a joint path, with the finger opening as gripper width."""
    return JointPath(
        joint_positions=clip.joint_positions,
        joint_names=clip.joint_names,
        step_dt=clip.step_dt,
        gripper_width=clip.gripper_width,
        source=f"clip {clip.key}",
    )


def view_motions(clip: Clip, view_index: int) -> np.ndarray:
    """(h, w) int64 index into `Clip.body_motions()` of what each pixel shows; -1 where nothing is seen."""
    view = clip.views[view_index]
    bodies = view.segmentation.astype(np.int64) - 1
    soft = np.isin(bodies, clip.bodies_of_kind("soft"))
    if soft.any():
        points = transform_points(view.T_world_cam, unproject(view.depth, view.K)[soft])
        bodies[soft] = motion_ids(clip, points, bodies[soft])
    return bodies


def motion_ids(clip: Clip, points: np.ndarray, body_ids: np.ndarray) -> np.ndarray:
    """Index into `Clip.body_motions()` (points,): that of the body, on a soft body that of the nearest triangle.

    Args:
        points: (points, 3) at step 0 [m]. body_ids: (points,) index into body_names, or already into the motions.
    """
    ids = np.array(body_ids, dtype=np.int64)
    for body in clip.bodies_of_kind("soft"):
        mine = np.flatnonzero(ids == body)
        if len(mine):
            faces = np.flatnonzero(clip.soft_bodies == body)
            corners = clip.soft_vertices[0].astype(np.float64)[clip.soft_faces[faces]]
            ids[mine] = len(clip.body_names) + faces[nearest_triangles(points[mine], corners)]
    return ids


def nearest_triangles(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Row of the nearest of triangles (faces, 3, 3) for each of points (points, 3): (points,) int64 [m]."""
    best, rows = np.full(len(points), np.inf), np.zeros(len(points), np.int64)
    for k, (a, b, c) in enumerate(triangles):
        distance = _distance_to_triangle(points, a, b, c)
        closer = distance < best
        best, rows = np.where(closer, distance, best), np.where(closer, k, rows)
    return rows


def _distance_to_triangle(
    points: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray
) -> np.ndarray:
    """Squared distances (points,) to the triangle a, b, c."""
    normal = np.cross(b - a, c - a)
    normal = normal / max(float(np.linalg.norm(normal)), 1e-12)
    height = (points - a) @ normal
    inside = np.ones(len(points), bool)
    beside = np.full(len(points), np.inf)
    for start, end in ((a, b), (b, c), (c, a)):
        edge = end - start
        offset = points - start
        inside &= np.cross(edge, offset) @ normal >= 0
        t = np.clip(offset @ edge / max(float(edge @ edge), 1e-18), 0.0, 1.0)
        beside = np.minimum(beside, ((offset - t[:, None] * edge) ** 2).sum(-1))
    return np.where(inside, height**2, beside)


def point_pixels(clip: Clip, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pixel that each scene point (points, 3) was unprojected from: view and row * width + column (points,).

    The pixel is found again by projecting into all views and taking the one whose own unprojection is nearest.

    Raises:
        InputError: a point is no pixel of this clip (nearest unprojection > 1 mm away).
    """
    best = np.full(len(points), np.inf)
    views, pixels = np.zeros(len(points), np.int64), np.zeros(len(points), np.int64)
    for k, view in enumerate(clip.views):
        world = transform_points(view.T_world_cam, unproject(view.depth, view.K).reshape(-1, 3))
        uv, z = project(transform_points(invert(view.T_world_cam), points), view.K)
        h, w = view.depth.shape
        col, row = np.floor(uv[:, 0]).astype(np.int64), np.floor(uv[:, 1]).astype(np.int64)
        inside = (z > 0) & (col >= 0) & (col < w) & (row >= 0) & (row < h)
        pixel = np.where(inside, row * w + col, 0)
        distance = np.where(inside, np.linalg.norm(world[pixel] - points, axis=-1), np.inf)
        closer = (distance < best) & (view.segmentation.reshape(-1)[pixel] > 0)
        best = np.where(closer, distance, best)
        views, pixels = np.where(closer, k, views), np.where(closer, pixel, pixels)
    if len(points) and best.max() > 1e-3:
        raise InputError(
            f"clip {clip.key}: a scene point lies {best.max():.4f} m from every pixel; "
            "were the points made from another clip?"
        )
    return views, pixels


def point_bodies(clip: Clip, points: np.ndarray) -> np.ndarray:
    """Which body each scene point (points, 3) lies on: (points,) index into body_names.

    Raises:
        InputError: a point is no pixel of this clip.
    """
    views, pixels = point_pixels(clip, points)
    bodies = np.stack([view.segmentation.reshape(-1) for view in clip.views]).astype(np.int64) - 1
    return np.asarray(bodies[views, pixels])


def true_positions(clip: Clip, points: np.ndarray, body_ids: np.ndarray) -> np.ndarray:
    """(steps, points, 3) positions [m] of points (points, 3), at step 0, of bodies or motions `body_ids`."""
    motion = clip.body_motions()[:, motion_ids(clip, points, body_ids)]
    return np.einsum("tnij,nj->tni", motion[..., :3, :3], points) + motion[..., :3, 3]


def moving_bodies(clip: Clip, *, threshold: float = MOVING_THRESHOLD) -> tuple[int, ...]:
    """Objects of which some point moves farther than `threshold` [m] (bounded through a 10 cm radius)."""
    motions = clip.body_motions()
    moving = []
    for body in clip.bodies_of_kind("object"):
        centre = clip.body_poses[0, body, :3]
        probes = centre + 0.05 * np.concatenate([np.eye(3), -np.eye(3)])
        moved = (
            np.einsum("tij,nj->tni", motions[:, body, :3, :3], probes)
            + motions[:, None, body, :3, 3]
            - probes
        )
        if np.linalg.norm(moved, axis=-1).max() > threshold:
            moving.append(body)
    for body in clip.bodies_of_kind("soft"):
        vertices = clip.soft_vertices[:, np.unique(clip.soft_faces[clip.soft_bodies == body])]
        if np.linalg.norm(vertices - vertices[0], axis=-1).max() > threshold:
            moving.append(body)
    return tuple(moving)


def clip_to_sample(
    clip: Clip,
    robot: RobotModel,
    *,
    encoder: ImageEncoder | None = None,
    voxel_size: float = 0.015,
    surface: SurfacePoints | int = 500,
    workspace: Workspace | None = None,
    max_points: int = 12000,
    sensor: SensorConfig | None = None,
    seed: int = 0,
) -> FlowSample:
    """What the world model would see of a clip, the robot removed by ray-casting its description, with the truth.

    Args:
        encoder: image features per point; None for none.
        surface: robot surface points, or how many to sample on the gripper.
        workspace: crop; None = tabletop_workspace().
        sensor: degrade the images first; a point's true displacement stays that of the surface its pixel shows.
        seed: of the surface points, the choice of points and the sensor's errors.

    Raises:
        InputError: the robot's joints are not the clip's, or no scene point is left.
    """
    if tuple(robot.joint_names) != tuple(clip.joint_names):
        raise InputError(
            f"clip {clip.key} was made with joints {list(clip.joint_names)}, the robot '{robot.name}' has "
            f"{list(robot.joint_names)}. Load the robot '{clip.robot}'."
        )
    kept = tuple(range(len(clip.views)))
    seen = clip
    if sensor is not None:
        observed = observe(clip, sensor, seed)
        seen, kept = observed.clip, observed.views
    scene = build_scene(
        clip_frames(seen),
        T_world_base=np.eye(4),
        workspace=workspace or tabletop_workspace(),
        voxel_size=voxel_size,
        robot=robot,
        joint_positions=clip.joint_positions[0],
        encoder=encoder,
        max_points=max_points,
        seed=seed,
    )
    points = scene.points.numpy().astype(np.float64)
    bodies, motions, surface_points = _truth(clip, seen, kept, points)
    moved = true_positions(clip, surface_points, motions)
    truth = points + (moved - moved[:1])
    joints = torch.from_numpy(clip.joint_positions)
    chosen = (
        robot.sample_surface(surface, links="gripper", seed=seed)
        if isinstance(surface, int)
        else surface
    )
    flow = robot.flow(chosen, joints, step_dt=clip.step_dt).to(dtype=torch.float32)
    positions = torch.from_numpy(truth).to(scene.points.dtype)
    return FlowSample(
        scene=scene,
        robot=flow,
        positions=positions,
        supervised=torch.ones(positions.shape[:2], dtype=torch.bool),
        body_ids=torch.from_numpy(bodies),
        motion_ids=torch.from_numpy(motions),
        moving_bodies=moving_bodies(clip),
        joint_positions=joints,
        family=clip.family,
        key=clip.key,
        surface=None if sensor is None else torch.from_numpy(surface_points).to(positions.dtype),
    )


def _truth(
    clip: Clip, seen: Clip, kept: tuple[int, ...], points: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Body and motion ids of points (points, 3) of `seen`, a view of `clip`, and where they really are [m]."""
    if seen is clip:
        bodies = point_bodies(clip, points)
        motions = motion_ids(clip, points, bodies)
        return bodies, motions, points
    views, pixels = point_pixels(seen, points)
    clean = np.stack(
        [
            transform_points(v.T_world_cam, unproject(v.depth, v.K).reshape(-1, 3))
            for v in (clip.views[k] for k in kept)
        ]
    )[views, pixels]
    shown = np.stack([clip.views[k].segmentation.reshape(-1) for k in kept]).astype(np.int64) - 1
    bodies = np.asarray(shown[views, pixels])
    return bodies, motion_ids(clip, clean, bodies), clean
