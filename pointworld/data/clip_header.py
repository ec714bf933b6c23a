"""What a clip file says of itself, without decoding its images: kind, scene, family, robot."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from pointworld.errors import InputError

SIMULATED, LABELLED = "pointworld-clip-1", "pointworld-labelled-1"
_MAX_HEADER = 1 << 24
#: What reading a file raises whose bytes are not those that were written.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    KeyError,
    EOFError,
    RecursionError,
    NotImplementedError,
)


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
            if archive.getinfo("header.npy").file_size > _MAX_HEADER:
                raise InputError(f"{name}: its header is larger than {_MAX_HEADER} bytes")
            array = np.lib.format.read_array(
                io.BytesIO(archive.read("header.npy")), allow_pickle=False
            )
        header = json.loads(array.astype(np.uint8).tobytes())
    except (OSError, *DAMAGE) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} is not a readable clip ({error})") from error
    if not isinstance(header, dict) or header.get("format") not in (SIMULATED, LABELLED):
        raise InputError(f"{name} is not a clip of a known format ({SIMULATED}, {LABELLED})")
    return header


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
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{name}: its header lacks {error}. Make the clip again.") from error
