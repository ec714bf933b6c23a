"""The header of a PLY file: read within fixed bounds, and never trusted before the file's size confirms it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pointworld.errors import InputError
from splat.io.arrays import check_size

#: Headers of splat files are below 3 kB; anything longer is not one.
MAX_HEADER_BYTES = 65536

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass(frozen=True, kw_only=True)
class PlyElement:
    """One block of rows. name: such as vertex. count: rows. dtype: of a row. offset: of the block in the file [B]."""

    name: str
    count: int
    dtype: np.dtype
    offset: int


def read_ply_header(path: Path) -> dict[str, PlyElement]:
    """Elements of a binary PLY file, in file order, by name.

    Raises:
        InputError: no PLY, ASCII, list properties, a broken line, or a file size other than the header implies.
    """
    with path.open("rb") as file:
        head = file.read(MAX_HEADER_BYTES)
    end = re.search(rb"(?:^|\n)end_header\r?\n", head)
    if not head.startswith(b"ply") or end is None:
        raise InputError(
            f"{path} is not a PLY file: expected a header from 'ply' to 'end_header' within its first "
            f"{MAX_HEADER_BYTES} bytes"
        )
    lines = head[: end.start()].decode("ascii", "replace").splitlines()
    order, blocks = _parse(lines[1:], path)
    elements: dict[str, PlyElement] = {}
    offset = end.end()
    for name, count, fields in blocks:
        dtype = np.dtype([(field, order + kind) for field, kind in fields])
        elements[name] = PlyElement(name=name, count=count, dtype=dtype, offset=offset)
        offset += count * dtype.itemsize
    what = ", ".join(f"{count} {name} rows" for name, count, _ in blocks)
    check_size(path, offset, f"a header and {what or 'no rows'}")
    return elements


def _parse(
    lines: list[str], path: Path
) -> tuple[str, list[tuple[str, int, list[tuple[str, str]]]]]:
    order = ""
    blocks: list[tuple[str, int, list[tuple[str, str]]]] = []
    for line in lines:
        words = line.split()
        match words:
            case [] | ["comment" | "obj_info", *_]:
                continue
            case ["format", name, _] if name in _ORDERS:
                order = _ORDERS[name]
            case ["element", name, count] if re.fullmatch(r"[0-9]{1,18}", count):
                if any(name == known for known, _, _ in blocks):
                    raise InputError(f"{path}: element '{name}' is declared twice")
                blocks.append((name, int(count), []))
            case ["property", kind, name] if kind in _TYPES and blocks:
                if any(name == known for known, _ in blocks[-1][2]):
                    raise InputError(f"{path}: property '{name}' is declared twice")
                blocks[-1][2].append((name, _TYPES[kind]))
            case _:
                raise InputError(
                    f"{path}: cannot use the header line '{line[:80]}'. Expected a binary PLY with scalar "
                    "properties, as splatting tools write (not ASCII, no lists)."
                )
    if not order:
        raise InputError(f"{path}: the header has no 'format binary_little_endian 1.0' line")
    return order, blocks


def read_block(path: Path, element: PlyElement) -> np.ndarray:
    """Rows of one element as a read-only memory map (structured array)."""
    if element.count == 0:
        return np.empty(0, element.dtype)
    return np.memmap(path, element.dtype, mode="r", offset=element.offset, shape=(element.count,))


def columns(block: np.ndarray, names: list[str], path: Path) -> np.ndarray:
    """The properties `names` of a block as (rows, len(names)) float32.

    Raises:
        InputError: a property is absent.
    """
    known = block.dtype.names or ()
    missing = [name for name in names if name not in known]
    if missing:
        raise InputError(
            f"{path} has no property {', '.join(missing)}: it is not a Gaussian splat (a mesh or a plain point "
            "cloud?). Expected x y z, f_dc_0..2, opacity, scale_0..2 and rot_0..3."
        )
    out = np.empty((len(block), len(names)), dtype=np.float32)
    for i, name in enumerate(names):
        out[:, i] = block[name]
    return out
