"""Frames to scene points, on a tabletop whose surfaces are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import trimesh

from pointworld.encoders import RGBEncoder
from pointworld.errors import InputError
from pointworld.geometry import voxel_indices, voxel_representatives
from pointworld.scene import Workspace, build_scene
from pointworld.scene.build import _one_per_voxel
from pointworld.types import RGBDFrame, ScenePoints
from tests.scene.world import (
    BOX_CENTER,
    BOX_SIZE,
    RigidRobot,
    frames,
    look_at,
    off_surface,
    table_and_box,
)

BOX = Workspace((-0.2, -0.6, -0.1), (1.2, 0.6, 0.5))


def build(views: list[RGBDFrame], **options: object) -> ScenePoints:
    return build_scene(views, **{"T_world_base": np.eye(4), "workspace": BOX, **options})  # type: ignore[arg-type]


def test_points_lie_on_the_surfaces() -> None:
    scene = build(frames(table_and_box()))
    assert len(scene) > 1000
    assert off_surface(scene.points.numpy()).max() < 1e-4
    on_box = scene.points[:, 2] > 0.02
    assert on_box.sum() > 30
    reach = torch.from_numpy(BOX_SIZE / 2 + 1e-4)
    assert ((scene.points[on_box] - torch.from_numpy(BOX_CENTER)).abs() <= reach).all()
    assert scene.features is None


def test_normals_and_one_point_per_voxel() -> None:
    scene = build(frames(table_and_box()), voxel_size=0.02)
    assert torch.allclose(scene.normals.norm(dim=-1), torch.ones(len(scene)), atol=1e-5)
    cells = voxel_indices(scene.points, 0.02)
    assert len(cells.unique(dim=0)) == len(cells)
    edge = torch.from_numpy(np.abs(scene.points.numpy() - [0.5, 0, 0])) - torch.tensor(
        [0.6, 0.5, 0]
    )
    away = (edge[:, :2] < -0.05).all(-1)
    near_box = ((scene.points - torch.from_numpy(BOX_CENTER)).abs()[:, :2] < 0.13).all(-1)
    plain = away & ~near_box
    assert plain.sum() > 300
    assert (scene.normals[plain, 2] > 0.999).all()


def test_order_of_frames_changes_nothing() -> None:
    views = frames(table_and_box())
    first, second = build(views), build(views[::-1])
    assert torch.equal(first.points, second.points)
    assert torch.equal(first.colors, second.colors)


def test_base_frame() -> None:
    """The same tabletop anywhere in the world gives the same points in the base frame."""
    mesh = table_and_box()
    T_world_base = look_at([2.0, -1.0, 0.4], [0.1, 0.7, 1.0])
    here, there = build(frames(mesh)), build(frames(mesh, T_world_base), T_world_base=T_world_base)
    assert abs(len(here) - len(there)) < 0.02 * len(here)
    distance = torch.cdist(there.points, here.points).amin(1)
    assert distance.quantile(0.98) < 0.002
    assert off_surface(there.points.numpy()).max() < 1e-4


def test_cap_is_seeded_and_keeps_the_order() -> None:
    views = frames(table_and_box())
    full, capped = build(views), build(views, max_points=500, seed=3)
    assert len(capped) == 500
    position = {tuple(p): i for i, p in enumerate(full.points.tolist())}
    index = [position[tuple(p)] for p in capped.points.tolist()]
    assert index == sorted(index)
    assert torch.equal(build(views, max_points=500, seed=3).points, capped.points)
    assert not torch.equal(build(views, max_points=500, seed=4).points, capped.points)


@pytest.mark.parametrize("size", [0.015, 0.1])
@pytest.mark.parametrize("spread", [0.3, 40.0])
def test_fast_thinning_equals_the_plain_one(
    size: float, spread: float, generator: torch.Generator
) -> None:
    """Also with points repeated and tied; a spread of 40 m leaves the dense table."""
    points = torch.randn(4000, 3, generator=generator) * spread
    points = torch.cat([points, points[:500], (points[:500] / size).floor() * size + size / 4])
    chosen, plain = _one_per_voxel(points, size), voxel_representatives(points, size)
    assert torch.equal(points[chosen], points[plain])


def test_robot_is_masked_out() -> None:
    """A post on the table is in the images but not in the scene; what it hides stays hidden."""
    post = trimesh.creation.cylinder(radius=0.04, height=0.3)
    post.apply_translation([0.3, -0.1, 0.15])
    everything = trimesh.util.concatenate([table_and_box(), post])
    views = frames(everything)
    robot = RigidRobot(post)
    with_robot = build(views)
    without = build(views, robot=robot, joint_positions=np.zeros(1))
    near = torch.tensor([0.3, -0.1, 0.15])

    def on_post(scene: ScenePoints) -> int:
        offset = scene.points - near
        return int(((offset[:, :2].norm(dim=-1) < 0.05) & (offset[:, 2] > -0.12)).sum())

    assert on_post(with_robot) > 50
    assert on_post(without) == 0
    assert (without.points[:, 2] > 0.03).sum() > 20
    per_frame = build(views, robot=robot, joint_positions=np.zeros((3, 1)))
    assert torch.equal(per_frame.points, without.points)


def test_features() -> None:
    scene = build(frames(table_and_box()), encoder=RGBEncoder())
    assert scene.features is not None
    assert scene.view_count is not None
    assert scene.features.shape == (len(scene), 3)
    assert (scene.view_count >= 1).all()
    assert scene.view_count.max() == 3
    released = build(frames(table_and_box()), encoder=RGBEncoder(), sampling="released")
    assert released.features is not None
    assert torch.equal(released.points, scene.points)


@pytest.mark.rejects_input
def test_nothing_in_the_workspace_says_where_the_points_are() -> None:
    with pytest.raises(
        InputError, match=r"x -0\.\d+\.\.1\.\d+, y -0\.\d+\.\.0.*--workspace="
    ) as caught:
        build(frames(table_and_box()), workspace=Workspace((5, 5, 5), (6, 6, 6)))
    suggestion = str(caught.value).partition("--workspace=")[2]
    assert len(build(frames(table_and_box()), workspace=Workspace.parse(suggestion))) > 1000


@pytest.mark.rejects_input
def test_refuses() -> None:
    views = frames(table_and_box())
    with pytest.raises(InputError, match="at least one frame"):
        build([])
    with pytest.raises(InputError, match="not a rigid transform"):
        build(views, T_world_base=np.diag([2.0, 1, 1, 1]))
    with pytest.raises(InputError, match="needs its joint positions"):
        build(views, robot=RigidRobot(table_and_box()))
    with pytest.raises(InputError, match=r"\(2, 1\), expected"):
        build(views, robot=RigidRobot(table_and_box()), joint_positions=np.zeros((2, 1)))
    with pytest.raises(InputError, match="sampling 'fast' is unknown"):
        build(views, sampling="fast")
    with pytest.raises(InputError, match="must be positive"):
        build(views, max_points=0)
    blind = [
        RGBDFrame(
            rgb=v.rgb,
            depth=np.zeros_like(v.depth),
            valid=np.zeros_like(v.valid),
            K=v.K,
            T_world_cam=v.T_world_cam,
            name=v.name,
        )
        for v in views
    ]
    with pytest.raises(InputError, match="no usable depth"):
        build(blind)
