"""Every clip of a folder is found, in both containers alike, and read by its place."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from pointworld.data.released import RawClip, iterate_shard, read_manifest, synthetic
from pointworld.data.released.index import ClipPlace, find_clips
from pointworld.data.released.manifest import joined, local_manifest, local_split, write_manifest
from pointworld.data.released.wds import index_shard, read_shard_clip
from pointworld.errors import InputError
from tests.data.released.conftest import UUID, Files


@pytest.fixture(scope="module")
def clips() -> dict[str, RawClip]:
    """Twelve clips of one episode; its id is longer than a plain tar header holds."""
    made = {}
    for i in range(12):
        key = f"{UUID}-with-a-name-that-is-longer-than-it-should-be-{'x' * 40}-{5 * i}:{5 * i + 11}"
        rng = np.random.default_rng(i)
        made[key] = synthetic.droid_clip(rng, key=key, serials=("1",), points=60)
    return made


@pytest.fixture(scope="module")
def h5(clips: dict[str, RawClip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("h5")
    stem = next(iter(clips)).rpartition("-")[0]
    ranges = {key.rpartition("-")[2]: clip for key, clip in clips.items()}
    synthetic.write_h5(root / "lab" / f"{stem}_flows.h5", ranges)
    (root / "lab" / f"{stem}_depth.h5").write_bytes(b"not looked at")
    return root


@pytest.fixture(scope="module")
def shards(clips: dict[str, RawClip], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("wds")
    for name, keys in zip(("train", "test"), local_split(clips), strict=True):
        half = len(keys) // 2
        for rank, part in enumerate((keys[:half], keys[half:])):
            synthetic.write_wds(root, name, {key: clips[key] for key in part}, rank=rank)
    return root


def keys(places: tuple[ClipPlace, ...]) -> list[str]:
    return [place.key for place in places]


def same(one: RawClip, other: RawClip) -> bool:
    arrays = [
        np.array_equal(value, other.cameras[camera][name])
        for camera, values in one.cameras.items()
        for name, value in values.items()
    ]
    return one.key == other.key and all(arrays)


def test_both_containers_hold_the_same_splits(h5: Path, shards: Path, tmp_path: Path) -> None:
    from_h5 = find_clips(h5, ("train", "test"))
    from_shards = find_clips(shards, ("train", "test"), min_shard_bytes=0)
    assert [len(from_h5.by_split[name]) for name in ("train", "test")] == [11, 1]
    for split in ("train", "test"):
        assert keys(from_h5.by_split[split]) == keys(from_shards.by_split[split])
        for one, other in zip(from_h5.by_split[split], from_shards.by_split[split], strict=True):
            assert one.domain == other.domain == "droid"
            assert same(one.read(), other.read())
    assert from_shards.manifest is None and from_h5.manifest is not None
    write_manifest(tmp_path / "split.json", from_h5.manifest)
    assert read_manifest(tmp_path / "split.json") == from_h5.manifest


def test_a_place_gives_what_reading_in_order_gives(droid: Files, behavior: Files) -> None:
    for files in (droid, behavior):
        (place,) = index_shard(files.shard)
        assert place.domain == files.raw.domain and place.size <= files.shard.stat().st_size
        (in_order,) = iterate_shard(files.shard)
        alone = read_shard_clip(files.shard, place)
        assert alone.key == in_order.key and alone.fields.keys() == in_order.fields.keys()


def test_a_manifest_splits_and_selects(h5: Path, shards: Path, clips: dict[str, RawClip]) -> None:
    manifest = local_manifest("droid", sorted(clips)[:8], test_share=0.5)
    for root in (h5, shards):
        found = find_clips(root, ("train",), manifests={"droid": manifest}, min_shard_bytes=0)
        assert set(keys(found.by_split["train"])) <= set(sorted(clips)[:8]) - manifest.test_keys
    assert find_clips(h5, ("test",), manifests={"droid": manifest}).manifest is None


def test_lists_of_one_domain_are_joined(clips: dict[str, RawClip]) -> None:
    names = sorted(clips)
    parts = [local_manifest("droid", some, test_share=0.5) for some in (names[:6], names[6:])]
    whole = joined(parts)
    for part, some in zip(parts, (names[:6], names[6:]), strict=True):
        assert [whole.split_of(key) for key in some] == [part.split_of(key) for key in some]
    assert whole.split_of("another-0:11") is None


@pytest.mark.rejects_input
def test_clips_of_a_domain_without_a_list_are_in_no_split(
    h5: Path, clips: dict[str, RawClip], behavior: Files, tmp_path: Path
) -> None:
    shutil.copytree(h5, tmp_path / "both")
    shutil.copy(behavior.h5, tmp_path / "both" / behavior.h5.name)
    manifest = local_manifest("droid", sorted(clips))
    with pytest.raises(InputError, match="also hold clips of behavior"):
        find_clips(tmp_path / "both", ("train",), manifests={"droid": manifest})


def test_clips_that_the_release_found_damaged_are_left_out(h5: Path, tmp_path: Path) -> None:
    root = tmp_path / "h5"
    shutil.copytree(h5, root)
    (file,) = (root / "lab").glob("*_flows.h5")
    pairs = [[f"/elsewhere/{file.name}", f"{5 * i}:{5 * i + 11}"] for i in range(10)]
    (root / "integrity_check.json").write_text(json.dumps({"valid_clips": pairs}))
    found = find_clips(root, ("train", "test"))
    chosen = [place.key.rpartition("-")[2] for split in found.by_split.values() for place in split]
    assert sorted(chosen) == sorted(clip for _, clip in pairs)
    pairs = [["other_flows.h5", "0:11"]]
    (root / "integrity_check.json").write_text(json.dumps({"valid_clips": pairs}))
    with pytest.raises(InputError, match="none of the 12 clips"):
        find_clips(root, ("train",))


def test_the_index_is_kept_until_a_file_changes(shards: Path, tmp_path: Path) -> None:
    root, index, seen = tmp_path / "wds", tmp_path / "kept" / "index.json", list[int]()
    shutil.copytree(shards, root)

    def find() -> list[str]:
        found = find_clips(
            root, ("train",), min_shard_bytes=0, index=index, workers=2, on_progress=seen.append
        )
        return keys(found.by_split["train"])

    first = find()
    assert find() == first and len(seen) == 2
    changed = sorted((root / "train").glob("*.tar"))[0]
    os.utime(changed, ns=(1, 1))
    assert find() == first and len(seen) == 3
    content = json.loads(index.read_text())
    content["files"][f"train/{changed.name}"]["clips"][0][2] += 512
    index.write_text(json.dumps(content))
    with pytest.raises(InputError):
        for place in find_clips(root, ("train",), min_shard_bytes=0, index=index).by_split["train"]:
            place.read()
    index.write_text("[]")
    with pytest.raises(InputError, match="delete it"):
        find()


@pytest.mark.rejects_input
def test_what_cannot_be_found_is_said(h5: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no split 'val' with shards; it has test, train"):
        find_clips(shards, ("val",), min_shard_bytes=0)
    with pytest.raises(InputError, match="into train and test, not into train, val"):
        find_clips(h5, ("train", "val"))
    with pytest.raises(InputError, match="holds no released data"):
        find_clips(tmp_path, ("train",))
    other = local_manifest("droid", ["another-0:11"])
    with pytest.raises(InputError, match=r"none of 12 clips .* names none of them"):
        find_clips(h5, ("train",), manifests={"droid": other})
    for name in ("a", "b"):
        shutil.copytree(h5 / "lab", tmp_path / name)
    with pytest.raises(InputError, match="12 clips are there twice"):
        find_clips(tmp_path, ("train",))
