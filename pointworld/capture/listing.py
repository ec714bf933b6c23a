"""What a reader finds in a folder, before any pixel is read; one loader turns it into frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pointworld.capture.depth import check_depth_unit, register_depth
from pointworld.capture.images import read_depth_units, read_rgb
from pointworld.errors import InputError
from pointworld.geometry import scale_intrinsics
from pointworld.types import RGBDFrame, check_rigid

HALF_PIXEL = np.array([[0.0, 0.0, 0.5], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]])


@dataclass(frozen=True, kw_only=True, eq=False)
class DepthCoding:
    """How stored numbers become metres.

    scale: metres per stored unit. unknown: stored values that mean "no measurement".
    nonfinite_unknown: NaN and infinity mean "no measurement" (else they are refused).
    transform: applied to the stored integers first (bit rotations and the like), or None.
    """

    scale: float
    unknown: tuple[int, ...] = (0, 65535)
    nonfinite_unknown: bool = False
    transform: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class DepthSensor:
    """A depth camera of its own: K (3, 3) [px] and T_color_depth (4, 4), depth to colour camera [m]."""

    K: np.ndarray
    T_color_depth: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameEntry:
    """One frame as files and numbers. K is the colour camera's, in our pixel convention.

    reduce_color: shrink colour by a whole factor to about the resolution of a coarser depth sensor.
    """

    name: str
    rgb: Path
    depth: Path
    K: np.ndarray
    T_world_cam: np.ndarray
    coding: DepthCoding
    sensor: DepthSensor | None = None
    reduce_color: bool = False
    timestamp: float = 0.0
    camera: str = "cam0"
    joint_positions: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Listing:
    """A capture before its pixels are read; `robot` and the rest as in `Capture`."""

    format: str
    entries: tuple[FrameEntry, ...]
    T_world_base: np.ndarray | None = None
    joint_names: tuple[str, ...] = ()
    robot: str | None = None


def load_frame(entry: FrameEntry, *, check_unit: bool = True) -> RGBDFrame:
    """Read one frame, bring its depth to metres and, where it has a sensor of its own, into the colour camera.

    Args:
        check_unit: refuse a median depth that no tabletop or room has.

    Raises:
        InputError: a file is missing or damaged, sizes differ, depth is not finite or in the wrong unit.
    """
    rgb, K = read_rgb(entry.rgb), entry.K
    depth, valid = decode_depth(read_depth_units(entry.depth), entry.coding, str(entry.depth))
    if check_unit:
        check_depth_unit(depth, valid, str(entry.depth))
    if entry.sensor is not None:
        check_rigid(entry.sensor.T_color_depth, f"frame '{entry.name}'", "T_color_depth")
        if entry.reduce_color:
            rgb, K = _reduce(rgb, K, max(1, rgb.shape[1] // depth.shape[1]))
        depth, valid = register_depth(
            depth,
            valid,
            K_depth=entry.sensor.K,
            K_color=K,
            T_color_depth=entry.sensor.T_color_depth,
            size=(rgb.shape[0], rgb.shape[1]),
        )
    elif depth.shape != rgb.shape[:2]:
        raise InputError(
            f"frame '{entry.name}': the depth image {entry.depth.name} is {_size(depth)}, the colour image "
            f"{entry.rgb.name} is {_size(rgb)}. Depth must be registered to colour; give a depth sensor its "
            "own K and T_color_depth in capture.json and it is registered on load."
        )
    return RGBDFrame(
        rgb=rgb,
        depth=depth,
        valid=valid,
        K=K,
        T_world_cam=entry.T_world_cam,
        timestamp=entry.timestamp,
        name=entry.name,
        camera=entry.camera,
        joint_positions=entry.joint_positions,
    )


def decode_depth(
    units: np.ndarray, coding: DepthCoding, owner: str
) -> tuple[np.ndarray, np.ndarray]:
    """Stored depth (height, width) to metres float32 (0 where unknown) and a validity mask.

    Raises:
        InputError: NaN or infinity where the coding does not declare them as "unknown", or negative depth.
    """
    if units.dtype.kind == "f":
        finite = np.isfinite(units)
        if not finite.all() and not coding.nonfinite_unknown:
            raise InputError(
                f"{owner}: {int((~finite).sum())} of {finite.size} depth values are NaN or infinite. Store 0 "
                'where depth is unknown, or declare "nonfinite": "unknown" for this depth in capture.json.'
            )
        units = np.where(finite, units, 0.0)
    elif coding.transform is not None:
        units = coding.transform(units)
    if units.min(initial=0) < 0:
        raise InputError(
            f"{owner}: depth has negative values; expected distances along the optical axis"
        )
    valid = units != 0
    if units.dtype.kind != "f":
        for value in coding.unknown:
            valid &= units != value
    depth = np.where(valid, units, 0).astype(np.float32) * np.float32(coding.scale)
    return depth, valid


def inside(folder: Path, name: str, where: str) -> Path:
    """A file named by a capture; it may not lie outside the capture's folder.

    Raises:
        InputError: the name is absolute or climbs out of the folder.
    """
    path = folder / str(name)
    if Path(name).is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{where}: '{name}' lies outside the capture's folder")
    return path


def _reduce(rgb: np.ndarray, K: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Average blocks of factor x factor pixels (a remainder at the right and bottom is cut)."""
    height, width = rgb.shape[0] // factor, rgb.shape[1] // factor
    blocks = rgb[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return blocks.mean((1, 3)).round().astype(np.uint8), scale_intrinsics(K, 1 / factor, 1 / factor)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
