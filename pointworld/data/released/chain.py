"""From a decoded clip to a sample: the transforms of the release, in its order, for evaluation and for training.

Order: robot points, cameras, gripper state, centre, box, one point per voxel, (training: spheres,) cap, (training:
yaw, scale, mirror,) centre again, (training: colours,) colours to 0-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from pointworld.data.released.augment import crop_spheres, random_colors, random_pose
from pointworld.data.released.cloud import Cloud, centre, inside_box, merge_cameras
from pointworld.data.released.decode import ReleasedCamera, ReleasedClip
from pointworld.data.released.robot import (
    ROBOT_POINTS,
    RobotCloud,
    clip_joints,
    dropped_arm,
    first_arm,
    robot_cloud,
)
from pointworld.data.released.voxels import cap, key_random, thin
from pointworld.data.sample import MOVING_THRESHOLD, FlowSample
from pointworld.encoders import ImageEncoder
from pointworld.errors import InputError
from pointworld.geometry import transform_points
from pointworld.robot import RobotModel
from pointworld.scene.features import RELEASED_DEPTH_THRESHOLD, Sampling, point_features
from pointworld.types import RGBDFrame, RobotFlow, ScenePoints

#: A point that moves farther than this in one step has moved, to the release [m].
MOVED_STEP = 0.005


@dataclass(frozen=True, kw_only=True)
class ChainSettings:
    """Settings of the chain; the defaults are those of the published evaluation.

    seed: of the draws that depend on a clip's name. min_cameras, max_cameras: how many are drawn (training: 1 to 3).
    grid_size: voxel edge [m]. grippers: entries of gripper_open, 1, or 2 for a model that also knows BEHAVIOR.
    """

    seed: int = 42
    min_cameras: int = 2
    max_cameras: int = 2
    grid_size: float = 0.015
    max_scene_points: int = 12000
    max_robot_points: int = ROBOT_POINTS
    grippers: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.min_cameras <= self.max_cameras or self.grippers not in (1, 2):
            raise InputError(
                f"cameras {self.min_cameras}..{self.max_cameras} and {self.grippers} grippers: expected 1 <= min <= "
                "max, and 1 or 2 grippers"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class ReleasedSample:
    """A sample as the released model sees it, before image features.

    flow: scene, robot and truth in the centred frame (not the base frame), ready for `pointworld.model.collate`.
        `body_ids` are the meshes of BEHAVIOR; on DROID, which knows no bodies, 1 for points that the release calls
        moved at some supervised step and 0 for the others.
    frames: the chosen cameras' first images, calibrated to the robot base.
    to_base: (4, 4) float64 from the centred frame to the base; in training it may scale and mirror.
    """

    flow: FlowSample
    frames: tuple[RGBDFrame, ...]
    to_base: np.ndarray
    domain: str
    body_names: tuple[str, ...]

    @property
    def valid(self) -> torch.Tensor:
        """(steps, points) bool: predictions that count, supervised and later than step 0."""
        valid = self.flow.supervised.clone()
        valid[0] = False
        return valid

    def base_points(self) -> torch.Tensor:
        """(points, 3) float64 scene points at step 0 in the robot base frame [m]."""
        points = self.flow.scene.points.double().numpy()
        return torch.from_numpy(transform_points(self.to_base, points))

    def in_base_frame(self) -> FlowSample:
        """The sample moved to the robot base frame; a training sample's turn, scale and mirror are undone."""
        flow, T = self.flow, torch.from_numpy(self.to_base)
        turn = (T[:3, :3] / T[:3, :3].det().abs() ** (1 / 3)).float()

        def moved(points: torch.Tensor) -> torch.Tensor:
            return transform_points(T, points.double()).float()

        scene = replace(
            flow.scene, points=moved(flow.scene.points), normals=flow.scene.normals @ turn.T
        )
        robot = replace(
            flow.robot, positions=moved(flow.robot.positions), normals=flow.robot.normals @ turn.T
        )
        return replace(flow, scene=scene, robot=robot, positions=moved(flow.positions))

    def with_features(
        self,
        encoder: ImageEncoder,
        *,
        sampling: Sampling = "released",
        depth_threshold: float = RELEASED_DEPTH_THRESHOLD,
    ) -> ReleasedSample:
        """The sample with image features, looked up by the release's conventions or by our own."""
        features, count = point_features(
            self.base_points().float(),
            self.frames,
            encoder,
            T_world_base=np.eye(4),
            sampling=sampling,
            depth_threshold=depth_threshold,
        )
        scene = replace(self.flow.scene, features=features, view_count=count)
        return replace(self, flow=replace(self.flow, scene=scene))


def evaluation_sample(
    clip: ReleasedClip, robot: RobotModel, settings: ChainSettings | None = None
) -> ReleasedSample:
    """The sample of the published evaluation: all draws depend on the settings' seed and the clip's name only.

    Args:
        robot: `panda_robotiq` for DROID, a URDF of the R1 Pro for BEHAVIOR.

    Raises:
        InputError: another robot's joints, or no point left.
    """
    settings = settings or ChainSettings()
    seed = settings.seed
    drop = dropped_arm(clip, first_arm(seed, clip.key))
    points = robot_cloud(clip, robot, count=settings.max_robot_points, surface_seed=seed, drop=drop)
    cameras = choose_cameras(clip, settings, key_random(seed, clip.key, "cam"))
    cloud, names = merge_cameras(cameras, points)
    cloud = inside_box(centre(cloud), clip.source)
    cloud = cloud.scene_rows(thin(cloud.positions[0], settings.grid_size))
    cloud = cloud.robot_rows(thin(cloud.robot[0], settings.grid_size))
    kept = cap(
        cloud.positions.shape[1], settings.max_scene_points, key_random(seed, clip.key, "scene")
    )
    cloud = centre(cloud.scene_rows(kept))
    return _sample(clip, robot, cloud, cameras, points, names, settings)


def training_sample(
    clip: ReleasedClip,
    robot: RobotModel,
    rng: np.random.Generator,
    settings: ChainSettings | None = None,
) -> ReleasedSample:
    """An augmented sample; every draw comes from `rng`. Arguments and errors as in `evaluation_sample`."""
    settings = settings or ChainSettings(min_cameras=1, max_cameras=3)
    drop = dropped_arm(clip, "left" if rng.random() < 0.5 else "right")
    points = robot_cloud(
        clip,
        robot,
        count=settings.max_robot_points,
        surface_seed=int(rng.integers(1 << 32)),
        drop=drop,
    )
    cameras = choose_cameras(clip, settings, rng)
    cloud, names = merge_cameras(cameras, points)
    cloud = inside_box(centre(cloud), clip.source)
    cloud = cloud.scene_rows(thin(cloud.positions[0], settings.grid_size, rng))
    cloud = cloud.robot_rows(thin(cloud.robot[0], settings.grid_size, rng))
    cloud = crop_spheres(cloud, settings.max_scene_points)
    cloud = cloud.scene_rows(cap(cloud.positions.shape[1], settings.max_scene_points, rng))
    cloud = random_colors(centre(random_pose(cloud, rng)), rng)
    return _sample(clip, robot, cloud, cameras, points, names, settings)


def choose_cameras(
    clip: ReleasedClip, settings: ChainSettings, rng: np.random.RandomState | np.random.Generator
) -> list[ReleasedCamera]:
    """Draw how many cameras and which, in the order drawn; a clip with fewer gives all it has."""
    low, high = settings.min_cameras, settings.max_cameras + 1
    drawn = (
        rng.randint(low, high)
        if isinstance(rng, np.random.RandomState)
        else rng.integers(low, high)
    )
    count = min(int(drawn), len(clip.cameras))
    return [clip.cameras[i] for i in rng.choice(len(clip.cameras), count, replace=False)]


def arms(gripper_open: np.ndarray, grippers: int) -> torch.Tensor:
    """(steps, grippers) float32, right arm first, 0 for one that the robot does not have.

    Raises:
        InputError: more arms than grippers.
    """
    missing = grippers - gripper_open.shape[1]
    if missing < 0:
        raise InputError(
            f"the clip has {gripper_open.shape[1]} arms, the settings {grippers} grippers; a model of both domains "
            "has 2 (ChainSettings(grippers=2))"
        )
    return torch.from_numpy(np.pad(gripper_open, ((0, 0), (0, missing))))


def _sample(
    clip: ReleasedClip,
    robot: RobotModel,
    cloud: Cloud,
    cameras: Sequence[ReleasedCamera],
    points: RobotCloud,
    names: tuple[str, ...],
    settings: ChainSettings,
) -> ReleasedSample:
    scene = ScenePoints(
        points=torch.from_numpy(cloud.positions[0].copy()),
        colors=torch.from_numpy(cloud.colors / np.float32(255.0)),
        normals=torch.from_numpy(cloud.normals.copy()),
    )
    flow = RobotFlow(
        positions=torch.from_numpy(cloud.robot.copy()),
        normals=torch.from_numpy(cloud.robot_normals.copy()),
        gripper_open=arms(points.gripper_open, settings.grippers),
        step_dt=clip.step_dt,
    )
    bodies, moving = _bodies(cloud, names)
    sample = FlowSample(
        scene=scene,
        robot=flow,
        positions=torch.from_numpy(cloud.positions.copy()),
        supervised=torch.from_numpy(cloud.supervised.copy()),
        body_ids=torch.from_numpy(bodies),
        moving_bodies=moving,
        joint_positions=torch.from_numpy(clip_joints(clip, robot)),
        family=clip.domain,
        key=clip.key,
    )
    return ReleasedSample(
        flow=sample,
        frames=_frames(cameras),
        to_base=cloud.to_base,
        domain=clip.domain,
        body_names=names or ("at rest", "moved"),
    )


def _bodies(cloud: Cloud, names: tuple[str, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Body of each point (points,), and the bodies that move."""
    if not names:
        step = np.linalg.norm(np.diff(cloud.positions, axis=0), axis=-1) > MOVED_STEP
        moved = (step & cloud.supervised[1:]).any(0)
        return moved.astype(np.int64), (1,) if moved.any() else ()
    reach = np.linalg.norm(cloud.positions - cloud.positions[0], axis=-1).max(0)
    moved = reach > MOVING_THRESHOLD
    return cloud.bodies, tuple(int(b) for b in np.unique(cloud.bodies[moved]))


def _frames(cameras: Sequence[ReleasedCamera]) -> tuple[RGBDFrame, ...]:
    frames = []
    for i, camera in enumerate(cameras):
        frames.append(
            RGBDFrame(
                rgb=camera.rgb,
                depth=camera.depth,
                valid=camera.depth > 0,
                K=camera.K,
                T_world_cam=camera.T_base_cam,
                name=f"cam{i}",
                camera=camera.name,
            )
        )
    return tuple(frames)
