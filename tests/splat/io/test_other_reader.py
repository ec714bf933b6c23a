"""Our files in gsply (an independent reader and writer, MIT), and its files in ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splat.io.arrays import SplatArrays, sigmoid
from splat.io.ply import read_ply, write_ply
from splat.io.ply_compressed import read_compressed_ply, write_compressed_ply
from splat.io.ply_header import read_ply_header
from splat.io.spz import read_spz, write_spz
from tests.splat.io.scenes import random_arrays, rotation_error

gsply = pytest.importorskip("gsply")


def _to_gsply(arrays: SplatArrays) -> Any:
    return gsply.GSData.from_arrays(
        means=arrays.means,
        scales=arrays.log_scales,
        quats=arrays.quats_wxyz,
        opacities=arrays.opacity_logits,
        sh0=np.ascontiguousarray(arrays.sh[:, 0]),
        shN=np.ascontiguousarray(arrays.sh[:, 1:]) if arrays.sh.shape[1] > 1 else None,
        format="ply",
    )


def _check(theirs: Any, ours: SplatArrays, *, sh_step: float = 1e-6, step: float = 1e-6) -> None:
    assert np.abs(np.asarray(theirs.means) - ours.means).max() <= step
    assert np.abs(np.asarray(theirs.scales) - ours.log_scales).max() <= max(step, 1e-5)
    assert rotation_error(np.asarray(theirs.quats), ours.quats_wxyz) < 1e-3
    alpha = sigmoid(np.asarray(theirs.opacities, dtype=np.float32)) - sigmoid(ours.opacity_logits)
    assert np.abs(alpha).max() < 1e-4
    assert np.abs(np.asarray(theirs.sh0) - ours.sh[:, 0]).max() <= 1e-5
    if ours.sh.shape[1] > 1:
        assert np.abs(np.asarray(theirs.shN) - ours.sh[:, 1:]).max() <= sh_step


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_ply_both_ways(tmp_path: Path, degree: int) -> None:
    arrays = random_arrays(degree, 300, degree)
    write_ply(arrays, tmp_path / "ours.ply", normals=False)
    _check(gsply.plyread(tmp_path / "ours.ply"), arrays)
    gsply.plywrite(tmp_path / "theirs.ply", _to_gsply(arrays))
    _check(
        _to_gsply(arrays),
        read_ply(tmp_path / "theirs.ply", read_ply_header(tmp_path / "theirs.ply")),
    )


@pytest.mark.parametrize("degree", [0, 3])
def test_compressed_ply_both_ways(tmp_path: Path, degree: int) -> None:
    arrays = random_arrays(degree, 700, degree)
    path = tmp_path / "ours.compressed.ply"
    write_compressed_ply(arrays, path)
    # The SH bytes are decoded to the middle of their step here (as in PlayCanvas) and half a step off in gsply.
    step = 8 / 256
    _check(gsply.plyread(path), read_compressed_ply(path, read_ply_header(path)), sh_step=step)
    path = tmp_path / "theirs.compressed.ply"
    gsply.plywrite(path, _to_gsply(arrays), compressed=True)
    _check(gsply.plyread(path), read_compressed_ply(path, read_ply_header(path)), sh_step=step)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spz_both_ways(tmp_path: Path, degree: int) -> None:
    arrays = random_arrays(degree, 300, degree)
    write_spz(arrays, tmp_path / "ours.spz", axes="as-is")
    _check(gsply.read_spz(tmp_path / "ours.spz"), read_spz(tmp_path / "ours.spz", axes="as-is"))
    gsply.write_spz(tmp_path / "theirs.spz", _to_gsply(arrays))
    _check(gsply.read_spz(tmp_path / "theirs.spz"), read_spz(tmp_path / "theirs.spz", axes="as-is"))


def test_spz_of_version_4(tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    arrays = random_arrays(11, 300, 2)
    gsply.write_spz(tmp_path / "theirs.spz", _to_gsply(arrays), version=4)
    _check(gsply.read_spz(tmp_path / "theirs.spz"), read_spz(tmp_path / "theirs.spz", axes="as-is"))
