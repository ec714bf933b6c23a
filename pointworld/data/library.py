"""One door to clips, however they are kept: a folder of files or a folder of shards, simulated or labelled."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pointworld.data import clip as files
from pointworld.data.clip import Clip
from pointworld.data.clip_header import LABELLED, SIMULATED, read_header
from pointworld.data.shards import (
    is_shard_folder,
    list_shard_clips,
    local_folder,
    member_shard,
    read_member,
)
from pointworld.errors import InputError


def list_clips(folder: str | Path) -> list[Path]:
    """All finished clips of a data set, ordered by index; the set may still be growing.

    A clip in a shard has the path `<folder>/clips-000000.tar/<name>.npz`; read it with `read_clip`.

    Raises:
        InputError: the folder does not exist or holds no clip, or a shard is damaged.
    """
    root = local_folder(folder)
    return list_shard_clips(root) if is_shard_folder(root) else files.list_clips(root)


def read_clip(path: str | Path) -> Clip:
    """Read a simulated clip at a path that `list_clips` gave.

    Raises:
        InputError: no such file, not a simulated clip, truncated, or inconsistent.
    """
    with clip_file(path) as file:
        kind = clip_format(file)
        if kind != SIMULATED:
            raise InputError(
                f"{file} is a labelled recording ({kind}). It can train a model; what needs the true motion of every "
                "body, as evaluation against baselines does, takes simulated clips. See docs/finetuning.md."
            )
        return files.read_clip(file)


def iterate_clips(folder: str | Path) -> Iterator[Clip]:
    """Read the clips of a data set one after the other."""
    for path in list_clips(folder):
        yield read_clip(path)


def clip_format(path: str | Path) -> str:
    """`SIMULATED` or `LABELLED`.

    Raises:
        InputError: not a clip.
    """
    with clip_file(path) as file:
        kind = str(read_header(file)["format"])
    assert kind in (SIMULATED, LABELLED)
    return kind


@contextmanager
def clip_file(path: str | Path) -> Iterator[Path]:
    """A file with the clip at `path`: the file itself, or a copy of a shard's member for as long as it is needed."""
    source = Path(path)
    if member_shard(source) is None:
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="pointworld-") as folder:
        copy = Path(folder) / source.name
        copy.write_bytes(read_member(source))
        try:
            yield copy
        except InputError as error:
            raise InputError(str(error).replace(str(copy), str(source))) from error
