"""Submanifold 3x3x3 convolution in plain PyTorch: gather, one matrix product per tap, ordered sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import embedding_bag

from pointworld.products import affine, matmul, matmul_transposed
from pointworld.ptv3.neighbors import CENTER, TAPS, NeighborTable, VoxelGroups

#: Values that are gathered at once: few enough to stay in the cache until they are multiplied.
_CACHED = 2**18


def _voxel_mean(values: torch.Tensor, groups: VoxelGroups) -> torch.Tensor:
    return embedding_bag(groups.arange, values, groups.starts, mode="mean")


def _voxel_sum(values: torch.Tensor, groups: VoxelGroups) -> torch.Tensor:
    return embedding_bag(groups.arange, values, groups.starts, mode="sum")


def _pair_products(
    values: torch.Tensor, table: NeighborTable, weights: torch.Tensor
) -> torch.Tensor:
    """(pairs, out): the source row of every pair times the (27, in, out) weight of its tap."""
    products = table.products(weights.shape[-1], values)
    rows = max(_CACHED // values.shape[1], 1)
    for tap, begin, end in table.taps:
        for first in range(begin, end, rows):
            last = min(first + rows, end)
            gathered = values.index_select(0, table.source[first:last])
            matmul(gathered, weights[tap], products[first:last])
    return products


class _SubmanifoldConv(torch.autograd.Function):
    """y = x W_center + b + sum over taps; sums run in a fixed order, so the thread count changes nothing.

    Matrix products are computed in `dtype`; parameters, input, output and gradients keep the input's.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        table: NeighborTable,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        taps = weight.to(dtype).reshape(weight.shape[0], TAPS, weight.shape[-1]).permute(1, 2, 0)
        own = x.to(dtype)
        values = own if table.groups is None else _voxel_mean(x, table.groups).to(dtype)
        out = affine(own, taps[CENTER].t(), bias.to(dtype)).to(x.dtype)
        if len(table.source):
            products = _pair_products(values, table, taps)
            summed = embedding_bag(table.by_target, products, table.target_starts, mode="sum")
            out += summed if table.groups is None else summed.index_select(0, table.groups.voxel_of)
        ctx.save_for_backward(own, weight, values)
        ctx.table, ctx.dtype = table, dtype
        return out

    @staticmethod
    def backward(
        ctx: Any, grad: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        x, weight, values = ctx.saved_tensors
        table: NeighborTable = ctx.table
        dtype: torch.dtype = ctx.dtype
        grad = grad.contiguous()
        own = grad.to(dtype)
        sums = own if table.groups is None else _voxel_sum(grad, table.groups).to(dtype)
        taps = weight.to(dtype).reshape(weight.shape[0], TAPS, weight.shape[-1]).transpose(0, 1)
        per_tap = torch.zeros_like(taps, memory_format=torch.contiguous_format)
        per_tap[CENTER] = matmul_transposed(own, x)
        products = sums.new_empty(len(table.source), x.shape[1])
        for tap, begin, end in table.taps:
            received = sums.index_select(0, table.target[begin:end])
            read = values.index_select(0, table.source[begin:end])
            matmul(received, taps[tap], products[begin:end])
            per_tap[tap] = matmul_transposed(received, read)
        grad_x = matmul(own, taps[CENTER]).to(grad.dtype)
        if len(table.source):
            spread = embedding_bag(table.by_source, products, table.source_starts, mode="sum")
            if table.groups is not None:
                spread = (spread / table.groups.counts).index_select(0, table.groups.voxel_of)
            grad_x += spread
        of_weight = per_tap.transpose(0, 1).reshape(weight.shape).to(weight.dtype)
        return grad_x, of_weight, grad.sum(0), None, None


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
        """(tokens, in) -> (tokens, out) in the parameters' precision; under autocast the products take its type."""
        kind = x.device.type
        own = self.weight.dtype
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else own
        with torch.autocast(kind, enabled=False):
            result: torch.Tensor = _SubmanifoldConv.apply(
                x.to(own), self.weight, self.bias, table, dtype
            )
        return result
