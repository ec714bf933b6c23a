"""The generator as a whole: determinism, physics, exact flow through rendered depth, resuming."""

from __future__ import annotations

import errno
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from pointworld.data import (
    Clip,
    ClipGenerator,
    DatasetSpec,
    TabletopConfig,
    clip_facts,
    clip_path,
    generate_dataset,
    list_clips,
    merged_summary,
    read_clip,
    render,
    true_positions,
    write_clip,
)
from pointworld.data.generate import GENERATOR_VERSION
from pointworld.data.shards import read_member
from pointworld.data.target import pack_clips
from pointworld.errors import InputError
from pointworld.geometry import invert, project, transform_points, unproject
from pointworld.robot import RobotModel
from tests.data.conftest import SEED
from tests.data.depth import inverse_depth_at

CLIPS = range(8)


@pytest.fixture(scope="module")
def clips(any_renderer: ClipGenerator) -> list[Clip]:
    return [any_renderer.make(SEED, i) for i in CLIPS]


def _same(a: Clip, b: Clip) -> bool:
    images = all(
        np.array_equal(u.rgb, v.rgb)
        and np.array_equal(u.depth, v.depth)
        and np.array_equal(u.segmentation, v.segmentation)
        for u, v in zip(a.views, b.views, strict=True)
    )
    return (
        images
        and np.array_equal(a.body_poses, b.body_poses)
        and np.array_equal(a.joint_positions, b.joint_positions)
    )


def test_a_clip_depends_on_seed_and_index_only(rays: ClipGenerator) -> None:
    alone = rays.make(SEED, 5)
    rays.make(SEED, 2)
    assert _same(rays.make(SEED, 5), alone)
    assert not _same(rays.make(SEED + 1, 5), alone)


def test_objects_rest_at_time_zero_and_stay_on_the_table(clips: list[Clip]) -> None:
    for clip in clips:
        objects = list(clip.bodies_of_kind("object"))
        first = np.linalg.norm(
            clip.body_poses[1, objects, :3] - clip.body_poses[0, objects, :3], axis=-1
        )
        # The hand may be at something from time 0 on; what it has not reached moves less than the solver creeps.
        assert first.max() < (1e-2 if clip.info["touched"] else 1e-4)
        assert (clip.body_poses[0, objects, 2] > clip.info["table_height"] - 1e-3).all()


def test_static_bodies_never_move(clips: list[Clip]) -> None:
    for clip in clips:
        static = list(clip.bodies_of_kind("static"))
        assert np.array_equal(
            clip.body_poses[:, static],
            np.broadcast_to(clip.body_poses[:1, static], (11, len(static), 7)),
        )


def test_simulated_links_are_where_forward_kinematics_puts_them(
    clips: list[Clip], robot: RobotModel
) -> None:
    for clip in clips:
        fk = robot.forward_kinematics(torch.from_numpy(clip.joint_positions)).numpy()
        simulated = clip.body_transforms()
        for name in clip.body_names:
            if name in robot.link_names:
                a, b = (
                    fk[:, list(robot.link_names).index(name)],
                    simulated[:, clip.body_names.index(name)],
                )
                tolerance = (
                    2e-3 if "rightfinger" in name else 1e-5
                )  # the simulated mimic joint is a stiff spring
                assert np.abs(a[:, :3, 3] - b[:, :3, 3]).max() < tolerance, name
                assert np.abs(a[:, :3, :3] - b[:, :3, :3]).max() < 1e-5, name


def test_joint_limits_and_speeds(clips: list[Clip], robot: RobotModel) -> None:
    for clip in clips:
        q = clip.joint_positions
        assert (q > robot.lower - 1e-3).all() and (q < robot.upper + 1e-3).all()
        speed = np.abs(np.diff(q, axis=0)) / clip.step_dt
        assert (speed[:, :7] < robot.velocity[:7]).all()
        assert speed[:, :7].max() > 0.02  # the hand moves


@pytest.mark.parametrize("step", [3, 10])
def test_flow_agrees_with_later_depth(
    clips: list[Clip], any_renderer: ClipGenerator, step: int
) -> None:
    """First-image pixels carried by their bodies lie on the later depth image where they are still visible."""
    errors, moved = [], 0
    for clip in clips:
        later = any_renderer.views_at(SEED, clip.index, step)
        for first, then in zip(clip.views, later, strict=True):
            seen = (first.depth > 0) & (first.segmentation > 0)
            body = first.segmentation[seen].astype(int) - 1
            points = transform_points(first.T_world_cam, unproject(first.depth, first.K)[seen])
            carried = true_positions(clip, points, body)[step]
            uv, z = project(transform_points(invert(then.T_world_cam), carried), then.K)
            depth, ok = inverse_depth_at(then, uv, body)
            visible = ok & (z < depth + 0.006)  # behind the surface means hidden by the body itself
            errors.append(np.abs(z - depth)[visible])
            displaced = np.linalg.norm(carried - points, axis=-1) > 0.01
            kinds = np.array([kind == "object" for kind in clip.body_kinds])[body]
            moved += int((visible & displaced & kinds).sum())
    error = np.concatenate(errors)
    assert moved > (20 if step == 3 else 300)
    assert np.quantile(error, 0.999) < 2e-3
    assert np.median(error) < 1e-4


def test_ray_casting_agrees_with_gl(rays: ClipGenerator, any_renderer: ClipGenerator) -> None:
    if any_renderer.renderer.name != "gl":
        pytest.skip("no off-screen OpenGL on this machine")
    for index in (0, 1, 2):
        a, b = any_renderer.make(SEED, index), rays.make(SEED, index)
        np.testing.assert_array_equal(a.body_poses, b.body_poses)
        for u, v in zip(a.views, b.views, strict=True):
            same = u.segmentation == v.segmentation
            assert same.mean() > 0.985
            difference = np.abs(u.depth - v.depth)[same & (u.segmentation > 0)]
            assert np.quantile(difference, 0.9995) < 2e-3 and np.median(difference) < 1e-4


def test_clip_files_are_small(clips: list[Clip], tmp_path: Path) -> None:
    for clip in clips:
        write_clip(clip, tmp_path / "c.npz")
        assert (tmp_path / "c.npz").stat().st_size <= 200_000


def test_clips_larger_than_promised_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = DatasetSpec(
        clips=1, seed=SEED, renderer="rays", tabletop=TabletopConfig(height=36, width=64)
    )
    generate_dataset(spec, tmp_path / "small", workers=0)
    assert not caplog.records
    monkeypatch.setattr("pointworld.data.dataset.CLIP_BYTES", 1000)
    generate_dataset(spec, tmp_path / "large", workers=0)
    assert "0000/000000.npz has" in caplog.text and "1000 were expected" in caplog.text


def test_families_do_what_they_say(rays: ClipGenerator) -> None:
    def facts(family: str, count: int) -> list[dict[str, bool]]:
        weights = tuple(
            float(name == family)
            for name in ("push", "nudge", "grasp_lift", "topple", "near_miss", "empty")
        )
        config = replace(rays.config, family_weights=weights, height=36, width=64)
        small = ClipGenerator(
            tree=rays.tree,
            robot_name="fr3",
            config=config,
            renderer=type(rays.renderer)(36, 64),
            arm=rays.arm,
        )
        return [clip_facts(small.make(SEED, i)) for i in range(count)]

    assert np.mean([f["moved"] for f in facts("push", 8)]) > 0.7
    assert np.mean([f["tipped"] for f in facts("topple", 8)]) > 0.35
    assert not any(f["moved"] or f["touched"] for f in facts("empty", 4))


@pytest.fixture(scope="module")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DatasetSpec]:
    spec = DatasetSpec(
        clips=4, seed=SEED, renderer="rays", tabletop=TabletopConfig(height=90, width=160)
    )
    folder = tmp_path_factory.mktemp("set")
    summary = generate_dataset(spec, folder, workers=2)
    assert summary["made"] == 4 and summary["clips_per_second"] > 0
    return folder, spec


def _edit(path: Path, **values: object) -> None:
    """Change entries of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def _copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def test_data_set_is_resumed_and_does_not_depend_on_workers(
    tiny_set: tuple[Path, DatasetSpec],
) -> None:
    folder, spec = tiny_set
    paths = list_clips(folder)
    assert len(paths) == 4 and json.loads((folder / "manifest.json").read_text())["complete"]
    kept = {p: p.read_bytes() for p in paths}
    clip_path(folder, 1).unlink()
    seen: list[int] = []
    summary = generate_dataset(spec, folder, workers=1, advance=seen.append)
    assert summary["made"] == 1 and sum(seen) == 4
    assert {p: p.read_bytes() for p in list_clips(folder)} == kept
    assert read_clip(paths[2]).key == f"{SEED}/000002"


@pytest.mark.rejects_input
def test_other_settings_in_the_same_folder_are_refused(tiny_set: tuple[Path, DatasetSpec]) -> None:
    folder, spec = tiny_set
    with pytest.raises(InputError, match="another seed"):
        generate_dataset(replace(spec, seed=SEED + 1), folder)


def test_a_set_made_before_a_setting_existed_can_be_continued(
    tiny_set: tuple[Path, DatasetSpec], tmp_path: Path
) -> None:
    folder, spec = _copy(tiny_set[0], tmp_path / "set"), tiny_set[1]
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["tabletop"]["families"]
    path.write_text(json.dumps(manifest))
    assert generate_dataset(spec, folder)["made"] == 0
    manifest["tabletop"]["families"] = ["drawer"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="another tabletop"):
        generate_dataset(spec, folder)


def test_the_manifest_names_what_drew_the_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    class NoGL:
        def __init__(self, height: int, width: int) -> None:
            tried.append((height, width))
            raise InputError("no off-screen OpenGL here")

    monkeypatch.setattr(render, "GLRenderer", NoGL)
    spec = DatasetSpec(clips=2, seed=SEED, tabletop=TabletopConfig(height=36, width=64))
    generate_dataset(spec, tmp_path, workers=0)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["renderer"] == "rays" and manifest["generator"] == GENERATOR_VERSION
    assert len(tried) == 1, "resolved once, not in every worker"
    # Elsewhere, or later, GL may work: the set keeps its renderer.
    monkeypatch.undo()
    kept = {p: p.read_bytes() for p in list_clips(tmp_path)}
    clip_path(tmp_path, 1).unlink()
    assert generate_dataset(spec, tmp_path, workers=0)["made"] == 1
    assert {p: p.read_bytes() for p in list_clips(tmp_path)} == kept
    with pytest.raises(InputError, match="another renderer"):
        generate_dataset(replace(spec, renderer="gl"), tmp_path, workers=0)


@pytest.mark.slow
@pytest.mark.rejects_input
def test_a_worker_that_has_no_gl_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Workers are processes of their own, which find no such device.
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr("pointworld.data.dataset.working_renderer", lambda height, width: "gl")
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "4711")
    spec = DatasetSpec(clips=1, seed=SEED, tabletop=TabletopConfig(height=36, width=64))
    with pytest.raises(InputError, match="no off-screen OpenGL here"):
        generate_dataset(spec, tmp_path, workers=1)


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generator": 0}, "version 0 of the generator made it, this is version"),
        ({"generator": None}, "does not say which version"),
        ({"generator": None, "renderer": "auto"}, "does not say which version"),
    ],
)
def test_a_set_of_another_version_is_read_but_not_added_to(
    tiny_set: tuple[Path, DatasetSpec], tmp_path: Path, change: dict[str, object], message: str
) -> None:
    folder, spec = _copy(tiny_set[0], tmp_path / "old"), tiny_set[1]
    _edit(folder / "manifest.json", **change)
    before = {p: p.read_bytes() for p in [*list_clips(folder), folder / "manifest.json"]}
    assert generate_dataset(spec, folder)["made"] == 0
    assert generate_dataset(replace(spec, renderer="auto"), folder)["made"] == 0
    with pytest.raises(InputError, match="another seed"):
        generate_dataset(replace(spec, seed=SEED + 1), folder)
    with pytest.raises(InputError, match=f"{message}(.|\n)*another --out"):
        generate_dataset(replace(spec, clips=5), folder)
    assert {p: p.read_bytes() for p in before} == before
    clip_path(folder, 2).write_bytes(b"half")
    with pytest.raises(InputError, match=message):
        generate_dataset(spec, folder)
    assert clip_path(folder, 2).read_bytes() == b"half"
    # Shards of the same clips: neither are they remade.
    clip_path(folder, 2).write_bytes(before[clip_path(folder, 2)])
    shards = tmp_path / "shards"
    pack_clips(folder, shards, shard_clips=2)
    assert generate_dataset(spec, shards)["made"] == 0
    content = (shards / "manifest.json").read_bytes()
    (shards / "clips-000001.tar").write_bytes(b"half")
    with pytest.raises(InputError, match=message):
        generate_dataset(spec, shards)
    with pytest.raises(InputError, match=message):
        generate_dataset(replace(spec, clips=5), shards)
    assert (shards / "clips-000001.tar").read_bytes() == b"half"
    assert (shards / "manifest.json").read_bytes() == content


def _cut(whole: bytes, left: int) -> bytes:
    return whole[:left]


def _header_overwritten(whole: bytes) -> bytes:
    """As a disk leaves it that never wrote one of its blocks: in the middle of the compressed header."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        entry = archive.getinfo("header.npy")
    start = entry.header_offset + 64
    return whole[:start] + bytes(256) + whole[start + 256 :]


def _offset_overwritten(whole: bytes) -> bytes:
    """Where the directory says that it begins: all entries then lie before the start of the file."""
    end = whole.rindex(b"PK\5\6")
    return whole[: end + 16] + (1 << 24).to_bytes(4, "little") + whole[end + 20 :]


def _size_overwritten(whole: bytes) -> bytes:
    """Unpacked size in the first entry of the directory, the header's."""
    size = whole.index(b"PK\1\2") + 24
    return whole[:size] + (1 << 30).to_bytes(4, "little") + whole[size + 4 :]


DAMAGES = {
    "empty": partial(_cut, left=0),
    "cut off": partial(_cut, left=3000),
    "header overwritten": _header_overwritten,
    "offset overwritten": _offset_overwritten,
    "size overwritten": _size_overwritten,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_clip_is_made_again(
    tiny_set: tuple[Path, DatasetSpec],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[bytes], bytes],
) -> None:
    folder, spec = _copy(tiny_set[0], tmp_path / "set"), tiny_set[1]
    path = clip_path(folder, 1)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    summary = generate_dataset(spec, folder, workers=0)
    assert summary["made"] == 1 and summary["remade_clips"] == ["0000/000001.npz"]
    assert path.read_bytes() == whole and f"{path} is damaged" in caplog.text
    assert generate_dataset(spec, folder, workers=0)["remade_clips"] == []
    # In a shard that is being made, too.
    shards = tmp_path / "shards"
    for index in (0, 1):
        target = clip_path(shards / ".clips", index)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = clip_path(folder, index).read_bytes()
        target.write_bytes(damage(content) if index else content)
    summary = generate_dataset(replace(spec, clips=2), shards, workers=0, shard_clips=2)
    assert summary["made"] == 1 and summary["remade_clips"] == ["0000/000001.npz"]
    assert read_member(list_clips(shards)[1]) == whole


def test_a_clip_that_cannot_be_read_now_is_left_alone(
    tiny_set: tuple[Path, DatasetSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is away for a moment, or a clip of a later version."""
    folder, spec = _copy(tiny_set[0], tmp_path / "set"), tiny_set[1]
    path = clip_path(folder, 1)
    whole = path.read_bytes()
    with monkeypatch.context() as patch:

        def away(*_: object) -> None:
            raise OSError(errno.EIO, "Input/output error")

        patch.setattr("pointworld.data.clip_header.zipfile.ZipFile", away)
        with pytest.raises(InputError, match="Input/output error"):
            generate_dataset(spec, folder, workers=0)
    assert path.read_bytes() == whole
    header = json.dumps({"format": "pointworld-clip-9"}).encode()
    np.savez(path, header=np.frombuffer(header, np.uint8))
    later = path.read_bytes()
    with pytest.raises(InputError, match="known format"):
        generate_dataset(spec, folder, workers=0)
    assert path.read_bytes() == later


def test_summaries_of_runs_in_one_folder_add_up(tmp_path: Path) -> None:
    spec = DatasetSpec(
        clips=4, seed=SEED, renderer="rays", tabletop=TabletopConfig(height=36, width=64)
    )
    at_once = generate_dataset(spec, tmp_path / "at_once", workers=0)
    first = generate_dataset(replace(spec, clips=1), tmp_path / "set", workers=0)
    both = merged_summary(first, generate_dataset(spec, tmp_path / "set", workers=0))
    assert both.keys() == at_once.keys() and both["made"] == both["clips"] == 4
    assert both["wall_seconds"] > first["wall_seconds"]
    for name in ("families", "bytes_max"):
        assert both[name] == at_once[name]
    for name in ("bytes_mean", "shares"):
        assert both[name] == pytest.approx(at_once[name])
    for name, shares in at_once["family_shares"].items():
        assert both["family_shares"][name] == pytest.approx(shares)
    assert both["seconds_per_clip"].keys() == at_once["seconds_per_clip"].keys()
