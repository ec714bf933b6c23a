"""Manifests, splits, mixing, metadata, confidence files, and the other files of the DROID package."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from pointworld.data.released import (
    canonical_key,
    dataset_length,
    local_split,
    low_confidence,
    mixed,
    read_confidence,
    read_depth_video,
    read_extrinsics,
    read_integrity,
    read_manifest,
    resampled,
    round_robin,
    synthetic,
    write_confidence,
)
from pointworld.data.released.confidence import confidence_keys
from pointworld.data.released.depth import depth_cameras
from pointworld.errors import InputError
from tests.data.released.conftest import UUID, Files


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("a_flows-0:11", "a-0:11"),
        ("a-0:11", "a-0:11"),
        ("a_flows-b-5:16", "a_flows-b-5:16"),
        ("a_flows", "a_flows"),
        ("task-0001_episode_00000010-120:131", "task-0001_episode_00000010-120:131"),
    ],
)
def test_canonical_keys(given: str, wanted: str) -> None:
    assert canonical_key(given) == canonical_key(canonical_key(given)) == wanted


def manifest(**changes: Any) -> dict[str, Any]:
    return {
        "schema_version": "wds_manifest.v1",
        "domain": "droid",
        "seed": 42,
        "test_percentage": 0.1,
        "stats": {"num_selected_total": 3, "num_selected_test": 1},
        "test_clip_keys": [f"{UUID}-0:11"],
        **changes,
    }


def write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_manifest_ignores_flows(tmp_path: Path) -> None:
    """The paper's manifest has no `_flows`, the released files do: both spellings are the same clip."""
    split = read_manifest(write(tmp_path / "m.json", manifest()))
    assert split.split_of(f"{UUID}_flows-0:11") == split.split_of(f"{UUID}-0:11") == "test"
    assert split.split_of(f"{UUID}_flows-5:16") == "train"
    chosen = manifest(include_clip_keys=[f"{UUID}_flows-0:11"])
    split = read_manifest(write(tmp_path / "m.json", chosen))
    assert split.split_of(f"{UUID}-0:11") == "test" and split.split_of(f"{UUID}-5:16") is None


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": "v2"}, "schema_version"),
        ({"domain": "x"}, "domain"),
        ({"test_clip_keys": [1]}, "wrong type"),
        ({"test_clip_keys": None}, "wrong type"),
        ({"stats": {"num_selected_test": 7}}, "say 7 test clips, 1"),
        ({"seed": None}, "wrong type"),
    ],
)
def test_bad_manifests(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_manifest(write(tmp_path / "m.json", manifest(**change)))


def test_integrity(tmp_path: Path) -> None:
    path = write(tmp_path / "i.json", {"valid_clips": [["a.h5", "0:11"]], "stats": {}})
    assert read_integrity(path) == (("a.h5", "0:11"),)
    for bad in ({"valid_clips": ["a"]}, {}, [1]):
        with pytest.raises(InputError):
            read_integrity(write(tmp_path / "i.json", bad))
    with pytest.raises(InputError, match="no such file"):
        read_integrity(tmp_path / "absent.json")


def test_local_split_is_pythons_shuffle() -> None:
    keys = [f"e{i:03d}-0:11" for i in range(100)]
    train, test = local_split(reversed(keys))
    assert sorted(train + test) == keys and len(test) == 10
    order = list(range(100))
    random.Random(42).shuffle(order)
    assert test == tuple(f"e{i:03d}-0:11" for i in order[90:])
    assert test == local_split(keys)[1] != local_split(keys, seed=1)[1]
    assert set(local_split([k.replace("-", "_flows-") for k in keys])[1]) == set(test)


def test_mixing() -> None:
    rng = np.random.default_rng(0)
    drawn = list(itertools.islice(resampled("abc", rng), 3000))
    assert all(900 < drawn.count(c) < 1100 for c in "abc")
    both = list(itertools.islice(mixed([itertools.repeat("a"), itertools.repeat("b")], rng), 2000))
    assert 900 < both.count("a") < 1100
    assert len(list(mixed([iter("aaa"), itertools.repeat("b")], rng))) < 100
    assert "".join(round_robin([iter("abc"), iter("12")])) == "a1b2"
    with pytest.raises(InputError):
        next(resampled([], rng))


def test_metadata_is_summed_over_ranks(droid: Files, tmp_path: Path) -> None:
    synthetic.write_wds(tmp_path, "train", {f"a-{i}:{i + 11}": droid.raw for i in range(2)}, rank=0)
    synthetic.write_wds(tmp_path, "train", {"b-0:11": droid.raw}, rank=1)
    assert dataset_length(tmp_path, "train") == 3
    with pytest.raises(InputError, match="processed_count"):
        dataset_length(tmp_path, "test")
    with pytest.raises(InputError, match="no metadata"):
        dataset_length(tmp_path / "train", "train")


@pytest.fixture
def confidence(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    points = torch.rand(900, 3, generator=generator) - 0.3
    return torch.rand(11, 900, generator=generator), points


def test_low_confidence_voxels(confidence: tuple[torch.Tensor, torch.Tensor]) -> None:
    values, points = confidence
    mask = low_confidence(values, points)
    threshold = np.quantile(values.double().numpy(), 0.2)
    assert mask.threshold == pytest.approx(threshold, abs=1e-9)
    for step in (0, 7):
        want = {
            tuple(int(np.floor(v / np.float32(0.015))) for v in points[i].numpy())
            for i in range(900)
            if float(values[step, i]) < threshold
        }
        assert {tuple(map(int, row)) for row in mask.voxels[step]} == want and want


@pytest.mark.parametrize("written", [f"{UUID}-0:11", f"{UUID}_flows-0:11"])
def test_confidence_file(
    written: str, confidence: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    mask = low_confidence(*confidence)
    path = tmp_path / "expert_confidence-seed=42.h5"
    write_confidence(path, {written: mask})
    with h5py.File(path) as file:
        attributes = file[written]["low_confidence_voxels"].attrs
        assert set(attributes) == {
            "mask_version", "grid_size", "confidence_keep_frac", "confidence_threshold",
            "num_low_voxels", "num_scene_points", "aggregation", "num_timesteps",
        }  # fmt: skip
        assert attributes["num_scene_points"] == 900
    for key in (f"{UUID}-0:11", f"{UUID}_flows-0:11"):
        read = read_confidence(path, key)
        assert read.num_points == 900
        assert read.grid_size == 0.015 and read.threshold == mask.threshold
        for a, b in zip(read.voxels, mask.voxels, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == np.int32
    assert confidence_keys(path) == (f"{UUID}-0:11",)
    with pytest.raises(InputError, match="official test split"):
        read_confidence(path, "other-0:11")
    with pytest.raises(InputError, match=r"grid 0\.015, expected 3 and 0\.02"):
        read_confidence(path, UUID + "-0:11", grid_size=0.02)
    group = f"{written}/low_confidence_voxels"
    for damage, message in (
        ("version", "version 2"),
        ("step", "expected 11"),
        ("link", "SoftLink"),
    ):
        with h5py.File(path, "r+") as file:
            if damage == "version":
                file[group].attrs["mask_version"] = 2
            elif damage == "step":
                file[group].attrs["mask_version"] = 3
                file[group].attrs["num_timesteps"] = 10
            else:
                file[group].attrs["num_timesteps"] = 11
                del file[f"{group}/t003"]
                file[f"{group}/t003"] = h5py.SoftLink(f"/{group}/t004")
        with pytest.raises(InputError, match=message):
            read_confidence(path, UUID + "-0:11")


def test_depth_package(tmp_path: Path) -> None:
    path = tmp_path / f"{UUID}_depth.h5"
    frames = np.random.default_rng(0).integers(0, 4000, (20, 180, 320), dtype=np.uint16)
    with h5py.File(path, "w") as file:
        group = file.create_group("123+ext")
        group.create_dataset("depth", data=frames, compression="gzip")
        group.create_dataset("timestamps", data=np.arange(20) * 67)
        file.create_group("124+wrist").create_dataset(
            "depth", (1 << 40, 180, 320), "u2", chunks=True
        )
        file["124+wrist"].create_dataset("timestamps", data=np.arange(20))
    assert depth_cameras(path) == ("123+ext", "124+wrist")
    video = read_depth_video(path, "123+ext", start=5, count=3)
    np.testing.assert_allclose(video.depth, frames[5:8] / 1000, atol=1e-6)
    assert video.depth.dtype == np.float32 and video.timestamps[-1] == 19 * 67
    with pytest.raises(InputError, match=r"frames 15\.\.26"):
        read_depth_video(path, "123+ext", start=15)
    with pytest.raises(InputError, match="claims 1099511627776 frames"):
        read_depth_video(path, "124+wrist")


def test_extrinsics(tmp_path: Path) -> None:
    T = np.eye(4)
    T[:3, 3] = [0.1, 0.2, 0.3]
    entry = {"optimized_extrinsics": T.tolist(), "optimization_summary": {"final_loss": 0.02}}
    path = write(tmp_path / "c.json", {"123": entry, "success": True})
    np.testing.assert_array_equal(read_extrinsics(path)["123"], T)
    entry["optimized_extrinsics"] = (2 * T).tolist()
    for bad in ({"123": entry}, [1], {"1": {"optimized_extrinsics": "x"}}):
        with pytest.raises(InputError):
            read_extrinsics(write(tmp_path / "c.json", bad))
