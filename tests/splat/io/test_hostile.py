"""Files made to break a reader: refused in under a second and 100 MB, whatever they claim."""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pointworld.errors import InputError
from splat import io
from splat.io.ply import write_ply
from splat.io.ply_compressed import write_compressed_ply
from splat.io.splat_file import write_splat
from splat.io.spz import write_spz
from tests.splat.io.scenes import random_arrays

pytestmark = pytest.mark.rejects_input


def _ply(path: Path, count: str = "100", body: int = 100 * 56) -> None:
    write_ply(random_arrays(0, 1, 0), path, normals=False)
    head = path.read_bytes()[:-56].replace(b"vertex 1\n", f"vertex {count}\n".encode())
    path.write_bytes(head + b"\x3f" * body)


def _edit(path: Path, write: Callable[..., None], change: Callable[[bytearray], None]) -> None:
    write(random_arrays(0, 300, 1), path)
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def _set_float(offset: int, value: float) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        start = data.find(b"end_header\n") + 11 if data[:3] == b"ply" else 0
        struct.pack_into("<f", data, start + offset, value)

    return change


def _cut(count: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        del data[-count:]

    return change


def _spz(path: Path, count: int, body: bytes, *, degree: int = 0, version: int = 3) -> None:
    head = struct.pack("<IIIBBBB", 0x5053474E, version, count, degree, 12, 0, 0)
    path.write_bytes(gzip.compress(head + body, 1))


def _bomb(path: Path, count: int) -> None:
    """A gzip stream of 256 MB zeros, made of repeated members' worth of one compressed block."""
    head = struct.pack("<IIIBBBB", 0x5053474E, 3, count, 0, 12, 0, 0)
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(head)]
    block = bytes(1 << 20)
    parts += [packer.compress(block) for _ in range(256)]
    path.write_bytes(b"".join([*parts, packer.flush()]))


def _v4(path: Path, count: int, entries: list[tuple[int, int]], body: bytes) -> None:
    head = struct.pack("<IIIBBBBI12x", 0x5053474E, 4, count, 0, 12, 0, len(entries), 32)
    path.write_bytes(head + b"".join(struct.pack("<QQ", *e) for e in entries) + body)


def _safetensors(path: Path, header: object, body: bytes = b"", length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)


def _header(shape: list[int], size: int) -> dict:
    return {
        "__metadata__": {"format": "pointworld.gaussians", "version": "1"},
        "means": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]},
    }


def _nan_native(path: Path) -> None:
    scene = io.to_scene(random_arrays(0, 20, 0))
    scene.opacity_logits[3] = float("nan")
    io.write_native(scene, path)


_PLY = b"ply\nformat binary_little_endian 1.0\n"
_LIST = b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty list uchar int x\nend_header\n"

CASES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "ply: 10^12 vertices": ("a.ply", lambda p: _ply(p, "1000000000000")),
    "ply: 10^30 vertices": ("a.ply", lambda p: _ply(p, "1" + "0" * 30)),
    "ply: negative count": ("a.ply", lambda p: _ply(p, "-5")),
    "ply: too few vertices claimed": ("a.ply", lambda p: _ply(p, "99")),
    "ply: too many vertices claimed": ("a.ply", lambda p: _ply(p, "101")),
    "ply: truncated": ("a.ply", lambda p: _edit(p, write_ply, _cut(1))),
    "ply: NaN position": ("a.ply", lambda p: _edit(p, write_ply, _set_float(0, np.nan))),
    "ply: infinite scale": ("a.ply", lambda p: _edit(p, write_ply, _set_float(4 * 19, np.inf))),
    "ply: NaN opacity": ("a.ply", lambda p: _edit(p, write_ply, _set_float(4 * 18, np.nan))),
    "ply: linear scales": ("a.ply", lambda p: _edit(p, write_ply, _set_float(4 * 19, 1e6))),
    "ply: header without end": ("a.ply", lambda p: p.write_bytes(b"ply\n" + b"comment x\n" * 500_000) and None),
    "ply: list property": ("a.ply", lambda p: p.write_bytes(_LIST) and None),
    "ply: ascii": ("a.ply", lambda p: p.write_bytes(b"ply\nformat ascii 1.0\nelement vertex 0\nend_header\n") and None),
    "ply: a mesh": (
        "a.ply",
        lambda p: p.write_bytes(
            b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\nend_header\n1234"
        )
        and None,
    ),
    "ply: no vertex": ("a.ply", lambda p: p.write_bytes(_PLY + b"end_header\n") and None),
    "compressed: truncated": ("a.compressed.ply", lambda p: _edit(p, write_compressed_ply, _cut(5))),
    "compressed: NaN bounds": (
        "a.compressed.ply",
        lambda p: _edit(p, write_compressed_ply, _set_float(0, np.nan)),
    ),
    "compressed: chunk count": (
        "a.compressed.ply",
        lambda p: _edit(
            p,
            write_compressed_ply,
            lambda d: d.__setitem__(slice(None), d.replace(b"vertex 300", b"vertex 9000000000000")),
        ),
    ),
    "splat: truncated": ("a.splat", lambda p: _edit(p, write_splat, _cut(1))),
    "splat: NaN position": ("a.splat", lambda p: _edit(p, write_splat, _set_float(32, np.nan))),
    "splat: negative scale": ("a.splat", lambda p: _edit(p, write_splat, _set_float(12, -1.0))),
    "spz: truncated": ("a.spz", lambda p: _edit(p, write_spz, _cut(30))),
    "spz: not gzip after all": ("a.spz", lambda p: p.write_bytes(b"\x1f\x8b" + bytes(500)) and None),
    "spz: bits flipped": ("a.spz", lambda p: _edit(p, write_spz, lambda d: d.__setitem__(100, d[100] ^ 255))),
    "spz: 4 billion Gaussians": ("a.spz", lambda p: _spz(p, 2**32 - 1, bytes(1000))),
    "spz: more Gaussians than bytes": ("a.spz", lambda p: _spz(p, 100, bytes(20 * 99))),
    "spz: more bytes than Gaussians": ("a.spz", lambda p: _spz(p, 100, bytes(20 * 101))),
    "spz: bomb with a small claim": ("a.spz", lambda p: _bomb(p, 10)),
    "spz: bomb with an honest claim": ("a.spz", lambda p: _bomb(p, (256 << 20) // 20)),
    "spz: version 9": ("a.spz", lambda p: _spz(p, 1, bytes(20), version=9)),
    "spz: SH degree 200": ("a.spz", lambda p: _spz(p, 1, bytes(20), degree=200)),
    "spz 4: table beyond the end": ("a.spz", lambda p: _v4(p, 10, [], b"")),
    "spz 4: stream of 10^15 bytes": ("a.spz", lambda p: _v4(p, 10, [(10**15, 90)] * 5, bytes(500))),
    "spz 4: 4 billion Gaussians": ("a.spz", lambda p: _v4(p, 2**32 - 1, [(10, 90)] * 5, bytes(500))),
    "safetensors: header of 10^18 bytes": ("a.safetensors", lambda p: _safetensors(p, {}, length=10**18)),
    "safetensors: header of 3 MB": ("a.safetensors", lambda p: _safetensors(p, b"[" * 3_000_000)),
    "safetensors: nested header": ("a.safetensors", lambda p: _safetensors(p, b"[" * 900_000)),
    "safetensors: 10^12 Gaussians": (
        "a.safetensors",
        lambda p: _safetensors(p, _header([10**12, 3], 12 * 10**12), bytes(1200)),
    ),
    "safetensors: shape of other size": (
        "a.safetensors",
        lambda p: _safetensors(p, _header([10**12, 3], 1200), bytes(1200)),
    ),
    "safetensors: NaN": ("a.safetensors", _nan_native),
    "safetensors: no scene": ("a.safetensors", lambda p: _safetensors(p, {})),
    "safetensors: empty file": ("a.safetensors", lambda p: p.write_bytes(b"") and None),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder per case, each with its hostile file."""
    root = tmp_path_factory.mktemp("hostile")
    for i, (name, make) in enumerate(CASES.values()):
        (root / str(i)).mkdir()
        make(root / str(i) / name)
    return root


@pytest.mark.parametrize("case", CASES)
def test_hostile_file_is_refused_by_name(folder: Path, case: str) -> None:
    path = folder / str(list(CASES).index(case)) / CASES[case][0]
    with pytest.raises(InputError) as caught:
        io.read(path)
    assert str(path) in str(caught.value)


_MEASURE = """
import json, resource, sys, time
from splat import io
from pointworld.errors import InputError
io.read(sys.argv[1])
rows = []
for path in sys.argv[2:]:
    # The peak of this process so far; each case can only raise it.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    try:
        io.read(path)
        refused = False
    except InputError:
        refused = True
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows.append((path, refused, time.process_time() - cpu, (after - before) / 1024))
print(json.dumps(rows))
"""


def test_refusal_adds_less_than_a_second_and_100_mb(folder: Path, tmp_path: Path) -> None:
    """Measured in a fresh process that has read one small good file (so that imports do not count)."""
    write_ply(random_arrays(0, 10, 0), tmp_path / "good.ply")
    paths = [str(folder / str(i) / name) for i, (name, _) in enumerate(CASES.values())]
    command = [sys.executable, "-c", _MEASURE, str(tmp_path / "good.ply"), *paths]
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    rows = json.loads(done.stdout)
    assert len(rows) == len(CASES)
    for path, refused, seconds, megabytes in rows:
        assert refused, path
        assert seconds < 1, (path, seconds)
        assert megabytes < 100, (path, megabytes)
    assert sum(megabytes for *_, megabytes in rows) < 100
