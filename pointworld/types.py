"""Values that cross module borders: frozen, keyword-only, validated once on construction.

Arrays from files and cameras are NumPy; everything the model touches is torch. Contents are not copied
and must not be mutated. Shapes are written as words, units in square brackets.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from pointworld.errors import InputError

Array = np.ndarray
Tensor = torch.Tensor


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def _check_intrinsics(K: Array, owner: str) -> None:
    _require(K.shape == (3, 3), f"{owner}: K has shape {K.shape}, expected (3, 3)")
    _require(bool(np.isfinite(K).all()), f"{owner}: K contains NaN or infinity")
    upper = abs(K[1, 0]) < 1e-6 and abs(K[2, 0]) < 1e-9 and abs(K[2, 1]) < 1e-9
    _require(
        bool(upper and abs(K[2, 2] - 1.0) < 1e-6 and K[0, 0] > 0 and K[1, 1] > 0),
        f"{owner}: K must be upper-triangular with positive focal lengths and K[2,2] = 1, got {K.tolist()}. "
        "Is it transposed, or a 4x4 or projection matrix?",
    )


def check_rigid(T: Array, owner: str, name: str) -> None:
    """Raise InputError unless `T` (4, 4) is a rigid transform (rotation orthonormal to 1e-3, det +1)."""
    _require(T.shape == (4, 4), f"{owner}: {name} has shape {T.shape}, expected (4, 4)")
    _require(bool(np.isfinite(T).all()), f"{owner}: {name} contains NaN or infinity")
    R = T[:3, :3]
    orthonormal = float(np.abs(R @ R.T - np.eye(3)).max())
    bottom = float(np.abs(T[3] - np.array([0, 0, 0, 1])).max())
    _require(
        orthonormal < 1e-3 and float(np.linalg.det(R)) > 0 and bottom < 1e-6,
        f"{owner}: {name} is not a rigid transform (|R R^T - I| = {orthonormal:.3g}, det = "
        f"{float(np.linalg.det(R)):.3g}, last row {T[3].tolist()}). Expected a rotation, a translation in "
        "metres and a last row of 0 0 0 1.",
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class RGBDFrame:
    """One calibrated RGB-D image; depth is registered to colour (same size, same K).

    rgb: (height, width, 3) uint8.
    depth: (height, width) float32 along the optical axis [m]; 0 where not valid.
    valid: (height, width) bool, True = use the depth.
    K: (3, 3) float64 [px], pixel centres at integer + 0.5.
    T_world_cam: (4, 4) float64, camera (OpenCV axes) to world [m].
    timestamp: [s]. name: unique in its capture. camera: sensor this frame came from.
    joint_positions: (joints,) [rad or m] at this frame, ordered as Capture.joint_names, or None.
    """

    rgb: Array
    depth: Array
    valid: Array
    K: Array
    T_world_cam: Array
    timestamp: float = 0.0
    name: str = "frame"
    camera: str = "cam0"
    joint_positions: Array | None = None

    def __post_init__(self) -> None:
        owner = f"frame '{self.name}'"
        _require(
            self.rgb.ndim == 3 and self.rgb.shape[2] == 3 and self.rgb.dtype == np.uint8,
            f"{owner}: rgb must be (height, width, 3) uint8, got {self.rgb.shape} {self.rgb.dtype}",
        )
        _require(
            self.depth.shape == self.rgb.shape[:2],
            f"{owner}: depth is {self.depth.shape}, the image is {self.rgb.shape[:2]}. Depth must be registered "
            "to colour; give a separate depth sensor with its own K and T_color_depth in capture.json.",
        )
        _require(
            self.depth.dtype == np.float32,
            f"{owner}: depth must be float32 metres, got {self.depth.dtype}",
        )
        _require(
            self.valid.shape == self.depth.shape and self.valid.dtype == np.bool_,
            f"{owner}: valid must be a bool mask of shape {self.depth.shape}",
        )
        _require(
            bool(np.isfinite(self.depth[self.valid]).all()),
            f"{owner}: depth marked valid contains NaN or infinity",
        )
        _check_intrinsics(self.K, owner)
        check_rigid(self.T_world_cam, owner, "T_world_cam")

    @property
    def height(self) -> int:
        return int(self.rgb.shape[0])

    @property
    def width(self) -> int:
        return int(self.rgb.shape[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Capture:
    """Calibrated frames of one scene.

    source: folder it was read from. T_world_base: (4, 4) robot base to world [m], or None when unknown.
    joint_names: names for RGBDFrame.joint_positions. robot: name or URDF path of the robot in view, if any.
    """

    frames: tuple[RGBDFrame, ...]
    source: str
    format: str = "pointworld"
    T_world_base: Array | None = None
    joint_names: tuple[str, ...] = ()
    robot: str | None = None

    def __post_init__(self) -> None:
        _require(len(self.frames) > 0, f"capture '{self.source}' has no frames")
        names = [frame.name for frame in self.frames]
        _require(
            len(set(names)) == len(names), f"capture '{self.source}' has frames of the same name"
        )
        if self.T_world_base is not None:
            check_rigid(self.T_world_base, f"capture '{self.source}'", "T_world_base")
        for frame in self.frames:
            if frame.joint_positions is not None:
                _require(
                    frame.joint_positions.shape == (len(self.joint_names),),
                    f"frame '{frame.name}' has {frame.joint_positions.shape} joint positions, expected "
                    f"{len(self.joint_names)} (joint_names of the capture)",
                )

    def select(self, indices: list[int] | tuple[int, ...]) -> Capture:
        """The same capture with only the frames at `indices` (positions in `frames`), in that order."""
        for index in indices:
            _require(
                -len(self.frames) <= index < len(self.frames),
                f"frame index {index} is outside the capture's {len(self.frames)} frames (0..{len(self.frames) - 1})",
            )
        return replace(self, frames=tuple(self.frames[i] for i in indices))


@dataclass(frozen=True, kw_only=True, eq=False)
class ScenePoints:
    """What the world model sees of the scene at time 0, in the robot base frame.

    points: (points, 3) float [m]. colors: (points, 3) 0-1 RGB. normals: (points, 3) unit, towards the camera.
    features: (points, channels) image features averaged over the views that see the point (zero where none), or None.
    view_count: (points,) int64, number of views that contributed features.
    clusters: (points,) int64, which points hang together (see `pointworld.geometry.point_clusters`), or None.
    """

    points: Tensor
    colors: Tensor
    normals: Tensor
    features: Tensor | None = None
    view_count: Tensor | None = None
    clusters: Tensor | None = None

    def __post_init__(self) -> None:
        n = self.points.shape[0]
        _require(
            self.points.shape == (n, 3)
            and self.colors.shape == (n, 3)
            and self.normals.shape == (n, 3),
            f"scene points {tuple(self.points.shape)}, colors {tuple(self.colors.shape)} and normals "
            f"{tuple(self.normals.shape)} must all be (points, 3)",
        )
        _require(bool(torch.isfinite(self.points).all()), "scene points contain NaN or infinity")
        if self.features is not None:
            _require(
                self.features.ndim == 2 and self.features.shape[0] == n,
                f"features are {tuple(self.features.shape)}, expected ({n}, channels)",
            )
        for name in ("view_count", "clusters"):
            value = getattr(self, name)
            _require(
                value is None or value.shape == (n,),
                f"{name} is {() if value is None else tuple(value.shape)}, expected ({n},)",
            )

    def __len__(self) -> int:
        return int(self.points.shape[0])

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> ScenePoints:
        """Copy to a device and/or floating dtype."""
        moved: dict[str, Any] = {
            name: None if value is None else value.to(device=device, dtype=dtype)
            for name, value in (
                ("points", self.points),
                ("colors", self.colors),
                ("normals", self.normals),
                ("features", self.features),
            )
        }
        for name, value in (("view_count", self.view_count), ("clusters", self.clusters)):
            moved[name] = None if value is None else value.to(device=device)
        return ScenePoints(**moved)

    def select(self, index: Tensor) -> ScenePoints:
        """Rows given by a bool mask or an index tensor."""
        return ScenePoints(
            points=self.points[index],
            colors=self.colors[index],
            normals=self.normals[index],
            features=None if self.features is None else self.features[index],
            view_count=None if self.view_count is None else self.view_count[index],
            clusters=None if self.clusters is None else self.clusters[index],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class RobotFlow:
    """A planned joint motion as moving surface points, in the robot base frame; index 0 = now.

    positions: (*batch, steps, points, 3) [m]. normals: same shape, unit, outward.
    gripper_open: (*batch, steps, grippers) in [0, 1], 1 = open.
    step_dt: [s] between steps.
    gripper_pose: (*batch, steps, 4, 4) T_base_tcp, or None when the robot has no named tool frame.
    """

    positions: Tensor
    normals: Tensor
    gripper_open: Tensor
    step_dt: float
    gripper_pose: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.positions.shape)
        _require(
            len(shape) >= 3 and shape[-1] == 3,
            f"robot flow positions are {shape}, expected (*batch, steps, points, 3)",
        )
        _require(
            tuple(self.normals.shape) == shape,
            f"robot flow normals are {tuple(self.normals.shape)}, expected {shape}",
        )
        _require(
            tuple(self.gripper_open.shape[:-1]) == shape[:-2],
            f"gripper_open is {tuple(self.gripper_open.shape)}, expected {shape[:-2]} + (grippers,)",
        )
        _require(
            shape[-2] > 0, "robot flow has no points: none of the requested links has a surface"
        )
        _require(self.step_dt > 0, f"step_dt is {self.step_dt}, expected seconds > 0")
        if self.gripper_pose is not None:
            _require(
                tuple(self.gripper_pose.shape) == (*shape[:-2], 4, 4),
                f"gripper_pose is {tuple(self.gripper_pose.shape)}, expected {(*shape[:-2], 4, 4)}",
            )

    @property
    def num_steps(self) -> int:
        return int(self.positions.shape[-3])

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(self.positions.shape[:-3])

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> RobotFlow:
        """Copy to a device and/or floating dtype."""
        pose = (
            None if self.gripper_pose is None else self.gripper_pose.to(device=device, dtype=dtype)
        )
        return RobotFlow(
            positions=self.positions.to(device=device, dtype=dtype),
            normals=self.normals.to(device=device, dtype=dtype),
            gripper_open=self.gripper_open.to(device=device, dtype=dtype),
            step_dt=self.step_dt,
            gripper_pose=pose,
        )

    def steps(self, start: int, stop: int) -> RobotFlow:
        """The sub-path of steps start..stop-1 (stop exclusive)."""
        pose = None if self.gripper_pose is None else self.gripper_pose[..., start:stop, :, :]
        return RobotFlow(
            positions=self.positions[..., start:stop, :, :],
            normals=self.normals[..., start:stop, :, :],
            gripper_open=self.gripper_open[..., start:stop, :],
            step_dt=self.step_dt,
            gripper_pose=pose,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowPrediction:
    """Predicted motion of every scene point; index 0 = now.

    displacements: (*batch, steps, points, 3) [m] from time 0; displacements[0] = 0.
    log_var: (*batch, steps, points, 1) log variance of the normalised error; log_var[0] = NaN.
    step_dt: [s].
    """

    displacements: Tensor
    log_var: Tensor
    step_dt: float

    def __post_init__(self) -> None:
        shape = tuple(self.displacements.shape)
        _require(
            len(shape) >= 3 and shape[-1] == 3,
            f"displacements are {shape}, expected (*batch, steps, points, 3)",
        )
        _require(
            tuple(self.log_var.shape) == (*shape[:-1], 1),
            f"log_var is {tuple(self.log_var.shape)}, expected {(*shape[:-1], 1)}",
        )

    @property
    def horizon(self) -> int:
        return int(self.displacements.shape[-3]) - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class JointPath:
    """A planned motion in joint space.

    joint_positions: (steps, joints) float64 [rad or m]. joint_names: order of the columns. step_dt: [s].
    gripper_width: (steps,) finger opening [m], or None.
    """

    joint_positions: Array
    joint_names: tuple[str, ...]
    step_dt: float
    gripper_width: Array | None = None
    source: str = field(default="joint path")

    def __post_init__(self) -> None:
        shape = self.joint_positions.shape
        _require(
            len(shape) == 2 and shape[1] == len(self.joint_names),
            f"{self.source}: joint_positions are {shape}, expected (steps, {len(self.joint_names)}) for the joints "
            f"{list(self.joint_names)}",
        )
        _require(
            shape[0] >= 2,
            f"{self.source}: {shape[0]} step(s), a motion needs at least 2 (now and one later)",
        )
        _require(
            bool(np.isfinite(self.joint_positions).all()),
            f"{self.source}: joint_positions contain NaN or infinity",
        )
        _require(
            self.step_dt > 0, f"{self.source}: step_dt is {self.step_dt}, expected seconds > 0"
        )
        if self.gripper_width is not None:
            _require(
                self.gripper_width.shape == (shape[0],),
                f"{self.source}: gripper_width is {self.gripper_width.shape}, expected ({shape[0]},)",
            )
            _require(
                bool(np.isfinite(self.gripper_width).all()),
                f"{self.source}: gripper_width contains NaN or infinity",
            )
