"""Edits of one object of a scene, and the hole it leaves."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pointworld.errors import InputError
from pointworld.geometry import make_transform, transform_points
from splat.edit import (
    duplicate,
    extract,
    hidden_by,
    hole_mask,
    members,
    move,
    recolor,
    remove,
)
from splat.query import Plane
from splat.raster import get_rasterizer
from splat.sh import evaluate_sh
from splat.types import GaussianScene, concatenate
from tests.splat.mesh_world import as_gaussians, make_world, ring_views

RINGS = ring_views(4, width=96, height=72)


@pytest.fixture(scope="module")
def world() -> GaussianScene:
    """Table (id 0), box, cylinder and cup (1, 2, 3)."""
    return as_gaussians(make_world(4), RINGS, spacing=0.008)


def turn_z(degrees: float, shift: tuple[float, float, float]) -> torch.Tensor:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    R = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return torch.from_numpy(make_transform(R, np.array(shift)))


def test_remove_and_extract_share_the_scene(world: GaussianScene) -> None:
    mask = members(world, 1)
    without, alone = remove(world, mask), extract(world, mask)
    assert len(without) + len(alone) == len(world)
    assert without.ids is not None and not bool((without.ids == 1).any())
    assert torch.equal(alone.means, world.means[world.ids == 1])


def test_move_takes_the_object_and_nothing_else(
    world: GaussianScene, generator: torch.Generator
) -> None:
    sh = torch.cat([world.sh, 0.2 * torch.randn(len(world), 3, 3, generator=generator)], 1)
    world = replace(world, sh=sh)
    mask, T = members(world, 2), turn_z(40, (0.05, -0.02, 0.01))
    moved = move(world, mask, T)
    expected = transform_points(T.numpy(), world.means[mask].double().numpy())
    assert np.allclose(moved.means[mask].numpy(), expected, atol=1e-6)
    for name in ("means", "quats_wxyz", "sh"):
        assert torch.equal(getattr(moved, name)[~mask], getattr(world, name)[~mask]), name
    # The colour seen from a direction that turns along stays.
    direction = torch.tensor([0.3, -0.5, -0.8]).expand(int(mask.sum()), 3)
    turned = direction @ T[:3, :3].float().T
    before, after = evaluate_sh(world.sh[mask], direction), evaluate_sh(moved.sh[mask], turned)
    assert torch.allclose(before, after, atol=1e-5)
    back = move(moved, mask, torch.linalg.inv(T))
    assert torch.allclose(back.means, world.means, atol=1e-6)


def test_duplicate_adds_a_copy_with_its_own_id(world: GaussianScene) -> None:
    mask = members(world, 1)
    doubled, number = duplicate(world, mask, turn_z(0, (0, 0, 0.2)))
    assert number == 4 and len(doubled) == len(world) + int(mask.sum())
    copy = doubled.means[members(doubled, number)]
    assert torch.allclose(copy - world.means[mask], torch.tensor([0, 0, 0.2]), atol=1e-6)
    assert torch.equal(doubled.means[: len(world)], world.means)


def test_recolor_keeps_light_and_shade(world: GaussianScene) -> None:
    mask = members(world, 1)
    shade = torch.linspace(0.5, 1.0, int(mask.sum()))[:, None]
    sh = world.sh.clone()
    sh[mask, 0] = ((0.5 + 0.28209479 * sh[mask, 0]) * shade - 0.5) / 0.28209479
    painted = recolor(replace(world, sh=sh), mask, torch.tensor([0.1, 0.2, 0.6]))
    colors = (0.5 + 0.28209479 * painted.sh[mask, 0]).clamp(0, 1)
    ratio = colors / colors[:, 2:]
    assert torch.allclose(ratio, torch.tensor([1 / 6, 1 / 3, 1.0]).expand_as(ratio), atol=1e-3)
    assert float(colors[-1, 2] / colors[0, 2]) == pytest.approx(2, rel=0.01)
    assert float(colors.mean(0)[2]) == pytest.approx(0.6, rel=0.05)
    assert torch.equal(painted.sh[~mask], sh[~mask])


def test_holes_are_where_nothing_was_seen(world: GaussianScene) -> None:
    """The box hides the table below it: taking it away shows through there, and only there."""
    mask = members(world, 1)
    ring = RINGS[1]
    viewmat = torch.linalg.inv(torch.from_numpy(ring.T_world_cam)).float()
    K = torch.from_numpy(ring.K).float()
    plane = Plane(normal=np.array([0.0, 0.0, 1.0]), offset=0.0, band=0.004)
    after, rasterizer = remove(world, mask), get_rasterizer("cpu")
    hole = hole_mask(world, after, viewmat, K, (96, 72), rasterizer, plane=plane)
    assert 5 < int(hole.sum()) < 400
    foot = world.means[mask][world.means[mask][:, 2] < 0.03].mean(0)
    local = viewmat[:3, :3] @ foot + viewmat[:3, 3]
    u, v = (K @ local)[:2] / local[2]
    rows, columns = torch.nonzero(hole, as_tuple=True)
    assert abs(float(columns.float().mean() - u)) < 8 and abs(float(rows.float().mean() - v)) < 8
    nothing = hole_mask(world, world, viewmat, K, (96, 72), rasterizer, plane=plane)
    assert not bool(nothing.any())


def test_what_only_the_object_hid_is_found(world: GaussianScene) -> None:
    """A blob inside the box is seen by no camera until the box is gone; the table beside it always was."""
    middle = world.means[members(world, 1)].mean(0)
    blob = replace(
        extract(world, members(world, 2)),
        means=middle + 0.004 * torch.randn(int(members(world, 2).sum()), 3, generator=torch.Generator().manual_seed(0)),
        ids=torch.full((int(members(world, 2).sum()),), 7),
    )  # fmt: skip
    scene = concatenate([world, blob])
    cameras = [
        (
            torch.linalg.inv(torch.from_numpy(ring.T_world_cam)).float(),
            torch.from_numpy(ring.K).float(),
            (96, 72),
        )
        for ring in RINGS
    ]
    hidden = hidden_by(scene, members(scene, 1), cameras, get_rasterizer("cpu"))
    assert not bool((hidden & members(scene, 1)).any())
    assert float(hidden[members(scene, 7)].float().mean()) > 0.1
    for other in (2, 3):
        assert float(hidden[members(scene, other)].float().mean()) < 0.05


@pytest.mark.rejects_input
def test_refuses_unknown_objects_and_odd_motions(world: GaussianScene) -> None:
    with pytest.raises(InputError, match=r"no object 9; it has \[0, 1, 2, 3\]"):
        members(world, 9)
    with pytest.raises(InputError, match="has none"):
        members(replace(world, ids=None), 0)
    with pytest.raises(InputError, match="no Gaussians"):
        remove(world, torch.zeros(len(world), dtype=torch.bool))
    with pytest.raises(InputError, match="expected"):
        remove(world, torch.ones(3, dtype=torch.bool))
    with pytest.raises(InputError, match="not a rigid transform"):
        move(world, members(world, 1), 2 * torch.eye(4))
    with pytest.raises(InputError, match="0-1"):
        recolor(world, members(world, 1), torch.tensor([2.0, 0, 0]))
