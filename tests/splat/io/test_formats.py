"""Round trips: each format gives back what it can hold, to its own precision, and other readers agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splat.io.arrays import SH_C0, SplatArrays, flip_yz, sigmoid
from splat.io.ply import read_ply, write_ply
from splat.io.ply_compressed import (
    is_compressed,
    morton_order,
    read_compressed_ply,
    write_compressed_ply,
)
from splat.io.ply_header import read_ply_header
from splat.io.splat_file import read_splat, write_splat
from splat.io.spz import read_spz, write_spz
from tests.splat.io.scenes import color_distance, random_arrays, rotation_error

sizes = st.sampled_from([0, 1, 2, 255, 256, 257, 600])
cases = given(seed=st.integers(0, 2**31), count=sizes, degree=st.integers(0, 3))
fast = settings(max_examples=25, deadline=None)


def _equal(a: SplatArrays, b: SplatArrays) -> bool:
    names = ("means", "quats_wxyz", "log_scales", "opacity_logits", "sh")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@fast
@given(seed=st.integers(0, 2**31), count=sizes, degree=st.integers(0, 3), normals=st.booleans())
def test_ply_is_lossless_in_both_normal_conventions(
    folder: Path, seed: int, count: int, degree: int, normals: bool
) -> None:
    arrays = random_arrays(seed, count, degree)
    path = folder / "scene.ply"
    write_ply(arrays, path, normals=normals)
    elements = read_ply_header(path)
    names = elements["vertex"].dtype.names
    assert names is not None and ("nx" in names) == normals
    assert len(names) == {0: 14, 1: 23, 2: 38, 3: 59}[degree] + 3 * normals
    assert not is_compressed(elements)
    assert _equal(read_ply(path, elements), arrays)


def test_ply_of_other_tools_reads_in_any_property_order_and_type(folder: Path) -> None:
    arrays = random_arrays(3, 5, 0)
    table = {
        "opacity": arrays.opacity_logits,
        **{f"rot_{i}": arrays.quats_wxyz[:, i] for i in range(4)},
        **{f"scale_{i}": arrays.log_scales[:, i] for i in range(3)},
        **{f"f_dc_{i}": arrays.sh[:, 0, i] for i in range(3)},
        "label": np.arange(5),
        **{axis: arrays.means[:, i] for i, axis in enumerate("xyz")},
    }
    rows = np.zeros(5, [(name, "<i4" if name == "label" else "<f8") for name in table])
    for name, values in table.items():
        rows[name] = values
    lines = [
        "ply\r",
        "format binary_little_endian 1.0\r",
        "comment by hand\r",
        "element vertex 5\r",
    ]
    lines += [f"property {'int' if name == 'label' else 'double'} {name}\r" for name in table]
    path = folder / "other.ply"
    path.write_bytes("\n".join([*lines, "end_header\r\n"]).encode() + rows.tobytes())
    assert _equal(read_ply(path, read_ply_header(path)), arrays)


def test_infinite_opacity_logits_are_read_as_nearly_solid_and_nearly_clear(folder: Path) -> None:
    arrays = random_arrays(1, 3, 0)
    logits = np.float32([np.inf, -np.inf, 40.0])
    path = folder / "solid.ply"
    write_ply(
        SplatArrays(
            means=arrays.means,
            quats_wxyz=arrays.quats_wxyz,
            log_scales=arrays.log_scales,
            opacity_logits=logits,
            sh=arrays.sh,
        ),
        path,
    )
    assert read_ply(path, read_ply_header(path)).opacity_logits.tolist() == [11.5, -11.5, 40.0]


@fast
@cases
def test_compressed_ply_keeps_each_value_within_half_a_step(
    folder: Path, seed: int, count: int, degree: int
) -> None:
    arrays = random_arrays(seed, count, degree)
    path = folder / "scene.compressed.ply"
    write_compressed_ply(arrays, path)
    elements = read_ply_header(path)
    assert is_compressed(elements)
    back = read_compressed_ply(path, elements)
    given_ = arrays.take(morton_order(arrays.means))
    for start in range(0, count, 256):
        rows = slice(start, start + 256)
        for name in ("means", "log_scales"):
            before, after = getattr(given_, name)[rows], getattr(back, name)[rows]
            steps = np.array([2047, 1023, 2047])
            step = (before.max(axis=0) - before.min(axis=0)) / steps
            assert (np.abs(before - after) <= 0.5 * step + 2e-6).all()
        color = given_.sh[rows, 0]
        step = (color.max(axis=0) - color.min(axis=0)) / 255
        assert (np.abs(color - back.sh[rows, 0]) <= 0.5 * step + 1e-5).all()
    assert (
        color_distance(sigmoid(given_.opacity_logits), sigmoid(back.opacity_logits)) <= 0.501 / 255
    )
    assert rotation_error(given_.quats_wxyz, back.quats_wxyz) < 6e-3
    assert (
        color_distance(given_.sh[:, 1:].clip(-3.98, 3.98), back.sh[:, 1:]) <= 0.5 * 8 / 256 + 1e-5
    )


def test_compressed_ply_in_the_given_order(folder: Path) -> None:
    arrays = random_arrays(9, 300, 0)
    path = folder / "order.compressed.ply"
    write_compressed_ply(arrays, path, sort=False)
    back = read_compressed_ply(path, read_ply_header(path))
    assert np.abs(back.means - arrays.means).max() < 0.01


@fast
@cases
def test_splat_keeps_floats_exactly_and_bytes_to_half_a_step(
    folder: Path, seed: int, count: int, degree: int
) -> None:
    arrays = random_arrays(seed, count, degree)
    path = folder / "scene.splat"
    write_splat(arrays, path, sort=False)
    back = read_splat(path)
    assert path.stat().st_size == 32 * count
    assert np.array_equal(back.means, arrays.means)
    assert color_distance(back.log_scales, arrays.log_scales) < 2e-6
    assert (
        color_distance(sigmoid(back.opacity_logits), sigmoid(arrays.opacity_logits)) <= 0.501 / 255
    )
    shown = (arrays.sh[:, 0] * SH_C0 + 0.5).clip(0, 1)
    assert color_distance(back.sh[:, 0] * SH_C0 + 0.5, shown) <= 0.501 / 255
    assert back.sh.shape == (count, 1, 3)
    assert rotation_error(back.quats_wxyz, arrays.quats_wxyz) < 3 / 128


def test_splat_puts_the_largest_first(folder: Path) -> None:
    arrays = random_arrays(4, 100, 0)
    write_splat(arrays, folder / "sorted.splat")
    back = read_splat(folder / "sorted.splat")
    order = [int(np.abs(arrays.means - mean).sum(axis=1).argmin()) for mean in back.means]
    assert sorted(order) == list(range(100))
    weight = np.exp(arrays.log_scales.sum(axis=1)) * sigmoid(arrays.opacity_logits)
    assert (np.diff(weight[order]) <= 1e-5 * weight[order][:-1]).all()


@fast
@given(
    seed=st.integers(0, 2**31),
    count=sizes,
    degree=st.integers(0, 3),
    axes=st.sampled_from(["rub", "as-is"]),
)
def test_spz_keeps_each_value_within_half_a_step(
    folder: Path, seed: int, count: int, degree: int, axes: str
) -> None:
    arrays = random_arrays(seed, count, degree)
    path = folder / "scene.spz"
    write_spz(arrays, path, axes=axes)  # type: ignore[arg-type]
    back = read_spz(path, axes=axes)  # type: ignore[arg-type]
    assert color_distance(back.means, arrays.means) <= 0.5 / 4096 + 1e-6
    assert color_distance(back.log_scales, arrays.log_scales) <= 0.5 / 16 + 1e-5
    assert (
        color_distance(sigmoid(back.opacity_logits), sigmoid(arrays.opacity_logits)) <= 0.501 / 255
    )
    limit = 0.5 / 0.15
    assert color_distance(back.sh[:, 0], arrays.sh[:, 0].clip(-limit, limit)) <= 0.501 / 255 / 0.15
    limit = 127 / 128  # -1 fits a byte, but turns to +1, which does not
    rest = back.sh[:, 1:].clip(-limit, limit)
    assert color_distance(rest, arrays.sh[:, 1:].clip(-limit, limit)) <= 0.5 / 128 + 1e-6
    assert rotation_error(back.quats_wxyz, arrays.quats_wxyz) < 6e-3


def test_spz_turns_between_its_axes_and_those_of_ply(folder: Path) -> None:
    arrays = random_arrays(5, 20, 3)
    write_spz(arrays, folder / "axes.spz")
    stored = read_spz(folder / "axes.spz", axes="as-is")
    assert np.abs(stored.means - arrays.means * [1, -1, -1]).max() < 2e-4


def test_half_turn_about_x_is_what_it_says() -> None:
    arrays = random_arrays(6, 50, 3)
    turned = flip_yz(arrays)
    assert _equal(flip_yz(turned), arrays)
    flip = np.diag([1.0, -1.0, -1.0])
    directions = np.random.default_rng(0).standard_normal((30, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    before = _sh_basis(directions) @ arrays.sh[0].astype(np.float64)
    after = _sh_basis(directions @ flip) @ turned.sh[0].astype(np.float64)
    assert np.abs(before - after).max() < 1e-6
    assert np.abs(_covariance(turned, 0) - flip @ _covariance(arrays, 0) @ flip).max() < 1e-9


def _sh_basis(d: np.ndarray) -> np.ndarray:
    """Real spherical harmonics up to degree 3, written out (unnormalised: signs and parities are what counts)."""
    x, y, z = d.T
    xx, yy, zz = x * x, y * y, z * z
    return np.stack(
        [
            np.ones_like(x), -y, z, -x,
            x * y, -y * z, 2 * zz - xx - yy, -x * z, xx - yy,
            -y * (3 * xx - yy), x * y * z, -y * (4 * zz - xx - yy), z * (2 * zz - 3 * xx - 3 * yy),
            -x * (4 * zz - xx - yy), z * (xx - yy), -x * (xx - 3 * yy),
        ],
        axis=1,
    )  # fmt: skip


def _covariance(arrays: SplatArrays, row: int) -> np.ndarray:
    w, x, y, z = (
        arrays.quats_wxyz[row].astype(np.float64) / np.linalg.norm(arrays.quats_wxyz[row])
    ).tolist()
    R = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    M = R * np.exp(arrays.log_scales[row].astype(np.float64))
    return M @ M.T
