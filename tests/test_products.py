"""Products by oneDNN against float64, at every size and layout that the networks meet."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pointworld import products
from pointworld.products import Linear, affine, convert_linear_layers, matmul, matmul_transposed

Tensor = torch.Tensor

#: Around the sizes at which blocks begin, end and change height.
rows = st.integers(0, 2500)
widths = st.sampled_from((1, 31, 127, 128, 160, 384))
seeds = st.integers(0, 2**31)
needs_onednn = pytest.mark.skipif(
    products._ONEDNN is None or not torch.backends.mkldnn.is_available(),
    reason="this build of PyTorch has no oneDNN",
)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def near(got: Tensor, expected: Tensor, inner: int) -> None:
    """Errors of float32 sums of `inner` products of normal numbers."""
    assert got.shape == expected.shape and got.dtype == torch.float32
    worst = (got.double() - expected).abs().max().item() if got.numel() else 0.0
    assert worst <= 1e-6 * (1 + inner), worst


@settings(deadline=None)
@given(rows, widths, widths, seeds)
def test_products_are_those_of_float64(m: int, k: int, n: int, seed: int) -> None:
    a, b, c = draw(seed, m, k), draw(seed + 1, k, n), draw(seed + 2, m, n)
    near(matmul(a, b), a.double() @ b.double(), k)
    near(matmul_transposed(a, c), a.double().t() @ c.double(), m)
    out = torch.full((m + 2, n), 7.0)
    assert matmul(a, b, out[1:-1]).data_ptr() == out[1:-1].data_ptr() or not m
    near(out[1:-1], a.double() @ b.double(), k)
    assert bool((out[0] == 7).all()) and bool((out[-1] == 7).all())


@settings(deadline=None)
@given(rows, widths, widths, seeds, st.booleans())
def test_a_layer_and_its_gradients_are_those_of_float64(
    m: int, k: int, n: int, seed: int, biased: bool
) -> None:
    x, weight = draw(seed, m, k).requires_grad_(), draw(seed + 1, n, k).requires_grad_()
    bias = draw(seed + 2, n).requires_grad_() if biased else None
    towards = draw(seed + 3, m, n)
    wanted = [x, weight] if bias is None else [x, weight, bias]
    exact = [v.detach().double().requires_grad_() for v in wanted]
    expected = torch.nn.functional.linear(*exact)
    got = affine(x, weight, bias)
    near(got, expected, k)
    slopes = torch.autograd.grad(got, wanted, towards)
    for slope, right, inner in zip(
        slopes, torch.autograd.grad(expected, exact, towards.double()), (n, m, m), strict=False
    ):
        near(slope, right, inner)
    with torch.no_grad():
        assert torch.equal(affine(x, weight, bias), got)


@pytest.mark.parametrize("layout", ["plain", "transposed", "every third column", "tap"])
def test_any_layout_of_the_weight(layout: str) -> None:
    x, weight = draw(0, 700, 256), draw(1, 384, 256)
    if layout == "transposed":
        weight = weight.t().contiguous().t()
    elif layout == "every third column":
        weight = draw(1, 384, 768)[:, ::3]
    elif layout == "tap":
        weight = draw(1, 384, 27, 256)[:, 5]
    near(affine(x, weight, None), x.double() @ weight.double().t(), 256)
    near(affine(x[:, None], weight, None)[:, 0], x.double() @ weight.double().t(), 256)


@needs_onednn
def test_onednn_takes_large_float32_products_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[int] = []
    plain: Callable[..., Tensor] = products._ONEDNN

    def counted(x: Tensor, *rest: object) -> Tensor:
        taken.append(len(x))
        return plain(x, *rest)

    monkeypatch.setattr(products, "_ONEDNN", counted)
    layer = Linear(256, 512)
    large, small = draw(0, 3000, 256), draw(0, 7, 256)
    layer(large)
    assert sum(taken) >= 3000 and all(height & (height - 1) == 0 for height in taken)
    taken.clear()
    layer(small)
    layer.double()(large.double())
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(large).dtype == torch.bfloat16
    with torch.backends.mkldnn.flags(enabled=False):
        layer(large)
    monkeypatch.setattr(products, "_ONEDNN", None)
    near(layer(large).detach(), layer.double()(large.double()).detach(), 256)
    assert not taken


def test_networks_by_others_keep_their_parameters() -> None:
    class Special(torch.nn.Linear):
        pass

    network = torch.nn.Sequential(torch.nn.Linear(256, 384), torch.nn.GELU(), Special(384, 128))
    names, x = list(network.state_dict()), draw(0, 600, 256)
    before = network(x)
    convert_linear_layers(network)
    assert [type(part) for part in network] == [Linear, torch.nn.GELU, Special]
    assert list(network.state_dict()) == names
    assert torch.allclose(network(x), before, atol=1e-5)


def test_the_number_of_threads_changes_nothing() -> None:
    before = torch.get_num_threads()
    x, weight, towards = draw(0, 3077, 384), draw(1, 512, 384), draw(2, 3077, 512)
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(
                (affine(x, weight, None), matmul(towards, weight), matmul_transposed(x, towards))
            )
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


def test_few_shapes_reach_onednn() -> None:
    """It compiles code for every shape that it meets."""
    blocks = [list(products._blocks(count, 512, 128)) for count in range(1, 20_000, 7)]
    assert len({height for block in blocks for _, height in block}) <= 6
    for count, block in zip(range(1, 20_000, 7), blocks, strict=True):
        ends = [first + height for first, height in block]
        assert [first for first, _ in block] == [0, *ends[:-1]]
        assert 0 <= ends[-1] - count < products._least_height(512, 128)
