"""The expert's low-confidence voxels, by which the release's filtered metrics leave points out.

One H5 file per test split; one group per clip id with `low_confidence_voxels/t000..t010`, (voxels, 3) int32 cells
floor(p / grid) in the robot base frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pointworld.data.released.layout import STEPS, FieldSpec, canonical_key
from pointworld.data.released.safe_hdf5 import (
    child_group,
    member_names,
    open_hdf5,
    read_array,
    read_attributes,
)
from pointworld.errors import InputError, MissingExtraError
from pointworld.files import atomic_path

MASK_VERSION = 3
GROUP = "low_confidence_voxels"
_VOXELS = FieldSpec(dtype="int32", shape=("N", 3))


@dataclass(frozen=True, kw_only=True, eq=False)
class LowConfidence:
    """voxels: per step (voxels, 3) int32. grid_size: voxel edge [m]. threshold: of the expert's confidence.

    num_points: scene points of the clip; 0 where it is not known.
    """

    voxels: tuple[np.ndarray, ...]
    grid_size: float
    threshold: float
    num_points: int = 0


def read_confidence(path: str | Path, key: str, *, grid_size: float = 0.015) -> LowConfidence:
    """The voxels of one clip; its id is found with and without `_flows`.

    Raises:
        InputError: no entry for this clip, another mask version or grid, or not the released layout.
    """
    with open_hdf5(path) as file:
        wanted = canonical_key(key)
        stem, _, steps_range = wanted.rpartition("-")
        spellings = (wanted, f"{stem}_flows-{steps_range}")
        found = next((name for name in spellings if name in file), None)
        if found is None:
            raise InputError(
                f"{path} has no entry for clip {wanted}. The published file covers the official test split only."
            )
        group = child_group(child_group(file, found), GROUP)
        attributes = {**read_attributes(child_group(file, found)), **read_attributes(group)}
        version, grid = attributes.get("mask_version"), attributes.get("grid_size")
        if version != MASK_VERSION or grid is None or abs(float(grid) - grid_size) > 1e-9:
            raise InputError(
                f"{path}: clip {wanted} has mask version {version} and grid {grid}, expected {MASK_VERSION} and "
                f"{grid_size}"
            )
        steps = int(attributes.get("num_timesteps", STEPS))
        names = [f"t{i:03d}" for i in range(STEPS)]
        if steps != STEPS or any(name not in group for name in names):
            raise InputError(f"{path}: clip {wanted} has {steps} steps, expected {STEPS}")
        voxels = tuple(read_array(group, name, _VOXELS, {}, complete=False) for name in names)
    return LowConfidence(
        voxels=voxels,
        grid_size=float(grid),
        threshold=float(attributes.get("confidence_threshold", float("nan"))),
        num_points=int(attributes.get("num_scene_points", 0)),
    )


def confidence_keys(path: str | Path) -> tuple[str, ...]:
    """Canonical ids of the clips in a confidence file."""
    with open_hdf5(path) as file:
        return tuple(canonical_key(name) for name in member_names(file))


def low_confidence(
    confidence: torch.Tensor,
    base_points: torch.Tensor,
    *,
    keep: float = 0.8,
    grid_size: float = 0.015,
) -> LowConfidence:
    """The voxels of points whose confidence is below the (1 - keep) quantile over all steps and points of a clip.

    Args:
        confidence: (steps, points) of an expert; all steps count, also step 0.
        base_points: (points, 3) at step 0 in the robot base frame [m].
    """
    flat = confidence.double().flatten().sort().values
    rank = (1 - keep) * (len(flat) - 1)
    below, share = flat[int(rank)], rank - int(rank)
    threshold = float(below + share * (flat[min(int(rank) + 1, len(flat) - 1)] - below))
    cells = torch.floor(base_points / grid_size).to(torch.int32).numpy()
    low = (confidence.double() < threshold).numpy()
    voxels = tuple(np.unique(cells[row], axis=0).reshape(-1, 3) for row in low)
    return LowConfidence(
        voxels=voxels, grid_size=grid_size, threshold=threshold, num_points=len(base_points)
    )


def write_confidence(
    path: str | Path, clips: Mapping[str, LowConfidence], *, seed: int = 42, keep: float = 0.8
) -> None:
    """Write a confidence file that this module and the release read.

    Raises:
        MissingExtraError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("h5py", "datasets", "writing confidence files") from error
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update({"seed": seed, "split": "test", "dataset_dir": ""})
        for key, clip in clips.items():
            group = file.create_group(key).create_group(GROUP)
            group.attrs.update(_clip_attributes(clip.voxels, clip, keep))
            for step, cells in enumerate(clip.voxels):
                group.create_dataset(f"t{step:03d}", data=cells.astype(np.int32))


def _clip_attributes(
    voxels: Sequence[np.ndarray], clip: LowConfidence, keep: float
) -> dict[str, object]:
    return {
        "mask_version": MASK_VERSION,
        "grid_size": clip.grid_size,
        "confidence_keep_frac": keep,
        "confidence_threshold": clip.threshold,
        "num_low_voxels": sum(len(v) for v in voxels),
        "num_scene_points": clip.num_points,
        "aggregation": "per_timestep",
        "num_timesteps": len(voxels),
    }
