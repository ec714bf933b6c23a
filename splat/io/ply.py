"""The .ply of the original 3D Gaussian splatting code, with and without normals, SH degrees 0 to 3.

Layout: element vertex with float properties x y z [nx ny nz] f_dc_0..2 f_rest_0.. opacity scale_0..2 rot_0..3;
f_rest holds all coefficients of red, then green, then blue; opacity is a logit, scale a logarithm, rot is w x y z.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pointworld.errors import InputError
from pointworld.files import atomic_path
from splat.io.arrays import SH_COUNTS, SplatArrays, check_values
from splat.io.ply_header import PlyElement, columns, read_block

_POSITION = ["x", "y", "z"]
_NORMAL = ["nx", "ny", "nz"]
_DC = ["f_dc_0", "f_dc_1", "f_dc_2"]
_SCALE = ["scale_0", "scale_1", "scale_2"]
_ROTATION = ["rot_0", "rot_1", "rot_2", "rot_3"]

#: Tools that activate and deactivate opacities write infinite logits for 0 and 1; they are read as this.
LOGIT_LIMIT = 11.5


def read_ply(path: Path, elements: dict[str, PlyElement]) -> SplatArrays:
    """Read the vertex element; properties may be in any order and any number type, unknown ones are ignored.

    Raises:
        InputError: properties are missing, f_rest has a count of no SH degree, or values are not usable.
    """
    if "vertex" not in elements:
        raise InputError(f"{path}: the PLY has no element 'vertex', expected one row per Gaussian")
    block = read_block(path, elements["vertex"])
    with np.errstate(over="ignore"):
        arrays = _arrays(block, path)
    check_values(arrays, str(path))
    return arrays


def _arrays(block: np.ndarray, path: Path) -> SplatArrays:
    rest = sum(name.startswith("f_rest_") for name in block.dtype.names or ())
    if rest % 3 or 1 + rest // 3 not in SH_COUNTS:
        raise InputError(
            f"{path} has {rest} f_rest properties, expected 0, 9, 24 or 45 (SH degree 0, 1, 2 or 3)"
        )
    sh = np.empty((len(block), 1 + rest // 3, 3), dtype=np.float32)
    sh[:, 0] = columns(block, _DC, path)
    for channel in range(3):
        first = channel * (rest // 3)
        names = [f"f_rest_{first + i}" for i in range(rest // 3)]
        sh[:, 1:, channel] = columns(block, names, path)
    logits = columns(block, ["opacity"], path)[:, 0]
    infinite = np.isinf(logits)
    logits[infinite] = np.clip(logits[infinite], -LOGIT_LIMIT, LOGIT_LIMIT)
    return SplatArrays(
        means=columns(block, _POSITION, path),
        quats_wxyz=columns(block, _ROTATION, path),
        log_scales=columns(block, _SCALE, path),
        opacity_logits=logits,
        sh=sh,
    )


def write_ply(arrays: SplatArrays, path: Path, *, normals: bool = True) -> None:
    """Write float32, bit for bit. With `normals`, three zero columns nx ny nz as the original code writes."""
    rest = arrays.sh.shape[1] - 1
    names = _POSITION + (_NORMAL if normals else []) + _DC
    names += [f"f_rest_{i}" for i in range(3 * rest)] + ["opacity", *_SCALE, *_ROTATION]
    table = np.zeros((len(arrays), len(names)), dtype="<f4")
    start = 3 + (3 if normals else 0)
    table[:, :3] = arrays.means
    table[:, start : start + 3] = arrays.sh[:, 0]
    table[:, start + 3 : start + 3 + 3 * rest] = (
        arrays.sh[:, 1:].transpose(0, 2, 1).reshape(len(arrays), 3 * rest)
    )
    table[:, -8] = arrays.opacity_logits
    table[:, -7:-4] = arrays.log_scales
    table[:, -4:] = arrays.quats_wxyz
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(arrays)}"]
    header += [f"property float {name}" for name in names]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(("\n".join([*header, "end_header"]) + "\n").encode("ascii"))
        file.write(table.tobytes())
