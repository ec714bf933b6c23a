"""Keeping training, validation and test apart: no scene may be in two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pointworld.data.clip_header import clip_names
from pointworld.data.library import list_clips
from pointworld.data.shards import is_shard_folder, read_manifest
from pointworld.errors import InputError


def scene_keys(folder: str | Path) -> frozenset[str]:
    """The scenes of a data set: "seed/index" of simulated clips, the recording of labelled ones.

    Raises:
        InputError: no clips, or files that are none.
    """
    if is_shard_folder(folder):
        _, entries = read_manifest(folder)
        return frozenset(scene for entry in entries for scene in entry.scenes)
    return frozenset(clip_names(path)["scene"] for path in list_clips(folder))


def require_disjoint(splits: Mapping[str, Sequence[str | Path]]) -> None:
    """Refuse splits that share scenes.

    A simulated scene is drawn from its seed and index, so two sets of one seed share scenes even where other settings
    differ; a recording is one scene however many clips were cut from it.

    Args:
        splits: name ("training", "validation", ...) -> folders.

    Raises:
        InputError: names two splits, two folders and a scene in both.
    """
    owners: dict[str, tuple[str, Path]] = {}
    for split, folders in splits.items():
        for folder in folders:
            keys = scene_keys(folder)
            shared = sorted(key for key in keys if owners.get(key, (split,))[0] != split)
            if shared:
                other, where = owners[shared[0]]
                raise InputError(
                    f"{folder} ({split}) and {where} ({other}) share {len(shared)} of {len(keys)} scenes, the first is "
                    f"'{shared[0]}': the error measured would be that of scenes learned by heart. Generate {split} "
                    "clips with another --seed, or label other recordings."
                )
            owners |= {key: (split, Path(folder)) for key in keys}
