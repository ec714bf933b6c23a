"""The .spz of Niantic: quantised Gaussians in a gzip stream (versions 2 and 3) or in zstd streams (version 4).

Payload, one block after the other: positions (3 x 24-bit signed fixed point), opacities (uint8), colours (3 uint8),
log scales (3 uint8, 16 per unit from -10), rotations (version 2: x y z in 3 uint8; later: three smallest of x y z w,
10 bits each, and the index of the largest), SH coefficients above degree 0 (uint8, 128 per unit, channels innermost).
Files have right-up-back axes; PLY files and this project's captures have right-down-forward ones, so that reading
and writing turn the scene by 180 degrees about x unless `axes="as-is"`.

Decompression is bounded by what the header claims, and the claim by the size of the file.
Source: github.com/nianticlabs/spz, format description; interoperability with another reader is tested.
"""

from __future__ import annotations

import importlib
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pointworld.errors import InputError, MissingExtraError
from pointworld.files import atomic_path
from splat.io.arrays import (
    SH_COUNTS,
    Bytes,
    Floats,
    SplatArrays,
    check_values,
    flip_yz,
    logit,
    sigmoid,
    to_bytes,
    unit_quats,
)

Axes = Literal["rub", "as-is"]

MAGIC = 0x5053474E
#: Slope of the colour bytes: byte = 255 (0.5 + 0.15 sh).
COLOR_SLOPE = 0.15
#: Payloads up to this are read whatever the file's size; larger ones must not exceed MAX_RATIO file sizes.
FREE_PAYLOAD_BYTES = 8 << 20
MAX_RATIO = 64
#: Flag of the header: blocks of vendors' extensions follow the payload.
_HAS_EXTENSIONS = 2
_HEADER = struct.Struct("<IIIBBBB")
_HEADER_V4 = struct.Struct("<IIIBBBBI12x")


@dataclass(frozen=True, kw_only=True)
class _Layout:
    count: int
    sh_degree: int
    fractional_bits: int
    version: int

    @property
    def widths(self) -> tuple[int, ...]:
        """Bytes that one Gaussian has in positions, opacities, colours, scales, rotations, SH."""
        rotation = 3 if self.version < 3 else 4
        return (9, 1, 3, 3, rotation, 3 * (SH_COUNTS[self.sh_degree] - 1))

    @property
    def blocks(self) -> tuple[int, ...]:
        """Bytes of each block."""
        return tuple(width * self.count for width in self.widths)


def is_spz(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a gzip or an NGSP container."""
    return head[:2] == b"\x1f\x8b" or head[:4] == b"NGSP"


def read_spz(path: Path, *, axes: Axes = "rub") -> SplatArrays:
    """Read an .spz file of version 2, 3 or 4.

    Args:
        path: the file.
        axes: `rub` = turn from the format's axes to those of PLY files; `as-is` = numbers as stored, for files of
            tools that do not turn.

    Raises:
        InputError: damaged, truncated, of another version, or larger when unpacked than the header claims.
        MissingExtraError: version 4 without the package zstandard.
    """
    with path.open("rb") as file:
        gzip = file.read(2) == b"\x1f\x8b"
    payload, layout = _read_gzip(path) if gzip else _read_streams(path)
    arrays = _decode(payload, layout)
    if axes == "rub":
        arrays = flip_yz(arrays)
    check_values(arrays, str(path))
    return arrays


def _check_header(path: Path, fields: tuple[int, ...], versions: tuple[int, ...]) -> _Layout:
    magic, version, count, degree, bits = fields[:5]
    if magic != MAGIC:
        raise InputError(f"{path} is not an .spz file: its magic number is {magic:#010x}")
    if version not in versions:
        raise InputError(f"{path} is .spz version {version}, expected 2, 3 or 4")
    if degree > 3 or bits > 24:
        raise InputError(
            f"{path}: SH degree {degree} and {bits} fractional bits, expected at most 3 and 24"
        )
    layout = _Layout(count=count, sh_degree=degree, fractional_bits=bits, version=version)
    payload, size = sum(layout.blocks), path.stat().st_size
    if payload > FREE_PAYLOAD_BYTES and payload > MAX_RATIO * size:
        raise InputError(
            f"{path} claims {count} Gaussians ({payload} bytes unpacked), which a file of {size} bytes does not hold"
        )
    if size > payload * 1.01 + (1 << 20):
        raise InputError(
            f"{path} claims {count} Gaussians, but is larger ({size} bytes) than they are unpacked"
        )
    return layout


def _read_gzip(path: Path) -> tuple[Bytes, _Layout]:
    unpacker = zlib.decompressobj(wbits=31)
    with path.open("rb") as file:
        try:
            head = unpacker.decompress(file.read(4096), _HEADER.size)
            if len(head) < _HEADER.size:
                raise InputError(f"{path} is truncated: no .spz header")
            fields = _HEADER.unpack(head)
            layout = _check_header(path, fields, (2, 3))
            wanted = sum(layout.blocks)
            body = unpacker.decompress(unpacker.unconsumed_tail + file.read(), wanted + 1)
        except zlib.error as error:
            raise InputError(f"{path}: damaged gzip stream ({error})") from error
    if len(body) < wanted or (len(body) == wanted and not unpacker.eof):
        raise InputError(
            f"{path} is truncated: {layout.count} Gaussians need {wanted} bytes, it has {len(body)}"
        )
    if len(body) > wanted and not fields[5] & _HAS_EXTENSIONS:
        raise InputError(f"{path} unpacks to more than its {layout.count} Gaussians need")
    return np.frombuffer(body, np.uint8, count=wanted), layout


def _zstandard() -> Any:
    try:
        return importlib.import_module("zstandard")
    except ImportError as error:
        raise MissingExtraError("zstandard", "splat", "an .spz file of version 4") from error


def _read_streams(path: Path) -> tuple[Bytes, _Layout]:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEADER_V4.size)
        if len(head) < _HEADER_V4.size:
            raise InputError(f"{path} is truncated: no .spz header")
        fields = _HEADER_V4.unpack(head)
        layout = _check_header(path, fields, (4,))
        sizes = [block for block in layout.blocks if block]
        streams, table = fields[6], fields[7]
        if streams != len(sizes) or table < _HEADER_V4.size or table + 16 * streams > size:
            raise InputError(f"{path}: damaged table of {streams} streams, expected {len(sizes)}")
        file.seek(table)
        entries = list(struct.iter_unpack("<QQ", file.read(16 * streams)))
        if table + 16 * streams + sum(packed for packed, _ in entries) > size:
            raise InputError(f"{path} is truncated: its streams reach beyond the end of the file")
        zstandard = _zstandard()
        parts = []
        for (packed, unpacked), wanted in zip(entries, sizes, strict=True):
            unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 27)
            try:
                body = unpacker.stream_reader(file.read(packed)).read(min(unpacked, wanted) + 1)
            except zstandard.ZstdError as error:
                raise InputError(f"{path}: damaged zstd stream ({error})") from error
            if unpacked != wanted or len(body) != wanted:
                raise InputError(f"{path}: a stream unpacks to other than {wanted} bytes")
            parts.append(np.frombuffer(body, np.uint8))
    return np.concatenate(parts) if parts else np.empty(0, np.uint8), layout


def _decode(payload: Bytes, layout: _Layout) -> SplatArrays:
    n = layout.count
    blocks = np.split(payload, np.cumsum(layout.blocks)[:-1])
    position, alpha, color, scale, rotation, rest = (
        block.reshape(n, width) for block, width in zip(blocks, layout.widths, strict=True)
    )
    parts = position.reshape(n, 3, 3).astype(np.int32)
    fixed = parts[..., 0] | (parts[..., 1] << 8) | (parts[..., 2] << 16)
    fixed = (fixed ^ 0x800000) - 0x800000
    dc = (color.astype(np.float32) / 255 - 0.5) / np.float32(COLOR_SLOPE)
    sh_rest = (rest.reshape(n, layout.widths[5] // 3, 3).astype(np.float32) - 128) / 128
    quats = _quats_v2(rotation) if layout.version < 3 else _unpack_quats(rotation)
    return SplatArrays(
        means=(fixed / float(1 << layout.fractional_bits)).astype(np.float32),
        quats_wxyz=quats,
        log_scales=(scale / 16 - 10).astype(np.float32),
        opacity_logits=logit(alpha[:, 0].astype(np.float32) / 255),
        sh=np.concatenate([dc[:, None], sh_rest], axis=1),
    )


def _quats_v2(rotation: Bytes) -> Floats:
    xyz = rotation.astype(np.float32) / 127.5 - 1
    w = np.sqrt(np.clip(1 - (xyz * xyz).sum(axis=1, keepdims=True), 0, None))
    return np.concatenate([w, xyz], axis=1)


def _unpack_quats(rotation: Bytes) -> Floats:
    """w x y z from the three smallest of x y z w: sign and 9-bit size each, last component in the low bits."""
    words = np.ascontiguousarray(rotation).view("<u4")[:, 0].astype(np.uint32)
    largest = (words >> np.uint32(30)).astype(np.intp)
    small = np.empty((len(words), 3), dtype=np.float32)
    for i in range(3):
        field = words >> np.uint32(10 * (2 - i))
        size = (field & np.uint32(511)) / np.float32(511 * math.sqrt(2))
        small[:, i] = np.where(field & np.uint32(512), -size, size)
    others = np.arange(3)[None] + (np.arange(3)[None] >= largest[:, None])
    xyzw = np.empty((len(words), 4), dtype=np.float32)
    np.put_along_axis(xyzw, others, small, axis=1)
    rest = np.sqrt(np.clip(1 - (small * small).sum(axis=1, keepdims=True), 0, None))
    np.put_along_axis(xyzw, largest[:, None], rest.astype(np.float32), axis=1)
    return xyzw[:, [3, 0, 1, 2]]


def _pack_quats(quats_wxyz: Floats) -> Bytes:
    xyzw = unit_quats(quats_wxyz)[:, [1, 2, 3, 0]]
    largest = np.abs(xyzw).argmax(axis=1)
    xyzw = xyzw * np.where(np.take_along_axis(xyzw, largest[:, None], axis=1) < 0, -1, 1)
    others = np.arange(3)[None] + (np.arange(3)[None] >= largest[:, None])
    small = np.take_along_axis(xyzw, others, axis=1)
    sizes = np.clip(np.rint(np.abs(small) * (511 * math.sqrt(2))), 0, 511).astype(np.uint32)
    words = largest.astype(np.uint32)
    for i in range(3):
        negative = (small[:, i] < 0).astype(np.uint32) << np.uint32(9)
        words = (words << np.uint32(10)) | negative | sizes[:, i]
    return words.astype("<u4").view(np.uint8).reshape(-1, 4)


def write_spz(
    arrays: SplatArrays, path: Path, *, axes: Axes = "rub", fractional_bits: int = 12
) -> None:
    """Write .spz version 3.

    Args:
        arrays: the Gaussians.
        path: file to write.
        axes: as in `read_spz`.
        fractional_bits: of a position; 12 = steps of 0.24 mm within +-2048 m.

    Raises:
        InputError: a position does not fit 24 bits.
    """
    if not 0 <= fractional_bits <= 24:
        raise InputError(f"fractional_bits is {fractional_bits}, expected 0 to 24")
    if axes == "rub":
        arrays = flip_yz(arrays)
    payload = b"".join(block.tobytes() for block in _encode(arrays, fractional_bits, str(path)))
    head = _HEADER.pack(MAGIC, 3, len(arrays), arrays.sh_degree, fractional_bits, 0, 0)
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    with atomic_path(path) as temporary:
        temporary.write_bytes(packer.compress(head + payload) + packer.flush())


def _encode(arrays: SplatArrays, fractional_bits: int, where: str) -> list[npt.NDArray[np.uint8]]:
    fixed = np.rint(arrays.means.astype(np.float64) * (1 << fractional_bits))
    if bool((np.abs(fixed) >= 1 << 23).any()):
        limit = (1 << 23) / (1 << fractional_bits)
        raise InputError(
            f"{where}: a Gaussian lies {float(np.abs(arrays.means).max()):.6g} m from the origin, .spz with "
            f"{fractional_bits} fractional bits reaches {limit:.6g} m. Give fewer fractional bits."
        )
    words = fixed.astype("<i4").reshape(-1, 3, 1).view(np.uint8)
    return [
        words[..., :3],
        to_bytes(sigmoid(arrays.opacity_logits) * 255),
        to_bytes((arrays.sh[:, 0] * COLOR_SLOPE + 0.5) * 255),
        to_bytes((arrays.log_scales + 10) * 16),
        _pack_quats(arrays.quats_wxyz),
        to_bytes(arrays.sh[:, 1:] * 128 + 128),
    ]
