"""The correction of the predicted spread."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pointworld.errors import InputError
from pointworld.model import ModelSpec, WorldModel, collate
from pointworld.model.spread import SpreadMap
from pointworld.ptv3 import PTv3Arch
from pointworld.train.augment import whole
from pointworld.train.metrics import calibration, moved_mask, rank_correlation
from pointworld.train.objective import prepare_heads
from pointworld.train.spread import (
    STILL_COST,
    STILL_TRIED,
    fit_model_spread,
    fit_spread,
    fit_still_below,
)
from tests.train.synthetic import push


def draw(seed: int, still: float, moving: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Stated spread, error and who moves, when it is stated too large by `still` and too small by `moving`."""
    generator = torch.Generator().manual_seed(seed)
    moved = torch.rand(20_000, generator=generator) < 0.2
    low, high = 1e-4, 2e-2
    real = torch.where(moved, high, low) * torch.rand(20_000, generator=generator).exp()
    error = torch.randn(20_000, 3, generator=generator) * real[:, None]
    return real * torch.where(moved, 1 / moving, still), error, moved


def test_a_map_follows_the_device_of_what_it_corrects() -> None:
    correction = fit_spread([draw(0, 3.0, 2.0), draw(1, 3.0, 2.0)])
    assert len(correction.sigma) > 1
    assert correction(torch.rand(5, device="meta")).is_meta


def test_coverage_becomes_nominal_on_other_clips() -> None:
    fitted = fit_spread([draw(0, 3.0, 2.0), draw(1, 3.0, 2.0)])
    sigma, error, moved = draw(2, 3.0, 2.0)
    before = calibration(error[None], sigma[None], moved[None])
    after = calibration(error[None], fitted(sigma)[None], moved[None])
    assert before["coverage_68"] > 0.8 and before["coverage_68_moved"] < 0.45
    for name, nominal in {"coverage_68": 0.683, "coverage_95": 0.95}.items():
        for who in ("", "_moved"):
            assert after[f"{name}{who}"] == pytest.approx(nominal, abs=0.03)
    assert rank_correlation(sigma, fitted(sigma)) > 0.999


def test_movers_that_look_like_others_have_a_say() -> None:
    generator = torch.Generator().manual_seed(3)
    sigma = torch.rand(20_000, generator=generator) * 0.01 + 0.001
    moved = torch.rand(20_000, generator=generator) < 0.1
    real = sigma * torch.where(moved, 2.0, 1.0)
    error = torch.randn(20_000, 3, generator=generator) * real[:, None]
    fitted = fit_spread([(sigma, error, moved)])
    scores = calibration(error[None], fitted(sigma)[None], moved[None])
    assert abs(scores["coverage_68"] - 0.683) < 0.17
    assert abs(scores["coverage_68_moved"] - 0.683) < 0.17


def test_between_knots_it_is_interpolated_and_beyond_them_constant() -> None:
    ramp = SpreadMap(sigma=(1e-3, 1e-1), factor=(1.0, 4.0))
    given = torch.tensor([1e-5, 1e-3, 1e-2, 1e-1, 1.0])
    assert torch.allclose(ramp(given) / given, torch.tensor([1.0, 1.0, 2.0, 4.0, 4.0]))
    assert SpreadMap.from_json(ramp.to_json()) == ramp
    assert torch.equal(SpreadMap(sigma=(1.0,), factor=(0.5,))(given), given * 0.5)


@pytest.mark.rejects_input
def test_maps_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="not decreasing"):
        SpreadMap(sigma=(1e-3, 1e-2), factor=(1.0, 0.01))
    with pytest.raises(InputError, match="as many of both"):
        SpreadMap(sigma=(1e-3,), factor=())
    with pytest.raises(InputError, match="sigma_m and factor"):
        SpreadMap.from_json({"sigma_m": [1.0]})
    with pytest.raises(InputError, match="no predictions"):
        fit_spread([])


def test_a_models_own_spread_is_fitted_on_samples_it_has_not_seen() -> None:
    torch.manual_seed(0)
    model = WorldModel(ModelSpec(arch=PTv3Arch.tiny(16), robot_tokens=6)).eval()
    prepare_heads(model)
    fitted = fit_model_spread(model, [push(i) for i in range(8)])
    spread = tuple(zip(fitted.sigma, fitted.factor, strict=True))
    corrected = WorldModel(replace(model.spec, spread=spread)).eval()
    corrected.load_state_dict(model.state_dict())

    def inside(of: WorldModel) -> float:
        item = whole(push(20), step_dt=0.1)
        inputs = collate([(item.scene, item.robot)])
        with torch.no_grad():
            outputs = of(inputs)
        sigma = of.stated_sigma(outputs.log_var, inputs.domain)[0, 1:]
        return float(
            (outputs.displacements[0, 1:] - item.displacements[1:]).abs().lt(sigma).float().mean()
        )

    assert abs(inside(model) - 0.683) > 0.2
    assert abs(inside(corrected) - 0.683) < 0.15


def test_motions_lost_in_their_own_spread_are_none() -> None:
    torch.manual_seed(0)
    model = WorldModel(ModelSpec(arch=PTv3Arch.tiny(16), robot_tokens=6)).eval()
    prepare_heads(model)
    model.norm_stats_per_step_var.fill_(0.05**2)
    samples = [push(i) for i in range(6)]
    limited = WorldModel(replace(model.spec, still_below=2.0)).eval()
    limited.load_state_dict(model.state_dict())

    def of(network: WorldModel, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        item = whole(samples[index], step_dt=0.1)
        inputs = collate([(item.scene, item.robot)])
        with torch.no_grad():
            outputs = network(inputs)
        sigma = network.stated_sigma(outputs.log_var, inputs.domain)[0, ..., 0]
        return outputs.displacements[0], sigma, item.displacements

    def error(limit: float) -> float:
        total = 0.0
        for index in range(len(samples)):
            moved, sigma, true = of(model, index)
            moved = moved * (moved.norm(dim=-1) > limit * sigma)[..., None]
            if moved_mask(true).any():
                total += float((moved - true).norm(dim=-1)[moved_mask(true)].mean())
        return total

    free, sigma, _ = of(model, 0)
    held, _, _ = of(limited, 0)
    short = free.norm(dim=-1) <= 2 * sigma
    assert short[1:].any() and not short[1:].all()
    assert not held[short].any() and torch.equal(held[~short], free[~short])
    item = whole(samples[0], step_dt=0.1)
    in_training = limited.train()(collate([(item.scene, item.robot)])).displacements.detach()[0]
    assert torch.equal(in_training, free)
    chosen = fit_still_below(model, samples)
    cheap = [k for k in STILL_TRIED if error(k) <= (1 + STILL_COST) * error(0.0) + 1e-9]
    assert chosen == max(cheap)
    with pytest.raises(InputError, match="still_below"):
        replace(model.spec, still_below=-1.0)
