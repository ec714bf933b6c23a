"""Reads clips of the released WebDataset shards: plain local tar files, without the webdataset package.

That package opens `pipe:` commands and URLs and unpickles `.pyd` members; this reader does neither. A shard is a tar of
regular files `<clip id>.<camera>_<modality>.<npy|jpg|pyd>`; anything else in it is refused.
"""

from __future__ import annotations

import io
import json
import math
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from pointworld.data.released import layout
from pointworld.data.released.layout import CAMERA_FIELDS, CLIP_FIELDS, MESH_FIELDS, RawClip
from pointworld.data.released.plain_pickle import loads_plain
from pointworld.errors import InputError

#: The release ignores smaller shards: leftovers of a writer that had nothing to write.
MIN_SHARD_BYTES = 1 << 20
_MAX_MEMBER_BYTES = 1 << 28
_MAX_CLIP_BYTES = 1 << 30
_MAX_MEMBERS = 256
_MAX_NPY_HEADER = 4096
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")
_MEMBER = re.compile(r"([^./\\][^./\\]*)\.([A-Za-z0-9_+-]+)\.(npy|jpg|pyd)")
#: The header of a plain array, as NumPy writes it; evaluating it as Python, as NumPy does, is not needed.
_NPY_HEADER = re.compile(
    rb"\{'descr': '([<>|][A-Za-z]\d{0,4})', 'fortran_order': (True|False), 'shape': \(([\d, ]{0,99})\), ?\}\s*"
)

#: Modalities per camera, longest first, so that the camera's name is what precedes them.
_MODALITIES = sorted({*CAMERA_FIELDS["droid"], *MESH_FIELDS, layout.RGB}, key=len, reverse=True)


def shard_paths(
    root: str | Path, split: str, *, min_bytes: int = MIN_SHARD_BYTES
) -> tuple[Path, ...]:
    """Shards `<root>/<split>/*<split>*.tar` of at least `min_bytes`, sorted.

    Raises:
        InputError: no such folder, a URL or command, a link out of the folder, or no shard.
    """
    folder = local_path(root) / split
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected {root}/{split}/{split}-rank*.tar")
    inside = folder.resolve()
    found = [path for path in sorted(folder.glob("*.tar")) if split in path.name]
    for path in found:
        if not path.resolve().is_relative_to(inside):
            raise InputError(f"{path} is a link out of {folder}; copy the shard there")
    large = tuple(p for p in found if p.is_file() and p.stat().st_size >= min_bytes)
    if not large:
        raise InputError(
            f"{folder} holds no shard of {min_bytes} bytes or more with '{split}' in its name ({len(found)} smaller "
            "ones were left out, as the release does; lower min_bytes to read them)"
        )
    return large


def local_path(path: str | Path) -> Path:
    """The path, if it is one: `pipe:` commands and URLs are refused.

    Raises:
        InputError: `path` names a command or URL.
    """
    text = str(path)
    if _URL.match(text) or "{" in text:
        raise InputError(
            f"'{text}' is a command, a URL or a brace pattern; released data is read from local files only"
        )
    return Path(path)


def dataset_length(root: str | Path, split: str) -> int:
    """Number of clips of a split, summed over `metadata_rank*.json`.

    Raises:
        InputError: there is no such file, or it has no count for this split.
    """
    folder, total = local_path(root), 0
    files = sorted(folder.glob("metadata_rank*.json"))
    if not files:
        raise InputError(f"{folder} holds no metadata_rank*.json")
    for path in files:
        try:
            total += int(_split_entry(json.loads(path.read_text()), split)["processed_count"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{path}: no processed_count for split '{split}' ({error})") from error
    return total


def _split_entry(content: Any, split: str) -> Any:
    return content["splits"][split] if "splits" in content else content[split]


def iterate_shards(paths: Sequence[str | Path]) -> Iterator[RawClip]:
    """All clips of some shards, in their order."""
    for path in paths:
        yield from iterate_shard(path)


def iterate_shard(path: str | Path) -> Iterator[RawClip]:
    """The clips of one shard, in their order.

    Raises:
        InputError: not a plain tar, links, devices, folders or paths in it, damaged, or absurd sizes.
    """
    source = _shard(path)
    with source.open("rb") as stream:
        yield from _clips(_contents(stream, source), source)


@dataclass(frozen=True, slots=True)
class ShardClip:
    """Where a clip lies in a shard: key as written, its domain, and the bytes of its members, headers included."""

    key: str
    domain: str
    offset: int
    size: int


def index_shard(path: str | Path) -> tuple[ShardClip, ...]:
    """The clips of one shard from its headers alone, in their order.

    Raises:
        InputError: as `iterate_shard`, but for what only the contents show.
    """
    source = _shard(path)
    starts: list[tuple[str, str, int]] = []
    done: set[str] = set()
    end = 0
    with source.open("rb") as stream:
        for info, _ in _entries(stream, source, read=False):
            key, field = _member_name(info.name, source)
            if not starts or key != starts[-1][0]:
                _once(key, done, source)
                starts.append((key, "droid", info.offset))
            if "local_scene_points" in field:
                starts[-1] = (key, "behavior", starts[-1][2])
            end = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    edges = [*(offset for _, _, offset in starts), end]
    return tuple(
        ShardClip(key, domain, offset, edges[row + 1] - offset)
        for row, (key, domain, offset) in enumerate(starts)
    )


def read_shard_clip(path: str | Path, place: ShardClip) -> RawClip:
    """One clip of a shard, by its place.

    Raises:
        InputError: as `iterate_shard`, or there is another clip at this place.
    """
    source = _shard(path)
    if place.size > _MAX_CLIP_BYTES:
        raise InputError(f"{source}: clip '{place.key}' has more than {_MAX_CLIP_BYTES} bytes")
    with source.open("rb") as stream:
        stream.seek(place.offset)
        data = stream.read(place.size)
    if len(data) != place.size:
        raise InputError(f"{source}: ends inside clip '{place.key}'. Download it again.")
    found = list(_clips(_contents(io.BytesIO(data), source), source))
    if [clip.key for clip in found] != [layout.canonical_key(place.key)]:
        raise InputError(
            f"{source}: clip '{place.key}' is no longer where the index has it; delete the index"
        )
    return found[0]


def _shard(path: str | Path) -> Path:
    source = local_path(path)
    if not source.is_file():
        raise InputError(f"{source}: no such shard (only local files are read)")
    return source


def _member_name(name: str, source: Path) -> tuple[str, str]:
    """Clip id, and `<field>.<extension>`, of a member."""
    match = _MEMBER.fullmatch(name)
    if match is None:
        raise InputError(
            f"{source}: member '{name[:120]}' is not named <clip id>.<field>.npy, .jpg or .pyd"
        )
    return match[1], f"{match[2]}.{match[3]}"


def _once(key: str, done: set[str], source: Path) -> None:
    if key in done:
        raise InputError(f"{source}: the members of clip '{key}' are not together")
    done.add(key)


def _clips(contents: Iterable[tuple[str, bytes]], source: Path) -> Iterator[RawClip]:
    """Clips of members that come one clip after the other."""
    key, members, size = "", dict[str, bytes](), 0
    done: set[str] = set()
    for name, data in contents:
        found, member = _member_name(name, source)
        if found != key:
            if members:
                yield raw_clip(key, members, str(source))
            key, members, size = found, {}, 0
            _once(key, done, source)
        size += len(data)
        if member in members or len(members) >= _MAX_MEMBERS or size > _MAX_CLIP_BYTES:
            raise InputError(
                f"{source}: clip '{key}' has '{member}' twice, more than {_MAX_MEMBERS} members or "
                f"more than {_MAX_CLIP_BYTES} bytes"
            )
        members[member] = data
    if members:
        yield raw_clip(key, members, str(source))


def _contents(stream: IO[bytes], path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the regular files of an uncompressed tar."""
    return ((info.name, data) for info, data in _entries(stream, path, read=True))


def _entries(
    stream: IO[bytes], path: Path, *, read: bool
) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Headers of the regular files of an uncompressed tar, and their contents where `read`."""
    total, last = stream.seek(0, io.SEEK_END), -1
    stream.seek(0)
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            while (info := archive.next()) is not None:
                _check_member(info, path, total, last)
                last = info.offset
                content = archive.extractfile(info) if read else None
                data = b"" if content is None else content.read()
                if read and len(data) != info.size:
                    raise InputError(f"{path}: ends inside '{info.name[:120]}'. Download it again.")
                archive.members.clear()  # type: ignore[attr-defined]
                yield info, data
    except (tarfile.TarError, OSError, ValueError, EOFError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is not a readable uncompressed tar ({error}). Download it again."
        ) from error


def _check_member(info: tarfile.TarInfo, path: Path, total: int, last: int) -> None:
    name = info.name[:120]
    if not info.isreg() or info.issparse():
        kind = "link" if info.issym() or info.islnk() else "special or sparse entry"
        raise InputError(f"{path}: '{name}' is a {kind}; shards hold regular files only")
    if "/" in info.name or "\\" in info.name or info.name.startswith("."):
        raise InputError(f"{path}: '{name}' is a path; shards hold plain names only")
    if not 0 <= info.size <= min(_MAX_MEMBER_BYTES, total) or info.offset <= last:
        raise InputError(
            f"{path}: '{name}' claims {info.size} bytes; the file has {total}, at most {_MAX_MEMBER_BYTES} are read"
        )


def raw_clip(key: str, members: Mapping[str, bytes], source: str) -> RawClip:
    """Decode and check the members `<field>.<extension>` of one clip."""
    where = f"{source}: {key}"
    domain = "behavior" if any("local_scene_points" in name for name in members) else "droid"
    sizes: dict[str, int] = {}
    fields: dict[str, Any] = {}
    cameras: dict[str, dict[str, Any]] = {}
    camera_sizes: dict[str, dict[str, int]] = {}
    for name, data in members.items():
        field, _, extension = name.rpartition(".")
        at = f"{where}.{name}"
        split = _camera_field(field)
        if split is not None:
            camera, modality = split
            sizes_here = camera_sizes.setdefault(camera, {})
            value = _camera_value(domain, modality, extension, data, at, sizes_here)
            cameras.setdefault(camera, {})[modality] = value
        elif field in CLIP_FIELDS[domain] and extension == "npy":
            fields[field] = read_npy(data, CLIP_FIELDS[domain][field], at, sizes)
        elif field in (layout.JOINT_NAMES, layout.CLIP_ATTRIBUTES) and extension == "pyd":
            fields[field] = loads_plain(data, where=at)
    attributes = _attributes(fields.pop(layout.CLIP_ATTRIBUTES, {}), where)
    _check_complete(domain, fields, cameras, where)
    if domain == "behavior":
        fields[layout.JOINT_NAMES] = _names(fields[layout.JOINT_NAMES], where)
        layout.require_attributes(attributes, where)
        for per_camera in cameras.values():
            layout.check_mesh_sizes(per_camera, where)
    return RawClip(
        key=layout.canonical_key(key),
        domain=domain,
        cameras=dict(sorted(cameras.items())),
        fields=fields,
        attributes=attributes,
        source=source,
    )


def _camera_field(field: str) -> tuple[str, str] | None:
    """Camera and modality of a member, or None for a clip-level one."""
    if not field.startswith("camera_"):
        return None
    for modality in _MODALITIES:
        if field.endswith(f"_{modality}"):
            return field[: -len(modality) - 1], modality
    return None


def _camera_value(
    domain: str, modality: str, extension: str, data: bytes, where: str, sizes: dict[str, int]
) -> Any:
    if modality == layout.RGB:
        if extension != "jpg" or len(data) > layout.MAX_JPEG_BYTES:
            raise InputError(f"{where} is no JPEG, or above {layout.MAX_JPEG_BYTES} bytes")
        return data
    if modality in MESH_FIELDS:
        return _mesh_arrays(modality, extension, data, where, sizes)
    spec = CAMERA_FIELDS[domain].get(modality)
    if spec is None or extension != "npy":
        raise InputError(f"{where}: not a member of a {domain} clip")
    return read_npy(data, spec, where, sizes)


def _mesh_arrays(
    modality: str, extension: str, data: bytes, where: str, sizes: dict[str, int]
) -> dict[str, np.ndarray]:
    """A pickled dictionary mesh -> array; `sizes` holds the points of each mesh across the four dictionaries."""
    value = loads_plain(data, where=where) if extension == "pyd" else None
    if not isinstance(value, dict) or len(value) > layout.MAX_MESHES:
        raise InputError(
            f"{where}: expected a dictionary of at most {layout.MAX_MESHES} meshes in a .pyd"
        )
    for mesh, array in value.items():
        if not isinstance(mesh, str) or not isinstance(array, np.ndarray):
            raise InputError(f"{where}: entry {mesh!r} is no array")
        per_mesh = {"N": sizes[mesh]} if mesh in sizes else {}
        layout.check_claim(
            MESH_FIELDS[modality], array.dtype, array.shape, f"{where}[{mesh}]", per_mesh
        )
        if "N" in per_mesh:
            sizes[mesh] = per_mesh["N"]
    return dict(sorted(value.items()))


def read_npy(data: bytes, spec: layout.FieldSpec, where: str, sizes: dict[str, int]) -> np.ndarray:
    """An array from the bytes of a `.npy` file, after its header was checked against `spec`.

    Raises:
        InputError: not such a file, pickled objects, another dtype or shape, or fewer bytes than claimed.
    """
    start = {1: 10, 2: 12, 3: 12}.get(data[6] if len(data) > 12 else 0, 0)
    length = int.from_bytes(data[8:start], "little")
    header = data[start : start + length] if length <= _MAX_NPY_HEADER else b""
    match = _NPY_HEADER.fullmatch(header) if data.startswith(b"\x93NUMPY") else None
    if match is None:
        raise InputError(f"{where} is not a readable .npy file of one plain array")
    shape = tuple(int(n) for n in match[3].replace(b" ", b"").split(b",") if n)
    try:
        dtype = np.dtype(match[1].decode())
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: unknown dtype {match[1].decode()}") from error
    layout.check_claim(spec, dtype, shape, where, sizes)
    expected, left = math.prod(shape) * dtype.itemsize, len(data) - start - length
    if expected != left:
        raise InputError(f"{where}: its header claims {expected} bytes, {left} are there")
    flat = np.frombuffer(data, dtype, offset=start + length)
    return flat.reshape(shape, order="F" if match[2] == b"True" else "C").copy()


def _attributes(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise InputError(f"{where}: clip_attributes are no dictionary of names")
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in value.items()}


def _names(value: Any, where: str) -> tuple[str, ...]:
    names = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(names, list) or len(names) > layout.MAX_JOINTS:
        raise InputError(f"{where}: joint_names are no list of at most {layout.MAX_JOINTS} names")
    if not all(isinstance(name, str | bytes) for name in names):
        raise InputError(f"{where}: joint_names are not all text")
    return tuple(name.decode() if isinstance(name, bytes) else name for name in names)


def _check_complete(
    domain: str,
    fields: Mapping[str, Any],
    cameras: Mapping[str, Mapping[str, Any]],
    where: str,
) -> None:
    wanted = set(CLIP_FIELDS[domain])
    per_camera = {*CAMERA_FIELDS[domain], layout.RGB}
    if domain == "behavior":
        wanted.add(layout.JOINT_NAMES)
        per_camera |= set(MESH_FIELDS)
    missing = sorted(wanted - set(fields))
    for name, camera in cameras.items():
        missing += [f"{name}_{modality}" for modality in sorted(per_camera - set(camera))]
    if missing or not 1 <= len(cameras) <= layout.MAX_CAMERAS:
        raise InputError(
            f"{where}: a {domain} clip with {len(cameras)} cameras lacks {', '.join(missing[:6]) or 'cameras'}"
        )
