"""The .splat of web viewers: 32 bytes a Gaussian, no header, no spherical harmonics beyond degree 0.

Layout: position 3 float32, scale 3 float32 (linear), colour and opacity 4 uint8, rotation w x y z 4 uint8
(128 + 128 q).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pointworld.errors import InputError
from pointworld.files import atomic_path
from splat.io.arrays import SH_C0, SplatArrays, check_values, logit, sigmoid, to_bytes, unit_quats

_ROW = np.dtype([("position", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])
#: Scales of zero are read as this, because their logarithm has to be finite [m].
SMALLEST_SCALE = 1e-30


def read_splat(path: Path) -> SplatArrays:
    """Read a .splat file.

    Raises:
        InputError: the size is no multiple of 32 bytes, or values are not usable.
    """
    size = path.stat().st_size
    if size % _ROW.itemsize:
        raise InputError(
            f"{path} has {size} bytes, no multiple of {_ROW.itemsize}: it is truncated or not a .splat file"
        )
    rows = np.memmap(path, _ROW, mode="r") if size else np.empty(0, _ROW)
    scales = np.array(rows["scale"])
    if bool((scales < 0).any()):
        raise InputError(f"{path}: a scale is negative, expected metres. It is not a .splat file.")
    rgba = rows["rgba"].astype(np.float32) / 255
    arrays = SplatArrays(
        means=np.array(rows["position"]),
        quats_wxyz=((rows["quat"].astype(np.float32) - 128) / 128).astype(np.float32),
        log_scales=np.log(np.maximum(scales, np.float32(SMALLEST_SCALE))),
        opacity_logits=logit(rgba[:, 3]),
        sh=((rgba[:, None, :3] - 0.5) / SH_C0).astype(np.float32),
    )
    check_values(arrays, str(path))
    return arrays


def write_splat(arrays: SplatArrays, path: Path, *, sort: bool = True) -> None:
    """Write a .splat file; view-dependent colour is dropped.

    Args:
        arrays: the Gaussians.
        path: file to write.
        sort: largest (size times opacity) first, so that a viewer that streams the file shows the main things first.
    """
    opacity = sigmoid(arrays.opacity_logits)
    if sort:
        weight = arrays.log_scales.sum(axis=1, dtype=np.float64) + np.log(opacity + 1e-30)
        order = np.argsort(-weight, kind="stable")
        arrays, opacity = arrays.take(order), opacity[order]
    rows = np.zeros(len(arrays), _ROW)
    rows["position"] = arrays.means
    rows["scale"] = np.exp(arrays.log_scales)
    rows["rgba"][:, :3] = to_bytes((arrays.sh[:, 0] * SH_C0 + 0.5) * 255)
    rows["rgba"][:, 3] = to_bytes(opacity * 255)
    rows["quat"] = to_bytes(unit_quats(arrays.quats_wxyz) * 128 + 128)
    with atomic_path(path) as temporary:
        temporary.write_bytes(rows.tobytes())
