"""One click, a box, a vector: the Gaussians of one object on a table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pointworld.errors import InputError
from pointworld.geometry import invert
from splat.query import (
    QueryConfig,
    Selection,
    assign_object,
    seed_from_similarity,
    seeds_from_box,
    seeds_from_pixels,
    select_object,
    vector_similarity,
)
from splat.raster import get_rasterizer
from splat.types import GaussianScene
from tests.splat.mesh_world import as_gaussians, make_world, ring_views

VIEWS = ring_views(6, width=96, height=72)


@pytest.fixture(scope="module")
def world() -> GaussianScene:
    """Table (id 0), box, cylinder and cup (1, 2, 3)."""
    return as_gaussians(make_world(4), VIEWS, spacing=0.006)


def view(index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """T_cam_world, K, eye."""
    one = VIEWS[index]
    pose = torch.from_numpy(invert(one.T_world_cam)).float()
    return pose, torch.from_numpy(one.K).float(), torch.from_numpy(one.T_world_cam[:3, 3])


def pixel_of(scene: GaussianScene, number: int, index: int) -> tuple[int, int]:
    """Column and row where the top of an object appears."""
    assert scene.ids is not None
    pose, K, _ = view(index)
    points = scene.means[scene.ids == number]
    top = points[points[:, 2] > points[:, 2].max() - 0.012].mean(0)
    local = pose[:3, :3] @ top + pose[:3, 3]
    u, v = (K @ local)[:2] / local[2]
    return int(u), int(v)


def click(scene: GaussianScene, x: int, y: int, index: int, config: QueryConfig) -> Selection:
    pose, K, eye = view(index)
    mask = torch.zeros(72, 96)
    mask[y, x] = 1
    seeds = seeds_from_pixels(scene, mask, pose, K, get_rasterizer("cpu"))
    return select_object(scene, seeds, config, eye=eye)


def iou(scene: GaussianScene, mask: torch.Tensor, number: int) -> float:
    assert scene.ids is not None
    true = scene.ids == number
    return float((mask & true).sum() / (mask | true).sum())


@pytest.mark.parametrize("number", [1, 2, 3])
def test_one_click_finds_the_object(world: GaussianScene, number: int) -> None:
    # The tallest point of the cup is its rim, whose mean lies inside the open cup: click on its outside instead.
    index = 0
    x, y = pixel_of(world, number, index)
    if number == 3:
        y += 3
    found = click(world, x, y, index, QueryConfig())
    assert found.plane is not None and found.plane.normal[2] > 0.999
    assert abs(found.plane.offset) < 0.004
    assert iou(world, found.mask, number) > 0.85


def test_a_box_finds_the_object_and_nothing_outside_it(world: GaussianScene) -> None:
    x, y = pixel_of(world, 1, 1)
    pose, K, eye = view(1)
    box = (max(x - 12, 0), max(y - 8, 0), x + 12, y + 14)
    seeds, outside = seeds_from_box(world, box, (96, 72), pose, K, get_rasterizer("cpu"))
    found = select_object(world, seeds, eye=eye, excluded=outside)
    assert iou(world, found.mask, 1) > 0.8
    assert not bool((found.mask & outside).any())


def test_a_vector_finds_the_object_that_has_it(world: GaussianScene) -> None:
    assert world.ids is not None
    torch.manual_seed(0)
    hot = torch.nn.functional.one_hot(world.ids, 4).float()
    featured = replace(world, features=hot + 0.05 * torch.randn(len(world), 4))
    similarity = vector_similarity(featured, torch.tensor([0.0, 0.0, 1.0, 0.0]))
    seeds = seed_from_similarity(featured, similarity)
    found = select_object(featured, seeds, eye=view(0)[2])
    assert iou(world, found.mask, 2) > 0.85


def test_features_part_what_touches_and_looks_alike() -> None:
    """Two cubes side by side of one colour: features tell them apart, without them they are one."""
    step = 0.005
    grid = torch.stack(torch.meshgrid(*[torch.arange(0, 0.06, step)] * 3, indexing="ij"), -1)
    cube = grid.reshape(-1, 3)
    means = torch.cat([cube, cube + torch.tensor([0.06, 0, 0])])
    n = len(means)
    side = torch.arange(n) >= n // 2
    scene = GaussianScene(
        means=means,
        quats_wxyz=torch.tensor([1.0, 0, 0, 0]).expand(n, 4).contiguous(),
        log_scales=torch.full((n, 3), -6.0),
        opacity_logits=torch.full((n,), 4.0),
        sh=torch.zeros(n, 1, 3),
    )
    seeds = torch.zeros(n)
    seeds[0] = 1
    config = QueryConfig(plane=False, feature=0.3)
    assert bool(select_object(scene, seeds, config).mask.all())
    marked = replace(scene, features=torch.stack([side.float(), 1 - side.float()], 1))
    found = select_object(marked, seeds, config).mask
    assert bool(found[~side].all()) and not bool(found[side].any())


def test_what_touches_something_alike_is_cut_off_at_the_neck() -> None:
    """A sheet that touches a larger one of its colour at a corner; a low threshold runs on into that."""
    step = 0.005
    small, large = torch.arange(0.0, 0.12, step), torch.arange(0.0, 0.3, step)
    x, y = torch.meshgrid(small, small, indexing="ij")
    sheet = torch.stack([x, y, torch.zeros_like(x)], -1).reshape(-1, 3)
    neck = torch.tensor([[-step, 0.0, 0.0], [-step, step, 0.0]])
    x, y = torch.meshgrid(-2 * step - large, large - 0.1, indexing="ij")
    means = torch.cat([sheet, neck, torch.stack([x, y, torch.zeros_like(x)], -1).reshape(-1, 3)])
    n = len(means)
    scene = GaussianScene(
        means=means,
        quats_wxyz=torch.tensor([1.0, 0, 0, 0]).expand(n, 4).contiguous(),
        log_scales=torch.full((n, 3), -6.0),
        opacity_logits=torch.full((n,), 4.0),
        sh=torch.zeros(n, 1, 3),
    )
    seeds = torch.zeros(n)
    seeds[308:311] = 1
    true = torch.arange(n) < len(sheet)
    low = select_object(scene, seeds, QueryConfig(plane=False, threshold=0.04)).mask
    assert bool(low[true].all()) and float(low[~true].float().mean()) > 0.2
    found = select_object(scene, seeds, QueryConfig(plane=False)).mask
    assert float(found[true].float().mean()) > 0.9 and float(found[~true].float().mean()) < 0.05


def test_ids_are_given_one_after_the_other(world: GaussianScene) -> None:
    plain = replace(world, ids=None)
    x, y = pixel_of(world, 2, 0)
    found = click(plain, x, y, 0, QueryConfig())
    first, number = assign_object(plain, found)
    assert number == 0 and first.ids is not None
    assert set(first.ids.unique().tolist()) == {-1, 0}
    _, other = assign_object(first, found)
    assert other == 1


@pytest.mark.rejects_input
def test_refuses_empty_places(world: GaussianScene) -> None:
    pose, K, eye = view(0)
    with pytest.raises(InputError, match="no Gaussian is seen"):
        seeds_from_pixels(world, torch.zeros(72, 96), pose, K, get_rasterizer("cpu"))
    with pytest.raises(InputError, match="leaves the image"):
        seeds_from_box(world, (5, 5, 200, 20), (96, 72), pose, K, get_rasterizer("cpu"))
    with pytest.raises(InputError, match="no seeds"):
        select_object(world, torch.zeros(len(world)))
    with pytest.raises(InputError, match="the scene's features None"):
        vector_similarity(world, torch.zeros(3))
    with pytest.raises(InputError, match="reach > 0"):
        QueryConfig(reach=-1)
    table = torch.from_numpy(
        (world.ids == 0).numpy() & (np.abs(world.means.numpy()[:, :2]) < 0.02).all(1)
    )
    with pytest.raises(InputError, match="things stand on"):
        select_object(world, table.float(), QueryConfig(band=0.01), eye=eye)
