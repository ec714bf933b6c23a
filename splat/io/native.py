"""Our own lossless file: every tensor of a GaussianScene, and whatever belongs to it, as .safetensors.

Tensors: means, quats_wxyz, log_scales, opacity_logits, sh, and where present features, ids, moving, background. Further
tensors and text (a feature decoder, where the scene came from) are kept under the names the caller gives them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pointworld.errors import InputError
from pointworld.files import atomic_path
from splat.types import GaussianScene

FORMAT = "pointworld.gaussians"
VERSION = "1"
#: The header of such a file names a few tensors; a longer one is refused before it is parsed.
MAX_HEADER_BYTES = 1 << 20

_REQUIRED = ("means", "quats_wxyz", "log_scales", "opacity_logits", "sh")
_OPTIONAL = ("features", "ids", "moving", "background")


@dataclass(frozen=True, kw_only=True, eq=False)
class NativeFile:
    """scene: the Gaussians. tensors: further tensors by name. metadata: text by name."""

    scene: GaussianScene
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


def write_native(
    scene: GaussianScene,
    path: Path,
    *,
    tensors: Mapping[str, torch.Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `scene` bit for bit.

    Args:
        scene: the Gaussians.
        path: file to write.
        tensors: further tensors; names must differ from the scene's.
        metadata: further text; the names `format` and `version` are taken.

    Raises:
        InputError: a name is taken.
    """
    extra, text = dict(tensors or {}), dict(metadata or {})
    taken = ({*_REQUIRED, *_OPTIONAL} & extra.keys()) | ({"format", "version"} & text.keys())
    if taken:
        raise InputError(f"{path}: the names {sorted(taken)} belong to the scene, choose others")
    table = {name: getattr(scene, name) for name in (*_REQUIRED, *_OPTIONAL)}
    table |= extra
    kept = {k: v.detach().cpu().contiguous().clone() for k, v in table.items() if v is not None}
    with atomic_path(path) as temporary:
        save_file(kept, temporary, metadata={"format": FORMAT, "version": VERSION, **text})


def read_native(path: Path) -> NativeFile:
    """Read a file of `write_native`.

    Raises:
        InputError: another kind of file, damaged, or its tensors are no scene.
    """
    _check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            if metadata.pop("format", None) != FORMAT:
                raise InputError(f"{path} is a safetensors file, but holds no Gaussian scene")
            version = metadata.pop("version", None)
            if version != VERSION:
                raise InputError(f"{path} is of version {version}, expected {VERSION}")
            names = set(file.keys())
            missing = [name for name in _REQUIRED if name not in names]
            if missing:
                raise InputError(f"{path} has no tensor {', '.join(missing)}")
            table = {name: file.get_tensor(name) for name in sorted(names)}
    except SafetensorError as error:
        raise InputError(f"{path} is damaged or truncated ({error})") from error
    fields = {name: table.pop(name) for name in (*_REQUIRED, *_OPTIONAL) if name in table}
    for name, values in fields.items():
        if name not in ("ids", "moving") and not (
            values.is_floating_point() and bool(torch.isfinite(values).all())
        ):
            raise InputError(f"{path}: '{name}' holds NaN, infinity or no floating-point numbers")
    try:
        scene = GaussianScene(**fields)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return NativeFile(scene=scene, tensors=table, metadata=metadata)


def _check_header(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if len(head) < 8 or length > size - 8:
        raise InputError(f"{path} is truncated or not a safetensors file")
    if length > MAX_HEADER_BYTES:
        raise InputError(
            f"{path} has a header of {length} bytes, a Gaussian scene needs less than {MAX_HEADER_BYTES}"
        )
