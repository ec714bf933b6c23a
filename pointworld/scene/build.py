"""Calibrated RGB-D frames to the points the world model sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from pointworld.encoders import ImageEncoder
from pointworld.errors import InputError
from pointworld.geometry import (
    depth_normals,
    invert,
    point_clusters,
    rotate_vectors,
    transform_points,
    unproject_pixels,
    voxel_indices,
    voxel_representatives,
)
from pointworld.scene.features import (
    RELEASED_DEPTH_THRESHOLD,
    Sampling,
    check_sampling,
    point_features,
)
from pointworld.scene.robot_mask import (
    ROBOT_MARGIN,
    MeshedRobot,
    mask_of_mesh,
    pose_robot,
    robot_mask,
)
from pointworld.scene.workspace import Workspace
from pointworld.types import RGBDFrame, ScenePoints, check_rigid

MAX_DENSE_VOXELS = 8_000_000
"""Up to this many voxels in the box of the points, the nearest point per voxel is found in a dense table (32 MB)."""


@dataclass(frozen=True, eq=False)
class _Cloud:
    """Points (n, 3) float32 of all frames in the base frame, and the frame, row and column (n,) each was seen in."""

    points: np.ndarray
    frame: np.ndarray
    row: np.ndarray
    column: np.ndarray


def build_scene(
    frames: Sequence[RGBDFrame],
    *,
    T_world_base: np.ndarray,
    workspace: Workspace | None = None,
    voxel_size: float = 0.015,
    robot: MeshedRobot | None = None,
    joint_positions: np.ndarray | torch.Tensor | None = None,
    encoder: ImageEncoder | None = None,
    sampling: Sampling = "centered",
    max_points: int = 12000,
    seed: int = 0,
    robot_margin: float = ROBOT_MARGIN,
    depth_threshold: float = RELEASED_DEPTH_THRESHOLD,
) -> ScenePoints:
    """Build scene points from calibrated frames of one moment.

    Valid pixels are unprojected, the robot is masked out, points are moved to the base frame, cropped to the
    workspace, reduced to one point per voxel (nearest to the voxel's centre, so independent of the order of frames
    and pixels), capped, and given image features.

    Args:
        frames: one or more frames; usually 1-4.
        T_world_base: (4, 4) robot base to world [m].
        workspace: box in the base frame; None for the default box.
        voxel_size: [m].
        robot: masked out of the images when given; anything with `posed_mesh(joint_positions)`.
        joint_positions: (joints,) for all frames or (frames, joints), in the robot's order [rad or m].
        encoder: gives the points image features; None for none.
        sampling: "centered" (ours) or "released" (as the published models were trained).
        max_points: more than this many are thinned by a seeded random choice that keeps their order.
        robot_margin: how far around the robot's surface points are removed [m].
        depth_threshold: of the "released" sampling [m].

    Returns:
        Scene points in the base frame, ordered by voxel (x, y, z).

    Raises:
        InputError: no frames, no valid depth, nothing left in the workspace, or joint positions are missing.
    """
    check_sampling(sampling)
    if not frames:
        raise InputError("build_scene needs at least one frame")
    if max_points < 1 or voxel_size <= 0:
        raise InputError(
            f"max_points is {max_points} and voxel_size {voxel_size}; both must be positive"
        )
    check_rigid(T_world_base, "build_scene", "T_world_base")
    box = Workspace() if workspace is None else workspace
    masks = _robot_masks(frames, robot, joint_positions, T_world_base, robot_margin)
    clouds = [
        _frame_cloud(k, frame, T_world_base, mask)
        for k, (frame, mask) in enumerate(zip(frames, masks, strict=True))
    ]
    cloud = _crop(clouds, box)
    points = torch.from_numpy(cloud.points)
    index = _cap(_one_per_voxel(points, voxel_size), max_points, seed)
    colors, normals = _appearance(frames, T_world_base, cloud, index.numpy())
    scene = ScenePoints(
        points=points[index], colors=torch.from_numpy(colors), normals=torch.from_numpy(normals)
    )
    scene = replace(scene, clusters=point_clusters(scene.points, scene.normals))
    if encoder is None:
        return scene
    features, view_count = point_features(
        scene.points,
        frames,
        encoder,
        T_world_base=T_world_base,
        sampling=sampling,
        depth_threshold=depth_threshold,
    )
    return replace(scene, features=features, view_count=view_count)


def _robot_masks(
    frames: Sequence[RGBDFrame],
    robot: MeshedRobot | None,
    joint_positions: np.ndarray | torch.Tensor | None,
    T_world_base: np.ndarray,
    margin: float,
) -> list[np.ndarray | None]:
    if robot is None:
        return [None] * len(frames)
    if joint_positions is None:
        raise InputError(
            "masking the robot out needs its joint positions at the time of the frames. Give joint_positions, or "
            "robot=None when the robot is not in the images."
        )
    q = torch.as_tensor(joint_positions, dtype=torch.float64)
    if q.ndim not in (1, 2) or (q.ndim == 2 and len(q) != len(frames)):
        raise InputError(
            f"joint_positions are {tuple(q.shape)}, expected (joints,) for all frames or ({len(frames)}, joints)"
        )
    if q.ndim == 1:
        caster = pose_robot(robot, q)
        return [mask_of_mesh(frame, caster, T_world_base, margin) for frame in frames]
    return [
        robot_mask(frame, robot, joints, T_world_base, margin)
        for frame, joints in zip(frames, q, strict=True)
    ]


def _frame_cloud(
    number: int, frame: RGBDFrame, T_world_base: np.ndarray, robot: np.ndarray | None
) -> _Cloud:
    """Points of one frame in the base frame."""
    use = _known(frame)
    if robot is not None:
        use = use & ~robot
    row, column = np.nonzero(use)
    cam = unproject_pixels(frame.depth, frame.K, row, column)
    points = transform_points(invert(T_world_base) @ frame.T_world_cam, cam).astype(np.float32)
    return _Cloud(points, np.full(len(points), number), row, column)


def _known(frame: RGBDFrame) -> np.ndarray:
    return frame.valid & (frame.depth > 0)


def _appearance(
    frames: Sequence[RGBDFrame], T_world_base: np.ndarray, cloud: _Cloud, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Colours 0-1 and normals (chosen, 3) float32 of some points; an unknown normal points at the camera."""
    colors = np.zeros((len(index), 3), np.float32)
    normals = np.zeros((len(index), 3), np.float32)
    for number, frame in enumerate(frames):
        mine = np.flatnonzero(cloud.frame[index] == number)
        row, column = cloud.row[index[mine]], cloud.column[index[mine]]
        colors[mine] = frame.rgb[row, column].astype(np.float32) / 255.0
        picked = depth_normals(frame.depth, _known(frame), frame.K, at=(row, column))
        picked = picked.astype(np.float64)
        unknown = ~picked.any(-1)
        cam = unproject_pixels(frame.depth, frame.K, row[unknown], column[unknown])
        picked[unknown] = -cam / np.linalg.norm(cam, axis=-1, keepdims=True)
        T_base_cam = invert(T_world_base) @ frame.T_world_cam
        normals[mine] = rotate_vectors(T_base_cam, picked).astype(np.float32)
    return colors, normals


def _crop(clouds: Sequence[_Cloud], workspace: Workspace) -> _Cloud:
    total = sum(len(cloud.points) for cloud in clouds)
    if total == 0:
        raise InputError(
            "the frames have no usable depth: every pixel is invalid or belongs to the robot. "
            "`pointworld doctor capture` shows the valid share of each frame."
        )
    inside = [workspace.contains(torch.from_numpy(cloud.points)).numpy() for cloud in clouds]
    if not any(mask.any() for mask in inside):
        every = np.concatenate([cloud.points for cloud in clouds])
        raise InputError(_nothing_left(every, workspace))
    return _Cloud(
        *(
            np.concatenate(
                [getattr(cloud, name)[mask] for cloud, mask in zip(clouds, inside, strict=True)]
            )
            for name in ("points", "frame", "row", "column")
        )
    )


def _nothing_left(points: np.ndarray, workspace: Workspace) -> str:
    low, high = np.percentile(points, 1, axis=0), np.percentile(points, 99, axis=0)
    ranges = ", ".join(
        f"{axis} {a:.2f}..{b:.2f}" for axis, a, b in zip("xyz", low, high, strict=True)
    )
    suggestion = ",".join(f"{value:.2f}" for value in (*low, *high))
    return (
        f"no scene points are left after cropping to the workspace {workspace}: the {len(points)} points seen lie at "
        f"{ranges} m in the base frame (1st to 99th percentile). Check the base pose (--base-pose), or widen the "
        f"workspace, e.g. --workspace={suggestion}"
    )


def _one_per_voxel(points: torch.Tensor, size: float) -> torch.Tensor:
    """`voxel_representatives`, several times faster where the points fill a box of few voxels.

    Points farther from their voxel's centre than the nearest one are dropped before the sort; ties are left to it.
    """
    cells = voxel_indices(points, size)
    low = cells.amin(0)
    extent = cells.amax(0) - low + 1
    count = int(extent.prod())
    if count > MAX_DENSE_VOXELS:
        return voxel_representatives(points, size)
    flat = (((cells[:, 0] - low[0]) * extent[1]) + (cells[:, 1] - low[1])) * extent[2] + (
        cells[:, 2] - low[2]
    )
    # The same expression as in voxel_representatives, so that its ties are ours.
    distance = ((points / size - cells.to(points.dtype) - 0.5) ** 2).sum(-1)
    nearest = torch.full((count,), torch.inf, dtype=points.dtype).scatter_reduce_(
        0, flat, distance, reduce="amin"
    )
    candidates = (distance <= nearest[flat]).nonzero()[:, 0]
    return candidates[voxel_representatives(points[candidates], size)]


def _cap(index: torch.Tensor, max_points: int, seed: int) -> torch.Tensor:
    if len(index) <= max_points:
        return index
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(index), generator=generator)[:max_points].sort().values
    return index[chosen]
