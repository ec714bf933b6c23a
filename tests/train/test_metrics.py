"""Metrics on cases whose answer is known by hand, and rank correlation against SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from pointworld.train import calibration, flow_errors
from pointworld.train.metrics import (
    came_to_rest,
    histogram_quantile,
    moved_mask,
    rank_correlation,
    rest_histogram,
    summarise,
)


def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    true = torch.zeros(11, 4, 3)
    true[:, 0, 0] = 0.01 * torch.arange(11)  # moves 1 cm a step
    true[6:, 1, 1] = 0.02  # moves once
    never = torch.tensor([False, False, True, True])
    return torch.zeros_like(true), true, never


def test_no_motion_errors_are_the_distances() -> None:
    predicted, true, never = case()
    scores = flow_errors(predicted, true, never)
    first = [0.01 * t for t in range(1, 11)]
    assert scores["l2_moved"] == pytest.approx((sum(first) + 0.02) / 11)
    assert scores["l2"] == pytest.approx((sum(first) + 5 * 0.02) / 40)
    assert scores["l2_static"] == pytest.approx(4 * 0.02 / 29)
    assert scores["l2_never_moving"] == 0
    assert scores["false_motion_share"] == 0


def test_false_motion_counts_points_not_steps() -> None:
    predicted, true, never = case()
    predicted[4, 2, 2] = 0.011
    predicted[:, 3, 2] = 0.009
    scores = flow_errors(predicted, true, never)
    assert scores["false_motion_share"] == pytest.approx(0.5)
    predicted[4, 0] = 1.0  # not on a body at rest
    assert flow_errors(predicted, true, never)["false_motion_share"] == pytest.approx(0.5)


def test_clips_without_movers_have_no_mover_error() -> None:
    true = torch.zeros(11, 3, 3)
    scores = flow_errors(true, true, torch.ones(3, dtype=torch.bool))
    assert math.isnan(scores["l2_moved"])
    assert scores["l2"] == 0


def test_errors_step_by_step_and_of_bodies_that_came_to_rest() -> None:
    predicted, true, never = case()
    rested = came_to_rest(true, torch.tensor([3, 5, 7, 7]))
    assert rested.tolist() == [False, True, False, False]
    predicted[8:, 1, 1] = 0.015
    scores = flow_errors(predicted, true, never, rested=rested)
    assert scores["l2_moved@3"] == pytest.approx(0.03)
    assert scores["l2_moved@6"] == pytest.approx((0.06 + 0.02) / 2)
    assert scores["l2_came_to_rest"] == pytest.approx(0.005)
    jitter = true.clone()
    jitter[:, 1] += 5e-4 * torch.rand(11, 3, generator=torch.Generator().manual_seed(0))
    assert came_to_rest(jitter, torch.tensor([3, 5, 7, 7]))[1]
    creeping = true.clone()
    creeping[9:, 1, 0] = 0.002
    assert not came_to_rest(creeping, torch.tensor([3, 5, 7, 7]))[1]
    # One point of a body that still moves keeps the whole body from being at rest.
    assert not came_to_rest(true, torch.tensor([5, 5, 7, 7])).any()


def test_held_tools_are_reported_apart() -> None:
    predicted, true, never = case()
    held = torch.tensor([True, False, False, True])
    scores = flow_errors(predicted, true, never, held=held)
    assert scores["l2_moved"] == pytest.approx(0.02)
    assert scores["l2_held"] == pytest.approx((sum(0.01 * t for t in range(1, 11))) / 20)
    assert scores["l2"] == pytest.approx(5 * 0.02 / 20)
    assert math.isnan(flow_errors(predicted, true, never)["l2_held"])


def test_percentile_over_clips_from_counts() -> None:
    true = torch.zeros(11, 100, 3)
    predicted = true.clone()
    predicted[:, :, 0] = torch.arange(100) * 1e-3
    counts = rest_histogram(predicted, true, torch.ones(100, dtype=torch.bool))
    assert counts.sum() == 1000
    assert histogram_quantile(counts, 0.99) == pytest.approx(0.098, abs=2e-4)
    assert histogram_quantile(counts, 0.5) == pytest.approx(0.049, abs=2e-4)
    assert math.isnan(histogram_quantile(torch.zeros_like(counts), 0.5))


def test_moved_is_per_step() -> None:
    _, true, _ = case()
    assert moved_mask(true)[:, 1].nonzero().flatten().tolist() == [6]
    assert not moved_mask(true)[0].any()


def test_summary_ignores_undefined_clips() -> None:
    summary = summarise([1.0, math.nan, 3.0])
    assert (summary.mean, summary.count) == (2.0, 2)
    assert summary.standard_error == pytest.approx(1.0)
    assert summarise([math.nan]).mean is None


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlation_matches_scipy(rng: np.random.Generator, ties: bool) -> None:
    a, b = rng.normal(size=(2, 200))
    b = a + b
    if ties:
        a, b = np.round(a), np.round(b)
    expected = scipy.stats.spearmanr(a, b).statistic
    assert rank_correlation(torch.tensor(a), torch.tensor(b)) == pytest.approx(expected, abs=1e-12)
    assert math.isnan(rank_correlation(torch.ones(5), torch.arange(5)))


def test_coverage_of_gaussian_errors_is_nominal() -> None:
    generator = torch.Generator().manual_seed(0)
    sigma = torch.rand(10, 4000, generator=generator) * 0.05 + 0.001
    error = torch.randn(10, 4000, 3, generator=generator) * sigma[..., None]
    scores = calibration(error, sigma, torch.ones(10, 4000, dtype=torch.bool))
    assert scores["coverage_68"] == pytest.approx(0.683, abs=0.005)
    assert scores["coverage_95_moved"] == pytest.approx(0.95, abs=0.005)
    assert scores["spearman_moved"] > 0.6
    assert (
        calibration(error * 3, sigma, torch.ones(10, 4000, dtype=torch.bool))["coverage_68"] < 0.3
    )
