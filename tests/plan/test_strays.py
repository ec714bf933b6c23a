"""Single points in the air count as nothing."""

from __future__ import annotations

import numpy as np
import torch

from pointworld.geometry import SUPPORT
from pointworld.plan.tasks.seen import find_targets
from pointworld.plan.tasks.strays import stray_points
from pointworld.types import ScenePoints


def _scene(*, high: float, count: int) -> tuple[ScenePoints, np.ndarray, np.ndarray]:
    """A table, a box of 5 cm, another of 3 cm of a few points, and `count` points in the air; the box's points."""
    xy = torch.stack(torch.meshgrid(torch.arange(20.0), torch.arange(20.0), indexing="ij"), -1)
    table = torch.cat([0.3 + 0.015 * xy.reshape(-1, 2), torch.zeros(400, 1)], -1)
    cube = torch.cartesian_prod(*[torch.tensor([0.0, 0.015, 0.03, 0.045])] * 3)
    box = cube + torch.tensor([0.4, 0.4, 0.01])
    small = torch.tensor([[0.5, 0.5, 0.012], [0.515, 0.5, 0.02]])
    air = torch.tensor([0.45, 0.35, high]) + 0.015 * torch.arange(count)[:, None] * torch.eye(3)[0]
    parts = [table, box, small, air]
    ids = [torch.full((len(p),), k - 1) for k, p in enumerate(parts)]
    points = torch.cat(parts)
    up = torch.zeros_like(points)
    up[:, 2] = 1.0
    clusters = torch.cat(ids).long()
    assert (clusters == SUPPORT).sum() == 400
    scene = ScenePoints(points=points, colors=up, normals=up, clusters=clusters)
    return scene, box.double().numpy(), (clusters == 2).numpy()


def test_a_few_points_in_the_air_are_strays_and_small_things_are_not() -> None:
    scene, _, air = _scene(high=0.3, count=2)
    assert (stray_points(scene) == air).all()
    assert not stray_points(_scene(high=0.3, count=4)[0]).any(), "so many are a thing"
    assert not stray_points(_scene(high=0.04, count=2)[0]).any(), "so low may lie on the table"
    empty = ScenePoints(
        points=scene.points[:400],
        colors=scene.colors[:400],
        normals=scene.normals[:400],
        clusters=torch.full((400,), SUPPORT),
    )
    assert not stray_points(empty).any()


def test_what_stands_around_is_as_high_as_things_are() -> None:
    for count, top in ((2, 0.055), (6, 0.3)):
        scene, box, air = _scene(high=0.3, count=count)
        seen = find_targets(
            scene,
            np.zeros(8),
            surfaces=[box],
            poses=[np.eye(4)],
            motions=[np.eye(4)],
            able=np.ones(len(scene), dtype=bool),
        )
        assert seen is not None
        assert abs(seen.top - top) < 1e-6
        assert bool(np.isin(np.flatnonzero(air), seen.still_index.numpy()).all()) == (count == 6)
