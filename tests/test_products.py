"""Products by oneDNN against float64, at every size and layout that the networks meet."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pointworld import products
from pointworld.model.featurisers import Mlp
from pointworld.products import Linear, affine, convert_linear_layers, matmul, matmul_transposed
from pointworld.ptv3.backbone import Block
from pointworld.ptv3.conv import SubmanifoldConv3d
from pointworld.ptv3.neighbors import NeighborTable, unique_voxel_table
from pointworld.train.optimiser import orthogonalise

Tensor = torch.Tensor

#: Around the sizes at which blocks begin, end and change height.
rows = st.integers(0, 2500)
widths = st.sampled_from((1, 31, 127, 128, 160, 384))
seeds = st.integers(0, 2**31)
needs_onednn = pytest.mark.skipif(
    products._ONEDNN is None or not torch.backends.mkldnn.is_available(),
    reason="this build of PyTorch has no oneDNN",
)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Weights that oneDNN is given from here on."""
    weights: list[Tensor] = []
    plain: Callable[..., Tensor] = products._ONEDNN

    def noted(x: Tensor, weight: Tensor, *rest: object) -> Tensor:
        weights.append(weight)
        return plain(x, weight, *rest)

    monkeypatch.setattr(products, "_ONEDNN", noted)
    return weights


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


LAYOUTS: dict[str, Callable[[int, int], Tensor]] = {
    "plain": lambda m, n: draw(1, m, n),
    "transposed": lambda m, n: draw(1, n, m).t(),
    "columns of a wider one": lambda m, n: draw(1, m, 2 * n)[:, n:],
    "every third column": lambda m, n: draw(1, m, 3 * n)[:, ::3],
    "a tap of a convolution": lambda m, n: draw(1, m, 27, n)[:, 5],
    "a tap transposed": lambda m, n: draw(1, n, 27, m)[:, 5].t(),
    "one row for all": lambda m, n: draw(1, 1, n).expand(m, n),
    "three axes": lambda m, n: draw(1, 1, m, n),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("trained", ["x", "weight", "bias", "all"])
def test_any_layout_and_any_part_that_is_trained(layout: str, trained: str) -> None:
    factors = {"x": LAYOUTS[layout](700, 256), "weight": draw(2, 384, 256), "bias": draw(3, 384)}
    wanted = list(factors) if trained == "all" else [trained]
    exact = {name: v.double().requires_grad_(name in wanted) for name, v in factors.items()}
    factors = {name: v.requires_grad_(name in wanted) for name, v in factors.items()}
    got, expected = affine(*factors.values()), torch.nn.functional.linear(*exact.values())
    near(got, expected, 256)
    towards = draw(4, *got.shape)
    slopes = torch.autograd.grad(got, [factors[name] for name in wanted], towards)
    right = torch.autograd.grad(expected, [exact[name] for name in wanted], towards.double())
    for slope, exactly in zip(slopes, right, strict=True):
        near(slope, exactly, 700)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "three axes"])
def test_any_layout_of_any_factor(layout: str) -> None:
    one, x, slope = LAYOUTS[layout](768, 512), draw(5, 700, 768), draw(6, 768, 384)
    near(affine(draw(5, 700, 512), one, draw(7, 768, 2)[:, 1])[:, :3],
         (draw(5, 700, 512).double() @ one.double().t() + draw(7, 768, 2)[:, 1].double())[:, :3], 512)  # fmt: skip
    near(matmul(x, one), x.double() @ one.double(), 768)
    near(matmul(one.t(), slope), one.double().t() @ slope.double(), 768)
    near(matmul_transposed(one, slope), one.double().t() @ slope.double(), 768)
    near(matmul_transposed(slope, one), slope.double().t() @ one.double(), 768)


@needs_onednn
def test_onednn_sees_no_gaps(taken: list[Tensor]) -> None:
    """It takes a thousand times longer for a weight with gaps."""
    for name, make in LAYOUTS.items():
        if name != "three axes":
            matmul(draw(0, 700, 768), make(768, 512))
            matmul_transposed(draw(0, 768, 384), make(768, 512))
    conv = SubmanifoldConv3d(128, 160)
    torch.nn.init.normal_(conv.weight)
    table = line_of_voxels(1200)
    conv(draw(0, 1200, 128).requires_grad_(), table).sum().backward()
    assert len(taken) > 50
    for weight in taken:
        assert weight.is_contiguous() or weight.t().is_contiguous()


@needs_onednn
@pytest.mark.parametrize(
    "work",
    [
        lambda: matmul(draw(0, 700, 256), draw(1, 256, 384)),
        lambda: matmul_transposed(draw(0, 700, 256), draw(1, 700, 384)),
        lambda: affine(draw(0, 700, 256), draw(1, 384, 256), None),
        lambda: orthogonalise(draw(0, 512, 1024)),
        lambda: Block(128, 4, 4, 0.0).mlp(draw(0, 1500, 128)),
        lambda: Mlp(256, 256)(draw(0, 700, 256)),
    ],
)
def test_who_uses_onednn(taken: list[Tensor], work: Callable[[], Tensor]) -> None:
    work()
    assert taken


def test_a_wide_convolution_in_float32() -> None:
    conv = SubmanifoldConv3d(128, 160)
    torch.nn.init.normal_(conv.weight, std=0.02)
    torch.nn.init.normal_(conv.bias)
    x, towards, table = (
        draw(0, 1200, 128).requires_grad_(),
        draw(1, 1200, 160),
        line_of_voxels(1200),
    )
    got = conv(x, table)
    found = torch.autograd.grad(got, [x, conv.weight, conv.bias], towards)
    # Along a line of voxels only the middle taps of the two other axes meet a neighbour.
    exact = [v.detach().double().requires_grad_() for v in (x, conv.weight, conv.bias)]
    along = exact[1][:, :, 1, 1].permute(0, 2, 1)
    expected = torch.nn.functional.conv1d(exact[0].t()[None], along, exact[2], padding=1)[0].t()
    near(got, expected, 500)
    right = torch.autograd.grad(expected, exact, towards.double())
    for slope, exactly in zip(found, right, strict=True):
        near(slope, exactly, 2000)


def line_of_voxels(count: int) -> NeighborTable:
    """Every token has two neighbours."""
    grid = torch.zeros(count, 3, dtype=torch.int64)
    grid[:, 0] = torch.arange(count)
    return unique_voxel_table(grid, torch.zeros(count, dtype=torch.int64))


def test_what_does_not_fit_is_refused_as_by_torch() -> None:
    a, b = draw(0, 700, 256), draw(1, 256, 384)
    with pytest.raises(RuntimeError, match="shapes"):
        matmul(a, b[:200])
    with pytest.raises(RuntimeError, match="dtype"):
        matmul(a, b.double())
    with pytest.raises(RuntimeError, match="out"):
        matmul(a, b, torch.empty(700, 384, dtype=torch.float64))
    for other in (draw(1, 300, 384), draw(1, 900, 384)):
        with pytest.raises(RuntimeError, match="shapes"):
            matmul_transposed(a, other)
    with pytest.raises(RuntimeError):
        affine(a, b, None)
    broad = torch.ones(1)
    near(affine(a, b.t(), broad), a.double() @ b.double() + 1, 256)


def test_layers_are_as_usable_as_those_of_torch() -> None:
    layer, x = Linear(256, 384), draw(0, 700, 256)
    got = layer(x)
    got += 1  # of a view that would be refused
    layer(x[None]).relu_().sum().backward()
    assert layer.weight.grad is not None
    assert Linear(256, 384, device="meta")(x.to("meta")).shape == (700, 384)
    with torch.inference_mode():
        assert torch.equal(layer(x) + 1, got)
    x.requires_grad_()
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with torch.backends.mkldnn.flags(enabled=False):  # what the message says
        torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)


@needs_onednn
def test_onednn_takes_large_float32_products_and_nothing_else(
    taken: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = Linear(256, 512)
    large, small = draw(0, 3000, 256), draw(0, 7, 256)
    layer(large)
    assert len(taken) == len(list(products._blocks(3000, 512, 256)))
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
