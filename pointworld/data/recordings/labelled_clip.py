"""A second of a real recording as a training example: first images, the robot's joints, and labels of scene points.

Like a simulated clip it is one `.npz` file without pickled objects; where that one knows the motion of every body, this
one knows motions that were found in the images, which point follows which, and where that is not known.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pointworld.data.clip import DEPTH_UNIT, decode_image, depth_units
from pointworld.data.clip_header import DAMAGE, LABELLED, read_arrays
from pointworld.errors import InputError
from pointworld.files import atomic_path
from pointworld.geometry import make_transform, matrix_to_quat_wxyz, quat_wxyz_to_matrix
from pointworld.types import RGBDFrame

_MAX_POINTS, _MAX_MOTIONS = 50_000, 10_000
_ENTRIES = re.compile(
    r"header|points|colors|normals|motions|motion_ids|known|joint_positions|(rgb|depth|K|T_world_cam)\d{1,3}"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledClip:
    """One labelled window of a recording; the world is the robot base, index 0 = now.

    frames: first images. points: (points, 3) float32 [m]. colors: (points, 3) uint8. normals: (points, 3) float32.
    motions: (steps, motions, 4, 4) carry points from step 0; row 0 is the identity. motion_ids: (points,) row each
        point follows. known: (steps, points) bool, where that is a label.
    joint_names, joint_positions: (steps, joints) [rad or m]. robot: name or URDF.
    recording: what tells its recording from all others. start: of the window in the recording [s].
    """

    frames: tuple[RGBDFrame, ...]
    points: np.ndarray
    colors: np.ndarray
    normals: np.ndarray
    motions: np.ndarray
    motion_ids: np.ndarray
    known: np.ndarray
    joint_names: tuple[str, ...]
    joint_positions: np.ndarray
    step_dt: float
    robot: str
    recording: str
    start: float
    family: str = "recording"
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        steps, points = self.known.shape if self.known.ndim == 2 else (0, 0)
        motions = self.motions.shape[1] if self.motions.ndim == 4 else 0
        expected = {
            "points": (self.points.shape, (points, 3)),
            "colors": (self.colors.shape, (points, 3)),
            "normals": (self.normals.shape, (points, 3)),
            "motions": (self.motions.shape, (steps, motions, 4, 4)),
            "motion_ids": (self.motion_ids.shape, (points,)),
            "joint_positions": (self.joint_positions.shape, (steps, len(self.joint_names))),
        }
        for name, (got, want) in expected.items():
            if got != want:
                raise InputError(f"clip {self.key}: {name} has shape {got}, expected {want}")
        for name in ("points", "normals", "motions", "joint_positions"):
            if not np.isfinite(getattr(self, name)).all():
                raise InputError(f"clip {self.key}: {name} contains NaN or infinity")
        if not (steps >= 2 and 0 < points <= _MAX_POINTS and 0 < motions <= _MAX_MOTIONS):
            raise InputError(
                f"clip {self.key}: {steps} steps, {points} points and {motions} motions; expected at least two steps "
                f"and 1 to {_MAX_POINTS} points, 1 to {_MAX_MOTIONS} motions"
            )
        if self.motion_ids.min() < 0 or self.motion_ids.max() >= motions or not self.frames:
            raise InputError(f"clip {self.key}: a point follows no motion, or there are no frames")
        if self.known.dtype != np.bool_ or not self.step_dt > 0:
            raise InputError(f"clip {self.key}: known is no mask, or step_dt is not positive")

    @property
    def num_steps(self) -> int:
        return int(self.known.shape[0])

    @property
    def key(self) -> str:
        return f"{self.recording}@{self.start:.3f}"

    def positions(self) -> np.ndarray:
        """(steps, points, 3) where the points are [m]; meaningful where `known`."""
        motion = self.motions[:, self.motion_ids]
        return np.einsum("tnij,nj->tni", motion[..., :3, :3], self.points) + motion[..., :3, 3]


def write_labelled(clip: LabelledClip, path: str | Path) -> None:
    """Write `clip` to one `.npz` file, atomically. The bytes depend on the clip alone."""
    header = {
        "format": LABELLED,
        "views": len(clip.frames),
        "joint_names": clip.joint_names,
        "step_dt": clip.step_dt,
        "family": clip.family,
        "robot": clip.robot,
        "recording": clip.recording,
        "key": clip.key,
        "start": clip.start,
        "depth_unit": DEPTH_UNIT,
        "info": dict(clip.info),
    }
    pose = np.concatenate(
        [clip.motions[..., :3, 3], matrix_to_quat_wxyz(clip.motions[..., :3, :3])], -1
    )
    arrays: dict[str, np.ndarray] = {
        "header": np.frombuffer(json.dumps(header, allow_nan=False).encode(), np.uint8),
        "points": clip.points.astype(np.float32),
        "colors": clip.colors,
        "normals": clip.normals.astype(np.float16),
        "motions": pose,
        "motion_ids": clip.motion_ids.astype(np.int32),
        "known": np.packbits(clip.known, axis=1),
        "joint_positions": clip.joint_positions,
    }
    for i, frame in enumerate(clip.frames):
        units = depth_units(np.where(frame.valid, frame.depth, 0.0).astype(np.float64))
        arrays |= {
            f"rgb{i}": _encode(frame.rgb, "JPEG"),
            f"depth{i}": _encode(units, "PNG"),
            f"K{i}": frame.K,
            f"T_world_cam{i}": frame.T_world_cam,
        }
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _encode(image: np.ndarray, form: str) -> np.ndarray:
    buffer = io.BytesIO()
    options: dict[str, Any] = {"quality": 92, "subsampling": 0} if form == "JPEG" else {}
    Image.fromarray(image).save(buffer, format=form, **options)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def read_labelled(path: str | Path) -> LabelledClip:
    """Read a clip written by `write_labelled`.

    Raises:
        InputError: no such file, not a labelled clip, truncated, or inconsistent.
    """
    source = Path(path)
    try:
        arrays = read_arrays(source, _ENTRIES)
        header = json.loads(arrays["header"].tobytes())
    except (OSError, *DAMAGE) as error:
        raise InputError(f"{source} is not a readable clip ({error}). Label it again.") from error
    if not isinstance(header, dict) or header.get("format") != LABELLED:
        raise InputError(f"{source} is not a labelled recording (format {LABELLED!r})")
    try:
        return _assemble(arrays, header)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{source}: an entry is missing or wrong ({error}). Label it again."
        ) from error


def _assemble(arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> LabelledClip:
    points, pose = arrays["points"], arrays["motions"]
    known = np.unpackbits(arrays["known"], axis=1, count=len(points)).astype(bool)
    return LabelledClip(
        frames=tuple(
            _frame(arrays, i, float(header["depth_unit"])) for i in range(header["views"])
        ),
        points=points.astype(np.float32),
        colors=arrays["colors"],
        normals=arrays["normals"].astype(np.float32),
        motions=make_transform(quat_wxyz_to_matrix(pose[..., 3:]), pose[..., :3]),
        motion_ids=arrays["motion_ids"].astype(np.int64),
        known=known,
        joint_names=tuple(str(name) for name in header["joint_names"]),
        joint_positions=arrays["joint_positions"],
        step_dt=float(header["step_dt"]),
        robot=str(header["robot"]),
        recording=str(header["recording"]),
        start=float(header["start"]),
        family=str(header["family"]),
        info=dict(header["info"]),
    )


def _frame(arrays: Mapping[str, np.ndarray], i: int, unit: float) -> RGBDFrame:
    units = decode_image(arrays[f"depth{i}"])
    return RGBDFrame(
        rgb=decode_image(arrays[f"rgb{i}"]),
        depth=(units.astype(np.float64) * unit).astype(np.float32),
        valid=units > 0,
        K=arrays[f"K{i}"],
        T_world_cam=arrays[f"T_world_cam{i}"],
        name=f"cam{i}",
        camera=f"cam{i}",
    )
