"""Calibration files, and the check that a camera still is where its file says: it must see the arm where the arm is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pointworld.control.handeye import HandEye, Mode
from pointworld.control.types import CameraFrame, Reason
from pointworld.errors import InputError
from pointworld.files import write_json
from pointworld.robot import RobotModel
from pointworld.types import check_rigid

FORMAT, VERSION = "pointworld-calibration", 1
_SURFACE = 6000
_BEHIND = 0.03


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraCalibration:
    """mode: how the camera is mounted. T_parent_cam: (4, 4) in the base or tool frame. K: (3, 3) [px]."""

    camera: str
    mode: Mode
    T_parent_cam: np.ndarray
    K: np.ndarray
    rms_px: float

    def __post_init__(self) -> None:
        if self.mode not in ("eye_to_hand", "eye_in_hand"):
            raise InputError(
                f"calibration mode is {self.mode!r}, expected eye_to_hand or eye_in_hand"
            )
        check_rigid(self.T_parent_cam, f"calibration of '{self.camera}'", "T_parent_cam")

    def T_base_cam(self, T_base_tool: np.ndarray) -> np.ndarray:
        """(4, 4) with the tool at T_base_tool."""
        if self.mode == "eye_to_hand":
            return self.T_parent_cam
        return np.asarray(T_base_tool @ self.T_parent_cam)


def write_calibration(path: str | Path, camera: str, result: HandEye) -> None:
    """Write a calibration as JSON."""
    write_json(
        path,
        {
            "format": FORMAT,
            "version": VERSION,
            "camera": camera,
            "mode": result.mode,
            "T_parent_cam": result.T_parent_cam.tolist(),
            "K": result.K.tolist(),
            "rms_px": result.rms,
            "translation_std_m": result.translation_std.tolist(),
            "rotation_std_rad": result.rotation_std.tolist(),
            "views": len(result.residuals),
        },
    )


def read_calibration(path: str | Path) -> CameraCalibration:
    """Read what `write_calibration` wrote.

    Raises:
        InputError: not such a file, or its poses are none.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if data["format"] != FORMAT or data["version"] != VERSION:
            raise ValueError(f"format {data['format']!r} version {data['version']!r}")
        return CameraCalibration(
            camera=str(data["camera"]),
            mode=data["mode"],
            T_parent_cam=np.array(data["T_parent_cam"], dtype=np.float64),
            K=np.array(data["K"], dtype=np.float64),
            rms_px=float(data["rms_px"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no calibration file of version {VERSION}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class ArmCheck:
    """How well a camera's depth shows the arm where the joints say it is.

    points: of the arm's surface that the camera should see. agreeing: share of them within `tolerance` of the depth.
    median: distance between measured and expected depth over them [m]. reason: NONE, or why not to arm.
    """

    points: int
    agreeing: float
    median: float
    reason: Reason


def check_against_arm(
    frame: CameraFrame,
    robot: RobotModel,
    joints: np.ndarray,
    T_base_cam: np.ndarray,
    *,
    tolerance: float = 0.015,
    agreeing: float = 0.6,
    least: int = 60,
) -> ArmCheck:
    """Compare the depth of a frame with the arm's surface at `joints` (joints,), seen from T_base_cam.

    The arm must be in view and not hidden by much. A gate before arming: a camera that was pushed, or the file of
    another camera, shows the arm where it is not.
    """
    surface = robot.sample_surface(_SURFACE, links="all", seed=0)
    q = torch.from_numpy(np.asarray(joints, dtype=np.float64))[None]
    flow = robot.flow(surface, q.float(), step_dt=1.0)
    world = flow.positions[0].double().numpy()
    normals = flow.normals[0].double().numpy()
    inverse = np.linalg.inv(T_base_cam)
    p = world @ inverse[:3, :3].T + inverse[:3, 3]
    n = normals @ inverse[:3, :3].T
    height, width = frame.depth.shape
    z = np.maximum(p[:, 2], 1e-6)
    u = np.floor(p[:, 0] / z * frame.K[0, 0] + frame.K[0, 2]).astype(np.int64)
    v = np.floor(p[:, 1] / z * frame.K[1, 1] + frame.K[1, 2]).astype(np.int64)
    facing = -(n * p).sum(-1) / np.linalg.norm(p, axis=-1)
    seen = (p[:, 2] > 0.05) & (u >= 0) & (u < width) & (v >= 0) & (v < height) & (facing > 0.3)
    u, v, z = u[seen], v[seen], z[seen]
    seen_front = z <= _front(u, v, z, frame.depth.shape) + _BEHIND
    u, v, z = u[seen_front], v[seen_front], z[seen_front]
    depth = frame.depth[v, u]
    known = np.isfinite(depth) & (depth > 0)
    if int(known.sum()) < least:
        return ArmCheck(
            points=int(known.sum()), agreeing=0.0, median=np.inf, reason=Reason.CAMERA_CALIBRATION
        )
    gaps = np.abs(depth[known] - z[known])
    share, median = float((gaps <= tolerance).mean()), float(np.median(gaps))
    good = share >= agreeing and median <= tolerance
    return ArmCheck(
        points=int(known.sum()),
        agreeing=share,
        median=median,
        reason=Reason.NONE if good else Reason.CAMERA_CALIBRATION,
    )


def _front(u: np.ndarray, v: np.ndarray, z: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Depth of the nearest surface point in the cell of every point, cells coarse enough to be filled [m]."""
    cell = max(shape[1] // 40, 1)
    across = shape[1] // cell + 1
    index = (v // cell) * across + u // cell
    nearest = np.full(int(index.max(initial=0)) + 1, np.inf)
    np.minimum.at(nearest, index, z)
    return np.asarray(nearest[index])
