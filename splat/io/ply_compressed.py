"""The compressed .ply of SuperSplat and PlayCanvas: chunks of 256 Gaussians with their own bounds.

Layout: element chunk (18 floats: minimum and maximum of position, log scale and colour), element vertex (four uint:
position 11-10-11 bits, rotation 2-10-10-10, log scale 11-10-11, colour and opacity 8-8-8-8), optional element sh
(uchar f_rest_0.., all red, then green, then blue). Older files have 12 floats a chunk and colours in 0 to 1.
Source: developer.playcanvas.com, "Compressed PLY"; interoperability with another reader is tested.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pointworld.errors import InputError
from pointworld.files import atomic_path
from splat.io.arrays import (
    SH_C0,
    SH_COUNTS,
    Floats,
    SplatArrays,
    check_values,
    logit,
    sigmoid,
    to_bytes,
    unit_quats,
)
from splat.io.ply_header import PlyElement, columns, read_block

CHUNK = 256
#: Log scales are clipped to this before they are packed, as the format's own tools do.
LOG_SCALE_LIMIT = 20.0

Words = npt.NDArray[np.uint32]

_AXES = ("x", "y", "z")
_BOUNDS = [
    f"{side}_{group}"
    for groups in (_AXES, tuple(f"scale_{a}" for a in _AXES), ("r", "g", "b"))
    for side in ("min", "max")
    for group in groups
]
_PACKED = ["packed_position", "packed_rotation", "packed_scale", "packed_color"]


def is_compressed(elements: dict[str, PlyElement]) -> bool:
    """Whether a PLY header is of this layout."""
    vertex = elements.get("vertex")
    return "chunk" in elements and vertex is not None and _PACKED[0] in (vertex.dtype.names or ())


def read_compressed_ply(path: Path, elements: dict[str, PlyElement]) -> SplatArrays:
    """Read a file for which `is_compressed` holds.

    Raises:
        InputError: the elements do not fit together or hold unusable values.
    """
    vertex, chunk = elements["vertex"], elements["chunk"]
    if chunk.count != -(-vertex.count // CHUNK):
        raise InputError(
            f"{path} has {chunk.count} chunks for {vertex.count} Gaussians, expected one per {CHUNK}"
        )
    known = set(vertex.dtype.names or ())
    if not known.issuperset(_PACKED) or any(vertex.dtype[name] != np.uint32 for name in _PACKED):
        raise InputError(f"{path}: expected the uint properties {', '.join(_PACKED)}")
    rows = read_block(path, vertex)
    bounds = _read_bounds(path, chunk)
    which = np.arange(vertex.count) // CHUNK
    words = {name: rows[name].astype(np.uint32) for name in _PACKED}
    rgba = _unpack(words["packed_color"], (8, 8, 8, 8))
    dc = (_lerp(rgba[:, :3], bounds[:, 12:], which) - 0.5) / SH_C0
    arrays = SplatArrays(
        means=_lerp(_unpack(words["packed_position"], (11, 10, 11)), bounds[:, 0:6], which),
        quats_wxyz=_unpack_quats(words["packed_rotation"]),
        log_scales=_lerp(_unpack(words["packed_scale"], (11, 10, 11)), bounds[:, 6:12], which),
        opacity_logits=logit(rgba[:, 3]),
        sh=np.concatenate([dc[:, None], _read_rest(path, elements, vertex.count)], axis=1),
    )
    check_values(arrays, str(path))
    return arrays


def _read_bounds(path: Path, chunk: PlyElement) -> Floats:
    """(chunks, 18): minimum and maximum of position, log scale and colour."""
    block = read_block(path, chunk)
    bounds = columns(block, _BOUNDS[:12], path)
    if set(_BOUNDS[12:]).issubset(chunk.dtype.names or ()):
        color = columns(block, _BOUNDS[12:], path)
    else:
        color = np.tile(np.array([0, 0, 0, 1, 1, 1], dtype=np.float32), (chunk.count, 1))
    bounds = np.concatenate([bounds, color], axis=1)
    if not np.isfinite(bounds).all():
        row = int(np.argmin(np.isfinite(bounds).all(axis=1)))
        raise InputError(f"{path}: the bounds of chunk {row} are NaN or infinite")
    return bounds


def _read_rest(path: Path, elements: dict[str, PlyElement], count: int) -> Floats:
    """(count, K - 1, 3) coefficients of the optional element sh."""
    element = elements.get("sh")
    if element is None:
        return np.zeros((count, 0, 3), dtype=np.float32)
    names = element.dtype.names or ()
    coefficients = len(names) // 3
    expected = tuple(f"f_rest_{i}" for i in range(3 * coefficients))
    if element.count != count or names != expected or 1 + coefficients not in SH_COUNTS:
        raise InputError(
            f"{path}: element sh has {element.count} rows of {len(names)} properties, expected {count} rows of "
            "f_rest_0 to f_rest_8, 23 or 44"
        )
    values = columns(read_block(path, element), list(names), path)
    unit = np.where(values == 0, 0.0, np.where(values == 255, 1.0, (values + 0.5) / 256))
    rest = ((unit - 0.5) * 8).astype(np.float32)
    return np.ascontiguousarray(rest.reshape(count, 3, coefficients).transpose(0, 2, 1))


def _lerp(unit: Floats, bounds: Floats, which: npt.NDArray[np.intp]) -> Floats:
    low, high = bounds[which, :3], bounds[which, 3:6]
    return (low * (1 - unit) + high * unit).astype(np.float32)


def _unpack(words: Words, bits: tuple[int, ...]) -> Floats:
    """Fields of `bits` bits each, the first in the highest bits, as 0 to 1."""
    out = np.empty((len(words), len(bits)), dtype=np.float32)
    shift = 0
    for i, width in reversed(list(enumerate(bits))):
        top = (1 << width) - 1
        out[:, i] = ((words >> np.uint32(shift)) & np.uint32(top)) / np.float32(top)
        shift += width
    return out


def _pack(unit: npt.NDArray[np.floating], bits: tuple[int, ...]) -> Words:
    words = np.zeros(len(unit), dtype=np.uint32)
    for i, width in enumerate(bits):
        top = (1 << width) - 1
        field = np.clip(np.rint(unit[:, i].astype(np.float64) * top), 0, top).astype(np.uint32)
        words = (words << np.uint32(width)) | field
    return words


def _unpack_quats(words: Words) -> Floats:
    small = (_unpack(words & np.uint32(0x3FFFFFFF), (10, 10, 10)) - 0.5) * np.float32(np.sqrt(2.0))
    largest = (words >> np.uint32(30)).astype(np.intp)
    quats = np.empty((len(words), 4), dtype=np.float32)
    others = np.arange(3)[None] + (np.arange(3)[None] >= largest[:, None])
    np.put_along_axis(quats, others, small, axis=1)
    rest = np.sqrt(np.clip(1.0 - (small * small).sum(axis=1), 0.0, None))
    np.put_along_axis(quats, largest[:, None], rest[:, None].astype(np.float32), axis=1)
    return quats


def _pack_quats(quats: Floats) -> Words:
    q = unit_quats(quats)
    largest = np.abs(q).argmax(axis=1)
    q = q * np.where(np.take_along_axis(q, largest[:, None], axis=1) < 0, -1, 1)
    others = np.arange(3)[None] + (np.arange(3)[None] >= largest[:, None])
    small = np.take_along_axis(q, others, axis=1) / np.sqrt(2.0) + 0.5
    return _pack(small, (10, 10, 10)) | (largest.astype(np.uint32) << np.uint32(30))


def morton_order(points: Floats) -> npt.NDArray[np.intp]:
    """Order along a Z curve of 1024 cells an axis, so that each chunk covers a small box."""
    if len(points) == 0:
        return np.zeros(0, dtype=np.intp)
    low, high = points.min(axis=0), points.max(axis=0)
    spread = np.maximum(high.astype(np.float64) - low, 1e-30)
    cells = np.clip((points - low) / spread * 1023, 0, 1023).astype(np.uint32)
    code = np.zeros(len(points), dtype=np.uint32)
    for bit in range(10):
        for axis in range(3):
            code |= ((cells[:, axis] >> np.uint32(bit)) & np.uint32(1)) << np.uint32(3 * bit + axis)
    return np.argsort(code, kind="stable")


def write_compressed_ply(arrays: SplatArrays, path: Path, *, sort: bool = True) -> None:
    """Write the compressed layout; with `sort` in Z-curve order (half the position error or less), else as given."""
    if sort:
        arrays = arrays.take(morton_order(arrays.means))
    count = len(arrays)
    color = arrays.sh[:, 0] * SH_C0 + 0.5
    log_scales = np.clip(arrays.log_scales, -LOG_SCALE_LIMIT, LOG_SCALE_LIMIT)
    bounds, unit = zip(*(_bounds(v) for v in (arrays.means, log_scales, color)), strict=True)
    alpha = sigmoid(arrays.opacity_logits)[:, None]
    rows = np.stack(
        [
            _pack(unit[0], (11, 10, 11)),
            _pack_quats(arrays.quats_wxyz),
            _pack(unit[1], (11, 10, 11)),
            _pack(np.concatenate([unit[2], alpha], axis=1), (8, 8, 8, 8)),
        ],
        axis=1,
    )
    rest = arrays.sh[:, 1:].transpose(0, 2, 1).reshape(count, 3 * arrays.sh.shape[1] - 3)
    header = ["ply", "format binary_little_endian 1.0", f"element chunk {-(-count // CHUNK)}"]
    header += [f"property float {name}" for name in _BOUNDS]
    header += [f"element vertex {count}", *(f"property uint {name}" for name in _PACKED)]
    if rest.shape[1]:
        header += [f"element sh {count}"]
        header += [f"property uchar f_rest_{i}" for i in range(rest.shape[1])]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(("\n".join([*header, "end_header"]) + "\n").encode("ascii"))
        file.write(np.concatenate(bounds, axis=1).astype("<f4").tobytes())
        file.write(rows.astype("<u4").tobytes())
        file.write(to_bytes(np.floor((rest / 8 + 0.5) * 256)).tobytes())


def _bounds(values: Floats) -> tuple[Floats, Floats]:
    """Per chunk minimum and maximum (chunks, 6), and the values scaled to 0 to 1 between them."""
    count = len(values)
    chunks = -(-count // CHUNK)
    which = np.arange(count) // CHUNK
    starts = np.arange(chunks) * CHUNK
    low = np.minimum.reduceat(values, starts, axis=0) if count else values
    high = np.maximum.reduceat(values, starts, axis=0) if count else values
    spread = (high.astype(np.float64) - low)[which]
    unit = (values - low[which].astype(np.float64)) / np.where(spread > 0, spread, 1.0)
    return np.concatenate([low, high], axis=1), unit.astype(np.float32)
