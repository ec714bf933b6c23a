"""H5 files that lead out of themselves, lie about sizes, or are incomplete: refused with a message that says why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from pointworld.data.released import decode_clip, read_episode, read_h5_clip
from pointworld.data.released.h5 import h5_files
from pointworld.errors import InputError
from tests.data.released.conftest import Files

CAMERA = "5:16/camera_1_ext"
pytestmark = pytest.mark.rejects_input


def replace(file: h5py.File, name: str, value: object) -> h5py.Dataset:
    """Another dataset in place of one, complete by its own word."""
    del file[name]
    dataset = file.create_dataset(name, data=value)
    dataset.attrs["write_complete"] = True
    return dataset


def external_link(file: h5py.File) -> None:
    del file[f"{CAMERA}/scene_flows"]
    file[f"{CAMERA}/scene_flows"] = h5py.ExternalLink("/etc/passwd", "/x")


def external_group(file: h5py.File) -> None:
    del file[CAMERA]
    file[CAMERA] = h5py.ExternalLink("other.h5", "/camera")


def soft_link(file: h5py.File) -> None:
    file["way_out"] = h5py.ExternalLink("other.h5", "/")
    del file[f"{CAMERA}/intrinsic"]
    file[f"{CAMERA}/intrinsic"] = h5py.SoftLink("/way_out/intrinsic")


def soft_clip(file: h5py.File) -> None:
    file.move("5:16", "hidden")
    file["5:16"] = h5py.SoftLink("/hidden")


def external_storage(file: h5py.File) -> None:
    del file[f"{CAMERA}/initial_depth"]
    dataset = file.create_dataset(
        f"{CAMERA}/initial_depth", (180, 320), "u2", external=[("/etc/passwd", 0, 115200)]
    )
    dataset.attrs["write_complete"] = True


def virtual_dataset(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((180, 320), "u2")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "depth", (180, 320))
    del file[f"{CAMERA}/initial_depth"]
    dataset = file.create_virtual_dataset(f"{CAMERA}/initial_depth", layout)
    dataset.attrs["write_complete"] = True


def huge_claim(file: h5py.File) -> None:
    """Terabytes by its word, nothing on disk."""
    del file[f"{CAMERA}/scene_flows"]
    dataset = file.create_dataset(
        f"{CAMERA}/scene_flows", (11, 1 << 36, 3), "f2", chunks=(1, 1 << 10, 3)
    )
    dataset.attrs["write_complete"] = True


def huge_chunks(file: h5py.File) -> None:
    shape = file[f"{CAMERA}/scene_visibility"].shape
    del file[f"{CAMERA}/scene_visibility"]
    dataset = file.create_dataset(
        f"{CAMERA}/scene_visibility", shape, bool, maxshape=(None, None), chunks=(1 << 15, 1 << 15)
    )
    dataset.attrs["write_complete"] = True


def other_filter(file: h5py.File) -> None:
    value = file[f"{CAMERA}/initial_depth"][()]
    del file[f"{CAMERA}/initial_depth"]
    dataset = file.create_dataset(f"{CAMERA}/initial_depth", data=value, scaleoffset=0)
    dataset.attrs["write_complete"] = True


def objects(file: h5py.File) -> None:
    del file["5:16/gripper_pose"]
    dataset = file.create_dataset("5:16/gripper_pose", (11, 7), h5py.ref_dtype)
    dataset.attrs["write_complete"] = True


def unfinished(file: h5py.File) -> None:
    file[f"{CAMERA}/scene_normals"].attrs["write_complete"] = False


def never_finished(file: h5py.File) -> None:
    del file[f"{CAMERA}/scene_normals"].attrs["write_complete"]


def missing(file: h5py.File) -> None:
    del file[f"{CAMERA}/scene_colors"]


def other_counts(file: h5py.File) -> None:
    replace(file, f"{CAMERA}/scene_visibility", np.ones((11, 5), bool))


def dataset_for_group(file: h5py.File) -> None:
    replace(file, CAMERA, np.ones(3))


def other_dtype(file: h5py.File) -> None:
    replace(file, f"{CAMERA}/scene_normals", file[f"{CAMERA}/scene_normals"][()].astype(np.int16))


def text_image(file: h5py.File) -> None:
    replace(file, f"{CAMERA}/initial_rgb", np.zeros(7, np.uint8))


def other_domain(file: h5py.File) -> None:
    file.attrs["domain"] = "bridge"


def reference_attribute(file: h5py.File) -> None:
    file.attrs["source"] = file["5:16"].ref


CASES: list[tuple[Callable[[h5py.File], None], str]] = [
    (external_link, "ExternalLink to '/etc/passwd'"),
    (external_group, "ExternalLink to 'other.h5'"),
    (soft_link, "SoftLink to '/way_out"),
    (soft_clip, "SoftLink to '/hidden'"),
    (external_storage, "keeps its values in another file"),
    (virtual_dataset, "keeps its values in another file"),
    (huge_claim, "claims 68719476736 points"),
    (huge_chunks, "claims chunks"),
    (other_filter, "only gzip and LZF"),
    (objects, "dtype is object"),
    (unfinished, "write_complete is not set"),
    (never_finished, "write_complete is not set"),
    (missing, "scene_colors is missing"),
    (other_counts, r"shape is \(11, 5\)"),
    (dataset_for_group, "is no group"),
    (other_dtype, "dtype is int16, expected int8"),
    (text_image, "variable-length"),
    (other_domain, "domain is 'bridge'"),
    (reference_attribute, "neither text nor numbers"),
]


@pytest.mark.parametrize(("damage", "message"), CASES, ids=lambda v: getattr(v, "__name__", ""))
def test_refused(
    damage: Callable[[h5py.File], None], message: str, droid: Files, tmp_path: Path
) -> None:
    path = tmp_path / droid.h5.name
    shutil.copy(droid.h5, path)
    read_h5_clip(path, "5:16")
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(InputError, match=message):
        read_h5_clip(path, "5:16")


def test_meshes_may_not_claim_too_much_together(behavior: Files, tmp_path: Path) -> None:
    """Every mesh is below the limit of points, all together are not."""
    path = tmp_path / behavior.h5.name
    shutil.copy(behavior.h5, path)
    with h5py.File(path, "r+") as file:
        parent = file["0:11/camera_head/local_scene_points"]
        for i in range(3):
            parent.create_dataset(f"mesh{i}", (1 << 19, 3), "f2", chunks=(1 << 16, 3))
    with pytest.raises(InputError, match="more than 1048576 points"):
        read_h5_clip(path, "0:11")


def test_huge_attributes(tmp_path: Path) -> None:
    path = tmp_path / "big.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs["domain"] = np.zeros(70000, np.uint8)
    with pytest.raises(InputError, match="too large"):
        read_episode(path)


@pytest.mark.parametrize("name", ["clip_complete", "has_transition"])
def test_behavior_attributes_are_needed(name: str, behavior: Files, tmp_path: Path) -> None:
    path = tmp_path / behavior.h5.name
    shutil.copy(behavior.h5, path)
    with h5py.File(path, "r+") as file:
        del file["0:11"].attrs[name]
    with pytest.raises(InputError, match=name):
        read_h5_clip(path, "0:11")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("left_min_distance_to_all_objects", "near"),
        ("clip_complete", [True, True]),
        ("has_transition", "no"),
    ],
)
def test_behavior_attributes_of_another_kind(
    name: str, value: object, behavior: Files, tmp_path: Path
) -> None:
    path = tmp_path / behavior.h5.name
    shutil.copy(behavior.h5, path)
    with h5py.File(path, "r+") as file:
        file["0:11"].attrs[name] = value
    with pytest.raises(InputError, match=rf"{path.name}:0:11: clip attribute '{name}'"):
        read_h5_clip(path, "0:11")


def test_no_clip_no_file_no_url(droid: Files, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no clip '0:11'; it has 5:16"):
        read_h5_clip(droid.h5, "0:11")
    with pytest.raises(InputError, match=r"no clip '\.\./5:16'"):
        read_h5_clip(droid.h5, "../5:16")
    for path in (tmp_path / "absent.h5", "https://example.org/a.h5", "pipe:cat a.h5", tmp_path):
        with pytest.raises(InputError, match="only local files"):
            read_episode(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_truncated_files(share: float, droid: Files, tmp_path: Path) -> None:
    data = droid.h5.read_bytes()
    cut = tmp_path / "cut.h5"
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError):
        read_h5_clip(cut, "5:16")


def test_values_that_make_no_sense(droid: Files, tmp_path: Path) -> None:
    """Found when decoding: NaN, calibration that is not rigid, a quaternion without length, another image."""

    def nan(file: h5py.File) -> None:
        file[f"{CAMERA}/scene_flows"][3, 7] = np.nan

    def shear(file: h5py.File) -> None:
        file[f"{CAMERA}/extrinsic"][0, 1] = 0.5

    def no_turn(file: h5py.File) -> None:
        file["5:16/gripper_pose"][2, 3:] = 0

    def no_image(file: h5py.File) -> None:
        file[f"{CAMERA}/initial_rgb"][0] = np.frombuffer(b"\xff\xd8 no image", np.uint8)

    for damage, message in (
        (nan, "NaN"),
        (shear, "not a rigid"),
        (no_turn, "quaternion"),
        (no_image, "JPEG"),
    ):
        path = tmp_path / droid.h5.name
        shutil.copy(droid.h5, path)
        with h5py.File(path, "r+") as file:
            damage(file)
        raw = read_h5_clip(path, "5:16")
        with pytest.raises(InputError, match=message):
            decode_clip(raw)


def test_links_out_of_a_folder_of_files(droid: Files, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    inside = folder / "a.h5"
    shutil.copy(droid.h5, inside)
    (folder / "b.h5").symlink_to(inside)
    assert h5_files(folder) == [inside, folder / "b.h5"]
    (folder / "c.h5").symlink_to(droid.h5)
    with pytest.raises(InputError, match=r"c\.h5 is a link out of"):
        h5_files(folder)
