"""Clip files: exact round trip where lossless, bounded loss elsewhere, clear errors."""

from __future__ import annotations

import io
import json
import os
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pointworld.data import clip_header
from pointworld.data.clip import (
    DEPTH_UNIT,
    Clip,
    ClipView,
    clip_path,
    list_clips,
    read_clip,
    write_clip,
)
from pointworld.data.recordings import LabelledClip, read_labelled, write_labelled
from pointworld.errors import InputError
from pointworld.types import RGBDFrame

BUNDLED = Path(clip_header.__file__).parents[1] / "demo_data" / "push.npz"


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


def make_labelled() -> LabelledClip:
    view = make_clip().views[0]
    depth = view.depth.copy()
    frame = RGBDFrame(
        rgb=view.rgb, depth=depth, valid=depth > 0, K=view.K, T_world_cam=view.T_world_cam
    )
    return LabelledClip(
        frames=(frame,),
        points=np.zeros((2, 3), np.float32),
        colors=np.zeros((2, 3), np.uint8),
        normals=np.zeros((2, 3), np.float32),
        motions=np.tile(np.eye(4), (3, 1, 1, 1)),
        motion_ids=np.zeros(2, np.int64),
        known=np.ones((3, 2), bool),
        joint_names=("a",),
        joint_positions=np.zeros((3, 1)),
        step_dt=0.1,
        robot="fr3",
        recording="r",
        start=0.0,
    )


def edit(path: Path, header: object = None, **arrays: Any) -> None:
    """Replace entries of a clip file, or add some; those of a `header` that is a dictionary one by one."""
    entries = dict(np.load(path)) | arrays
    if header is not None:
        old = json.loads(entries["header"].tobytes())
        new = old | header if isinstance(header, dict) else header
        entries["header"] = np.frombuffer(json.dumps(new).encode(), np.uint8)
    np.savez_compressed(path, **entries)


def image_bytes(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return np.frombuffer(buffer.getvalue(), np.uint8)


def huge_png(side: int) -> np.ndarray:
    """A few hundred bytes that claim side * side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return np.frombuffer(b"\x89PNG\r\n\x1a\n" + size + data + chunk(b"IEND", b""), np.uint8)


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


def test_the_bundled_clip_is_read() -> None:
    clip = read_clip(BUNDLED)
    assert len(clip.views) >= 2 and clip.views[0].depth.shape == (180, 320)
    with np.load(BUNDLED) as entries:
        assert np.array_equal(clip.body_poses, entries["body_poses"])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_clips_that_numpy_saved_are_read(save: Callable[..., None], tmp_path: Path) -> None:
    write_clip(make_clip(), tmp_path / "a.npz")
    entries = dict(np.load(tmp_path / "a.npz"))
    entries["body_poses"] = np.asfortranarray(entries["body_poses"]).astype(">f8")
    save(tmp_path / "b.npz", **entries)
    assert np.array_equal(read_clip(tmp_path / "b.npz").body_poses, make_clip().body_poses)


def test_what_is_too_far_to_be_stored_is_no_surface(tmp_path: Path) -> None:
    """As the largest number it would be one, at 6.55 m."""
    far = np.array([0.0, 1.0, 6.5535, 6.56, 9.0, 1e30, np.inf, np.nan], np.float32)
    depth = np.tile(far, (24, 4))
    wanted = np.where(depth < 6.554, depth, 0.0)
    clip, labelled = make_clip(), make_labelled()
    view, frame = replace(clip.views[0], depth=depth), labelled.frames[0]
    write_clip(replace(clip, views=(view,)), tmp_path / "a.npz")
    np.testing.assert_allclose(read_clip(tmp_path / "a.npz").views[0].depth, wanted, atol=1e-6)
    frame = replace(frame, depth=depth, valid=np.isfinite(depth) & (depth > 0))
    write_labelled(replace(labelled, frames=(frame,)), tmp_path / "b.npz")
    again = read_labelled(tmp_path / "b.npz").frames[0]
    np.testing.assert_allclose(again.depth, wanted, atol=1e-6)
    assert np.array_equal(again.valid, wanted > 0)


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
@pytest.mark.parametrize("side", [6000, 20000])
def test_image_of_absurd_size_is_refused(tmp_path: Path, side: int) -> None:
    write_clip(make_clip(), tmp_path / "a.npz")
    edit(tmp_path / "a.npz", segmentation1=huge_png(side))
    with pytest.raises(InputError, match=r"a\.npz.* cannot be decoded"):
        read_clip(tmp_path / "a.npz")
    write_labelled(make_labelled(), tmp_path / "b.npz")
    edit(tmp_path / "b.npz", depth0=huge_png(side))
    with pytest.raises(InputError, match=r"b\.npz.* cannot be decoded"):
        read_labelled(tmp_path / "b.npz")


def test_other_entries_stay_packed(tmp_path: Path) -> None:
    """Some kB that unpack to 32 MB, under a name that no reader asks for."""
    write_clip(make_clip(), tmp_path / "a.npz")
    write_labelled(make_labelled(), tmp_path / "b.npz")
    for path in (tmp_path / "a.npz", tmp_path / "b.npz"):
        edit(path, unused=np.zeros(1 << 25, np.uint8))
    tracemalloc.start()
    try:
        assert read_clip(tmp_path / "a.npz").key == make_clip().key
        assert read_labelled(tmp_path / "b.npz").key == make_labelled().key
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()


@pytest.mark.rejects_input
def test_entries_larger_than_any_clip_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_clip(make_clip(), tmp_path / "a.npz")
    write_labelled(make_labelled(), tmp_path / "b.npz")
    with monkeypatch.context() as patch:
        patch.setattr(clip_header, "_MAX_ARRAYS", 1000)
        with pytest.raises(InputError, match="at most 1000 are read"):
            read_clip(tmp_path / "a.npz")
        with pytest.raises(InputError, match="at most 1000 are read"):
            read_labelled(tmp_path / "b.npz")
    # An array of terabytes by its own word.
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    claim = io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (11, 1 << 40, 7)}
    np.lib.format.write_array_header_1_0(claim, shape)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name, data in (entries | {"body_poses.npy": claim.getvalue() + bytes(64)}).items():
            archive.writestr(name, data)
    with pytest.raises(InputError, match="not a readable clip"):
        read_clip(tmp_path / "a.npz")


SMALL = image_bytes(np.ones((9, 9), np.uint8))


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    "wrong",
    [
        {"header": {"step_dt": None}},
        {"header": {"body_names": None}},
        {"header": {"views": None}},
        {"header": {"views": "2"}},
        {"header": {"views": 3}},
        {"header": {"seed": float("inf")}},
        {"header": {"info": 3}},
        {"header": []},
        {"body_poses": np.float64(3)},
        {"body_poses": np.array([["a" * 7]])},
        {"K0": np.zeros(3)},
        {"T_world_cam1": np.eye(3)},
        {"depth0": SMALL},
        {"segmentation1": SMALL},
        {"rgb1": SMALL},
        {"rgb0": image_bytes(np.ones((24, 32), np.uint8))},
        {"depth1": image_bytes(np.ones((24, 32, 3), np.uint8))},
    ],
    ids=lambda wrong: "{}".format(*wrong),
)
def test_entries_that_do_not_fit_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    write_clip(make_clip(), tmp_path / "c.npz")
    edit(tmp_path / "c.npz", **wrong)
    with pytest.raises(InputError, match=r"c\.npz"):
        read_clip(tmp_path / "c.npz")


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
