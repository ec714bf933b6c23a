"""Space-filling curves: bijective, continuous where they should be, nested, and refusing bad requests."""

from __future__ import annotations

import pytest
import torch

from pointworld.errors import InputError
from pointworld.ptv3.curves import CURVES, curve_codes


def _cube(depth: int) -> torch.Tensor:
    axis = torch.arange(2**depth)
    return torch.cartesian_prod(axis, axis, axis)


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_every_cell_gets_its_own_code(curve: str, depth: int) -> None:
    codes = curve_codes(_cube(depth), depth, curve)
    assert torch.equal(codes.sort().values, torch.arange(8**depth))


@pytest.mark.parametrize("curve", ["hilbert", "hilbert-trans"])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_hilbert_moves_one_cell_at_a_time(curve: str, depth: int) -> None:
    grid = _cube(depth)
    walk = grid[torch.argsort(curve_codes(grid, depth, curve))]
    assert torch.equal(
        (walk[1:] - walk[:-1]).abs().sum(1), torch.ones(8**depth - 1, dtype=torch.int64)
    )


@pytest.mark.parametrize("curve", CURVES)
def test_top_bits_are_the_parents_code(curve: str, generator: torch.Generator) -> None:
    grid = torch.randint(0, 2**10, (500, 3), generator=generator)
    assert torch.equal(curve_codes(grid, 10, curve) >> 3, curve_codes(grid >> 1, 9, curve))


def test_transposed_curves_exchange_x_and_y(generator: torch.Generator) -> None:
    grid = torch.randint(0, 2**10, (500, 3), generator=generator)
    for curve in ("z", "hilbert"):
        swapped = curve_codes(grid[:, [1, 0, 2]], 10, curve)
        assert torch.equal(curve_codes(grid, 10, f"{curve}-trans"), swapped)


def test_z_interleaves_bits_with_x_first(generator: torch.Generator) -> None:
    grid = torch.randint(0, 2**16, (50, 3), generator=generator)
    for cell, code in zip(grid.tolist(), curve_codes(grid, 16, "z").tolist(), strict=True):
        bits = "".join(f"{value:016b}"[i] for i in range(16) for value in cell)
        assert code == int(bits, 2)


@pytest.mark.rejects_input
@pytest.mark.parametrize(("depth", "curve"), [(0, "z"), (17, "hilbert"), (4, "peano")])
def test_bad_requests_are_refused(depth: int, curve: str) -> None:
    with pytest.raises(InputError, match=r"expected one of|bits per axis"):
        curve_codes(torch.zeros(1, 3, dtype=torch.int64), depth, curve)
