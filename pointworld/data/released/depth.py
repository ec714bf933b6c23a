"""The other files of the released DROID package: depth videos and optimised camera poses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pointworld.data.released.layout import IMAGE_HEIGHT, IMAGE_WIDTH, STEPS, FieldSpec, check_claim
from pointworld.data.released.safe_hdf5 import (
    checked_dataset,
    child_group,
    member_names,
    open_hdf5,
)
from pointworld.errors import InputError
from pointworld.types import check_rigid

#: Frames of one camera; an hour at 15 Hz.
_MAX_FRAMES = 54000


@dataclass(frozen=True, kw_only=True, eq=False)
class DepthVideo:
    """depth: (frames, 180, 320) float32 [m], 0 = unknown. timestamps: (all frames,) int64 [ms]."""

    depth: np.ndarray
    timestamps: np.ndarray


def depth_cameras(path: str | Path) -> tuple[str, ...]:
    """Cameras of a `<uuid>_depth.h5`: `<serial>+ext` and `<serial>+wrist`."""
    with open_hdf5(path) as file:
        return tuple(member_names(file))


def read_depth_video(
    path: str | Path, camera: str, *, start: int = 0, count: int = STEPS
) -> DepthVideo:
    """`count` frames of a depth video from frame `start` on.

    Raises:
        InputError: no such camera or frames, or another layout.
    """
    with open_hdf5(path) as file:
        group = child_group(file, camera)
        times = _checked(group, "timestamps", "int64", ())
        frames = _checked(group, "depth", "uint16", (IMAGE_HEIGHT, IMAGE_WIDTH))
        if times.shape[0] != frames.shape[0] or not 0 <= start < start + count <= frames.shape[0]:
            raise InputError(
                f"{path}: frames {start}..{start + count} of '{camera}', which has {frames.shape[0]} frames and "
                f"{times.shape[0]} timestamps"
            )
        depth = frames[start : start + count].astype(np.float32) / np.float32(1000.0)
        return DepthVideo(depth=depth, timestamps=np.asarray(times[()]))


def _checked(group: Any, name: str, dtype: str, frame: tuple[int, ...]) -> Any:
    dataset = checked_dataset(group, name, complete=False)
    length = dataset.shape[0] if dataset.shape else 0
    if length > _MAX_FRAMES:
        raise InputError(f"{group.name}/{name}: claims {length} frames, at most {_MAX_FRAMES}")
    spec = FieldSpec(dtype=dtype, shape=(length, *frame))
    check_claim(spec, dataset.dtype, dataset.shape, f"{group.name}/{name}", {})
    return dataset


def read_extrinsics(path: str | Path) -> dict[str, np.ndarray]:
    """Optimised extrinsics (4, 4) float64, base to camera, by camera serial, of one cameras JSON.

    Raises:
        InputError: not such a file, or a matrix that is no rigid transform.
    """
    source = Path(path)
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
        found = {
            str(serial): np.array(entry["optimized_extrinsics"], np.float64)
            for serial, entry in content.items()
            if isinstance(entry, dict) and "optimized_extrinsics" in entry
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{source} is no camera file of the release ({error})") from error
    for serial, T in found.items():
        check_rigid(T, str(source), f"optimized_extrinsics of {serial}")
    return found
