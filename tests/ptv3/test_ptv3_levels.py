"""The fixed lattice, the order of tokens, and the pyramid built on them."""

from __future__ import annotations

import pytest
import torch

from pointworld.errors import InputError
from pointworld.geometry.voxel import voxel_indices
from pointworld.ptv3.arch import PTv3Arch
from pointworld.ptv3.curves import CURVES
from pointworld.ptv3.levels import (
    Pyramid,
    canonical_order,
    draw_curves,
    released_pyramid,
    stable_grid,
    stable_pyramid,
)
from tests.ptv3.clouds import surface_tokens

GRID = 0.015


def _stable(coords: torch.Tensor, batch: torch.Tensor, rank: torch.Tensor | None = None) -> Pyramid:
    rank = torch.zeros_like(batch) if rank is None else rank
    return stable_pyramid(
        coords,
        batch,
        int(batch.max()) + 1,
        arch=PTv3Arch.tiny(),
        grid_size=GRID,
        rank=rank,
        features=torch.zeros(len(coords), 1),
    )


def test_lattice_is_the_scene_voxelisers(generator: torch.Generator) -> None:
    points = torch.rand(1000, 3, generator=generator) * 4 - 2
    assert torch.equal(stable_grid(points, GRID) - 512, voxel_indices(points, GRID))


@pytest.mark.rejects_input
@pytest.mark.parametrize("bad", [7.7, -7.7, float("nan"), float("inf")])
def test_positions_outside_the_lattice_are_refused(bad: float) -> None:
    points = torch.zeros(3, 3)
    points[1, 2] = bad
    with pytest.raises(InputError, match="fixed lattice"):
        stable_grid(points, GRID)


def test_the_whole_documented_range_is_accepted() -> None:
    ends = torch.tensor([[-7.68, 0.0, 7.6799]], dtype=torch.float64)
    assert stable_grid(ends, GRID).tolist() == [[0, 512, 1023]]


def test_far_token_changes_nothing_about_the_others(generator: torch.Generator) -> None:
    coords, batch = surface_tokens(400, generator)
    far = torch.tensor([[6.1, -5.2, 3.3]])
    plain = _stable(coords, batch)
    more = _stable(torch.cat([coords, far]), torch.cat([batch, batch[:1]]))
    rows = more.row_of
    assert rows is not None and plain.row_of is not None
    for curve in CURVES:
        codes = more.levels[0].codes(curve)[rows[:-1]]
        assert torch.equal(codes, plain.levels[0].codes(curve)[plain.row_of])
    assert torch.equal(more.levels[0].grid[rows[:-1]], plain.levels[0].grid[plain.row_of])
    assert (
        [level.depth for level in more.levels]
        == [level.depth for level in plain.levels]
        == [10, 9, 8, 7]
    )


def test_curve_depth_is_constant_wherever_the_tokens_are(generator: torch.Generator) -> None:
    coords, batch = surface_tokens(50, generator)
    for offset in (-7.0, -2.0, 0.0, 5.0):
        assert [level.depth for level in _stable(coords + offset, batch).levels] == [10, 9, 8, 7]


def test_a_samples_grid_does_not_depend_on_its_batch(generator: torch.Generator) -> None:
    coords, batch = surface_tokens(200, generator, batch_size=3)
    coords[batch == 1] += 0.4
    together = _stable(coords, batch)
    for sample in range(3):
        alone = _stable(coords[batch == sample], torch.zeros(200, dtype=torch.int64))
        for one, all_ in zip(alone.levels, together.levels, strict=True):
            assert torch.equal(one.grid, all_.grid[all_.batch == sample])
            assert one.counts == (all_.counts[sample],) and one.depth == all_.depth


def test_pooled_levels_hold_every_coarse_cell_once(generator: torch.Generator) -> None:
    pyramid = _stable(*surface_tokens(500, generator, batch_size=2))
    for fine, coarse in zip(pyramid.levels, pyramid.levels[1:], strict=False):
        assert coarse.cluster is not None
        assert torch.equal(coarse.grid[coarse.cluster], fine.grid >> 1)
        assert torch.equal(coarse.batch[coarse.cluster], fine.batch)
        rows = torch.cat([coarse.batch[:, None], coarse.grid], 1)
        assert torch.equal(rows, rows.unique(dim=0))


def test_canonical_order_ignores_the_order_of_the_input(generator: torch.Generator) -> None:
    count = 300
    coords = torch.randint(0, 4, (count, 3), generator=generator).float() * 0.01
    rank = torch.randint(0, 3, (count,), generator=generator)
    features = torch.randint(0, 2, (count, 2), generator=generator).float()
    batch = torch.randint(0, 2, (count,), generator=generator)

    def listed(order: torch.Tensor) -> torch.Tensor:
        coords_, rank_, features_, batch_ = (
            coords[order],
            rank[order],
            features[order],
            batch[order],
        )
        found = canonical_order(stable_grid(coords_, GRID), batch_, rank_, coords_, features_)
        assert torch.equal(found.sort().values, torch.arange(count))
        table = torch.cat([batch_[:, None].float(), coords_, rank_[:, None].float(), features_], 1)
        return table[found]

    expected = listed(torch.arange(count))
    assert len(expected.unique(dim=0)) < count  # ties in everything exist and are interchangeable
    for _ in range(5):
        assert torch.equal(listed(torch.randperm(count, generator=generator)), expected)


def test_tokens_of_a_voxel_are_ordered_by_role_then_position() -> None:
    coords = torch.tensor(
        [[0.004, 0, 0], [0.002, 0, 0], [0.001, 0, 0], [0.003, 0, 0], [-0.01, 0, 0]]
    )
    rank = torch.tensor([0, 0, 2, 1, 9])
    features = torch.zeros(5, 1)
    batch = torch.zeros(5, dtype=torch.int64)
    found = canonical_order(stable_grid(coords, GRID), batch, rank, coords, features)
    assert found.tolist() == [4, 1, 0, 3, 2]


def test_curve_order_keeps_the_canonical_order_within_a_voxel(generator: torch.Generator) -> None:
    coords, batch = surface_tokens(300, generator)
    level = _stable(
        coords.repeat(3, 1), batch.repeat(3), torch.arange(3).repeat_interleave(300)
    ).levels[0]
    for curve in CURVES:
        order = level.order(curve)
        codes = level.codes(curve)[order]
        assert bool((codes[1:] >= codes[:-1]).all())
        ties = codes[1:] == codes[:-1]
        assert int(ties.sum()) >= 600 and bool((order[1:] > order[:-1])[ties].all())


def test_drawn_curves_follow_the_generator_and_the_global_state() -> None:
    own = draw_curves(CURVES, torch.Generator().manual_seed(15))
    torch.manual_seed(15)
    assert draw_curves(CURVES, None) == own
    torch.manual_seed(15)
    assert own == tuple(CURVES[i] for i in torch.randperm(4).tolist())


def test_released_grid_follows_the_batch_minimum(generator: torch.Generator) -> None:
    coords, batch = surface_tokens(100, generator, batch_size=2)
    pyramid = released_pyramid(coords, batch, 2, arch=PTv3Arch.small(), grid_size=GRID)
    assert pyramid.levels[0].grid.amin(0).tolist() == [0, 0, 0]
    assert len(pyramid.levels) == 5 and pyramid.canonical is None
    assert (
        2 ** (pyramid.levels[0].depth - 1)
        <= int(pyramid.levels[0].grid.max()) + 1
        < 2 ** pyramid.levels[0].depth
    )


@pytest.mark.rejects_input
def test_released_pyramid_refuses_what_the_reference_cannot_code() -> None:
    coords = torch.tensor([[0.0, 0, 0], [2000.0, 0, 0]])
    with pytest.raises(InputError, match="63-bit code"):
        released_pyramid(
            coords, torch.zeros(2, dtype=torch.int64), 1, arch=PTv3Arch.small(), grid_size=GRID
        )
    with pytest.raises(InputError, match="identity"):
        released_pyramid(
            coords[:1],
            torch.zeros(1, dtype=torch.int64),
            1,
            arch=PTv3Arch.small(),
            grid_size=GRID,
            orders="shuffled",
        )
