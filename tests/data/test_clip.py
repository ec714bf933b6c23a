"""Clip files: exact round trip where lossless, bounded loss elsewhere, clear errors."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pointworld.data.clip import (
    DEPTH_UNIT,
    Clip,
    ClipView,
    clip_path,
    list_clips,
    read_clip,
    write_clip,
)
from pointworld.errors import InputError


def make_clip(seed: int = 0, index: int = 3) -> Clip:
    rng = np.random.default_rng(seed)
    h, w, steps, bodies = 24, 32, 11, 5
    smooth = np.kron(rng.integers(40, 200, (3, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    views = tuple(
        ClipView(
            rgb=smooth,
            depth=rng.uniform(0.3, 4.0, (h, w)).astype(np.float32),
            segmentation=rng.integers(0, bodies + 1, (h, w)).astype(np.uint8),
            K=np.array([[200.0, 0, 16], [0, 200, 12], [0, 0, 1]]),
            T_world_cam=np.eye(4) + np.pad(rng.normal(size=(3, 1)), ((0, 1), (3, 0))),
        )
        for _ in range(2)
    )
    quat = rng.normal(size=(steps, bodies, 4))
    poses = np.concatenate(
        [rng.normal(size=(steps, bodies, 3)), quat / np.linalg.norm(quat, axis=-1, keepdims=True)],
        -1,
    )
    return Clip(
        views=views,
        body_names=("floor", "table", "link", "object0", "object1"),
        body_kinds=("static", "static", "robot", "object", "object"),
        body_poses=poses,
        joint_names=("a", "b"),
        joint_positions=rng.normal(size=(steps, 2)),
        gripper_width=rng.uniform(0, 0.08, steps),
        step_dt=0.1,
        family="push",
        robot="fr3",
        seed=seed,
        index=index,
        info={"shapes": ["box", "mug"]},
    )


def test_round_trip(tmp_path: Path) -> None:
    clip = make_clip()
    write_clip(clip, tmp_path / "c.npz")
    back = read_clip(tmp_path / "c.npz")
    for name in ("body_poses", "joint_positions", "gripper_width"):
        np.testing.assert_array_equal(getattr(back, name), getattr(clip, name))
    for name in (
        "body_names",
        "body_kinds",
        "joint_names",
        "step_dt",
        "family",
        "robot",
        "seed",
        "index",
        "key",
    ):
        assert getattr(back, name) == getattr(clip, name)
    assert back.info == clip.info
    for a, b in zip(clip.views, back.views, strict=True):
        np.testing.assert_array_equal(a.segmentation, b.segmentation)
        np.testing.assert_array_equal(a.T_world_cam, b.T_world_cam)
        assert np.abs(a.depth - b.depth).max() <= DEPTH_UNIT / 2 + 1e-6
        assert np.abs(a.rgb.astype(int) - b.rgb).mean() < 6


def test_bytes_depend_on_the_clip_alone(tmp_path: Path) -> None:
    write_clip(make_clip(), tmp_path / "a.npz")
    write_clip(make_clip(), tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_body_motions_carry_points_of_step_zero() -> None:
    clip = make_clip(4)
    T = clip.body_transforms()
    local = np.array([0.1, -0.2, 0.3, 1.0])
    moved = clip.body_motions() @ (T[0] @ local)[..., None]
    np.testing.assert_allclose(moved[..., 0], T @ local, atol=1e-12)


def test_list_clips_is_ordered_and_ignores_unfinished(tmp_path: Path) -> None:
    for index in (501, 2, 1000):
        write_clip(make_clip(index=index), clip_path(tmp_path, index))
    (tmp_path / "0000" / ".000003.77.tmp.npz").write_bytes(b"half")
    assert [int(p.stem) for p in list_clips(tmp_path)] == [2, 501, 1000]


@pytest.mark.rejects_input
def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no clips"):
        list_clips(tmp_path)


@pytest.mark.rejects_input
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_truncated_clip_is_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "c.npz"
    write_clip(make_clip(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(InputError, match="not a readable clip"):
        read_clip(path)


@pytest.mark.rejects_input
def test_pickled_clip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    np.savez(path, header=np.array([{"format": "pointworld-clip-1"}], dtype=object))
    with pytest.raises(InputError, match="not a readable clip"):
        read_clip(path)


@pytest.mark.rejects_input
def test_image_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    write_clip(make_clip(), path)
    arrays = dict(np.load(path))
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, format="GIF")
    arrays["rgb0"] = np.frombuffer(buffer.getvalue(), np.uint8)
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="cannot be decoded"):
        read_clip(path)


@pytest.mark.rejects_input
def test_inconsistent_clip_is_refused() -> None:
    clip = make_clip()
    with pytest.raises(InputError, match="joint_positions has shape"):
        replace(clip, joint_positions=clip.joint_positions[:5])
    poses = clip.body_poses.copy()
    poses[2, 1, 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        replace(clip, body_poses=poses)


def test_a_clip_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        assert not (tmp_path / "clip.npz").exists()

    monkeypatch.setattr(os, "fsync", fsync)
    write_clip(make_clip(), tmp_path / "clip.npz")
    assert synced == [(tmp_path / "clip.npz").stat().st_size]
