"""Gaussian scenes, and spherical harmonics as their colour."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from pointworld.errors import InputError
from splat.sh import C0, colors_to_sh, evaluate_sh, sh_basis
from splat.types import SH_COUNTS, GaussianScene, concatenate

Tensor = torch.Tensor


def scene(count: int = 7, coefficients: int = 9, seed: int = 0) -> GaussianScene:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return GaussianScene(
        means=normal(count, 3),
        quats_wxyz=normal(count, 4),
        log_scales=normal(count, 3) - 3,
        opacity_logits=normal(count),
        sh=0.3 * normal(count, coefficients, 3),
        features=normal(count, 5),
        ids=torch.arange(count),
        moving=normal(count) > 0,
        background=torch.tensor([0.2, 0.4, 0.6]),
    )


@pytest.mark.parametrize("count", SH_COUNTS)
def test_the_basis_is_orthonormal_on_the_sphere(count: int) -> None:
    z, weight = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(8))
    turn = torch.arange(16, dtype=torch.float64) * (2 * torch.pi / 16)
    r = (1 - z * z).sqrt()[:, None]
    grid = torch.stack([r * turn.cos(), r * turn.sin(), z[:, None].expand(8, 16)], -1).view(-1, 3)
    area = (weight[:, None] * (2 * torch.pi / 16)).expand(8, 16).reshape(-1, 1)
    basis = sh_basis(3.0 * grid, count)
    expected = torch.eye(count, dtype=torch.float64)
    assert torch.allclose(basis.mT @ (area * basis), expected, atol=1e-12)


def test_the_basis_has_the_signs_of_splat_files() -> None:
    """Degree 1 runs along -y, z, -x; degrees 2 and 3 at a direction worked out by hand."""
    assert torch.allclose(sh_basis(torch.eye(3), 4)[:, 1:].sign(), torch.tensor(
        [[0.0, 0, -1], [-1, 0, 0], [0, 1, 0]]
    ))  # fmt: skip
    signs = sh_basis(torch.tensor([[3.0, 2.0, 1.0]]), 16)[0].sign().tolist()
    assert signs == [1, -1, 1, -1, 1, -1, -1, -1, 1, -1, 1, 1, -1, 1, 1, 1]


def test_colours_are_never_negative_and_plain_ones_come_back() -> None:
    colors = torch.rand(9, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(evaluate_sh(colors_to_sh(colors), torch.zeros(9, 3)), colors)
    assert not evaluate_sh(torch.full((1, 1, 3), -5.0), torch.ones(1, 3)).any()
    assert torch.isclose(
        evaluate_sh(torch.ones(1, 1, 3), torch.ones(1, 3))[0, 0], torch.tensor(0.5 + C0)
    )


def test_a_colour_depends_on_the_side_it_is_seen_from() -> None:
    one = scene(1, 4)
    ahead, behind = one.colors_from(one.means[0] + 1), one.colors_from(one.means[0] - 1)
    assert not torch.allclose(ahead, behind)
    assert torch.allclose(ahead, one.colors_from(one.means[0] + 2), atol=1e-6)


def test_selecting_joining_and_converting_keep_every_field() -> None:
    whole = scene()
    mask = torch.tensor([True, False, True, False, False, True, True])
    joined = concatenate([whole.select(mask), whole.select(~mask)])
    order = torch.cat([mask.nonzero()[:, 0], (~mask).nonzero()[:, 0]])
    assert torch.equal(joined.background, whole.background)  # type: ignore[arg-type]
    for field in fields(GaussianScene):
        if field.name != "background":
            assert torch.equal(getattr(joined, field.name), getattr(whole, field.name)[order])
    double = whole.to(dtype=torch.float64)
    assert double.means.dtype == double.features.dtype == torch.float64  # type: ignore[union-attr]
    assert double.ids is not None and double.ids.dtype == torch.int64
    assert double.moving is not None and double.moving.dtype == torch.bool
    assert concatenate([whole, replace(whole, ids=None)]).ids is None
    dark = replace(whole, background=None)
    assert concatenate([dark, dark]).background is None
    assert torch.equal(concatenate([dark, whole]).background, whole.background)  # type: ignore[arg-type]
    assert len(whole.select(torch.zeros(7, dtype=torch.bool))) == 0


def test_activations() -> None:
    one = scene()
    assert torch.allclose(one.scales.log(), one.log_scales, atol=1e-6)
    assert torch.allclose(one.opacities.logit(), one.opacity_logits, atol=1e-5)
    assert one.sh_degree == 2


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": torch.zeros(7, 2)}, "means is"),
        ({"quats_wxyz": torch.zeros(6, 4)}, "quats_wxyz is"),
        ({"opacity_logits": torch.zeros(7, 1)}, "opacity_logits is"),
        ({"sh": torch.zeros(7, 5, 3)}, "K one of"),
        ({"sh": torch.zeros(7, 3)}, "K one of"),
        ({"features": torch.zeros(6, 5)}, "features is"),
        ({"ids": torch.zeros(8)}, "ids is"),
        ({"background": torch.zeros(4)}, "background is"),
    ],
)
def test_wrong_shapes_are_refused(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(scene(), **change)  # type: ignore[arg-type]


@pytest.mark.rejects_input
def test_scenes_that_do_not_fit_are_not_joined() -> None:
    with pytest.raises(InputError, match="no scenes"):
        concatenate([])
    with pytest.raises(InputError, match="different spherical-harmonic degrees"):
        concatenate([scene(), scene(coefficients=1)])
