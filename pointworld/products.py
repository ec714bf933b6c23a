"""Matrix products on a CPU by another of the two libraries that PyTorch carries.

PyTorch gives float32 products to MKL, which on processors of other makers than Intel leaves half of the arithmetic
units idle, and bfloat16 ones to oneDNN, which does not. Here oneDNN takes large float32 products too, in blocks of
few different heights: it compiles code for every shape that it meets, and tokens are hardly ever as many as before.
Only shapes decide, and the number of threads changes nothing. `torch.backends.mkldnn.flags(enabled=False)` leaves all
to MKL. What is faster on Intel's own processors has not been measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear, pad

Tensor = torch.Tensor

#: Multiplications of the smallest block: for fewer, oneDNN, whose call takes 10 us more, is the slower one.
_LEAST = 2**22
#: Narrower products cost less than putting their blocks together.
_LEAST_WIDTH = 128
#: Least rows of a block: the weight may have to be copied for it.
_LEAST_HEIGHT = 64
#: Values of a block: few enough to stay in the cache until they are where they belong.
_CACHED = 2**20


def _find_onednn() -> Any:
    """oneDNN's `x weight^T + bias` on ordinary tensors, which has no gradient; None where there is none like that."""
    if not torch.backends.mkldnn.is_available():
        return None
    x, weight = torch.eye(4, 3), torch.ones(2, 3)
    try:
        product = torch.ops.mkldnn._linear_pointwise
        fits = torch.equal(product(x, weight, None, "none", [], ""), x @ weight.t())
    except (AttributeError, RuntimeError, TypeError):
        return None
    return product if fits else None


_ONEDNN: Any = _find_onednn()


def matmul(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """(m, k) times (k, n), as `torch.mm`. For code without gradients: none flows through large products."""
    fits = a.shape[1] == len(b) and (
        out is None or (out.dtype == a.dtype and out.shape == (len(a), b.shape[1]))
    )
    if not fits or not _pays(len(a), a, b):
        return torch.mm(a, b, out=out)
    return _in_blocks(a, b.t(), None, out)


def matmul_transposed(a: Tensor, b: Tensor) -> Tensor:
    """(m, k), (m, n) to (k, n), as `a.T @ b`. For code without gradients, as `matmul`."""
    if len(a) != len(b) or not _pays(len(a), a, b, (a.shape[1], b.shape[1])):
        return a.t() @ b
    out = a.new_zeros(a.shape[1], b.shape[1])
    for first, height in _blocks(len(a), *out.shape):
        part, other = _block(a, first, height), _block(b, first, height)
        out += _onednn(part.t(), _dense(other.t()), None)
    return out


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(..., in) to (..., out), as `torch.nn.functional.linear`; derivatives of derivatives are refused."""
    rows = x.numel() // max(x.shape[-1], 1)
    fits = x.shape[-1] == weight.shape[-1] and (bias is None or bias.shape == weight.shape[:1])
    if not fits or not _pays(rows, x, weight) or torch.is_autocast_enabled(x.device.type):
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
        of_x, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if of_weight else None, weight if of_x else None)
        ctx.shape = x.shape
        return _affine(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        if torch.is_grad_enabled():
            raise NotImplementedError(
                "pointworld.products has no second derivatives; within "
                "torch.backends.mkldnn.flags(enabled=False) the layers have those of PyTorch"
            )
        x, weight = ctx.saved_tensors
        grads = grad.reshape(-1, grad.shape[-1])
        return (
            None if weight is None else matmul(grads, weight).view(ctx.shape),
            None if x is None else matmul_transposed(grads, x.reshape(-1, x.shape[-1])),
            grads.sum(0) if ctx.needs_input_grad[2] else None,
        )


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.ndim == 2:
        return _in_blocks(x, weight, bias, None)
    out = x.new_empty(*x.shape[:-1], len(weight))
    _in_blocks(x.reshape(-1, x.shape[-1]), weight, bias, out.view(-1, len(weight)))
    return out


def _in_blocks(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None) -> Tensor:
    """(m, k), (n, k), (n,) to (m, n), which is written to `out` if there is one."""
    weight = _dense(weight)
    bias = None if bias is None else bias.contiguous()
    blocks = list(_blocks(len(x), *weight.shape))
    if out is None:
        if blocks == [(0, len(x))]:
            return _onednn(x, weight, bias)
        out = x.new_empty(len(x), len(weight))
    for first, height in blocks:
        into = out[first : first + height]
        into.copy_(_onednn(_block(x, first, height), weight, bias)[: len(into)])
    return out


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = _ONEDNN(x, weight, bias, "none", [], "")
    return result


def _dense(weight: Tensor) -> Tensor:
    """The same values without gaps between them: for others oneDNN takes a way that is a thousand times slower."""
    if weight.is_contiguous() or weight.t().is_contiguous():
        return weight
    if weight.stride(0) < weight.stride(1):
        return weight.t().contiguous().t()
    return weight.contiguous()


def _least_height(n: int, k: int) -> int:
    """Rows of the smallest block, a power of two."""
    return max(_LEAST_HEIGHT, _power_of_two(_LEAST // (n * k)))


def _power_of_two(number: int) -> int:
    """The largest one that is not above `number`; 1 for 0."""
    return 1 << max(number.bit_length() - 1, 0)


def _blocks(rows: int, n: int, k: int) -> Iterator[tuple[int, int]]:
    """First row and height of blocks; heights are powers of two, the last block may have to be filled up."""
    least = _least_height(n, k)
    height = max(_power_of_two(_CACHED // max(n, k)), least)
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


def _pays(rows: int, x: Tensor, other: Tensor, shape: tuple[int, ...] | None = None) -> bool:
    """Whether oneDNN takes a product of `rows` rows with a matrix of `shape`, by default that of the other factor."""
    n, k = shape or other.shape
    return (
        min(n, k) >= _LEAST_WIDTH
        and rows >= 2 * _least_height(n, k)
        and x.dtype == other.dtype == torch.float32
        and x.device.type == other.device.type == "cpu"
        and _ONEDNN is not None
        and bool(torch.backends.mkldnn.enabled)
    )
