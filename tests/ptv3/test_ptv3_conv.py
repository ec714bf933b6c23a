"""The sparse convolution against dense convolution, plain loops and numerical derivatives."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv3d

from pointworld.errors import InputError
from pointworld.ptv3.conv import SubmanifoldConv3d
from pointworld.ptv3.neighbors import (
    DUPLICATE_RULES,
    NeighborTable,
    grouped_voxel_table,
    released_voxel_table,
    unique_voxel_table,
)


def _conv(in_channels: int, out_channels: int, generator: torch.Generator) -> SubmanifoldConv3d:
    conv = SubmanifoldConv3d(in_channels, out_channels).double()
    for parameter in conv.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return conv


def _sorted(grid: torch.Tensor, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    key = ((batch * 64 + grid[:, 0]) * 64 + grid[:, 1]) * 64 + grid[:, 2]
    order = torch.argsort(key, stable=True)
    return grid[order], batch[order]


def _shared_voxels(
    generator: torch.Generator, count: int = 40
) -> tuple[torch.Tensor, torch.Tensor]:
    grid = torch.randint(0, 3, (count, 3), generator=generator)
    batch = torch.randint(0, 2, (count,), generator=generator).sort().values
    return grid, batch


def _pairs(grid: torch.Tensor, batch: torch.Tensor, offset: torch.Tensor, row: int) -> list[int]:
    same = (grid == grid[row] + offset).all(1) & (batch == batch[row])
    return torch.nonzero(same).squeeze(1).tolist()


def _loop(
    conv: SubmanifoldConv3d, x: torch.Tensor, grid: torch.Tensor, batch: torch.Tensor, rule: str
) -> torch.Tensor:
    """The documented rules, one token and one tap at a time."""
    zero = torch.zeros(3, dtype=torch.int64)
    out = []
    for row in range(len(x)):
        own = _pairs(grid, batch, zero, row)
        y = conv.bias + conv.weight[:, 1, 1, 1] @ x[row]
        for tap in range(27):
            offset = torch.tensor([tap // 9 - 1, tap // 3 % 3 - 1, tap % 3 - 1])
            near = _pairs(grid, batch, offset, row)
            if tap == 13 or not near:
                continue
            first = tap < 13
            if rule == "mean":
                read = x[near].mean(0)
            elif rule == "native":
                read = x[near].sum(0) if first else x[near[0]]
                if first and row != own[0]:
                    continue
            else:
                end = -1 if rule == "gpu_last" else 0
                read = x[near[end]]
                if not first and row != own[end]:
                    continue
            y = y + conv.weight.reshape(conv.weight.shape[0], 27, -1)[:, tap] @ read
        out.append(y)
    return torch.stack(out)


def test_equals_dense_convolution_on_unique_voxels(generator: torch.Generator) -> None:
    dense = torch.zeros(2, 5, 6, 7, 8, dtype=torch.float64)
    occupied = torch.rand(2, 6, 7, 8, generator=generator) < 0.4
    batch, *cell = torch.nonzero(occupied).unbind(1)
    grid = torch.stack(cell, 1)
    x = torch.randn(len(batch), 5, generator=generator, dtype=torch.float64)
    dense.permute(0, 2, 3, 4, 1)[occupied] = x
    conv = _conv(5, 4, generator)
    expected = conv3d(dense, conv.weight.permute(0, 4, 1, 2, 3), conv.bias, padding=1)
    got = conv(x, unique_voxel_table(grid, batch))
    torch.testing.assert_close(got, expected.permute(0, 2, 3, 4, 1)[occupied], atol=1e-12, rtol=0)


@pytest.mark.parametrize("rule", DUPLICATE_RULES)
def test_released_rules_for_shared_voxels(rule: str, generator: torch.Generator) -> None:
    grid, batch = _shared_voxels(generator)
    x = torch.randn(len(grid), 3, generator=generator, dtype=torch.float64)
    conv = _conv(3, 2, generator)
    got = conv(x, released_voxel_table(grid, batch, rule))
    torch.testing.assert_close(got, _loop(conv, x, grid, batch, rule), atol=1e-12, rtol=0)


def test_mean_rule_for_shared_voxels(generator: torch.Generator) -> None:
    grid, batch = _sorted(*_shared_voxels(generator))
    x = torch.randn(len(grid), 3, generator=generator, dtype=torch.float64)
    conv = _conv(3, 2, generator)
    got = conv(x, grouped_voxel_table(grid, batch))
    torch.testing.assert_close(got, _loop(conv, x, grid, batch, "mean"), atol=1e-12, rtol=0)


def test_all_rules_agree_without_shared_voxels(generator: torch.Generator) -> None:
    cells = torch.cartesian_prod(*[torch.arange(5)] * 3)
    grid = cells[torch.randperm(len(cells), generator=generator)[:60]].sort(0).values.unique(dim=0)
    batch = torch.zeros(len(grid), dtype=torch.int64)
    x = torch.randn(len(grid), 3, generator=generator, dtype=torch.float64)
    conv = _conv(3, 3, generator)
    expected = conv(x, unique_voxel_table(grid, batch))
    tables = [released_voxel_table(grid, batch, rule) for rule in DUPLICATE_RULES]
    for table in [grouped_voxel_table(grid, batch), *tables]:
        torch.testing.assert_close(conv(x, table), expected, atol=1e-12, rtol=0)


def _tables(generator: torch.Generator) -> list[NeighborTable]:
    grid, batch = _shared_voxels(generator, 20)
    ordered = _sorted(grid, batch)
    unique = torch.cat([ordered[1][:, None], ordered[0]], 1).unique(dim=0)
    repeated = unique[torch.arange(20) % len(unique)].unique(dim=0)[:20]
    released = [released_voxel_table(grid, batch, rule) for rule in DUPLICATE_RULES]
    return [
        *released,
        grouped_voxel_table(*ordered),
        unique_voxel_table(repeated[:, 1:], repeated[:, 0]),
    ]


@pytest.mark.parametrize("which", range(5))
def test_gradients(which: int, generator: torch.Generator) -> None:
    table = _tables(generator)[which]
    rows = len(table.target_starts) if table.groups is None else len(table.groups.voxel_of)
    conv = _conv(2, 3, generator)
    x = torch.randn(rows, 2, generator=generator, dtype=torch.float64, requires_grad=True)

    def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(conv, {"weight": weight, "bias": bias}, (x, table))

    assert torch.autograd.gradcheck(run, (x, conv.weight, conv.bias))


def test_a_lone_token_reads_only_itself(generator: torch.Generator) -> None:
    conv = _conv(3, 3, generator)
    grid, batch = torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    x = torch.randn(1, 3, generator=generator, dtype=torch.float64)
    expected = x @ conv.weight[:, 1, 1, 1].t() + conv.bias
    torch.testing.assert_close(conv(x, grouped_voxel_table(grid, batch)), expected)


@pytest.mark.rejects_input
def test_unknown_rule_is_refused() -> None:
    with pytest.raises(InputError, match="gpu_last"):
        released_voxel_table(
            torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), "any"
        )
