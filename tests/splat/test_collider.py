"""Colliders: solids carved from views, convex parts, and files that MuJoCo and the URDF loader take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

from pointworld.errors import InputError
from splat.collider import Collider, block_mesh, build_collider, carve
from splat.collider_files import write_collider
from splat.collider_support import ColliderOptions, find_support
from splat.mesh import SplatMesh, fuse
from splat.mesh_views import look
from splat.query_graph import Plane
from tests.splat.mesh_world import as_gaussians, make_world, ring_views

pytest.importorskip("open3d")
pytest.importorskip("coacd")


@pytest.fixture(scope="module")
def collider() -> Collider:
    """Of a table with a box, a can and an open cup, found by what hangs together (no ids)."""
    views = ring_views(10)
    gaussians = as_gaussians(make_world(0), views)
    seen = look(gaussians, views)
    return build_collider(fuse(seen), seen, gaussians)


def test_block_mesh_is_closed_and_as_large_as_its_cells() -> None:
    solid = np.random.default_rng(0).random((5, 6, 7)) < 0.3
    mesh = block_mesh(solid)
    assert mesh.volume == pytest.approx(solid.sum())
    single = block_mesh(np.ones((2, 3, 4), dtype=bool))
    assert single.is_watertight and single.volume == pytest.approx(24)


def test_without_views_the_solid_is_the_hull_down_to_the_floor() -> None:
    points = np.random.default_rng(1).uniform(-0.03, 0.03, (500, 3))
    solid = carve(points, -0.05, np.eye(4), [], 0.004)
    assert solid is not None
    assert solid.bounds[0, 2] == pytest.approx(-0.05, abs=0.005)
    assert solid.volume == pytest.approx(0.06 * 0.06 * 0.08, rel=0.2)


def test_support_is_the_table_and_objects_are_found(collider: Collider) -> None:
    world = make_world(0)
    assert collider.support.normal[2] > 0.999
    assert abs(collider.support.offset) < 0.006
    assert np.abs(collider.support.size[:2] - 0.5).max() < 0.03
    assert len(collider.objects) == 3
    for true in world.meshes[1:]:
        errors = [
            np.linalg.norm(o.T_world_object[:2, 3] - true.centroid[:2]) for o in collider.objects
        ]
        found = collider.objects[int(np.argmin(errors))]
        assert min(errors) < 0.01
        assert (
            np.abs(np.sort(np.ptp(found.visual.vertices, axis=0)) - np.sort(true.extents)).max()
            < 0.03
        )
        for part in found.parts:
            assert part.is_convex and part.volume > 0 and len(part.vertices) <= 64


def test_the_cup_is_open_and_the_box_is_solid(collider: Collider) -> None:
    world = make_world(0)

    def filled(point: np.ndarray) -> bool:
        for item in collider.objects:
            local = np.linalg.inv(item.T_world_object) @ [*point, 1]
            if any(part.contains(local[None, :3])[0] for part in item.parts):
                return True
        return False

    assert filled(world.meshes[1].centroid) and filled(world.meshes[2].centroid)
    assert not filled(np.array([0.0, 0.12, 0.05]))


def test_files_load_in_mujoco_and_objects_stay_on_the_support(
    collider: Collider, tmp_path: Path
) -> None:
    mujoco = pytest.importorskip("mujoco")
    names = write_collider(collider, tmp_path / "out")
    assert all((tmp_path / "out" / name).stat().st_size > 0 for name in names)
    model = mujoco.MjModel.from_xml_path(str(tmp_path / "out" / "collider.xml"))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    bodies = [model.body(item.name).id for item in collider.objects]
    before = data.xpos[bodies].copy()
    for _ in range(500):
        mujoco.mj_step(model, data)
    assert np.isfinite(data.qpos).all()
    assert np.abs(data.xpos[bodies] - before).max() < 0.02
    masses = model.body_mass[bodies]
    volumes = [sum(p.volume for p in item.parts) for item in collider.objects]
    assert masses == pytest.approx(np.array(volumes) * collider.density, rel=0.05)


def test_urdf_loads_in_the_robot_model(collider: Collider, tmp_path: Path) -> None:
    from pointworld.robot import RobotModel

    write_collider(collider, tmp_path / "out")
    model = RobotModel.load(tmp_path / "out" / "collider.urdf")
    assert set(model.link_names) == {"world", "support", *(o.name for o in collider.objects)}
    for item in collider.objects:
        assert len(model.collision_meshes[item.name]) == len(item.parts)
    glb = trimesh.load(tmp_path / "out" / "collider.glb")
    assert len(glb.geometry) == 1 + sum(len(item.parts) for item in collider.objects)


def test_the_support_is_what_an_object_was_found_to_stand_on() -> None:
    """A table over a much larger floor, and a shelf as high as the table: only the table is meant."""

    def sheet(low: tuple[float, float], high: tuple[float, float], z: float) -> trimesh.Trimesh:
        x, y = (np.arange(a, b + 1e-9, 0.02) for a, b in zip(low, high, strict=True))
        grid = np.stack(np.meshgrid(x, y, indexing="ij"), -1)
        points = np.concatenate([grid, np.full((*grid.shape[:2], 1), z)], -1).reshape(-1, 3)
        i = np.arange(len(points)).reshape(grid.shape[:2])
        a, b, c, d = i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]
        faces = np.stack([a, b, c, a, c, d], -1).reshape(-1, 3)
        return trimesh.Trimesh(points, faces, process=False)

    sheets = [
        sheet((-2, -2), (2, 2), -0.7),
        sheet((-0.4, -0.3), (0.4, 0.3), 0.0),
        sheet((1, -1), (1.4, 1), 0.0),
    ]
    joined = trimesh.util.concatenate(sheets)
    mesh = SplatMesh(
        vertices=np.asarray(joined.vertices),
        triangles=np.asarray(joined.faces),
        colors=np.zeros((len(joined.vertices), 3), np.uint8),
    )
    views = ring_views(2)
    seen = look(as_gaussians(make_world(0), views), views)
    assert find_support(mesh, seen, ColliderOptions()).offset == pytest.approx(-0.7)
    plane = Plane(normal=np.array([0.0, 0.0, 1.0]), offset=0.0, band=0.006)
    near = np.array([0.1, 0.1, 0.05])
    table = find_support(mesh, seen, ColliderOptions(support=plane, near=near))
    assert table.offset == pytest.approx(0.0) and table.normal[2] == pytest.approx(1.0)
    assert np.abs(np.sort(table.size[:2]) - [0.6, 0.8]).max() < 0.02
    assert np.abs(table.T_world_slab[:2, 3]).max() < 0.01
    with pytest.raises(InputError, match="no triangle"):
        high = Plane(normal=plane.normal, offset=1.0, band=0.006)
        find_support(mesh, seen, ColliderOptions(support=high, near=near))
