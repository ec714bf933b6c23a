"""SIGReg against its definition, and what it prevents."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from pointworld.errors import InputError
from pointworld.train.jepa.sigreg import invariance, lejepa_loss, sigreg


def test_one_slice_is_the_epps_pulley_integral(rng: np.random.Generator) -> None:
    """In one dimension every direction is +1 or -1: the statistic is the integral of the definition."""
    z = 0.7 * rng.standard_normal(200) + 0.4

    def integrand(t: float) -> float:
        phi = np.exp(1j * t * z).mean()
        return float(abs(phi - math.exp(-t * t / 2)) ** 2 * math.exp(-t * t / 2))

    exact = len(z) * quad(integrand, -3, 3, limit=200)[0]
    found = sigreg(torch.from_numpy(z)[:, None], generator=torch.Generator(), slices=3)
    assert float(found) == pytest.approx(exact, rel=2e-3)


def test_collapse_is_the_worst_and_a_normal_sample_nearly_the_best(
    generator: torch.Generator,
) -> None:
    normal = torch.randn(512, 16, generator=generator)
    value = float(sigreg(normal, generator=generator))
    assert value < 1.5  # its expectation does not grow with the sample
    assert float(sigreg(torch.zeros(512, 16), generator=generator)) > 100 * value
    assert float(sigreg(2 * normal, generator=generator)) > 10 * value
    bent = normal.clone()
    bent[:, 1] = bent[:, 0]  # two equal dimensions
    assert float(sigreg(bent, generator=generator)) > 2 * value


def test_views_are_tested_by_themselves_and_slices_come_from_the_generator(
    generator: torch.Generator,
) -> None:
    z = torch.randn(3, 64, 8, generator=generator)
    together = sigreg(z, generator=torch.Generator().manual_seed(5))
    alone = [sigreg(view, generator=torch.Generator().manual_seed(5)) for view in z]
    assert float(together) == pytest.approx(float(torch.stack(alone).mean()), rel=1e-5)
    other = sigreg(z, generator=torch.Generator().manual_seed(6))
    assert float(other) != float(together)


def test_loss_is_the_weighted_sum(generator: torch.Generator) -> None:
    z = torch.randn(4, 32, 8, generator=generator)
    loss, spread, alike = lejepa_loss(
        z, weight=0.05, generator=torch.Generator().manual_seed(0), slices=64
    )
    assert float(loss) == pytest.approx(0.05 * float(spread) + 0.95 * float(alike), rel=1e-6)
    assert float(alike) == pytest.approx(float(z.var(0, unbiased=False).mean()), rel=1e-5)
    assert float(invariance(z[:1].expand(4, -1, -1))) == 0


@pytest.mark.rejects_input
def test_refuses_shapes(generator: torch.Generator) -> None:
    with pytest.raises(InputError, match="2 or more samples"):
        sigreg(torch.zeros(1, 4), generator=generator)
