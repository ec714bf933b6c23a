"""Both containers give the same sample, bit for bit, and what was written is what is read."""

from __future__ import annotations

import tarfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import webdataset

from pointworld.data.released import (
    ChainSettings,
    ReleasedSample,
    decode_clip,
    evaluation_sample,
    iterate_h5,
    iterate_shard,
    iterate_shards,
    read_episode,
    read_h5_clip,
    shard_paths,
    synthetic,
    training_sample,
)
from pointworld.data.released.layout import (
    CAMERA_FIELDS,
    CLIP_FIELDS,
    EXTRA_CLIP_FIELDS,
    MESH_FIELDS,
    RawClip,
)
from pointworld.robot import RobotModel
from tests.data.released.conftest import UUID, Files


def assert_same(a: Any, b: Any, path: str = "") -> None:
    """Equal in type, dtype, shape and every value, through containers and dataclasses."""
    assert type(a) is type(b), path
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape and (a == b).all(), path
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), path
    elif isinstance(a, dict):
        assert list(a) == list(b), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{i}]")
    elif hasattr(a, "__dataclass_fields__"):
        for field in fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name), f"{path}.{field.name}")
    else:
        assert a == b, path


def from_h5(files: Files) -> RawClip:
    (clip,) = iterate_h5(files.h5)
    return clip


def from_shard(files: Files) -> RawClip:
    (clip,) = iterate_shard(files.shard)
    return clip


def test_h5_has_the_documented_dtypes(droid: Files, behavior: Files) -> None:
    """Read with h5py alone, not with our reader."""
    with h5py.File(droid.h5) as file:
        clip = file["5:16"]
        assert file.attrs["domain"] == "droid" and clip.attrs["demo_length"] == 11
        assert len(file.attrs["canonical_timestamps"]) == 16, "the clip is 5:16 of the timeline"
        assert {"uuid", "scene_path", "ee_pos_threshold"} <= set(file.attrs)
        for name in ("ee_pos_motion_magnitudes", "ee_rot_motion_magnitudes"):
            assert file[name].dtype == np.float32
        assert file["has_gripper_movement"].dtype == bool
        assert clip["gripper_positions"].shape == (11,)
        assert clip["gripper_open"].dtype == bool and clip["gripper_open"].shape == (11, 1)
        camera = clip["camera_1_ext"]
        assert camera["scene_flows"].dtype == np.float16
        assert camera["scene_normals"].dtype == np.int8
        assert camera["initial_depth"].dtype == np.uint16
        assert camera["initial_depth"].compression == "gzip"
        assert camera["initial_rgb"].shape == (1,)
        assert all(camera[name].attrs["write_complete"] for name in camera)
    with h5py.File(behavior.h5) as file:
        clip = file["0:11"]
        assert len(clip.attrs) == 21 and file.attrs["episode_complete"]
        trajectory = clip["camera_head/extrinsic_trajectory"]
        assert trajectory.shape == (11, 4, 4) and trajectory.dtype == np.float32
        assert np.array_equal(trajectory[0], clip["camera_head/extrinsic"])
        meshes = clip["camera_head/local_scene_points"]
        assert meshes["__World__box__visuals"].attrs["prim_path"] == "/World/box/visuals"
        assert clip["camera_head/scene_mesh_trajectories/__World__box__visuals"].shape == (11, 7)


@pytest.mark.parametrize("name", ["droid", "behavior"])
def test_reads_what_was_written(name: str, request: pytest.FixtureRequest) -> None:
    files: Files = request.getfixturevalue(name)
    domain, raw = files.raw.domain, files.raw
    for read in (from_h5(files), from_shard(files)):
        assert read.key == raw.key and list(read.cameras) == sorted(raw.cameras)
        for field in CLIP_FIELDS[domain]:
            assert_same(read.fields[field], raw.fields[field], field)
        for camera, values in read.cameras.items():
            assert values["initial_rgb"] == raw.cameras[camera]["initial_rgb"]
            for modality in CAMERA_FIELDS[domain]:
                assert_same(values[modality], raw.cameras[camera][modality], modality)
            for modality in MESH_FIELDS if domain == "behavior" else ():
                wanted = dict(sorted(raw.cameras[camera][modality].items()))
                assert_same(values[modality], wanted, modality)
        if domain == "behavior":
            assert read.attributes == raw.attributes
            assert read.fields["joint_names"] == ("torso", "left_slide")
    extra = from_h5(files).fields
    assert set(extra) >= set(EXTRA_CLIP_FIELDS[domain])


@pytest.mark.parametrize("name", ["droid", "behavior"])
def test_h5_and_shard_give_the_same_sample(name: str, request: pytest.FixtureRequest) -> None:
    files: Files = request.getfixturevalue(name)
    robot: RobotModel = request.getfixturevalue("panda" if name == "droid" else "two_arms")
    settings = ChainSettings(grippers=2)
    clips = [decode_clip(from_h5(files)), decode_clip(from_shard(files))]
    one, two = (evaluation_sample(clip, robot, settings) for clip in clips)
    assert isinstance(one, ReleasedSample)
    assert len(one.flow.scene) > 500
    assert_same(one, two)
    settings = ChainSettings(grippers=2, min_cameras=1, max_cameras=3)
    drawn = [
        training_sample(clip, robot, np.random.default_rng(5), settings)
        for clip in (*clips, clips[0])
    ]
    assert_same(drawn[0], drawn[1])
    other = training_sample(clips[0], robot, np.random.default_rng(6), settings)
    assert other.flow.positions.shape != drawn[0].flow.positions.shape or not torch.equal(
        other.flow.positions, drawn[0].flow.positions
    )


def test_flows_in_names_makes_no_difference(
    droid: Files, panda: RobotModel, tmp_path: Path
) -> None:
    """The key enters the random draws, so a sample shows whether names were made canonical."""
    shard = synthetic.write_wds(tmp_path, "test", {f"{UUID}_flows-5:16": droid.raw})
    (clip,) = iterate_shard(shard)
    assert clip.key == f"{UUID}-5:16" == from_h5(droid).key
    plain = tmp_path / f"{UUID}.h5"
    synthetic.write_h5(plain, {"5:16": droid.raw})
    assert read_episode(plain).keys == read_episode(droid.h5).keys == (f"{UUID}-5:16",)
    wanted = evaluation_sample(decode_clip(from_h5(droid)), panda)
    assert_same(evaluation_sample(decode_clip(clip), panda), wanted)


def test_webdataset_package_reads_our_shards_alike(droid: Files, behavior: Files) -> None:
    """Its own grouping and decoding (which unpickles) of files that we wrote, against our reader."""
    for files in (droid, behavior):
        dataset = webdataset.WebDataset(
            str(files.shard), shardshuffle=False, nodesplitter=lambda urls: urls
        ).decode()
        (sample,) = list(dataset)
        ours = from_shard(files)
        assert sample["__key__"] == ours.key
        for camera, values in ours.cameras.items():
            for modality, value in values.items():
                if isinstance(value, dict):
                    theirs = sample[f"{camera}_{modality}.pyd"]
                    assert_same(value, dict(sorted(theirs.items())))
                elif modality != "initial_rgb":
                    assert_same(value, sample[f"{camera}_{modality}.npy"])


def test_episode_and_shards_are_listed(droid: Files, tmp_path: Path) -> None:
    episode = read_episode(droid.h5)
    assert episode.clips == ("5:16",) and episode.domain == "droid"
    assert episode.attributes["uuid"] == UUID
    read_h5_clip(droid.h5, "5:16")
    several = {f"{UUID}-{i}:{i + 11}": droid.raw for i in (0, 5, 100)}
    first = synthetic.write_wds(tmp_path, "train", several)
    (tmp_path / "train" / "train-rank01-000000.tar").write_bytes(b"\0" * 10240)
    (tmp_path / "train" / "other-000000.tar").write_bytes(first.read_bytes())
    assert shard_paths(tmp_path, "train") == (first,)
    assert [c.key for c in iterate_shards(shard_paths(tmp_path, "train"))] == list(several)
    with tarfile.open(first) as archive:
        assert len(archive.getnames()) == 3 * (4 + 3 * 9)
