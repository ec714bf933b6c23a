"""Submanifold 3x3x3 convolution in plain PyTorch: gather, one matrix product per tap, ordered sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import embedding_bag

from pointworld.ptv3.neighbors import CENTER, TAPS, NeighborTable, VoxelGroups


def _voxel_mean(values: torch.Tensor, groups: VoxelGroups) -> torch.Tensor:
    return embedding_bag(groups.arange, values, groups.starts, mode="mean")


def _voxel_sum(values: torch.Tensor, groups: VoxelGroups) -> torch.Tensor:
    return embedding_bag(groups.arange, values, groups.starts, mode="sum")


def _pair_products(
    values: torch.Tensor,
    rows: torch.Tensor,
    taps: tuple[tuple[int, int, int], ...],
    weights: torch.Tensor,
    *,
    mirrored: bool = False,
) -> torch.Tensor:
    """(pairs, out): row of every pair times the (27, in, out) weight of its tap, or of the opposite tap."""
    products = values.new_empty(len(rows), weights.shape[-1])
    for tap, begin, end in taps:
        gathered = values.index_select(0, rows[begin:end])
        torch.mm(gathered, weights[TAPS - 1 - tap if mirrored else tap], out=products[begin:end])
    return products


class _SubmanifoldConv(torch.autograd.Function):
    """y = x W_center + b + sum over taps; sums run in a fixed order, so the thread count changes nothing."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, table: NeighborTable
    ) -> torch.Tensor:
        taps = weight.reshape(weight.shape[0], TAPS, weight.shape[-1]).permute(1, 2, 0)
        values = x if table.groups is None else _voxel_mean(x, table.groups)
        out = torch.addmm(bias, x, taps[CENTER])
        if len(table.source):
            products = _pair_products(values, table.source, table.taps, taps)
            summed = embedding_bag(table.by_target, products, table.target_starts, mode="sum")
            out += summed if table.groups is None else summed.index_select(0, table.groups.voxel_of)
        ctx.save_for_backward(x, weight, values)
        ctx.table = table
        return out

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, None]:
        x, weight, values = ctx.saved_tensors
        table: NeighborTable = ctx.table
        grad = grad.contiguous()
        sums = grad if table.groups is None else _voxel_sum(grad, table.groups)
        taps = weight.reshape(weight.shape[0], TAPS, weight.shape[-1]).transpose(0, 1)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ taps[CENTER]
            if len(table.source):
                spread = _grad_values(sums, taps, table)
                if table.groups is not None:
                    spread = (spread / table.groups.counts).index_select(0, table.groups.voxel_of)
                grad_x += spread
        if ctx.needs_input_grad[1]:
            per_tap = torch.zeros_like(taps, memory_format=torch.contiguous_format)
            torch.mm(grad.t(), x, out=per_tap[CENTER])
            for tap, begin, end in table.taps:
                out_rows = sums.index_select(0, table.target[begin:end])
                in_rows = values.index_select(0, table.source[begin:end])
                torch.mm(out_rows.t(), in_rows, out=per_tap[tap])
            grad_weight = per_tap.transpose(0, 1).reshape(weight.shape)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(0)
        return grad_x, grad_weight, grad_bias, None


def _grad_values(sums: torch.Tensor, taps: torch.Tensor, table: NeighborTable) -> torch.Tensor:
    """Gradient of what neighbours read. A symmetric table is its own transpose with mirrored taps."""
    if table.symmetric:
        products = _pair_products(sums, table.source, table.taps, taps, mirrored=True)
        return embedding_bag(table.by_target, products, table.target_starts, mode="sum")
    products = _pair_products(sums, table.target, table.taps, taps)
    return embedding_bag(table.by_source, products, table.source_starts, mode="sum")


class SubmanifoldConv3d(nn.Module):
    """3x3x3 convolution whose outputs are the input's tokens only.

    y(p) = bias + sum over k of weight[:, k] x(p + k - 1), a missing neighbour counting as zero; the centre tap
    always reads the token's own features. `weight` is (out, 3, 3, 3, in), as spconv stores it.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, 3, 3, 3, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels))

    def forward(self, x: torch.Tensor, table: NeighborTable) -> torch.Tensor:
        """(tokens, in) -> (tokens, out)."""
        result: torch.Tensor = _SubmanifoldConv.apply(x, self.weight, self.bias, table)
        return result
