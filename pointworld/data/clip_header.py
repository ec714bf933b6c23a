"""What a clip file says of itself, without decoding its images: kind, scene, family, robot; and its plain arrays."""

from __future__ import annotations

import errno
import io
import json
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from pointworld.errors import InputError

SIMULATED, LABELLED = "pointworld-clip-1", "pointworld-labelled-1"
_MAX_HEADER = 1 << 24
#: Bytes of all arrays of a clip together, unpacked; a large one has a few million.
_MAX_ARRAYS = 1 << 28
#: How an array of numbers begins. numpy's reader would evaluate this text, and take whatever memory it claims.
_PLAIN_ARRAY = re.compile(
    rb"\x93NUMPY\x01\0..\{'descr': '([<>|](?:b1|[iu][1248]|f[248]))', 'fortran_order': (True|False), "
    rb"'shape': \(([\d, ]{0,99})\), ?\} *\n",
    re.DOTALL,
)
#: What reading a file raises whose bytes are not those that were written.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    KeyError,
    EOFError,
    OverflowError,
    RecursionError,
    NotImplementedError,
)


def is_damage(error: BaseException | None) -> bool:
    """Whether what reading a file raised tells of wrong bytes in it, not of a disk that is away.

    An overwritten directory sends zipfile to places before the start of the file, which the system calls EINVAL.
    """
    return isinstance(error, DAMAGE) or (isinstance(error, OSError) and error.errno == errno.EINVAL)


def read_header(source: str | Path | bytes, where: str | None = None) -> dict[str, Any]:
    """The JSON header of a clip: a file, or its bytes.

    Args:
        where: how to call it in messages.

    Raises:
        InputError: no such file, not a clip, or a header larger than any clip has.
    """
    name = where or (str(source) if not isinstance(source, bytes) else "clip")
    try:
        with zipfile.ZipFile(
            io.BytesIO(source) if isinstance(source, bytes) else source
        ) as archive:
            entry = archive.getinfo("header.npy")
            if entry.file_size > _MAX_HEADER:
                raise zipfile.BadZipFile(f"its header is larger than {_MAX_HEADER} bytes")
            array = _read_array(archive, entry)
        header = json.loads(array.astype(np.uint8).tobytes())
    except (OSError, *DAMAGE) as error:
        raise InputError(f"{name} is not a readable clip ({error})") from error
    if not isinstance(header, dict) or header.get("format") not in (SIMULATED, LABELLED):
        raise InputError(f"{name} is not a clip of a known format ({SIMULATED}, {LABELLED})")
    return header


def read_arrays(source: str | Path, known: re.Pattern[str]) -> dict[str, np.ndarray]:
    """The arrays of a clip file whose names match `known`; what else is in the file stays packed.

    Raises:
        OSError: the file cannot be read now.
        One of `DAMAGE`: cut off, overwritten, no clip, or larger than any clip.
    """
    with zipfile.ZipFile(source) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        entries = {name: entry for name, entry in entries.items() if known.fullmatch(name)}
        size = sum(entry.file_size for entry in entries.values())
        if size > _MAX_ARRAYS:
            raise zipfile.BadZipFile(f"it claims {size} bytes, at most {_MAX_ARRAYS} are read")
        return {name: _read_array(archive, entry) for name, entry in entries.items()}


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """An array of numbers in an archive; no more is unpacked than the directory says."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & 1:
        raise zipfile.BadZipFile(f"'{entry.filename[:80]}' is packed as nothing in a clip is")
    with archive.open(entry) as file:
        data = file.read(entry.file_size)
    match = _PLAIN_ARRAY.match(data)
    if match is None:
        raise ValueError(f"'{entry.filename[:80]}' is no plain array of numbers")
    shape = tuple(int(size) for size in match[3].split(b",") if size.strip())
    flat = np.frombuffer(data, np.dtype(match[1].decode()), offset=match.end())
    return flat.reshape(shape, order="F" if match[2] == b"True" else "C").copy()


def clip_names(source: str | Path | bytes, where: str | None = None) -> dict[str, str]:
    """Format, scene, key, family and robot of a clip.

    The scene is what two clips must not share when one is for training and the other for validation or test: seed and
    index of a simulated clip; for a labelled recording the recording, whatever part of it the clip is.
    """
    header = read_header(source, where)
    name = where or (str(source) if not isinstance(source, bytes) else "clip")
    try:
        kind = str(header["format"])
        if kind == SIMULATED:
            scene = key = f"{int(header['seed'])}/{int(header['index']):06d}"
        else:
            scene, key = str(header["recording"]), str(header["key"])
        return {
            "format": kind,
            "scene": scene,
            "key": key,
            "family": str(header["family"]),
            "robot": str(header["robot"]),
        }
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name}: its header lacks {error}. Make the clip again.") from error
