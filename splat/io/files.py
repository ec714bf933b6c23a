"""One door to every file format: the format is told by content where it shows, else by suffix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pointworld.errors import InputError
from splat.io.arrays import SplatArrays, check_values
from splat.io.glb import Up, write_glb
from splat.io.native import read_native, write_native
from splat.io.ply import read_ply, write_ply
from splat.io.ply_compressed import is_compressed, read_compressed_ply, write_compressed_ply
from splat.io.ply_header import read_ply_header
from splat.io.splat_file import read_splat, write_splat
from splat.io.spz import Axes, is_spz, read_spz, write_spz
from splat.io.usd import write_usda
from splat.types import GaussianScene

READABLE = (".ply", ".splat", ".spz", ".safetensors")
WRITABLE = (".ply", ".compressed.ply", ".splat", ".spz", ".safetensors", ".glb", ".usda")


def read(path: str | Path, *, axes: Axes = "rub") -> GaussianScene:
    """Read Gaussians from a .ply (original or compressed), .splat, .spz or our .safetensors.

    A PLY or .spz is known by its first bytes, whatever its name. Nothing larger than the file itself could hold is
    ever allocated.

    Args:
        path: the file.
        axes: for .spz only, see `splat.io.spz.read_spz`.

    Raises:
        InputError: no such file, no known format, or content that is damaged, truncated or not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        head = file.read(4)
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return read_native(path).scene
    if head[:3] == b"ply":
        elements = read_ply_header(path)
        packed = is_compressed(elements)
        return to_scene(read_compressed_ply(path, elements) if packed else read_ply(path, elements))
    if is_spz(head):
        return to_scene(read_spz(path, axes=axes))
    if suffix == ".splat":
        return to_scene(read_splat(path))
    if suffix in READABLE:
        raise InputError(
            f"{path} is named {suffix} but does not begin like one (first bytes {head!r})"
        )
    raise InputError(
        f"{path}: cannot read '{suffix or head!r}' files, expected {', '.join(READABLE)} "
        "(.glb and .usda are written only)"
    )


def write(scene: GaussianScene, path: str | Path, *, up: Up = "z") -> None:
    """Write Gaussians in the format that the name ends in; .compressed.ply is the packed PLY.

    Only .safetensors keeps features, ids, moving flags and the order of the Gaussians; see docs/splat_files.md for
    the precision of each format. Options of one format are options of its own writer (`write_ply`, `write_spz`, ...).

    Args:
        scene: the Gaussians.
        path: file to write; an existing one is replaced only by a complete new one.
        up: for .glb and .usda, the direction that points up.

    Raises:
        InputError: unknown suffix, values that are not finite, or values that the format cannot hold.
    """
    path = Path(path)
    name = path.name.lower()
    if name.endswith(".safetensors"):
        write_native(scene, path)
        return
    if not name.endswith(WRITABLE):
        raise InputError(f"{path}: cannot write this format, expected {', '.join(WRITABLE)}")
    arrays = to_arrays(scene)
    check_values(arrays, f"scene for {path.name}")
    if name.endswith((".glb", ".usda")) and len(arrays) == 0:
        raise InputError(f"{path}: the scene has no Gaussians, which .glb and .usda cannot hold")
    if name.endswith(".compressed.ply"):
        write_compressed_ply(arrays, path)
    elif name.endswith(".ply"):
        write_ply(arrays, path)
    elif name.endswith(".splat"):
        write_splat(arrays, path)
    elif name.endswith(".spz"):
        write_spz(arrays, path)
    elif name.endswith(".glb"):
        write_glb(arrays, path, up=up)
    else:
        write_usda(arrays, path, up=up)


def to_arrays(scene: GaussianScene) -> SplatArrays:
    """The scene's Gaussians as NumPy float32 (features, ids and moving flags left out)."""

    def array(values: torch.Tensor) -> np.ndarray:
        return np.ascontiguousarray(values.detach().cpu().numpy(), dtype=np.float32)

    return SplatArrays(
        means=array(scene.means),
        quats_wxyz=array(scene.quats_wxyz),
        log_scales=array(scene.log_scales),
        opacity_logits=array(scene.opacity_logits),
        sh=array(scene.sh),
    )


def to_scene(arrays: SplatArrays) -> GaussianScene:
    """A scene of the Gaussians of a file."""

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values))

    return GaussianScene(
        means=tensor(arrays.means),
        quats_wxyz=tensor(arrays.quats_wxyz),
        log_scales=tensor(arrays.log_scales),
        opacity_logits=tensor(arrays.opacity_logits),
        sh=tensor(arrays.sh),
    )
