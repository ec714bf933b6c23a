"""Image files in, arrays out; every defect of a file becomes an InputError that names it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from pointworld.errors import InputError

_DEPTH_MODES = ("I;16", "I;16B", "I", "L")


def read_rgb(path: Path) -> np.ndarray:
    """Read a colour image as (height, width, 3) uint8.

    Raises:
        InputError: the file is missing, truncated, not an image, or absurdly large.
    """
    with _open(path) as image:
        return np.asarray(_decode(image.convert, path, "RGB"), dtype=np.uint8)


def read_depth_units(path: Path) -> np.ndarray:
    """Read a depth image (height, width) in the units it is stored in: 16-bit PNG or NPY.

    Returns:
        uint16 for PNG (8-bit is widened), float32 or an integer type for NPY.

    Raises:
        InputError: the file is missing, truncated, has several channels or an unsuitable type.
    """
    if path.suffix.lower() == ".npy":
        return _read_npy(path)
    with _open(path) as image:
        if image.mode not in _DEPTH_MODES:
            raise InputError(
                f"{path}: a depth image must have one channel of 16 bits, this one has mode "
                f"'{image.mode}'. Is it a colour image, or depth painted for display?"
            )
        _decode(image.load, path)
        units = np.array(image)
    if units.min(initial=0) < 0 or units.max(initial=0) > 65535:
        raise InputError(f"{path}: depth values lie outside the 16-bit range")
    return units.astype(np.uint16)


def _read_npy(path: Path) -> np.ndarray:
    if not path.is_file():
        raise InputError(f"{path}: the file does not exist")
    try:
        units = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a readable NPY file ({error})") from error
    if not isinstance(units, np.ndarray) or units.ndim != 2 or units.dtype.kind not in "fui":
        raise InputError(
            f"{path}: depth must be one (height, width) array of numbers, got "
            f"{getattr(units, 'shape', '?')} {getattr(units, 'dtype', type(units).__name__)}"
        )
    return units.astype(np.float32) if units.dtype.kind == "f" else units


def _open(path: Path) -> Image.Image:
    if not path.is_file():
        raise InputError(f"{path}: the file does not exist")
    try:
        return Image.open(path)
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not an image file") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be opened as an image ({error})") from error


def _decode(action: object, path: Path, *arguments: str) -> object:
    assert callable(action)
    try:
        return action(*arguments)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path}: the image is truncated or damaged ({error}). Copy it again from its source."
        ) from error
