"""Where every clip of a folder of released data lies, so that any of them can be read on its own.

Finding out opens every H5 file, and reads the headers of every shard; the result is kept in a file for the next run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from pointworld.data.released.h5 import h5_files, read_episode, read_h5_clip
from pointworld.data.released.layout import RawClip, canonical_key, clip_id
from pointworld.data.released.manifest import SplitManifest, local_manifest, read_integrity
from pointworld.data.released.wds import (
    MIN_SHARD_BYTES,
    ShardClip,
    index_shard,
    local_path,
    read_shard_clip,
    shard_paths,
)
from pointworld.errors import InputError
from pointworld.files import atomic_path

FORMAT = "pointworld-released-index-1"
#: Result of the release's check of H5 files, in their folder.
INTEGRITY = "integrity_check.json"
#: New files after which the index is written again: an interruption costs no more.
_SAVE_EVERY = 500


@dataclass(frozen=True, slots=True)
class ClipPlace:
    """One clip: canonical id, domain, file, and where in it: a step range `start:end` of an H5 file, or bytes."""

    key: str
    domain: str
    path: Path
    place: str | ShardClip

    def read(self) -> RawClip:
        """The clip as stored.

        Raises:
            InputError: damaged, not of the released layout, or changed since it was found.
        """
        if isinstance(self.place, str):
            return read_h5_clip(self.path, self.place)
        return read_shard_clip(self.path, self.place)


@dataclass(frozen=True, kw_only=True)
class SplitPlaces:
    """Clips of a folder, sorted by id, so that both containers give one order.

    by_split: split -> clips. manifest: the split of H5 files that no list was given for; None otherwise.
    """

    by_split: Mapping[str, tuple[ClipPlace, ...]]
    manifest: SplitManifest | None = None


def find_clips(
    folder: str | Path,
    splits: Sequence[str],
    *,
    manifests: Mapping[str, SplitManifest] | None = None,
    min_shard_bytes: int = MIN_SHARD_BYTES,
    index: Path | None = None,
    workers: int = 1,
    on_progress: Callable[[int], None] | None = None,
) -> SplitPlaces:
    """The clips of shards `<folder>/<split>/*.tar`, or else of every H5 file at or below `folder`, by split.

    With `<folder>/integrity_check.json`, as the release's check writes it, clips of H5 files count only if it calls
    them valid.

    Args:
        splits: which are wanted. H5 files have none of their own: they are split by `manifests`, else by the release's
            rule for local data (`local_split`) into train and test.
        manifests: by domain; only clips that a manifest puts into the split count, in shards too.
        index: file in which what was found is kept; entries of files that changed are made again.
        workers: files that are read at the same time.
        on_progress: called with 1 after every file.

    Raises:
        InputError: no released data, no such split, a split without clips, or a clip twice.
    """
    root = local_path(folder)
    lists = manifests or {}
    finder = _Finder(root, index, workers, on_progress or (lambda _: None))
    if shard_splits(root):
        places = {
            split: finder.find(_shards_of(root, split, min_shard_bytes), _shard_entries)
            for split in splits
        }
        made = None
    else:
        files = h5_files(root)
        if not files:
            raise InputError(
                f"{root} holds no released data: neither shards <folder>/<split>/*.tar nor H5 files"
            )
        everything = _valid(finder.find(files, _h5_entries), root)
        require_unique(everything)
        made = _local(everything, lists, splits)
        places = dict.fromkeys(splits, everything)
        lists = lists if made is None else {made.domain: made}
    chosen = {split: _selected(found, split, lists, root) for split, found in places.items()}
    return SplitPlaces(by_split=chosen, manifest=made)


def shard_splits(root: Path) -> list[str]:
    """Names of the folders of shards below `root`."""
    if not root.is_dir():
        return []
    return sorted(p.name for p in root.iterdir() if p.is_dir() and any(p.glob("*.tar")))


def _shards_of(root: Path, split: str, min_bytes: int) -> Sequence[Path]:
    known = shard_splits(root)
    if split not in known:
        raise InputError(
            f"{root} has no split '{split}' with shards; it has {', '.join(known)}. Name the split that you mean."
        )
    return shard_paths(root, split, min_bytes=min_bytes)


def _valid(places: list[ClipPlace], root: Path) -> list[ClipPlace]:
    """The clips that the folder's integrity check calls valid; all without one. Files are known by their names."""
    path = root / INTEGRITY
    if not path.is_file():
        return places
    domains = {place.domain for place in places}
    listed = {
        (domain, clip_id(PurePath(file), clip, domain))
        for file, clip in read_integrity(path)
        for domain in domains
    }
    found = [place for place in places if (place.domain, place.key) in listed]
    if not found:
        raise InputError(
            f"{path} calls none of the {len(places)} clips beside it valid: it is of other data; move it away"
        )
    return found


def _local(
    places: Sequence[ClipPlace], manifests: Mapping[str, SplitManifest], splits: Sequence[str]
) -> SplitManifest | None:
    """The split of H5 files that no manifest splits."""
    domains = {place.domain for place in places}
    if domains & set(manifests):
        if lacking := sorted(domains - set(manifests)):
            raise InputError(
                f"these H5 files also hold clips of {', '.join(lacking)}, which no list of clips splits: give a list "
                "of each domain, or one folder per domain"
            )
        return None
    if not set(splits) <= {"train", "test"}:
        raise InputError(
            f"H5 files without a list of clips are split into train and test, not into {', '.join(splits)}"
        )
    if len(domains) != 1:
        raise InputError(
            f"these H5 files hold clips of the domains {', '.join(sorted(domains)) or 'none'}; "
            "give one folder per domain"
        )
    return local_manifest(domains.pop(), [place.key for place in places])


def _selected(
    places: Sequence[ClipPlace], split: str, manifests: Mapping[str, SplitManifest], root: Path
) -> tuple[ClipPlace, ...]:
    """Clips of the split by their domain's manifest where there is one, sorted by id."""
    found = [
        place
        for place in places
        if place.domain not in manifests or manifests[place.domain].split_of(place.key) == split
    ]
    if not found:
        raise InputError(
            f"{root}: none of {len(places)} clips is in the split '{split}'"
            + (
                "; the list of clips (manifest) names none of them"
                if manifests
                else ", which takes one in ten"
            )
        )
    require_unique(found)
    return tuple(sorted(found, key=lambda place: place.key))


def require_unique(places: Sequence[ClipPlace]) -> None:
    """Refuse clips that are there twice.

    Raises:
        InputError: an id of a domain comes twice, as in an H5 file and a shard made from it.
    """
    counts = Counter((place.domain, place.key) for place in places)
    again = {name for name, count in counts.items() if count > 1}
    if again:
        one = min(again)
        where = sorted({str(p.path) for p in places if (p.domain, p.key) == one})
        raise InputError(
            f"{len(again)} clips are there twice, as {one[1]} in {' and '.join(where)}; give every clip once"
        )


class _Finder:
    """Finds the clips of files, from the index where they have not changed since."""

    def __init__(
        self, root: Path, index: Path | None, workers: int, on_progress: Callable[[int], None]
    ) -> None:
        self.root = root if root.is_dir() else root.parent
        self.index, self.workers, self.on_progress = index, max(workers, 1), on_progress
        self.known = {} if index is None else read_index(index)

    def find(
        self, files: Sequence[Path], entries: Callable[[Path], list[list[Any]]]
    ) -> list[ClipPlace]:
        """Clips of all files; `entries` reads those of one as JSON-ready rows."""
        # Before they are read: a file that changes meanwhile is read again next time.
        stamps = {path: _stamp(path) for path in files}
        stale = [p for p in files if self.known.get(self._name(p), {}).get("of") != stamps[p]]
        with ThreadPoolExecutor(self.workers) as pool:
            for number, (path, rows) in enumerate(
                zip(stale, pool.map(entries, stale), strict=True)
            ):
                self.known[self._name(path)] = {"of": stamps[path], "clips": rows}
                self.on_progress(1)
                if number % _SAVE_EVERY == _SAVE_EVERY - 1:
                    self._save()
        if stale:
            self._save()
        return [
            _place(row, path) for path in files for row in self.known[self._name(path)]["clips"]
        ]

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def _save(self) -> None:
        if self.index is None:
            return
        self.index.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.index) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, "files": self.known}) + "\n")


def read_index(path: Path) -> dict[str, dict[str, Any]]:
    """Files of an index: size and time of change (`of`), and rows of `clips`; empty if there is no index yet.

    Raises:
        InputError: it is no index.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"format is {content['format']!r}, expected {FORMAT!r}")
        return dict(content["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no index of released data ({error}); delete it") from error


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _h5_entries(path: Path) -> list[list[Any]]:
    episode = read_episode(path)
    return [[episode.domain, clip] for clip in episode.clips]


def _shard_entries(path: Path) -> list[list[Any]]:
    return [[clip.domain, clip.key, clip.offset, clip.size] for clip in index_shard(path)]


def _place(row: Sequence[Any], path: Path) -> ClipPlace:
    domain, name, *where = row
    if not where:
        return ClipPlace(clip_id(path, name, domain), domain, path, name)
    return ClipPlace(canonical_key(name), domain, path, ShardClip(name, domain, *where))
