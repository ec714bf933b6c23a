"""Damaged files end in a typed error or in a valid object, never in anything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

from pointworld.errors import AssetError, InputError
from pointworld.robot import RobotModel, read_joint_path
from pointworld.robot.mesh_files import read_mesh
from pointworld.robot.tree import check_tree
from pointworld.robot.urdf import parse_urdf

pytestmark = pytest.mark.rejects_input

TOKENS = (
    b"nan",
    b"1e999",
    b"-",
    b"<",
    b'"',
    b"\x00",
    b"\xff\xfe",
    b"&amp;",
    b"&x;",
    b"0",
    b" ",
    b"]]>",
)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three random edits: cut, repeat, overwrite or insert."""
    for _ in range(int(rng.integers(1, 4))):
        start = int(rng.integers(0, len(data) + 1))
        stop = min(len(data), start + int(rng.integers(1, 60)))
        kind = int(rng.integers(0, 5))
        if kind == 0:
            data = data[:start] + data[stop:]
        elif kind == 1:
            data = data[:stop] + data[start:stop] + data[stop:]
        elif kind == 2:
            data = data[:start] + rng.bytes(stop - start) + data[stop:]
        elif kind == 3:
            data = data[:start] + TOKENS[int(rng.integers(0, len(TOKENS)))] + data[start:]
        else:
            data = data[:start]
    return data


def test_damaged_urdf(fr3: RobotModel, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    original, refused = fr3.source.read_bytes(), 0
    path = tmp_path / "r.urdf"
    for _ in range(300):
        path.write_bytes(mutate(original, rng))
        try:
            tree = check_tree(parse_urdf(path))
            assert np.isfinite(tree.coupling).all()
        except AssetError as error:
            refused += 1
            assert "r.urdf" in str(error) and "\n" not in str(error)
    assert 50 < refused < 300


@pytest.mark.parametrize("kind", ["stl", "obj", "dae"])
def test_damaged_mesh(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(2)
    data = trimesh.creation.icosphere(1).export(file_type=kind)
    original = data if isinstance(data, bytes) else data.encode()
    path = tmp_path / f"m.{kind}"
    for _ in range(120):
        path.write_bytes(mutate(original, rng))
        try:
            mesh = read_mesh(path)
            assert np.isfinite(mesh.vertices).all() and mesh.faces.max() < len(mesh.vertices)
        except AssetError as error:
            assert path.name in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("kind", ["npz", "csv"])
def test_damaged_joint_path(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(3)
    path = tmp_path / f"p.{kind}"
    if kind == "npz":
        names = np.array(["a", "b"])
        np.savez(path, joint_positions=np.zeros((5, 2)), joint_names=names, step_dt=0.1)
    else:
        path.write_text("time,a,b\n" + "".join(f"{0.1 * i:.2f},{i},2.5\n" for i in range(8)))
    original = path.read_bytes()
    for _ in range(300):
        path.write_bytes(mutate(original, rng))
        try:
            assert np.isfinite(read_joint_path(path).joint_positions).all()
        except InputError as error:
            assert path.name in str(error) and "\n" not in str(error)
