"""Objects from the meshes of an installed package; a stand-in distribution of the same layout where it is absent."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trimesh

from pointworld.data import TabletopConfig
from pointworld.data.mesh_shapes import (
    OBJECTS,
    PACKAGE,
    TEST_MESHES,
    TRAIN_MESHES,
    _load,
    make_mesh_shape,
)
from pointworld.data.tabletop import draw_object
from pointworld.errors import InputError


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path that holds a distribution with the package's files: tori for rings, else boxes."""
    (tmp_path / f"{PACKAGE}-3.1.1.dist-info").mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 3.1.1\n"
    (tmp_path / f"{PACKAGE}-3.1.1.dist-info" / "METADATA").write_text(metadata)
    for pieces in OBJECTS.values():
        for piece in pieces:
            path = tmp_path / "metaworld/assets/objects/meshes" / piece.file
            path.parent.mkdir(parents=True, exist_ok=True)
            ring = trimesh.creation.annulus(0.03, 0.05, 0.02)
            (ring if piece.sectors else trimesh.creation.box((0.03, 0.05, 0.08))).export(path)
    monkeypatch.syspath_prepend(str(tmp_path))
    _load.cache_clear()
    yield tmp_path
    _load.cache_clear()


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_rest_on_their_hulls(installed: Path, name: str) -> None:
    shape = make_mesh_shape(name, np.random.default_rng(2))
    extent = np.subtract(*shape.bounds(np.eye(3))[::-1])
    assert 0.08 <= extent.max() <= 0.18
    assert len(shape.parts) >= len(OBJECTS[name])
    for rest in shape.rests:
        np.testing.assert_allclose(rest @ rest.T, np.eye(3), atol=1e-9)


def test_a_ring_stays_open(installed: Path) -> None:
    ring = make_mesh_shape("wrench", np.random.default_rng(2)).parts[:10]
    volumes = [trimesh.convex.convex_hull(part.vertices).volume for part in ring]
    outline = np.concatenate([part.vertices for part in ring if part.vertices is not None])
    whole = trimesh.convex.convex_hull(outline).volume
    assert 0.5 < sum(volumes) / whole < 0.75  # 0.64 of the disc


def test_held_out_meshes_and_the_default() -> None:
    assert not set(TRAIN_MESHES) & set(TEST_MESHES)
    assert set(TRAIN_MESHES + TEST_MESHES) == set(OBJECTS)
    assert not set(TabletopConfig(shapes="all").object_classes) & set(OBJECTS)
    assert set(TabletopConfig(shapes="test", meshes=True).object_classes) >= set(TEST_MESHES)
    assert not set(TabletopConfig(shapes="train", meshes=True).object_classes) & set(TEST_MESHES)


def test_objects_are_drawn(installed: Path) -> None:
    rng = np.random.default_rng(0)
    names = TabletopConfig(shapes="test", meshes=True).object_classes
    drawn = {draw_object(rng, names, "push").shape.name for _ in range(60)}
    grasped = {draw_object(rng, names, "grasp_lift").shape.name for _ in range(60)}
    assert set(TEST_MESHES) <= drawn and not set(TEST_MESHES) & grasped


@pytest.mark.rejects_input
def test_an_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    _load.cache_clear()
    with pytest.raises(InputError, match="pip install --no-deps metaworld"):
        make_mesh_shape("puck", np.random.default_rng(0))
