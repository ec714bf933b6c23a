"""Reads clips of the released H5 files: one file per episode, one group per clip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pointworld.data.released import layout
from pointworld.data.released.layout import (
    CAMERA_FIELDS,
    CLIP_FIELDS,
    EXTRA_CLIP_FIELDS,
    MESH_FIELDS,
    RawClip,
)
from pointworld.data.released.safe_hdf5 import (
    child_group,
    member_names,
    open_hdf5,
    read_array,
    read_attributes,
    read_bytes,
    read_strings,
)
from pointworld.errors import InputError

if TYPE_CHECKING:
    import h5py

_CAMERA_PREFIX = "camera_"
#: In the names of H5 files that hold no clips.
_BESIDE = ("_depth", "_extrinsics", "expert_confidence")


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One released H5 file: its domain, its clips by step range, and its root attributes."""

    path: Path
    domain: str
    clips: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def keys(self) -> tuple[str, ...]:
        """Canonical ids of the clips."""
        return tuple(layout.clip_id(self.path, clip, self.domain) for clip in self.clips)


def h5_files(root: str | Path) -> list[Path]:
    """The H5 files with clips at or below `root`, sorted; not the depth videos, camera poses and lists beside them.

    Raises:
        InputError: a file in the folder is a link out of it.
    """
    folder = Path(root)
    if folder.is_file():
        return [folder]
    inside = folder.resolve()
    every = sorted(path for suffix in ("*.h5", "*.hdf5") for path in folder.rglob(suffix))
    found = [path for path in every if not any(word in path.stem for word in _BESIDE)]
    for path in found:
        if not path.resolve().is_relative_to(inside):
            raise InputError(f"{path} is a link out of {folder}; copy the file there")
    return found


def read_episode(path: str | Path) -> Episode:
    """What an H5 file holds, without reading its clips.

    Raises:
        InputError: not a released file.
    """
    with open_hdf5(path) as file:
        return _episode(file, Path(path))


def iterate_h5(path: str | Path) -> Iterator[RawClip]:
    """All clips of an H5 file, in the order of their first step."""
    for clip in read_episode(path).clips:
        yield read_h5_clip(path, clip)


def read_h5_clip(path: str | Path, clip: str) -> RawClip:
    """One clip, `start:end`, of an H5 file.

    Raises:
        InputError: no such clip, not the released layout, links out of the file, incomplete, or absurd sizes.
    """
    source = Path(path)
    with open_hdf5(source) as file:
        episode = _episode(file, source)
        if clip not in episode.clips:
            raise InputError(
                f"{source} has no clip '{clip}'; it has {', '.join(episode.clips[:8]) or 'none'}"
                f"{' ...' if len(episode.clips) > 8 else ''}"
            )
        group = child_group(file, layout.check_clip_range(clip, str(source)))
        return _clip(group, episode, clip)


def _episode(file: h5py.File, path: Path) -> Episode:
    attributes = read_attributes(file)
    domain = layout.check_domain(attributes.get("domain"), f"{path}: root attribute 'domain'")
    if domain == "behavior" and not bool(attributes.get("episode_complete", False)):
        raise InputError(f"{path}: episode_complete is not set: the writer was interrupted")
    clips = [name for name in member_names(file) if layout.is_clip_range(name)]
    clips.sort(key=lambda name: int(name.split(":")[0]))
    return Episode(path=path, domain=domain, clips=tuple(clips), attributes=attributes)


def _clip(group: h5py.Group, episode: Episode, clip: str) -> RawClip:
    domain, complete = episode.domain, episode.domain == "droid"
    names = member_names(group)
    sizes: dict[str, int] = {}
    fields: dict[str, Any] = {
        name: read_array(group, name, spec, sizes, complete=complete)
        for name, spec in CLIP_FIELDS[domain].items()
    }
    for name, spec in EXTRA_CLIP_FIELDS[domain].items():
        if name in names:
            fields[name] = read_array(group, name, spec, sizes, complete=complete)
    where = f"{episode.path.name}:{clip}"
    attributes: dict[str, Any] = {}
    if domain == "behavior":
        fields[layout.JOINT_NAMES] = read_strings(
            group, layout.JOINT_NAMES, layout.MAX_JOINTS, complete=False
        )
        attributes = read_attributes(group)
        layout.require_attributes(attributes, where)
    cameras = [name for name in names if name.startswith(_CAMERA_PREFIX)]
    if not 1 <= len(cameras) <= layout.MAX_CAMERAS:
        raise InputError(f"{where} has {len(cameras)} cameras, expected 1 to {layout.MAX_CAMERAS}")
    return RawClip(
        key=layout.clip_id(episode.path, clip, domain),
        domain=domain,
        cameras={name: _camera(child_group(group, name), domain) for name in cameras},
        fields=fields,
        attributes=attributes,
        source=str(episode.path),
    )


def _camera(group: h5py.Group, domain: str) -> dict[str, Any]:
    complete, sizes = domain == "droid", dict[str, int]()
    values: dict[str, Any] = {
        name: read_array(group, name, spec, sizes, complete=complete)
        for name, spec in CAMERA_FIELDS[domain].items()
    }
    values[layout.RGB] = read_bytes(group, layout.RGB, layout.MAX_JPEG_BYTES, complete=complete)
    if domain == "behavior":
        values |= _meshes(group)
    return values


def _meshes(group: h5py.Group) -> dict[str, dict[str, np.ndarray]]:
    """The four dictionaries mesh -> array, with as many points in each of a mesh's arrays."""
    sizes: dict[str, dict[str, int]] = {}
    found: dict[str, dict[str, np.ndarray]] = {}
    for modality, spec in MESH_FIELDS.items():
        parent = child_group(group, modality)
        names = member_names(parent)
        if len(names) > layout.MAX_MESHES:
            raise InputError(f"{parent.name}: {len(names)} meshes, at most {layout.MAX_MESHES}")
        found[modality], points = {}, 0
        for mesh in names:
            value = read_array(parent, mesh, spec, sizes.setdefault(mesh, {}), complete=False)
            found[modality][mesh] = value
            points += sizes[mesh].get("N", 0)
            if points > layout.MAX_POINTS:
                raise InputError(f"{parent.name}: more than {layout.MAX_POINTS} points")
    layout.check_mesh_sizes(found, str(group.name))
    return found
