"""Shards: readable by webdataset and by us, checksummed, resumable, closed to hostile tars; splits share no scene."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pointworld.cli.app import main
from pointworld.data import (
    DatasetSpec,
    TabletopConfig,
    clip_path,
    generate_dataset,
    list_clips,
    read_clip,
    require_disjoint,
    scene_keys,
)
from pointworld.data.library import iterate_clips
from pointworld.data.shards import (
    ShardEntry,
    list_shard_clips,
    read_manifest,
    read_member,
    shard_index,
    write_shard,
)
from pointworld.data.target import pack_clips
from pointworld.errors import InputError
from pointworld.train.jepa.images import read_images

pytest.importorskip(
    "mujoco", reason="the simulator is an extra: pip install 'pointworld-open[sim]'"
)

SPEC = DatasetSpec(
    clips=5, seed=21, renderer="rays", tabletop=TabletopConfig(height=36, width=64, max_cameras=2)
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips as files."""
    folder = tmp_path_factory.mktemp("files")
    assert generate_dataset(SPEC, folder, workers=0)["made"] == 5
    return folder


@pytest.fixture
def shards(files: Path, tmp_path: Path) -> Path:
    """The same clips as shards of two."""
    folder = tmp_path / "shards"
    assert main(["shards", "pack", str(files), "--out", str(folder), "--shard-clips", "2"]) == 0
    return folder


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def test_shards_hold_the_clips_of_the_folder_bit_for_bit(files: Path, shards: Path) -> None:
    manifest, entries = read_manifest(shards)
    assert [e.clips for e in entries] == [2, 2, 1] and manifest["seed"] == SPEC.seed
    assert manifest["complete"] and manifest["tabletop"]["height"] == 36
    assert entries[1].scenes == ("21/000002", "21/000003") and "mujoco" in entries[0].versions
    assert sum(sum(e.families.values()) for e in entries) == 5
    loose, members = list_clips(files), list_clips(shards)
    assert [p.stem for p in members] == [p.stem for p in loose]
    for path, member in zip(loose, members, strict=True):
        assert read_member(member) == path.read_bytes()
        assert read_clip(member).key == read_clip(path).key
    assert [clip.index for clip in iterate_clips(shards)] == list(range(5))


def test_pictures_for_pretraining_come_out_of_shards_too(files: Path, shards: Path) -> None:
    assert torch.equal(read_images(files), read_images(shards))


def test_shards_of_an_unfinished_set_are_unfinished(files: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(files, half)
    clip_path(half, 4).unlink()
    manifest = json.loads((half / "manifest.json").read_text())
    (half / "manifest.json").write_text(json.dumps(manifest | {"complete": False}))
    pack_clips(half, tmp_path / "shards", shard_clips=2)
    assert read_manifest(tmp_path / "shards")[0]["complete"] is False
    assert generate_dataset(SPEC, tmp_path / "shards", workers=0)["made"] == 1
    assert read_manifest(tmp_path / "shards")[0]["complete"] is True


def test_the_webdataset_package_reads_them(files: Path, shards: Path) -> None:
    webdataset = pytest.importorskip(
        "webdataset", reason="an extra: pip install 'pointworld-open[datasets]'"
    )
    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    rows = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [row["__key__"] for row in rows] == [path.stem for path in list_clips(files)]
    for row, path in zip(rows, list_clips(files), strict=True):
        clip = read_clip(path)
        assert np.array_equal(row["npz"]["body_poses"], clip.body_poses)
        assert row["json"]["scene"] == clip.key and row["json"]["family"] == clip.family


def test_generated_shards_are_those_of_packing_and_continue(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "made"
    summary = generate_dataset(replace(SPEC, clips=3), out, workers=0, shard_clips=2)
    assert summary["shards"] == 2 and not (out / ".clips").exists()
    assert [e.clips for e in read_manifest(out)[1]] == [2, 1]
    # A longer set takes the half-full shard apart and makes only what is missing.
    seen: list[int] = []
    summary = generate_dataset(SPEC, out, workers=0, advance=seen.append)
    assert summary["made"] == 2 and sum(seen) == 5
    assert shard_bytes(out) == shard_bytes(shards)


def test_an_interrupted_run_goes_on(shards: Path, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "made"

    def stop(count: int) -> None:
        if count == 1 and clip_path(out / ".clips", 2).is_file():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_dataset(SPEC, out, workers=0, shard_clips=2, advance=stop)
    assert not read_manifest(out)[0]["complete"] and len(list_clips(out)) == 2
    assert generate_dataset(SPEC, out, workers=0)["made"] == 2
    assert shard_bytes(out) == shard_bytes(shards)
    assert len(list_clips(out)) == 5 and scene_keys(out) == scene_keys(files)


def test_a_damaged_shard_is_refused_by_name_and_remade(
    shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = shard_bytes(shards)
    middle = shards / "clips-000001.tar"
    damaged = bytearray(middle.read_bytes())
    damaged[700] ^= 1
    middle.write_bytes(damaged)
    (shards / "clips-000002.tar").unlink()
    with pytest.raises(InputError, match=r"clips-000001\.tar has another checksum"):
        list_clips(shards)
    assert main(["shards", "check", str(shards), "--json"]) == 1
    assert set(json.loads(capsys.readouterr().out)["problems"]) == {middle.name, "clips-000002.tar"}
    summary = generate_dataset(SPEC, shards, workers=0)
    assert summary["made"] == 3
    assert summary["remade_shards"] == ["clips-000001.tar", "clips-000002.tar"]
    assert shard_bytes(shards) == before and main(["shards", "check", str(shards)]) == 0


def test_fewer_clips_than_there_are_leave_the_rest_alone(shards: Path) -> None:
    before, few = shard_bytes(shards), replace(SPEC, clips=3)
    last = shards / "clips-000002.tar"
    last.write_bytes(last.read_bytes()[:-5])
    damaged = last.read_bytes()
    summary = generate_dataset(few, shards, workers=0)
    assert summary["made"] == 0 and summary["remade_shards"] == []
    assert last.read_bytes() == damaged
    manifest, entries = read_manifest(shards)
    assert manifest["clips"] == 5 and manifest["complete"] and len(entries) == 3
    # One with clips that were asked for and others is made again as it was.
    (shards / "clips-000001.tar").write_bytes(b"half")
    summary = generate_dataset(few, shards, workers=0)
    assert summary["made"] == 2 and summary["remade_shards"] == ["clips-000001.tar"]
    manifest, _ = read_manifest(shards)
    assert manifest["clips"] == 5 and last.read_bytes() == damaged
    assert generate_dataset(SPEC, shards, workers=0)["remade_shards"] == [last.name]
    assert shard_bytes(shards) == before


def test_fewer_clips_than_a_folder_of_files_has(files: Path, tmp_path: Path) -> None:
    folder, few = tmp_path / "set", replace(SPEC, clips=2)
    shutil.copytree(files, folder)
    clip_path(folder, 4).write_bytes(b"half")
    summary = generate_dataset(few, folder, workers=0)
    assert summary["made"] == 0 and summary["remade_clips"] == []
    assert clip_path(folder, 4).read_bytes() == b"half"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["clips"] == 5 and manifest["complete"]
    clip_path(folder, 3).unlink()
    assert generate_dataset(few, folder, workers=0)["made"] == 0
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["clips"] == 5 and not manifest["complete"]
    assert generate_dataset(SPEC, folder, workers=0)["made"] == 2
    assert json.loads((folder / "manifest.json").read_text())["complete"]


def test_fewer_clips_keep_what_a_longer_run_began(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "made"

    def stop(count: int) -> None:
        if count == 1 and clip_path(out / ".clips", 2).is_file():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_dataset(SPEC, out, workers=0, shard_clips=2, advance=stop)
    assert generate_dataset(replace(SPEC, clips=2), out, workers=0)["made"] == 0
    manifest, _ = read_manifest(out)
    assert manifest["clips"] == 2 and manifest["complete"]
    assert generate_dataset(SPEC, out, workers=0)["made"] == 2
    assert shard_bytes(out) == shard_bytes(shards) and not (out / ".clips").exists()


@pytest.mark.rejects_input
def test_other_settings_and_other_forms_are_refused(files: Path, shards: Path) -> None:
    with pytest.raises(InputError, match="another shard_clips"):
        generate_dataset(SPEC, shards, workers=0, shard_clips=3)
    with pytest.raises(InputError, match="another seed"):
        generate_dataset(replace(SPEC, seed=22), shards, workers=0)
    with pytest.raises(InputError, match="shards pack"):
        generate_dataset(SPEC, files, workers=0, shard_clips=2)
    from pointworld.cli.generate import main as generate

    with pytest.raises(InputError, match="not both"):
        generate(["--out", str(shards), "--shards", "2", "--shard-clips", "2"])


def _tar(path: Path, members: list[tarfile.TarInfo], size: int = 8) -> ShardEntry:
    with tarfile.open(path, "w") as archive:
        for member in members:
            if member.isreg():
                member.size = size
            archive.addfile(member, io.BytesIO(b"x" * size) if member.isreg() else None)
    return ShardEntry(
        name=path.name,
        sha256="",
        bytes=path.stat().st_size,
        clips=1,
        first=0,
        families={},
        scenes=("1/0",),
        versions={},
    )


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([_member("a.npz", tarfile.SYMTYPE, "/etc/passwd"), _member("a.json")], "is a link"),
        ([_member("a.npz", tarfile.LNKTYPE, "b"), _member("a.json")], "is a link"),
        ([_member("a.npz", tarfile.FIFOTYPE)], "special"),
        ([_member("../a.npz"), _member("../a.json")], "is not named"),
        ([_member("/tmp/a.npz")], "is not named"),
        ([_member("pipe:rm.npz")], "is not named"),
        ([_member("a.pyd")], "is not named"),
        ([_member("folder", tarfile.DIRTYPE)], "special"),
        ([_member("a.npz")], "not every clip"),
        ([_member("a.npz"), _member("a.npz")], "is there twice"),
        ([_member("a" * 150 + ".npz")], "extended|not named"),
    ],
)
def test_hostile_tars_are_refused(
    tmp_path: Path, members: list[tarfile.TarInfo], message: str
) -> None:
    path = tmp_path / "clips-000000.tar"
    _tar(path, members)
    with pytest.raises(InputError, match=message):
        shard_index(path)


@pytest.mark.rejects_input
def test_sizes_that_lie_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "clips-000000.tar"
    for claimed, message in ((1 << 30, "claims|readable"), (1, "is no member|not every|readable")):
        _tar(path, [_member("a.npz"), _member("a.json")], size=2000)
        data = bytearray(path.read_bytes())
        data[124:136] = f"{claimed:011o}\0".encode()
        data[148:156] = b" " * 8
        data[148:156] = f"{sum(data[:512]):06o}\0 ".encode()
        path.write_bytes(data)
        with pytest.raises(InputError, match=message):
            shard_index(path)


@pytest.mark.rejects_input
def test_hostile_manifests_and_names_are_refused(shards: Path, tmp_path: Path) -> None:
    manifest = json.loads((shards / "manifest.json").read_text())
    for name in ("../clips-000000.tar", "pipe:ls", "/etc/clips-000000.tar"):
        manifest["shards"][0]["name"] = name
        (shards / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(InputError, match="is not named clips-NNNNNN"):
            list_shard_clips(shards)
    manifest["shards"] = manifest["shards"][1:]
    (shards / "manifest.json").write_text(json.dumps(manifest))
    outside = tmp_path / "outside.tar"
    (shards / "clips-000001.tar").rename(outside)
    (shards / "clips-000001.tar").symlink_to(outside)
    with pytest.raises(InputError, match="link out of its folder"):
        list_clips(shards)
    for url in ("pipe:cat x.tar", "https://example.org/x", "s3://x/{0..9}.tar"):
        with pytest.raises(InputError, match="local folders only"):
            list_clips(url)
    with pytest.raises(InputError, match="cannot be the name"):
        write_shard(tmp_path / "clips-000000.tar", [("../x", outside)])
    assert not (tmp_path / "clips-000000.tar").exists()


@pytest.mark.rejects_input
def test_splits_must_not_share_scenes(files: Path, shards: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    generate_dataset(replace(SPEC, clips=1, seed=22), other, workers=0)
    require_disjoint({"training": [files, shards], "validation": [other]})
    with pytest.raises(InputError, match=r"share 5 of 5 scenes, the first is '21/000000'"):
        require_disjoint({"training": [files], "validation": [other, shards]})


@pytest.mark.rejects_input
@pytest.mark.parametrize("options", [[], ["--fit-spread"]])
def test_evaluation_refuses_the_scenes_that_it_is_tuned_on(
    files: Path, shards: Path, options: list[str]
) -> None:
    from pointworld.cli.evaluate import main as evaluate

    for validation in (files, shards):
        with pytest.raises(InputError, match=r"share 5 of 5 scenes, the first is '21/000000'"):
            evaluate([str(files), "--validation", str(validation), *options])
