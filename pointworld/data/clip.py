"""One simulated second: first images of 2-3 cameras, and the pose of every body at every step.

A clip is one `.npz` file without pickled objects, at most 200 kB: JPEG colours, 16-bit PNG depth in 0.1 mm, PNG
segmentation, float poses. Every pixel of the first images belongs to a body whose later poses are known, so its
true motion is exact and needs not be stored.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pointworld.data.clip_header import DAMAGE, read_arrays
from pointworld.errors import InputError
from pointworld.files import atomic_path
from pointworld.geometry import make_transform, quat_wxyz_to_matrix

FORMAT = "pointworld-clip-1"
#: Metres per unit of the stored depth; what is farther than 6.5535 m is stored as nothing seen.
DEPTH_UNIT = 1e-4
_JPEG_QUALITY = 92
# Beyond this level depth images shrink by 10 % in twice the time.
_PNG_LEVEL = 4
_SOFT = ("soft_vertices", "soft_faces", "soft_bodies")
_ENTRIES = re.compile(
    r"header|body_poses|joint_positions|gripper_width|soft_vertices|soft_faces|soft_bodies"
    r"|(rgb|depth|segmentation|K|T_world_cam)\d{1,3}"
)
_MAX_PIXELS = 1 << 25
_KINDS = ("static", "robot", "object", "soft")


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipView:
    """First image of one camera.

    rgb: (h, w, 3) uint8. depth: (h, w) float32 [m], 0 = nothing seen.
    segmentation: (h, w) uint8, index into Clip.body_names + 1, 0 = nothing.
    K: (3, 3) [px]. T_world_cam: (4, 4) [m], OpenCV axes.
    """

    rgb: np.ndarray
    depth: np.ndarray
    segmentation: np.ndarray
    K: np.ndarray
    T_world_cam: np.ndarray

    def __post_init__(self) -> None:
        expected = {
            "rgb": (self.rgb.shape, (*self.depth.shape, 3)),
            "segmentation": (self.segmentation.shape, self.depth.shape),
            "K": (self.K.shape, (3, 3)),
            "T_world_cam": (self.T_world_cam.shape, (4, 4)),
        }
        for name, (got, want) in expected.items():
            if got != want:
                raise InputError(
                    f"view with depth {self.depth.shape}: {name} has shape {got}, expected {want}"
                )


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """A simulated motion and its first images; the world frame is the robot base.

    body_names, body_kinds ("static", "robot", "object" or "soft"): one per body; soft bodies come last.
    body_poses: (steps, rigid bodies, 7) position xyz [m] and quat_wxyz.
    soft_vertices: (steps, vertices, 3) float32 [m] of all soft bodies. soft_faces: (faces, 3) rows of them, their
    surface triangles; soft_bodies: (faces,) index of each triangle's body in body_names.
    joint_names, joint_positions: (steps, joints) as they really were [rad or m].
    gripper_width: (steps,) [m]. family: kind of motion. seed, index: what it was drawn from.
    info: JSON-serialisable facts (shape classes, masses, frictions, table height, ...).
    """

    views: tuple[ClipView, ...]
    body_names: tuple[str, ...]
    body_kinds: tuple[str, ...]
    body_poses: np.ndarray
    joint_names: tuple[str, ...]
    joint_positions: np.ndarray
    gripper_width: np.ndarray
    step_dt: float
    family: str
    robot: str
    seed: int
    index: int
    info: Mapping[str, Any] = field(default_factory=dict)
    soft_vertices: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.float32))
    soft_faces: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.int32))
    soft_bodies: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))

    def __post_init__(self) -> None:
        steps, bodies = self.num_steps, len(self.body_names)
        soft = self.bodies_of_kind("soft")
        expected = {
            "body_poses": (self.body_poses.shape, (steps, bodies - len(soft), 7)),
            "joint_positions": (self.joint_positions.shape, (steps, len(self.joint_names))),
            "gripper_width": (self.gripper_width.shape, (steps,)),
            "body_kinds": ((len(self.body_kinds),), (bodies,)),
        }
        for name, (got, want) in expected.items():
            if got != want:
                raise InputError(f"clip {self.index}: {name} has shape {got}, expected {want}")
        for name in ("body_poses", "joint_positions", "gripper_width"):
            if not np.isfinite(getattr(self, name)).all():
                raise InputError(f"clip {self.index}: {name} contains NaN or infinity")
        self._check_soft(soft)
        unknown = set(self.body_kinds) - set(_KINDS)
        if unknown or not self.views:
            raise InputError(
                f"clip {self.index}: unknown body kinds {sorted(unknown)}, or no views"
            )

    def _check_soft(self, soft: tuple[int, ...]) -> None:
        faces, owners, vertices = self.soft_faces, self.soft_bodies, self.soft_vertices
        consistent = (
            soft == tuple(range(len(self.body_names) - len(soft), len(self.body_names)))
            and faces.shape == (len(owners), 3)
            and vertices.ndim == 3
            and (len(vertices) == self.num_steps or not soft)
            and set(np.unique(owners).tolist()) == set(soft)
            and (not len(faces) or 0 <= faces.min() <= faces.max() < vertices.shape[1])
        )
        if not consistent or not np.isfinite(vertices).all():
            raise InputError(
                f"clip {self.index}: soft bodies {soft}, faces {faces.shape} of bodies {owners.shape} and vertices "
                f"{vertices.shape} over {self.num_steps} steps do not fit together, or are not finite"
            )

    @property
    def num_steps(self) -> int:
        return int(self.body_poses.shape[0])

    @property
    def key(self) -> str:
        return f"{self.seed}/{self.index:06d}"

    def body_transforms(self) -> np.ndarray:
        """T_base_body (steps, rigid bodies, 4, 4) [m]."""
        return make_transform(
            quat_wxyz_to_matrix(self.body_poses[..., 3:]), self.body_poses[..., :3]
        )

    def body_motions(self) -> np.ndarray:
        """(steps, motions, 4, 4) that carry a point from where it was at step 0.

        Motion i belongs to rigid body i; those of the triangles of soft bodies follow, in the order of `soft_faces`,
        after one identity per soft body. They are affine: a point keeps its barycentric coordinates and its distance
        from the triangle.
        """
        T = self.body_transforms()
        rigid = T @ np.linalg.inv(T[0])
        if not len(self.soft_faces):
            return rigid
        soft = len(self.body_names) - rigid.shape[1]
        still = np.broadcast_to(np.eye(4), (self.num_steps, soft, 4, 4))
        frames = triangle_frames(self.soft_vertices.astype(np.float64)[:, self.soft_faces])
        return np.concatenate([rigid, still, frames @ np.linalg.inv(frames[0])], axis=1)

    def bodies_of_kind(self, kind: str) -> tuple[int, ...]:
        return tuple(i for i, k in enumerate(self.body_kinds) if k == kind)


def triangle_frames(triangles: np.ndarray) -> np.ndarray:
    """Affine frames (..., 4, 4) of triangles (..., 3, 3) [m]: two edges, the unit normal, the first corner."""
    first = triangles[..., 1, :] - triangles[..., 0, :]
    second = triangles[..., 2, :] - triangles[..., 0, :]
    normal = np.cross(first, second)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
    frames = np.zeros((*triangles.shape[:-2], 4, 4))
    frames[..., :3, :] = np.stack([first, second, normal, triangles[..., 0, :]], -1)
    frames[..., 3, 3] = 1.0
    return frames


def _png(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=_PNG_LEVEL)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def _jpeg(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def decode_image(data: np.ndarray) -> np.ndarray:
    """The image of a PNG or JPEG file, given as its bytes.

    Raises:
        ValueError: no such image, or one of more pixels than any camera has.
    """
    try:
        with Image.open(io.BytesIO(data.tobytes()), formats=("PNG", "JPEG")) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError(f"it has more than {_MAX_PIXELS} pixels")
            return np.array(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"an image cannot be decoded: {error}") from error


def depth_units(depth: np.ndarray) -> np.ndarray:
    """Depth [m] as stored, uint16; what does not fit is 0: the largest number would be a surface that is not there."""
    # In the precision that is given: the bytes of a seed's clips must stay.
    units = np.round(depth / DEPTH_UNIT)
    return np.where((units > 0) & (units <= 65535), units, 0).astype(np.uint16)


def write_clip(clip: Clip, path: str | Path) -> None:
    """Write `clip` to one `.npz` file, atomically. The bytes depend on the clip alone."""
    header = {
        "format": FORMAT,
        "views": len(clip.views),
        "body_names": clip.body_names,
        "body_kinds": clip.body_kinds,
        "joint_names": clip.joint_names,
        "step_dt": clip.step_dt,
        "family": clip.family,
        "robot": clip.robot,
        "seed": clip.seed,
        "index": clip.index,
        "depth_unit": DEPTH_UNIT,
        "info": dict(clip.info),
    }
    arrays: dict[str, np.ndarray] = {
        "header": np.frombuffer(json.dumps(header, allow_nan=False).encode(), np.uint8),
        "body_poses": clip.body_poses,
        "joint_positions": clip.joint_positions,
        "gripper_width": clip.gripper_width,
    }
    if len(clip.soft_faces):
        arrays |= {name: getattr(clip, name) for name in _SOFT}
    for i, view in enumerate(clip.views):
        arrays |= {
            f"rgb{i}": _jpeg(view.rgb),
            f"depth{i}": _png(depth_units(view.depth)),
            f"segmentation{i}": _png(view.segmentation),
            f"K{i}": view.K,
            f"T_world_cam{i}": view.T_world_cam,
        }
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            _add_entry(archive, name, array)


def _add_entry(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    """One array as numpy writes it into an .npz; images are compressed already."""
    entry = zipfile.ZipInfo(f"{name}.npy")
    image = array.ndim == 1 and array.dtype == np.uint8 and name != "header"
    entry.compress_type = zipfile.ZIP_STORED if image else zipfile.ZIP_DEFLATED
    with archive.open(entry, "w") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def read_clip(path: str | Path) -> Clip:
    """Read a clip written by `write_clip`.

    Raises:
        InputError: no such file, not a clip, truncated, or inconsistent.
    """
    source = Path(path)
    if not source.is_file():
        raise InputError(f"{source}: no such clip")
    try:
        arrays = read_arrays(source, _ENTRIES)
        header = json.loads(arrays["header"].tobytes())
    except (OSError, *DAMAGE) as error:
        raise InputError(
            f"{source} is not a readable clip ({error}). Generate it again."
        ) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise InputError(f"{source} is not a simulated clip (format {FORMAT!r})")
    try:
        return _assemble(arrays, header)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise InputError(
            f"{source}: an entry is missing or wrong ({error}). Generate the clip again."
        ) from error


def _assemble(arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> Clip:
    unit = float(header["depth_unit"])
    return Clip(
        views=tuple(_read_view(arrays, i, unit) for i in range(header["views"])),
        body_names=tuple(str(name) for name in header["body_names"]),
        body_kinds=tuple(str(kind) for kind in header["body_kinds"]),
        body_poses=arrays["body_poses"],
        joint_names=tuple(str(name) for name in header["joint_names"]),
        joint_positions=arrays["joint_positions"],
        gripper_width=arrays["gripper_width"],
        step_dt=float(header["step_dt"]),
        family=str(header["family"]),
        robot=str(header["robot"]),
        seed=int(header["seed"]),
        index=int(header["index"]),
        info=dict(header["info"]),
        # Clips without soft bodies, old ones included, have none of these entries.
        **{name: arrays[name] for name in _SOFT if name in arrays},
    )


def _read_view(arrays: Mapping[str, np.ndarray], i: int, unit: float) -> ClipView:
    units = decode_image(arrays[f"depth{i}"])
    return ClipView(
        rgb=decode_image(arrays[f"rgb{i}"]),
        depth=(units.astype(np.float64) * unit).astype(np.float32),
        segmentation=decode_image(arrays[f"segmentation{i}"]),
        K=arrays[f"K{i}"],
        T_world_cam=arrays[f"T_world_cam{i}"],
    )


def clip_path(folder: str | Path, index: int) -> Path:
    """Where clip `index` of a data set lies: 500 clips to a sub-folder."""
    return Path(folder) / f"{index // 500:04d}" / f"{index:06d}.npz"


def list_clips(folder: str | Path) -> list[Path]:
    """All finished clips of a data set, ordered by index; the set may still be growing.

    Raises:
        InputError: the folder does not exist or holds no clip.
    """
    root = Path(folder)
    paths = sorted(root.glob("[0-9][0-9][0-9][0-9]/[0-9]*.npz"))
    if not paths:
        raise InputError(
            f"{root} holds no clips (*.npz in numbered sub-folders). Make some: pointworld generate --out {root}"
        )
    return paths


def iterate_clips(folder: str | Path) -> Iterator[Clip]:
    """Read the clips of a data set one after the other."""
    for path in list_clips(folder):
        yield read_clip(path)
