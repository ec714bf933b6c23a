"""Clips in shards: plain tar files that WebDataset reads, with a manifest of checksums, and no pickles.

A shard holds two members per clip, `<index>.npz` (the clip, as in a folder of clips) and `<index>.json` (its key,
family, robot). The bytes of a shard depend on its clips alone. `docs/shards.md` is the reference.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pointworld.data.clip_header import clip_names
from pointworld.errors import InputError
from pointworld.files import atomic_path

FORMAT = "pointworld-shards-1"
MANIFEST = "manifest.json"
MAX_CLIP_BYTES = 1 << 26
_MAX_SHARD_CLIPS = 100_000
_SHARD = re.compile(r"clips-\d{6}\.tar")
_MEMBER = re.compile(r"([A-Za-z0-9_-]{1,80})\.(npz|json)")
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")
_BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """What the manifest says of one shard.

    first: number of the first clip that belongs to it. scenes: the scene key of every clip, in order.
    versions: packages that made it.
    """

    name: str
    sha256: str
    bytes: int
    clips: int
    first: int
    families: Mapping[str, int]
    scenes: tuple[str, ...]
    versions: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def shard_name(number: int) -> str:
    """File name of shard `number`."""
    return f"clips-{number:06d}.tar"


def write_shard(
    path: str | Path,
    clips: Sequence[tuple[str, Path]],
    *,
    first: int = 0,
    versions: Mapping[str, str] | None = None,
) -> ShardEntry:
    """Write clip files as one shard, atomically; the same clips give the same bytes.

    Args:
        clips: (name of the members without suffix, file) of every clip, in order.
        first: number of the first clip.
        versions: packages that made the clips.

    Raises:
        InputError: no clips, a file that is no clip, or a name that cannot be a member.
    """
    if not clips:
        raise InputError(f"{path}: a shard needs at least one clip")
    families: dict[str, int] = {}
    scenes = []
    with (
        atomic_path(path) as temporary,
        tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, source in clips:
            if not _MEMBER.fullmatch(f"{name}.npz"):
                raise InputError(f"{path}: '{name}' cannot be the name of a clip in a shard")
            data = source.read_bytes()
            facts = clip_names(data, str(source))
            families[facts["family"]] = families.get(facts["family"], 0) + 1
            scenes.append(facts["scene"])
            _add(archive, f"{name}.npz", data)
            _add(archive, f"{name}.json", json.dumps(facts, sort_keys=True).encode())
    target = Path(path)
    return ShardEntry(
        name=target.name,
        sha256=file_sha256(target),
        bytes=target.stat().st_size,
        clips=len(clips),
        first=first,
        families=dict(sorted(families.items())),
        scenes=tuple(scenes),
        versions=dict(versions or {}),
    )


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    archive.addfile(info, io.BytesIO(data))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: str | Path) -> tuple[dict[str, Any], tuple[ShardEntry, ...]]:
    """The manifest of a folder of shards: all of it, and its shards in the order of their clips.

    Raises:
        InputError: there is none, it is of another format, or it names files that no shard may have.
    """
    path = local_folder(folder) / MANIFEST
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a readable manifest ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is no manifest of shards (format {FORMAT!r})")
    try:
        entries = [_entry(item) for item in content["shards"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: an entry of 'shards' is not usable ({error})") from error
    if len({entry.name for entry in entries}) != len(entries):
        raise InputError(f"{path}: a shard is listed twice")
    return content, tuple(sorted(entries, key=lambda entry: entry.first))


def _entry(item: Mapping[str, Any]) -> ShardEntry:
    name = str(item["name"])
    if not _SHARD.fullmatch(name):
        raise ValueError(f"'{name[:120]}' is not named clips-NNNNNN.tar")
    entry = ShardEntry(
        name=name,
        sha256=str(item["sha256"]),
        bytes=int(item["bytes"]),
        clips=int(item["clips"]),
        first=int(item["first"]),
        families={str(k): int(v) for k, v in item["families"].items()},
        scenes=tuple(str(scene) for scene in item["scenes"]),
        versions={str(k): str(v) for k, v in item["versions"].items()},
    )
    if not 1 <= entry.clips <= _MAX_SHARD_CLIPS or entry.clips != len(entry.scenes):
        raise ValueError(f"'{name}' has {entry.clips} clips and {len(entry.scenes)} scenes")
    return entry


def is_shard_folder(folder: str | Path) -> bool:
    """Whether the manifest of `folder` is one of shards."""
    path = local_folder(folder) / MANIFEST
    try:
        content = json.loads(path.read_text()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def local_folder(folder: str | Path) -> Path:
    """The folder, if it is one on this machine: commands (`pipe:`) and URLs are refused.

    Raises:
        InputError: it names a command, a URL or a brace pattern.
    """
    text = str(folder)
    if _URL.match(text) or "{" in text:
        raise InputError(
            f"'{text}' is a command, a URL or a brace pattern; clips are read from local folders only"
        )
    return Path(folder)


def shard_problem(folder: Path, entry: ShardEntry) -> str | None:
    """What is wrong with a shard (missing, a link out of the folder, another size or checksum), or None."""
    path = folder / entry.name
    if not path.is_file():
        return "is missing"
    if not path.resolve().is_relative_to(folder.resolve()):
        return "is a link out of its folder"
    status = path.stat()
    if status.st_size != entry.bytes:
        return f"has {status.st_size} bytes, the manifest says {entry.bytes}"
    if _known_sha256(path, status.st_size, status.st_mtime_ns) != entry.sha256:
        return "has another checksum than the manifest says"
    return None


@lru_cache(maxsize=4096)
def _known_sha256(path: Path, size: int, mtime: int) -> str:
    """Hashed once per process as long as size and time stay."""
    return file_sha256(path)


def list_shard_clips(folder: str | Path) -> list[Path]:
    """The clips of a folder of shards, as paths `<folder>/clips-000000.tar/<name>.npz` for `read_member`.

    Every shard is checked against its checksum first, once per process.

    Raises:
        InputError: a shard is missing, damaged or hostile, or the manifest is.
    """
    root = local_folder(folder)
    _, entries = read_manifest(root)
    paths = []
    for entry in entries:
        problem = shard_problem(root, entry)
        if problem is not None:
            raise InputError(
                f"{root / entry.name} {problem}. Give the same pointworld generate command again: it remakes the "
                "shard; or copy it again."
            )
        index = shard_index(root / entry.name)
        if len(index) != entry.clips:
            raise InputError(
                f"{root / entry.name} holds {len(index)} clips, the manifest says {entry.clips}"
            )
        paths += [root / entry.name / f"{name}.npz" for name in index]
    if not paths:
        raise InputError(f"{root} holds no finished shard yet")
    return paths


def shard_index(path: Path) -> Mapping[str, tuple[int, int]]:
    """Where in a shard each clip lies: name -> (offset, bytes), in order.

    Raises:
        InputError: not a plain tar of clips: links, devices, paths, extended headers, sizes that do not add up.
    """
    status = path.stat()
    return _index(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _index(path: Path, total: int, mtime: int) -> Mapping[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    described: set[str] = set()
    end = 0
    try:
        with tarfile.open(path, "r:") as archive:
            while (info := archive.next()) is not None:
                match = _checked(info, path, total, end)
                end = info.offset_data + -(-info.size // _BLOCK) * _BLOCK
                name, kind = match[1], match[2]
                if name in (found if kind == "npz" else described):
                    raise InputError(f"{path}: '{info.name}' is there twice")
                if kind == "npz":
                    found[name] = (info.offset_data, info.size)
                else:
                    described.add(name)
                archive.members.clear()  # type: ignore[attr-defined]
    except (tarfile.TarError, OSError, ValueError, EOFError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a readable uncompressed tar ({error})") from error
    with path.open("rb") as file:
        file.seek(end)
        if file.read().strip(b"\0"):
            raise InputError(
                f"{path}: something that is no member follows byte {end}: a size in it is wrong"
            )
    if described != set(found) or len(found) > _MAX_SHARD_CLIPS:
        raise InputError(f"{path}: not every clip has its .npz and its .json")
    return found


def _checked(info: tarfile.TarInfo, path: Path, total: int, end: int) -> re.Match[str]:
    """The member's name taken apart, after everything a hostile tar could do with it was refused."""
    name = info.name[:120]
    if not info.isreg() or info.issparse() or info.pax_headers:
        kind = "link" if info.issym() or info.islnk() else "special, sparse or extended entry"
        raise InputError(f"{path}: '{name}' is a {kind}; shards hold plain files only")
    match = _MEMBER.fullmatch(info.name)
    if match is None:
        raise InputError(f"{path}: '{name}' is not named <clip>.npz or <clip>.json")
    if info.offset != end or not 0 < info.size <= min(MAX_CLIP_BYTES, total - info.offset_data):
        raise InputError(
            f"{path}: '{name}' claims {info.size} bytes at {info.offset}; the file has {total}, and at most "
            f"{MAX_CLIP_BYTES} are read"
        )
    return match


def member_shard(path: Path) -> Path | None:
    """The shard of a path that `list_shard_clips` gave, or None for an ordinary file."""
    return path.parent if path.parent.suffix == ".tar" and path.parent.is_file() else None


def read_member(path: Path) -> bytes:
    """The bytes of the clip at a path that `list_shard_clips` gave.

    Raises:
        InputError: the shard has no such clip.
    """
    index = shard_index(path.parent)
    if path.suffix != ".npz" or path.stem not in index:
        raise InputError(f"{path.parent} holds no clip '{path.name}'")
    offset, size = index[path.stem]
    with path.parent.open("rb") as file:
        file.seek(offset)
        return file.read(size)
