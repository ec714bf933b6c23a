"""What no view saw of a support is made up from what lies round it, and nothing else changes."""

from __future__ import annotations

import numpy as np
import torch

from splat.fill import fill_support, find_support, plane_axes, surface_gaussians
from splat.query_graph import Plane
from splat.types import GaussianScene, concatenate

SPACING = 0.012


def table(seed: int = 0) -> tuple[GaussianScene, Plane]:
    """A tilted square table of 60 cm, left half red and right half blue, with a round hole of 5 cm in the left."""
    rng = np.random.default_rng(seed)
    grid = np.arange(-0.3, 0.3, SPACING)
    flat = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    flat = flat + rng.uniform(-0.002, 0.002, flat.shape)
    flat = flat[np.linalg.norm(flat - [-0.15, 0.0], axis=1) > 0.05]
    normal = np.array([0.2, -0.1, 1.0]) / np.linalg.norm([0.2, -0.1, 1.0])
    plane = Plane(normal=normal, offset=0.4, band=0.006)
    points = torch.from_numpy(flat @ plane_axes(normal) + 0.4 * normal).float()
    colors = torch.where(
        torch.from_numpy(flat[:, :1]) < 0,
        torch.tensor([0.8, 0.1, 0.1]),
        torch.tensor([0.1, 0.1, 0.8]),
    )
    normals = torch.from_numpy(normal).float().expand(len(points), 3)
    return surface_gaussians(points, normals, colors.float(), SPACING), plane


def test_the_hole_is_filled_in_the_plane_with_the_colours_round_it() -> None:
    scene, plane = table()
    filled = fill_support(scene, plane, scene.means.double().numpy(), seen=torch.ones(len(scene)))
    assert bool(filled.kept.all()) and torch.equal(filled.scene.means[: len(scene)], scene.means)
    added = filled.scene.select(torch.arange(len(scene), len(filled.scene)))
    assert filled.added == len(added) > 20
    means = added.means.double().numpy()
    assert np.abs(plane.height(means)).max() < 1e-6
    flat = means @ plane_axes(plane.normal).T
    assert np.linalg.norm(flat - [-0.15, 0.0], axis=1).max() < 0.05
    red, blue = added.sh[:, 0, 0], added.sh[:, 0, 2]
    assert bool((red > blue).all())
    # Every place of the hole has a Gaussian near it now.
    probes = np.array([-0.15, 0.0]) + 0.03 * np.random.default_rng(1).uniform(-1, 1, (50, 2))
    gaps = np.linalg.norm(probes[:, None] - flat[None], axis=2).min(1)
    assert gaps.max() < 1.5 * SPACING


def test_gaussians_that_lie_on_each_other_do_not_make_the_support_look_full_of_gaps() -> None:
    """A fit copies Gaussians onto others; only the hole is filled all the same."""
    scene, plane = table()
    rows = torch.arange(len(scene))
    doubled = concatenate([scene, scene.select(rows[::2]), scene.select(rows[::3])])
    filled = fill_support(
        doubled, plane, scene.means.double().numpy(), seen=torch.ones(len(doubled))
    )
    flat = filled.scene.means[len(doubled) :].double().numpy() @ plane_axes(plane.normal).T
    assert 20 < filled.added < 120
    assert np.linalg.norm(flat - [-0.15, 0.0], axis=1).max() < 0.055


def test_what_no_camera_saw_is_replaced() -> None:
    scene, plane = table()
    hidden = torch.from_numpy(
        np.array([-0.15, 0.0]) @ plane_axes(plane.normal) + 0.4 * plane.normal
    ).float()
    offsets = 0.02 * torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    normal = torch.from_numpy(plane.normal).float()
    offsets = offsets - (offsets @ normal)[:, None] * normal
    green = torch.tensor([0.0, 1.0, 0.0]).expand(30, 3)
    wrong = surface_gaussians(hidden + offsets, normal.expand(30, 3), green, SPACING)
    both = concatenate([scene, wrong])
    seen = torch.cat([torch.full((len(scene),), 5.0), torch.full((30,), 0.1)])
    region = hidden[None].double().numpy()
    filled = fill_support(both, plane, region, seen=seen, margin=0.08)
    assert filled.added > 20
    assert bool(filled.kept[: len(scene)].all()) and not bool(filled.kept[len(scene) :].any())
    assert float(filled.scene.sh[:, 0, 1].max()) < 0


def test_the_foot_of_what_moves_away_is_no_support() -> None:
    scene, plane = table()
    # An object's foot fills the hole, seen well; it will be carried off.
    axes = plane_axes(plane.normal)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)[:, None]
    ring = np.concatenate(
        [
            radius * np.concatenate([np.cos(angle), np.sin(angle)], 1)
            for radius in (0.01, 0.03, 0.045)
        ]
    )
    foot = torch.from_numpy((ring + np.array([-0.15, 0.0])) @ axes + 0.4 * plane.normal).float()
    normal = torch.from_numpy(plane.normal).float().expand(120, 3)
    object_foot = surface_gaussians(foot, normal, torch.full((120, 3), 0.5), SPACING)
    both = concatenate([scene, object_foot])
    region, seen = foot.double().numpy(), torch.ones(len(both))
    assert fill_support(both, plane, region, seen=seen).added < 5
    stays = torch.arange(len(both)) < len(scene)
    filled = fill_support(both, plane, region, seen=seen, stays=stays)
    assert filled.added > 20 and bool(filled.kept.all())


def test_nothing_is_made_up_beyond_the_outline_or_without_a_support() -> None:
    scene, plane = table()
    beyond = np.array([[0.5, 0.5, 0.4], [0.9, 0.9, 0.4]])
    assert fill_support(scene, plane, beyond, seen=torch.ones(len(scene))).added == 0
    few = scene.select(torch.arange(20))
    assert fill_support(few, plane, beyond, seen=torch.ones(20)).added == 0


def test_find_support() -> None:
    scene, plane = table()
    rng = np.random.default_rng(2)
    points = np.concatenate([scene.means.double().numpy(), rng.uniform(-0.3, 0.3, (200, 3))])
    found = find_support(points, np.array([0.0, 0.0, 2.0]))
    assert found is not None and found.normal @ plane.normal > 0.9999
    assert abs(found.offset - 0.4) < 0.002
    below = find_support(points, np.array([0.0, 0.0, -2.0]))
    assert below is not None and below.normal @ plane.normal < -0.9999
    assert find_support(rng.uniform(-0.3, 0.3, (400, 3)), np.zeros(3)) is None
    assert find_support(points[:10], np.zeros(3)) is None
