"""Shards that are commands, link or lead elsewhere, run code, or lie about sizes: refused, and nothing happens."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import re
import struct
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pointworld.data.released import iterate_shard, shard_paths, synthetic
from pointworld.data.released.layout import FieldSpec
from pointworld.data.released.plain_pickle import loads_plain
from pointworld.data.released.wds import read_npy
from pointworld.errors import InputError
from tests.data.released.conftest import Files

pytestmark = pytest.mark.rejects_input
PLAIN = FieldSpec(dtype="float32", shape=("N", 3))


class Touch:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def rewritten(
    shard: Path, target: Path, change: Callable[[tarfile.TarInfo, bytes], tuple[Any, bytes] | None]
) -> Path:
    """A copy of a shard with members changed or left out (None)."""
    with tarfile.open(shard) as source, tarfile.open(target, "w") as out:
        for info in source:
            content = source.extractfile(info)
            assert content is not None
            changed = change(info, content.read())
            if changed is not None:
                out.addfile(changed[0], io.BytesIO(changed[1]))
    return target


def appended(shard: Path, target: Path, info: tarfile.TarInfo, data: bytes = b"") -> Path:
    target.write_bytes(shard.read_bytes())
    with tarfile.open(target, "a") as out:
        out.addfile(info, io.BytesIO(data))
    return target


@pytest.mark.parametrize(
    "path",
    [
        "pipe:touch owned",
        "http://example.org/train-000000.tar",
        "s3://bucket/train.tar",
        "file:train.tar",
        "train-{000000..000010}.tar",
    ],
)
def test_commands_and_urls(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="local files only"):
        list(iterate_shard(path))
    with pytest.raises(InputError, match="local files only"):
        shard_paths(path, "train")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "name", "target"),
    [
        (tarfile.SYMTYPE, "clip-0:11.joint_positions.npy", "/etc/passwd"),
        (tarfile.LNKTYPE, "clip-0:11.joint_positions.npy", "../../secret"),
        (tarfile.CHRTYPE, "clip-0:11.joint_positions.npy", ""),
        (tarfile.FIFOTYPE, "clip-0:11.joint_positions.npy", ""),
        (tarfile.DIRTYPE, "folder", ""),
        (tarfile.REGTYPE, "/etc/clip-0:11.x.npy", ""),
        (tarfile.REGTYPE, "../clip-0:11.x.npy", ""),
        (tarfile.REGTYPE, "a/../../clip-0:11.x.npy", ""),
        (tarfile.REGTYPE, "..\\clip-0:11.x.npy", ""),
        (tarfile.REGTYPE, "clip-0:11.x.sh", ""),
        (tarfile.REGTYPE, ".hidden.x.npy", ""),
    ],
)
def test_links_devices_and_paths(
    kind: bytes, name: str, target: str, droid: Files, tmp_path: Path
) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    shard = appended(droid.shard, tmp_path / "a.tar", info)
    with pytest.raises(InputError, match=r"is a link|special|is a path|is not named"):
        list(iterate_shard(shard))


def test_links_among_shards(droid: Files, tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test-rank00-000000.tar").symlink_to(droid.shard)
    with pytest.raises(InputError, match="link out of"):
        shard_paths(tmp_path, "test")


def test_members_twice_or_apart(droid: Files, tmp_path: Path) -> None:
    with tarfile.open(droid.shard) as archive:
        first = archive.next()
        assert first is not None
        content = archive.extractfile(first)
        assert content is not None
        data = content.read()
    with pytest.raises(InputError, match="twice"):
        list(iterate_shard(appended(droid.shard, tmp_path / "a.tar", first, data)))
    two = synthetic.write_wds(tmp_path, "test", {droid.raw.key: droid.raw, "b-0:11": droid.raw})
    with pytest.raises(InputError, match="not together"):
        list(iterate_shard(appended(two, tmp_path / "c.tar", first, data)))


def test_truncated_compressed_or_no_tar(droid: Files, tmp_path: Path) -> None:
    data = droid.shard.read_bytes()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError):
        list(iterate_shard(cut))
    packed = tmp_path / "a.tar"
    with tarfile.open(packed, "w:gz") as out:
        out.addfile(tarfile.TarInfo("clip-0:11.x.npy"))
    noise = tmp_path / "noise.tar"
    noise.write_bytes(bytes(range(256)) * 100)
    for path in (packed, noise, tmp_path, tmp_path / "absent.tar"):
        with pytest.raises(InputError):
            list(iterate_shard(path))


def test_claimed_sizes(droid: Files, tmp_path: Path) -> None:
    """A tar header of 8 GB, an array header of terabytes: refused before memory is taken."""
    data = bytearray(droid.shard.read_bytes())
    info = tarfile.TarInfo("clip-0:11.x.npy")
    info.size = 8 << 30
    header = info.tobuf(tarfile.GNU_FORMAT)
    big = tmp_path / "big.tar"
    big.write_bytes(header + bytes(data))
    with pytest.raises(InputError, match="claims 8589934592 bytes"):
        list(iterate_shard(big))

    def lie(info: tarfile.TarInfo, data: bytes) -> tuple[Any, bytes]:
        if info.name.endswith("1_ext_scene_flows.npy"):
            stream = io.BytesIO()
            claim = {"descr": "<f2", "fortran_order": False, "shape": (11, 3000, 3)}
            np.lib.format.write_array_header_1_0(stream, claim)
            data = stream.getvalue() + b"\0" * 64
            info.size = len(data)
        return info, data

    with pytest.raises(InputError, match="claims 198000 bytes, 64 are there"):
        list(iterate_shard(rewritten(droid.shard, tmp_path / "lie.tar", lie)))


def test_sparse_members(droid: Files, tmp_path: Path) -> None:
    """A GNU sparse entry of 1 TB with no data."""
    info = tarfile.TarInfo("clip-0:11.x.npy")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT)[:512])
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"00000000000\x00" + b"00000000000\x00"
    header[483:495] = b"77777777777\x00"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "sparse.tar"
    path.write_bytes(bytes(header) + droid.shard.read_bytes())
    with pytest.raises(InputError, match="special or sparse"):
        list(iterate_shard(path))


def test_pickles_that_run_code(behavior: Files, tmp_path: Path) -> None:
    owned = tmp_path / "owned"

    def poison(info: tarfile.TarInfo, data: bytes) -> tuple[Any, bytes]:
        if info.name.endswith("clip_attributes.pyd"):
            data = pickle.dumps({"clip_key": Touch(owned)})
            info.size = len(data)
        return info, data

    shard = rewritten(behavior.shard, tmp_path / "a.tar", poison)
    with pytest.raises(InputError, match=r"it names posix\.mkdir"):
        list(iterate_shard(shard))
    assert not owned.exists()


def test_pickled_array_members(droid: Files, tmp_path: Path) -> None:
    """A `.npy` of Python objects is a pickle in disguise."""
    owned = tmp_path / "owned"

    def poison(info: tarfile.TarInfo, data: bytes) -> tuple[Any, bytes]:
        if info.name.endswith("joint_positions.npy"):
            stream = io.BytesIO()
            np.save(stream, np.array([Touch(owned)], object), allow_pickle=True)
            data = stream.getvalue()
            info.size = len(data)
        return info, data

    with pytest.raises(InputError, match="dtype is object"):
        list(iterate_shard(rewritten(droid.shard, tmp_path / "a.tar", poison)))
    assert not owned.exists()


@pytest.mark.parametrize("field", ["joint_names.pyd", "camera_head_intrinsic.npy", "left_mesh"])
def test_missing_members(field: str, behavior: Files, tmp_path: Path) -> None:
    def leave_out(info: tarfile.TarInfo, data: bytes) -> tuple[Any, bytes] | None:
        if field == "left_mesh" and info.name.endswith("left_local_scene_colors.pyd"):
            value = loads_plain(data, where="")
            value.pop("__World__box__visuals")
            data = pickle.dumps(value)
            info.size = len(data)
        return None if info.name.endswith(field) else (info, data)

    with pytest.raises(InputError, match=r"lacks|other meshes"):
        list(iterate_shard(rewritten(behavior.shard, tmp_path / "a.tar", leave_out)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("left_min_distance_to_all_objects", "near"),
        ("right_min_distance_to_moving_objects", None),
        ("max_joint_movement", np.zeros(2)),
        ("max_object_pos_movement", np.zeros(0)),
        ("max_object_rot_movement", [0.1]),
        ("clip_complete", np.array([True, True])),
        ("has_left_gripper_finger_collision", "no"),
        ("has_transition", 0.5),
    ],
)
def test_attributes_of_another_kind(
    name: str, value: object, behavior: Files, tmp_path: Path
) -> None:
    raw = replace(behavior.raw, attributes={**behavior.raw.attributes, name: value})
    shard = synthetic.write_wds(tmp_path, "test", {raw.key: raw})
    with pytest.raises(InputError, match=f"{re.escape(str(shard))}.*'{name}'"):
        list(iterate_shard(shard))


HOSTILE: list[tuple[str, bytes, str]] = [
    ("eval", pickle.dumps(eval), "it names builtins.eval"),
    ("numpy load", pickle.dumps(np.load), "it names numpy.load"),
    ("numpy f2py", b"\x80\x03cnumpy.f2py\ncompile\n.", "it names numpy.f2py.compile"),
    ("nested name", b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.view\x93.", "numpy.ndarray.view"),
    ("text global", b"cos\nsystem\n(S'true'\ntR.", "it names os.system"),
    ("inst", b"(ios\nsystem\n.", "INST is not allowed"),
    ("extension", b"\x80\x02\x82\x01.", "EXT1 is not allowed"),
    ("persistent id", b"Pabc\n.", "PERSID is not allowed"),
    ("out of band", b"\x80\x05\x97.", "NEXT_BUFFER is not allowed"),
    ("call ndarray", b"\x80\x03cnumpy\nndarray\nK\x01\x85R.", "numpy.ndarray directly"),
    ("call a string", b"\x80\x03X\x01\x00\x00\x00aK\x01\x85R.", "no array constructor"),
    ("state on a dict", b"\x80\x03}}b.", "state of something"),
    ("bare class", b"\x80\x03cnumpy\nndarray\n.", "bare class"),
    ("objects", pickle.dumps(np.array([1, [2]], object)), "objects other than text"),
    ("structured", pickle.dumps(np.zeros(2, [("a", "f4")])), "dtype 'V4'"),
    ("dates", pickle.dumps(np.datetime64("2020-01-01")), "dtype 'M8'"),
    ("bytes missing", b"\x80\x04B\xff\xff\xff\x7fabc.", "not a readable pickle"),
    ("8-byte length", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"abc.", "not a readable"),
    ("huge memo", b"\x80\x03Nr\xff\xff\xff\x7f.", ""),
    ("large integer", pickle.dumps(1 << 70), "more than 64 bits"),
    ("huge integer", pickle.dumps(1 << 3000), "LONG4 is not allowed"),
    ("no end", b"\x80\x03N", "not a readable pickle"),
    ("left over", pickle.dumps(1) + b"cos\nsystem\n.", "left over"),
    ("underflow", b"\x80\x03\x87.", "not a readable pickle"),
    ("empty", b"", "not a readable pickle"),
]


@pytest.mark.parametrize(("data", "message"), [c[1:] for c in HOSTILE], ids=[c[0] for c in HOSTILE])
def test_hostile_pickles(data: bytes, message: str) -> None:
    if not message:
        assert loads_plain(data, where="x") is None
        return
    with pytest.raises(InputError, match=message):
        loads_plain(data, where="x")


def test_pickled_arrays_that_claim_more_than_they_have() -> None:
    honest = pickle.dumps(np.arange(6, dtype=np.float32).reshape(2, 3), protocol=3)
    assert b"K\x02K\x03\x86" in honest
    with pytest.raises(InputError, match="claims 260100 bytes and has 24"):
        loads_plain(honest.replace(b"K\x02K\x03\x86", b"K\xffK\xff\x86"), where="x")


def test_shared_pieces_cannot_grow() -> None:
    """A few hundred bytes that spell gigabytes: lists of lists of the same list, and arrays over shared bytes."""
    value: Any = [0.5] * 10
    for _ in range(12):
        value = [value] * 10
    with pytest.raises(InputError, match="without end"):
        loads_plain(pickle.dumps(value), where="x")
    blob = bytes(100_000)
    rebuild = (
        b"\x80\x03(B" + struct.pack("<I", len(blob)) + blob + b"q\x01"
        b"cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85Rq\x02"
    )
    one = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
        b"(K\x01J" + struct.pack("<i", len(blob)) + b"\x85h\x02\x89h\x01tb"
    )
    with pytest.raises(InputError, match="larger than the pickle"):
        loads_plain(rebuild + one * 50 + b"l.", where="x")


def _pairs(count: int) -> bytes:
    """Opcodes for a pair of a pair of ... 5, every one of the same thing twice: 2^count fives as text."""
    return b"K\x05\x94" + b"".join(b"h" + bytes([k]) + b"\x86\x94" for k in range(count))


_FRAME = b"\x80\x04cnumpy.core.numeric\n_frombuffer\nC\x01bcnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R"


@pytest.mark.parametrize(
    "build",
    [
        lambda value: b"\x80\x04cnumpy\ndtype\n" + value + b"\x85R.",
        lambda value: b"\x80\x04" + value + b"\x8c\x01a\x93.",
        lambda value: b"\x80\x04\x8c\x01a" + value + b"\x93.",
        lambda value: _FRAME.replace(b"C\x01b", b"(C\x01b") + value + b"X\x01\x00\x00\x00CtR.",
        lambda value: _FRAME.replace(b"C\x01b", b"(C\x01b") + b"K\x01\x85" + value + b"tR.",
    ],
    ids=["dtype", "module", "attribute", "shape", "order"],
)
@pytest.mark.parametrize("value", [_pairs(60), b"K\x00" + b"\x85" * 5000], ids=["shared", "nested"])
def test_what_shares_or_nests_itself_is_never_written_out(
    build: Callable[[bytes], bytes], value: bytes
) -> None:
    with pytest.raises(InputError, match="Only dictionaries"):
        loads_plain(build(value), where="x")


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(value=plain_values, protocol=st.integers(3, 5))
def test_plain_values_come_back(value: Any, protocol: int) -> None:
    assert loads_plain(pickle.dumps(value, protocol), where="x") == value


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_mutated_pickles_give_input_errors_only(data: st.DataObject) -> None:
    """Any damage of a real member ends in a value or an InputError, with no import and no other exception."""
    good = pickle.dumps(
        {"a": np.arange(5, dtype=np.float16), "k": np.array(["x", "y"]), "n": np.float32(1)},
        protocol=data.draw(st.integers(3, 5)),
    )
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InputError):
        loads_plain(bytes(damaged[: data.draw(st.integers(0, len(good)))]), where="x")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_arrays_give_input_errors_only(data: st.DataObject) -> None:
    stream = io.BytesIO()
    np.save(stream, np.ones((4, 3), np.float32))
    damaged = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InputError):
        assert read_npy(bytes(damaged), PLAIN, "x", {}).shape == (4, 3)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_mutated_tars_give_input_errors_only(
    data: st.DataObject, droid: Files, tmp_path: Path
) -> None:
    """Noise in the headers of a shard."""
    damaged = bytearray(droid.shard.read_bytes()[:20480])
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, 511))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.tar"
    path.write_bytes(damaged)
    with pytest.raises(InputError):
        list(iterate_shard(path))
