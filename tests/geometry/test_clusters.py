"""What hangs together in a cloud of points."""

from __future__ import annotations

import torch

from pointworld.geometry import SUPPORT, point_clusters

Tensor = torch.Tensor
VOXEL = 0.015


def patch(x: tuple[float, float], y: tuple[float, float], z: float) -> tuple[Tensor, Tensor]:
    """A level face, sampled every 1.5 cm: points and upward normals."""
    grid = torch.cartesian_prod(torch.arange(*x, VOXEL), torch.arange(*y, VOXEL))
    points = torch.cat([grid, torch.full((len(grid), 1), z)], 1)
    return points, torch.tensor([0.0, 0.0, 1.0]).expand(len(grid), 3)


def wall(x: float, y: tuple[float, float], z: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """An upright face at `x`, sampled every 1.5 cm."""
    grid = torch.cartesian_prod(torch.arange(*y, VOXEL), torch.arange(*z, VOXEL))
    points = torch.cat([torch.full((len(grid), 1), x), grid], 1)
    return points, torch.tensor([-1.0, 0.0, 0.0]).expand(len(grid), 3)


def scene(*faces: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Points, normals and the face that each point belongs to."""
    names = torch.cat([torch.full((len(p),), k) for k, (p, _) in enumerate(faces)])
    return torch.cat([p for p, _ in faces]), torch.cat([n for _, n in faces]), names


TABLE = patch((0.2, 0.8), (-0.3, 0.3), 0.0)
BOX_FRONT, BOX_TOP = wall(0.45, (0.0, 0.1), (0.012, 0.1)), patch((0.45, 0.55), (0.0, 0.1), 0.1)
CAN = wall(0.45, (-0.2, -0.15), (0.012, 0.12))


def test_objects_stand_apart_on_a_table() -> None:
    points, normals, face = scene(TABLE, BOX_FRONT, BOX_TOP, CAN)
    clusters = point_clusters(points, normals)
    assert (clusters[face == 0] == SUPPORT).all()
    assert len(clusters[(face == 1) | (face == 2)].unique()) == 1
    assert len(clusters[face == 3].unique()) == 1
    assert set(clusters.unique().tolist()) == {SUPPORT, 0, 1}


def test_a_small_level_face_is_no_support_and_a_low_one_is_part_of_the_table() -> None:
    sheet = patch((0.3, 0.36), (0.15, 0.21), 0.005)
    points, normals, face = scene(TABLE, BOX_TOP, sheet)
    clusters = point_clusters(points, normals)
    assert (clusters[face == 1] >= 0).all()
    assert (clusters[face == 2] == SUPPORT).all()


def test_two_shelves_support_both(generator: torch.Generator) -> None:
    upper = patch((0.2, 0.8), (-0.3, 0.3), 0.3)
    cup = wall(0.5, (0.0, 0.06), (0.312, 0.4))
    points, normals, face = scene(TABLE, upper, BOX_FRONT, cup)
    clusters = point_clusters(points, normals)
    assert (clusters[(face == 0) | (face == 1)] == SUPPORT).all()
    assert set(clusters[face == 2].tolist()).isdisjoint(clusters[face == 3].tolist())


def test_order_and_distant_points_change_no_grouping(generator: torch.Generator) -> None:
    points, normals, _ = scene(TABLE, BOX_FRONT, BOX_TOP, CAN)
    clusters = point_clusters(points, normals)
    order = torch.randperm(len(points), generator=generator)
    shuffled = point_clusters(points[order], normals[order])
    far = torch.randn(500, 3, generator=generator) * 0.05 + torch.tensor([3.0, 0.0, 1.0])
    more = point_clusters(torch.cat([points, far]), torch.cat([normals, torch.zeros(500, 3)]))[
        : len(points)
    ]
    same = clusters[:, None] == clusters
    assert torch.equal(shuffled[:, None] == shuffled, same[order][:, order])
    assert torch.equal(more[:, None] == more, same)
    assert torch.equal(more == SUPPORT, clusters == SUPPORT)


def test_no_points_and_no_level_face() -> None:
    assert point_clusters(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0,)
    points, normals, _ = scene(BOX_FRONT, CAN)
    assert set(point_clusters(points, normals).tolist()) == {0, 1}
