"""Analytic pushes: a box-shaped hand carries a box along a line over a table. Tests train on them."""

from __future__ import annotations

import torch

from pointworld.geometry import point_clusters
from pointworld.train.cache import CachedSample

Tensor = torch.Tensor
STEPS = 11


def _box_surface(size: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    points = (torch.rand(count, 3, generator=generator) - 0.5) * size
    axis = torch.randint(3, (count,), generator=generator)
    sign = torch.randint(2, (count,), generator=generator).float() * 2 - 1
    rows = torch.arange(count)
    points[rows, axis] = sign * size[axis] / 2
    normals = torch.zeros(count, 3)
    normals[rows, axis] = sign
    return points, normals


def push(seed: int, *, features: int = 0) -> CachedSample:
    """One push: the hand starts beside a box and meets it on half of the clips."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((), generator=generator)

    yaw = draw(-3.14, 3.14)
    forward = torch.stack([yaw.cos(), yaw.sin(), torch.zeros(())])
    sideways = torch.stack([-yaw.sin(), yaw.cos(), torch.zeros(())])
    size = torch.stack([draw(0.04, 0.1) for _ in range(3)])
    centre = torch.stack([torch.tensor(0.5), torch.tensor(0.0), size[2] / 2])
    hits = seed % 2 == 0
    offset = torch.tensor(0.0) if hits else torch.tensor(0.2)
    gap, speed = draw(0.0, 0.04), draw(0.015, 0.04)
    start = centre - forward * (size.norm() / 2 + 0.02 + gap) + sideways * offset
    travel = speed * torch.arange(STEPS)
    carried = (travel - gap).clamp_min(0) * float(hits)
    hand, hand_normals = _box_surface(torch.tensor([0.03, 0.03, 0.06]), 64, generator)
    box, box_normals = _box_surface(size, 120, generator)
    xy = (torch.rand(300, 2, generator=generator) - 0.5) * 0.5
    table = torch.cat([xy + centre[:2], torch.zeros(300, 1)], 1)
    up = torch.tensor([0.0, 0, 1]).expand(300, 3)
    points = torch.cat([box + centre, table])
    robot = hand + start + travel[:, None, None] * forward
    motions = torch.eye(4).repeat(STEPS, 2, 1, 1)
    motions[:, 0, :3, 3] = carried[:, None] * forward
    reach = torch.stack([torch.cdist(points, r).min(-1).values for r in robot]).min(0).values
    return CachedSample(
        points=points,
        colors=torch.cat([torch.full((120, 3), 200), torch.full((300, 3), 90)]).to(torch.uint8),
        normals=torch.cat([box_normals, up]).half(),
        features=torch.randn(420, features, generator=generator).half() if features else None,
        body_ids=torch.cat([torch.zeros(120), torch.ones(300)]).long(),
        motions=motions,
        moving=torch.tensor([bool(carried[-1] > 1e-3), False]),
        held=torch.tensor([False, False]),
        robot_positions=robot,
        robot_normals=hand_normals.expand(STEPS, -1, -1).half(),
        gripper_open=torch.ones(STEPS, 1),
        clusters=point_clusters(points, torch.cat([box_normals, up])),
        reach=reach,
        step_dt=0.1,
        family="push" if hits else "miss",
        key=f"synthetic/{seed}",
    )
