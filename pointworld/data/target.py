"""Where a data set that is being made goes: single files or shards, continued where an earlier run stopped."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pointworld.data.clip import clip_path, list_clips
from pointworld.data.shards import FORMAT as SHARDS_FORMAT
from pointworld.data.shards import (
    MANIFEST,
    ShardEntry,
    is_shard_folder,
    local_folder,
    read_manifest,
    read_member,
    shard_index,
    shard_name,
    shard_problem,
    write_shard,
)
from pointworld.data.tabletop import TabletopConfig
from pointworld.errors import InputError
from pointworld.files import atomic_path, write_json

CLIPS_FORMAT = "pointworld-clips-1"
#: Not part of what a data set is: they may differ from one run to the next.
_FREE = ("complete", "clips", "renderer", "shards")
_VERSIONED = ("pointworld-open", "mujoco", "numpy")


def package_versions() -> dict[str, str]:
    """Versions of the packages that the contents of a clip depend on."""
    found = {}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def open_target(
    root: Path, spec: Mapping[str, Any], *, shard_clips: int | None
) -> FileTarget | ShardTarget:
    """The target for the data set `spec` (a `DatasetSpec` as a mapping) in `root`.

    Args:
        shard_clips: clips per shard; None for files, or for what the folder has.

    Raises:
        InputError: the folder holds another data set, or the same one in another form.
    """
    old = _old_manifest(root)
    if shard_clips is None and is_shard_folder(root):
        shard_clips = int(old["shard_clips"])
    if shard_clips is None:
        _require_same(root, old, {"format": CLIPS_FORMAT, **spec})
        return FileTarget(root, spec)
    if shard_clips < 1:
        raise InputError(f"a shard of {shard_clips} clips was asked for, expected at least 1")
    if old and old.get("format") == CLIPS_FORMAT:
        raise InputError(
            f"{root} holds single clips. Turn them into shards with: pointworld shards pack {root} --out FOLDER"
        )
    _require_same(root, old, {"format": SHARDS_FORMAT, **spec, "shard_clips": shard_clips})
    return ShardTarget(root, spec, shard_clips)


def _old_manifest(root: Path) -> dict[str, Any]:
    path = root / MANIFEST
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path} is not a readable manifest ({error}). Choose another --out."
        ) from error


def _require_same(root: Path, old: dict[str, Any], new: Mapping[str, Any]) -> None:
    if not old:
        return
    wanted = json.loads(json.dumps(new))
    # Settings that were added since then had their defaults.
    defaults = json.loads(json.dumps(asdict(TabletopConfig())))
    old = old | {"tabletop": defaults | old.get("tabletop", {})}
    different = [name for name in wanted if name not in _FREE and old.get(name) != wanted[name]]
    if different:
        raise InputError(
            f"{root} holds a data set made with another {', '.join(different)}. Choose another --out, or remove it."
        )


class FileTarget:
    """A folder of clip files. `clips` is where clips are written."""

    def __init__(self, root: Path, spec: Mapping[str, Any]) -> None:
        self.clips, self._spec = root, spec

    def start(self) -> list[int]:
        """Write the manifest of a set being made; returns the numbers of the clips that are not there."""
        missing = [i for i in range(self._spec["clips"]) if not clip_path(self.clips, i).is_file()]
        self._write(complete=not missing)
        return missing

    def made(self, index: int) -> None:
        """Clip `index` has been written."""

    def finish(self) -> None:
        """All clips have been written."""
        self._write(complete=True)

    def summary(self) -> dict[str, Any]:
        """What the run's summary says of the files."""
        return {}

    def _write(self, *, complete: bool) -> None:
        manifest = {"format": CLIPS_FORMAT, "complete": complete, **self._spec}
        write_json(self.clips / MANIFEST, manifest)


class ShardTarget:
    """A folder of shards. Clips are collected as files in `clips`, a folder inside, until their shard is complete."""

    def __init__(self, root: Path, spec: Mapping[str, Any], shard_clips: int) -> None:
        self.root, self.clips = root, root / ".clips"
        self._spec, self._size = spec, shard_clips
        self._entries: dict[int, ShardEntry] = {}
        self._remade: list[str] = []

    def start(self) -> list[int]:
        """Check the shards that are there, pack what can be packed; returns the numbers of missing clips.

        A shard that is missing or damaged is forgotten and will be made again; one that the set has outgrown is
        taken apart.
        """
        for entry in read_manifest(self.root)[1] if is_shard_folder(self.root) else ():
            number = entry.first // self._size
            if shard_problem(self.root, entry) is not None:
                self._remade.append(entry.name)
                (self.root / entry.name).unlink(missing_ok=True)
            elif entry.clips >= len(self._range(number)):
                self._entries[number] = entry
            else:
                self._take_apart(entry)
        self._write(complete=False)
        missing = []
        for number in range(-(-self._spec["clips"] // self._size)):
            if number not in self._entries:
                lacking = [i for i in self._range(number) if not clip_path(self.clips, i).is_file()]
                missing += lacking
                if not lacking:
                    self._pack(number)
        return missing

    def made(self, index: int) -> None:
        """Clip `index` has been written; its shard is written if it was the last."""
        number = index // self._size
        if all(clip_path(self.clips, i).is_file() for i in self._range(number)):
            self._pack(number)

    def finish(self) -> None:
        """All clips have been written."""
        shutil.rmtree(self.clips, ignore_errors=True)
        self._write(complete=True)

    def summary(self) -> dict[str, Any]:
        """How many shards there are, and which were made again because they were missing or damaged."""
        return {"shards": len(self._entries), "remade_shards": self._remade}

    def _range(self, number: int) -> range:
        first = number * self._size
        return range(first, min(first + self._size, self._spec["clips"]))

    def _pack(self, number: int) -> None:
        clips = [(f"{i:06d}", clip_path(self.clips, i)) for i in self._range(number)]
        self._entries[number] = write_shard(
            self.root / shard_name(number),
            clips,
            first=number * self._size,
            versions=package_versions(),
        )
        self._write(complete=False)
        for _, path in clips:
            path.unlink()

    def _take_apart(self, entry: ShardEntry) -> None:
        path = self.root / entry.name
        for name in shard_index(path):
            with atomic_path(clip_path(self.clips, int(name))) as temporary:
                temporary.write_bytes(read_member(path / f"{name}.npz"))

    def _write(self, *, complete: bool) -> None:
        shards = [self._entries[number].as_json() for number in sorted(self._entries)]
        manifest = {
            "format": SHARDS_FORMAT,
            "complete": complete,
            **self._spec,
            "shard_clips": self._size,
            "shards": shards,
        }
        write_json(self.root / MANIFEST, manifest)


def pack_clips(
    source: str | Path,
    out: str | Path,
    *,
    shard_clips: int,
    advance: Callable[[int], None] | None = None,
) -> tuple[ShardEntry, ...]:
    """Copy a folder of clip files into shards; what `source` says of its making stays in the new manifest.

    Args:
        advance: called with the number of clips of every finished shard.

    Raises:
        InputError: no clips, shards already, or `out` holds something.
    """
    folder, target = local_folder(source), local_folder(out)
    if shard_clips < 1:
        raise InputError(f"a shard of {shard_clips} clips was asked for, expected at least 1")
    if is_shard_folder(folder):
        raise InputError(f"{folder} holds shards already")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is not an empty folder. Choose another --out.")
    groups: dict[int, list[Path]] = {}
    for path in list_clips(folder):
        groups.setdefault(int(path.stem) // shard_clips, []).append(path)
    entries = []
    for number, paths in sorted(groups.items()):
        clips = [(path.stem, path) for path in paths]
        name = target / shard_name(number)
        entries.append(
            write_shard(name, clips, first=number * shard_clips, versions=package_versions())
        )
        if advance is not None:
            advance(len(clips))
    manifest = _old_manifest(folder) | {
        "format": SHARDS_FORMAT,
        "complete": True,
        "shard_clips": shard_clips,
        "shards": [entry.as_json() for entry in entries],
    }
    write_json(target / MANIFEST, manifest)
    return tuple(entries)
