"""Where a data set that is being made goes: single files or shards, continued where an earlier run stopped."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pointworld.data.clip import clip_path, list_clips
from pointworld.data.clip_header import is_damage, read_header
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

log = logging.getLogger(__name__)

CLIPS_FORMAT = "pointworld-clips-1"
#: Not part of what a data set is: they may differ from one run to the next.
_FREE = ("complete", "clips", "shards")
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

    A set that was made before its renderer and version of the generator were recorded, or by another version, can be
    opened, but its target refuses to make clips for it.

    Fewer clips may be asked for than the folder has. Those beyond are left as they are, unread, and the manifest still
    counts them: its number of clips is never below that of the last clip there, and the set is complete when none up to
    it is lacking.

    Args:
        spec: with the renderer that draws all clips ("gl" or "rays") and the version of the generator.
        shard_clips: clips per shard; None for files, or for what the folder has.

    Raises:
        InputError: the folder holds another data set, or the same one in another form.
    """
    old = _old_manifest(root)
    frozen = _why_frozen(root, old, spec)
    if frozen is not None:
        # Such a set is compared by what its manifest does say.
        spec = {**spec, "generator": old.get("generator")}
        if stored_renderer(root) == "auto":
            spec["renderer"] = old.get("renderer")
    if shard_clips is None and is_shard_folder(root):
        shard_clips = int(old["shard_clips"])
    if shard_clips is None:
        _require_same(root, old, {"format": CLIPS_FORMAT, **spec})
        return FileTarget(root, spec, frozen)
    if shard_clips < 1:
        raise InputError(f"a shard of {shard_clips} clips was asked for, expected at least 1")
    if old and old.get("format") == CLIPS_FORMAT:
        raise InputError(
            f"{root} holds single clips. Turn them into shards with: pointworld shards pack {root} --out FOLDER"
        )
    _require_same(root, old, {"format": SHARDS_FORMAT, **spec, "shard_clips": shard_clips})
    return ShardTarget(root, spec, shard_clips, frozen)


def stored_renderer(root: Path) -> str | None:
    """The renderer that the manifest of a data set names ("auto" in old ones), or None where there is no manifest."""
    old = _old_manifest(root)
    return str(old.get("renderer", "auto")) if old else None


def _why_frozen(root: Path, old: Mapping[str, Any], spec: Mapping[str, Any]) -> str | None:
    """Why clips made now could differ from those that are there, and what to do; None where they cannot."""
    if not old:
        return None
    if "generator" not in old or old.get("renderer") == "auto":
        found = (
            "its manifest does not say which version of the generator and which renderer made it"
        )
    elif old["generator"] != spec["generator"]:
        found = f"version {old['generator']} of the generator made it, this is version {spec['generator']}"
    else:
        return None
    return (
        f"{root / MANIFEST}: {found}, so clips made now could differ from those that are there. They can be read, but "
        "the set can be neither extended nor repaired: make a new one with another --out (or, to add to it, another "
        "--seed too), or remove the folder."
    )


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
    """A folder of clip files. `clips` is where clips are written.

    Args:
        frozen: why no clip may be added to the set, or None.
    """

    def __init__(self, root: Path, spec: Mapping[str, Any], frozen: str | None) -> None:
        self.clips, self._spec, self._frozen = root, spec, frozen
        self._count = int(spec["clips"])
        self._damaged: list[Path] = []

    def start(self) -> list[int]:
        """Write the manifest of a set being made; returns the numbers of the clips asked for that are not there.

        A clip file that cannot be read is removed, and counts as not there. Files beyond the number of clips asked for
        are left as they are.

        Raises:
            InputError: clips are missing or damaged, and the set is one that cannot be extended.
        """
        missing, self._damaged = _lacking(self.clips, range(self._spec["clips"]))
        _require_extendable(self._frozen, bool(missing))
        _remove(self._damaged)
        self._count = max([self._count, *(number + 1 for number in _numbers(self.clips))])
        self._write()
        return missing

    def made(self, index: int) -> None:
        """Clip `index` has been written."""

    def finish(self) -> None:
        """All clips have been written."""
        self._write()

    def summary(self) -> dict[str, Any]:
        """Which clip files were made again because they were damaged."""
        return {"remade_clips": _names(self._damaged, self.clips)}

    def _write(self) -> None:
        if self._frozen is None:
            complete = len(_numbers(self.clips)) == self._count
            spec = {**self._spec, "clips": self._count}
            manifest = {"format": CLIPS_FORMAT, "complete": complete, **spec}
            write_json(self.clips / MANIFEST, manifest)


def _numbers(folder: Path) -> set[int]:
    """Numbers of the clip files in a folder."""
    paths = folder.glob("[0-9][0-9][0-9][0-9]/[0-9]*.npz")
    return {int(path.stem) for path in paths if path.stem.isdecimal()}


def _lacking(folder: Path, numbers: range) -> tuple[list[int], list[Path]]:
    """Which clips are not there as whole files, and the files among them that are there but damaged."""
    missing, damaged = [], []
    for number in numbers:
        path = clip_path(folder, number)
        if not path.is_file():
            missing.append(number)
        elif _is_damaged(path):
            missing.append(number)
            damaged.append(path)
    return missing, damaged


def _is_damaged(path: Path) -> bool:
    """Whether the directory or the header of a clip file is cut off or overwritten.

    Raises:
        InputError: it may be whole, but cannot be read now (a disk that is away), or is of another version's format.
    """
    try:
        read_header(path)
    except InputError as error:
        if is_damage(error.__cause__):
            return True
        raise
    return False


def _remove(damaged: list[Path]) -> None:
    for path in damaged:
        log.warning("%s is damaged: it is removed, and made again", path)
        path.unlink()


def _names(paths: list[Path], folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in paths]


def _require_extendable(frozen: str | None, incomplete: bool) -> None:
    if frozen is not None and incomplete:
        raise InputError(frozen)


class ShardTarget:
    """A folder of shards. Clips are collected as files in `clips`, a folder inside, until their shard is complete.

    Args:
        frozen: why no clip may be added to the set, or None.
    """

    def __init__(
        self, root: Path, spec: Mapping[str, Any], shard_clips: int, frozen: str | None
    ) -> None:
        self.root, self.clips = root, root / ".clips"
        self._spec, self._size, self._frozen = spec, shard_clips, frozen
        self._count = int(spec["clips"])
        self._entries: dict[int, ShardEntry] = {}
        self._remade: list[str] = []
        self._damaged: list[Path] = []

    def start(self) -> list[int]:
        """Check the shards of the clips asked for, pack what can be packed; returns the numbers of missing clips.

        A shard that is missing or damaged is forgotten and will be made again, as is a damaged clip file; a shard that
        the set has outgrown is taken apart. Shards beyond the number of clips asked for are left as they are; one that
        reaches beyond it is made again as it was, whole.

        Raises:
            InputError: shards are missing, damaged or too small, and the set is one that cannot be extended.
        """
        bad, outgrown = [], []
        # Before the clips that are there beyond them are counted.
        numbers = self._shards()
        entries = read_manifest(self.root)[1] if is_shard_folder(self.root) else ()
        self._count = max([self._count, *(entry.first + entry.clips for entry in entries)])
        for entry in entries:
            number = entry.first // self._size
            if number not in numbers:
                self._entries[number] = entry
            elif shard_problem(self.root, entry) is not None:
                bad.append(entry)
            elif entry.clips >= len(self._range(number)):
                self._entries[number] = entry
            else:
                outgrown.append(entry)
        _require_extendable(self._frozen, any(number not in self._entries for number in numbers))
        for entry in bad:
            self._remade.append(entry.name)
            (self.root / entry.name).unlink(missing_ok=True)
        for entry in outgrown:
            self._take_apart(entry)
        self._write(complete=False)
        missing = []
        for number in numbers:
            if number not in self._entries:
                lacking, damaged = _lacking(self.clips, self._range(number))
                _remove(damaged)
                missing += lacking
                self._damaged += damaged
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
        if all(self._is_packed(index) for index in _numbers(self.clips)):
            shutil.rmtree(self.clips, ignore_errors=True)
        last = (self._range(number)[-1] for number in self._shards())
        self._write(complete=all(self._is_packed(index) for index in last))

    def summary(self) -> dict[str, Any]:
        """How many shards there are, and what was made again because it was missing or damaged."""
        return {
            "shards": len(self._entries),
            "remade_shards": self._remade,
            "remade_clips": _names(self._damaged, self.clips),
        }

    def _shards(self) -> range:
        return range(-(-self._count // self._size))

    def _range(self, number: int) -> range:
        first = number * self._size
        return range(first, min(first + self._size, self._count))

    def _is_packed(self, index: int) -> bool:
        """Whether a clip is in a shard; one that is not belongs to a longer set that was begun."""
        entry = self._entries.get(index // self._size)
        return entry is not None and index < entry.first + entry.clips

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
        if self._frozen is not None:
            return
        shards = [self._entries[number].as_json() for number in sorted(self._entries)]
        manifest = {
            "format": SHARDS_FORMAT,
            "complete": complete,
            **self._spec,
            "clips": self._count,
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
    old = _old_manifest(folder)
    manifest = old | {
        "format": SHARDS_FORMAT,
        # Labelled recordings say nothing of it: they are never half made.
        "complete": old.get("complete", True),
        "shard_clips": shard_clips,
        "shards": [entry.as_json() for entry in entries],
    }
    write_json(target / MANIFEST, manifest)
    return tuple(entries)
