"""Matrix products on a CPU by the faster of the two libraries that PyTorch carries.

PyTorch gives float32 products to MKL, which on processors of other makers than Intel leaves half of the arithmetic
units idle, and bfloat16 ones to oneDNN, which does not. Here oneDNN takes large float32 products too, in blocks of
few different heights: it compiles code for every shape that it meets, and tokens are never twice as many. Only shapes
decide, and the number of threads changes nothing. `torch.backends.mkldnn.flags(enabled=False)` leaves all to MKL.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, pad

Tensor = torch.Tensor

#: Multiplications below which oneDNN, whose call takes 10 us more, is the slower one.
_LEAST = 2**21
#: Narrower products cost less than putting their blocks together.
_LEAST_WIDTH = 128
#: Least rows of a block: the weight may have to be copied for it.
_LEAST_HEIGHT = 64
#: Values of a block: few enough to stay in the cache until they are where they belong.
_CACHED = 2**20
#: oneDNN's x weight^T + bias on ordinary tensors, which has no gradient of its own; not in every build of PyTorch.
_ONEDNN: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def matmul(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """(m, k) times (k, n), as `torch.mm`, but without gradient."""
    if not _pays(a, len(a), *b.shape):
        return torch.mm(a, b, out=out)
    return _in_blocks(a, b.t(), None, out)


def matmul_transposed(a: Tensor, b: Tensor) -> Tensor:
    """(m, k), (m, n) to (k, n), as `a.T @ b`, but without gradient."""
    if not _pays(a, len(a), a.shape[1], b.shape[1]):
        return a.t() @ b
    out = a.new_zeros(a.shape[1], b.shape[1])
    for first, height in _blocks(len(a), *out.shape):
        out += _onednn(_block(a, first, height).t(), _block(b, first, height).t(), None)
    return out


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(..., in) to (..., out), as `torch.nn.functional.linear`; differentiable once."""
    rows = x.numel() // max(x.shape[-1], 1)
    if torch.is_autocast_enabled(x.device.type) or not _pays(x, rows, *weight.shape):
        return linear(x, weight, bias)
    if torch.is_grad_enabled():
        result: Tensor = _Affine.apply(x, weight, bias)
        return result
    return _affine(x, weight, bias)


class Linear(nn.Linear):
    """`nn.Linear` by `affine`."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return affine(input, self.weight, self.bias)


def convert_linear_layers(network: nn.Module) -> None:
    """Makes every plain `nn.Linear` of a network by others a `Linear`, in place; parameters and their names stay."""
    for part in network.modules():
        if type(part) is nn.Linear:
            part.__class__ = Linear


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _affine(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grads = grad.reshape(-1, len(weight))
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = matmul(grads, weight).view(x.shape)
        if ctx.needs_input_grad[1]:
            of_weight = matmul_transposed(grads, x.reshape(-1, x.shape[-1]))
        if ctx.needs_input_grad[2]:
            of_bias = grads.sum(0)
        return of_x, of_weight, of_bias


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    flat = _in_blocks(x.reshape(-1, x.shape[-1]), weight, bias)
    return flat.view(*x.shape[:-1], len(weight))


def _in_blocks(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
    """(m, k), (n, k), (n,) to (m, n), which is written to `out` if there is one."""
    if 1 not in weight.stride() or weight.numel() != _extent(weight):
        weight = weight.contiguous()  # else oneDNN takes a slow way
    blocks = list(_blocks(len(x), *weight.shape))
    if out is None:
        if len(blocks) == 1:
            return _onednn(_block(x, *blocks[0]), weight, bias)[: len(x)]
        out = x.new_empty(len(x), len(weight))
    for first, height in blocks:
        into = out[first : first + height]
        into.copy_(_onednn(_block(x, first, height), weight, bias)[: len(into)])
    return out


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = _ONEDNN(x, weight, bias, "none", [], "")
    return result


def _least_height(n: int, k: int) -> int:
    """Rows of the smallest block, a power of two."""
    return max(_LEAST_HEIGHT, 1 << (_LEAST // (n * k)).bit_length())


def _blocks(rows: int, n: int, k: int) -> Iterator[tuple[int, int]]:
    """First row and height of blocks; heights are powers of two, the last block may have to be filled up."""
    least = _least_height(n, k)
    height = max(1 << (_CACHED // max(n, k)).bit_length() - 1, least)
    first = 0
    while first < rows:
        while height > max(rows - first, least):
            height //= 2
        yield first, height
        first += height


def _block(x: Tensor, first: int, height: int) -> Tensor:
    """Rows of x, and zeros where it ends."""
    part = x[first : first + height]
    return part if len(part) == height else pad(part, (0, 0, 0, height - len(part)))


def _extent(weight: Tensor) -> int:
    """Values from the first to the last one of a matrix in memory."""
    return 1 + sum(
        (size - 1) * step for size, step in zip(weight.shape, weight.stride(), strict=True)
    )


def _pays(x: Tensor, rows: int, n: int, k: int) -> bool:
    """Whether oneDNN takes a part of the product of `rows` rows with an (n, k) matrix."""
    return (
        min(n, k) >= _LEAST_WIDTH
        and rows >= _least_height(n, k)
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and _ONEDNN is not None
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )
