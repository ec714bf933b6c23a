"""The release's metrics against loops in float64 that follow its definitions word by word."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pointworld.errors import InputError
from pointworld.train.released_metrics import (
    aggregate,
    clipped_target,
    confidence,
    confident_mask,
    filter_mask,
    keep_counts,
    moved_mask,
    released_metrics,
    report,
    simulated_log_var,
    valid_mask,
)

Tensor = torch.Tensor
GRID = 0.015


def make_clip(generator: torch.Generator, points: int = 60) -> dict[str, Tensor]:
    """A third of the points moves by up to 2 cm a step; some predictions are unsupervised."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    start = 0.1 * normal(points, 3)
    step = 0.008 * normal(11, points, 3) * (torch.arange(points) % 3 == 0)[:, None]
    step[0] = 0
    true = start + step.cumsum(0)
    return {
        "true": true,
        "predicted": true + 0.01 * normal(11, points, 3),
        "supervised": torch.rand(11, points, generator=generator) < 0.9,
        "exists": torch.rand(points, generator=generator) < 0.9,
        "log_var": normal(11, points),
        "kept": torch.rand(11, points, generator=generator) < 0.7,
    }


def loops(clip: dict[str, Tensor]) -> dict[str, float]:
    """Every metric with plain Python numbers, point by point."""
    data = {name: value.tolist() for name, value in clip.items()}
    chosen: dict[str, list[float]] = {}
    cells = []
    for t in range(1, 11):
        for n in range(len(data["exists"])):
            if data["supervised"][t][n] and data["exists"][n]:
                cells.append((t, n))
    variances = [
        math.exp(min(max(data["log_var"][t][n], math.log(1e-6)), math.log(1e2))) for t, n in cells
    ]
    sureness = [1 - (v - 1e-6) / (1e2 - 1e-6) for v in variances]
    ordered = sorted(sureness)
    rank = (1 - 0.8) * (len(ordered) - 1)
    low = math.floor(rank)
    threshold = ordered[low] + (rank - low) * (ordered[low + 1] - ordered[low])
    moved_count, weights = 0, []
    for (t, n), sure in zip(cells, sureness, strict=True):
        error = math.dist(data["predicted"][t][n], data["true"][t][n])
        step = math.dist(data["true"][t][n], data["true"][t - 1][n])
        state = "_moved" if step > 0.005 else "_static"
        moved_count += step > 0.005
        weights.append(1 / (1 + math.exp(-1000 * (step - 0.005))))
        for kind in ("", state):
            chosen.setdefault(f"l2{kind}/mean", []).append(error)
            if sure >= threshold:
                chosen.setdefault(f"l2{kind}_conf/mean", []).append(error)
            if data["kept"][t][n]:
                chosen.setdefault(f"filtered_l2{kind}/mean", []).append(error)
    result = {name: sum(values) / len(values) for name, values in chosen.items()}
    total = max(1.0, sum(weights))
    return result | {
        "moved_percentage": 100 * moved_count / len(cells),
        "static_percentage": 100 - 100 * moved_count / len(cells),
        "supervised_percentage": 100 * len(cells) / (10 * sum(data["exists"])),
        "weights/mean": sum(weights) / total / len(weights),
        "weights/sum": sum(weights) / total,
        "confidence/mean": sum(sureness) / len(sureness),
        "confidence/std": float(np.std(sureness)),
        "confidence/min": min(sureness),
        "confidence/max": max(sureness),
        "uncertainty/mean": sum(variances) / len(variances),
    }


@pytest.mark.parametrize("mode", ["compat", "exact"])
@pytest.mark.parametrize("seed", range(4))
def test_every_metric_against_loops(mode: str, seed: int) -> None:
    clip = make_clip(torch.Generator().manual_seed(seed))
    got = released_metrics(**clip, mode=mode)  # type: ignore[arg-type]
    want = loops(clip)
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
    assert want["l2_moved/mean"] != want["l2/mean"] != want["filtered_l2/mean"]


def test_a_batch_is_pooled(generator: torch.Generator) -> None:
    """Two clips as one batch give the pooled mean, two batches the mean of means."""
    clips = [make_clip(generator, 60) for _ in range(2)]
    clips[1]["supervised"][:, 10:] = False
    rows = [released_metrics(**clip) for clip in clips]
    together = released_metrics(**{k: torch.stack([c[k] for c in clips]) for k in clips[0]})
    counts = [int(valid_mask(c["supervised"], c["exists"]).sum()) for c in clips]
    pooled = sum(r["l2/mean"] * n for r, n in zip(rows, counts, strict=True)) / sum(counts)
    assert together["l2/mean"] == pytest.approx(pooled, rel=1e-12)
    of_means = aggregate(rows)["l2/mean"].mean
    assert of_means == pytest.approx((rows[0]["l2/mean"] + rows[1]["l2/mean"]) / 2, rel=1e-12)
    assert abs(of_means - pooled) > 1e-6


def test_moved_is_per_step_not_from_the_start() -> None:
    """4 mm a step for ten steps never counts as moved, 6 mm in one step counts in that step only."""
    true = torch.zeros(11, 2, 3, dtype=torch.float64)
    true[:, 0, 0] = 0.004 * torch.arange(11)
    true[6:, 1, 1] = 0.006
    moved = moved_mask(true)
    assert not moved[:, 0].any()
    assert moved[:, 1].nonzero().flatten().tolist() == [6]


def test_step_zero_and_missing_classes() -> None:
    true = torch.zeros(11, 3, 3)
    predicted = true + 1.0
    predicted[0] = 100.0
    nothing = released_metrics(predicted, true, supervised=torch.ones(11, 3, dtype=torch.bool))
    assert nothing["l2/mean"] == pytest.approx(math.sqrt(3), rel=1e-6)
    assert math.isnan(nothing["l2_moved/mean"]) and nothing["moved_percentage"] == 0
    empty = released_metrics(
        predicted,
        true,
        supervised=torch.zeros(11, 3, dtype=torch.bool),
        log_var=torch.zeros(11, 3),
        kept=torch.ones(11, 3, dtype=torch.bool),
    )
    assert all(math.isnan(empty[f"l2{k}/mean"]) for k in ("", "_moved", "_static", "_conf"))
    assert aggregate([nothing, empty])["l2/mean"].count == 1
    assert "l2_moved/mean" not in aggregate([nothing, empty])


def test_truth_of_metrics_is_not_clipped() -> None:
    true = torch.zeros(11, 1, 3)
    true[1:, 0, 0] = 2.0
    flags = torch.ones(11, 1, dtype=torch.bool)
    assert released_metrics(torch.zeros_like(true), true, supervised=flags)["l2/mean"] == 2.0
    assert clipped_target(true).abs().max() == 0.5


def numpy_isin(cells: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """The released call itself: rows as 24-byte void, assumed unique."""
    as_void = [
        np.ascontiguousarray(a.astype(np.int64)).view("V24").ravel() for a in (cells, listed)
    ]
    return np.isin(as_void[0], as_void[1], assume_unique=True)


@pytest.mark.parametrize("entries", [0, 3, 20, 24, 25, 26, 200, 900])
def test_filter_modes(entries: int) -> None:
    """`compat` is NumPy's own answer, on both sides of its switch; `exact` is membership in a set."""
    rng = np.random.default_rng(entries)
    points = rng.uniform(-0.06, 0.06, (600, 3))
    cells = np.floor(points / GRID).astype(int)
    assert len(np.unique(cells, axis=0)) < 400  # many share a voxel
    listed = rng.integers(-5, 5, (entries, 3))
    voxels = [listed] * 11
    got = {
        mode: filter_mask(torch.from_numpy(points), voxels, grid_size=GRID, mode=mode)
        for mode in ("compat", "exact")
    }
    wanted = {tuple(row) for row in listed.tolist()}
    exact = np.array([tuple(c) not in wanted for c in cells.tolist()])
    for step in (0, 10):
        np.testing.assert_array_equal(got["exact"][step].numpy(), exact)
        np.testing.assert_array_equal(got["compat"][step].numpy(), ~numpy_isin(cells, listed))
    quirk = entries >= 10 * 600**0.145
    assert torch.equal(got["compat"], got["exact"]) == (not quirk)
    if quirk:
        later = {tuple(c) for c in cells[5:].tolist()}
        assert all(not got["compat"][0, i] for i in range(5) if tuple(cells[i].tolist()) in later)


def test_filter_has_a_list_per_step() -> None:
    points = torch.tensor([[0.001, 0.001, 0.001], [0.02, -0.02, 0.1]])
    voxels: list[np.ndarray] = [np.zeros((0, 3), np.int32) for _ in range(11)]
    voxels[4] = np.array([[1, -2, 6]], np.int32)
    kept = filter_mask(points, voxels, grid_size=GRID, mode="exact")
    assert (~kept).nonzero().tolist() == [[4, 1]]
    counts = keep_counts(torch.ones(11, 2, dtype=torch.bool), kept)
    assert counts == {"total_predictions": 22, "kept_predictions": 21}


def test_float32_confidence_ties_in_compat_only() -> None:
    """Variances of a few square micrometres all have confidence 1 in float32."""
    log_var = torch.log(torch.linspace(1e-6, 3e-6, 100))
    assert len(confidence(log_var, "compat").unique()) == 1
    assert len(confidence(log_var, "exact").unique()) == 100
    valid = torch.ones(100, dtype=torch.bool)
    assert confident_mask(confidence(log_var, "compat"), valid).all()
    assert int(confident_mask(confidence(log_var, "exact"), valid).sum()) == 80


def test_large_quantiles_agree_with_torch() -> None:
    """Above torch's limit the quantile is computed by sorting; both ways agree below it."""
    from pointworld.train import released_metrics as module

    values = torch.rand(1001, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    want = torch.quantile(values, 0.2)
    limit = module._QUANTILE_LIMIT
    try:
        module._QUANTILE_LIMIT = 10
        assert float(module._quantile(values, 0.2)) == pytest.approx(float(want), abs=1e-12)
    finally:
        module._QUANTILE_LIMIT = limit


def test_simulated_clips_have_one_variance(generator: torch.Generator) -> None:
    log_var = torch.randn(3, 11, 5, generator=generator, dtype=torch.float64)
    valid = torch.rand(3, 11, 5, generator=generator) < 0.5
    mixed = simulated_log_var(log_var, torch.tensor([False, True, False]), valid)
    real = [
        float(log_var[b, t, n])
        for b in (0, 2)
        for t in range(11)
        for n in range(5)
        if valid[b, t, n]
    ]
    want = math.log(sum(map(math.exp, real)) / len(real))
    assert torch.allclose(mixed[1], torch.tensor(want, dtype=torch.float64))
    assert torch.equal(mixed[[0, 2]], log_var[[0, 2]])
    alone = simulated_log_var(log_var[:1], torch.tensor([True]), valid[:1])
    assert torch.allclose(alone, torch.tensor(math.log(1e-3), dtype=torch.float64))
    untouched = simulated_log_var(log_var, torch.zeros(3, dtype=torch.bool), valid)
    assert untouched is log_var


def test_aggregation_is_weighted_and_skips_nan() -> None:
    rows = [{"a": 1.0, "b": math.nan}, {"a": 4.0, "b": 2.0}, {"a": 7.0}]
    result = aggregate(rows, [1, 2, 1])
    a = result["a"]
    assert a.mean == pytest.approx((1 + 8 + 7) / 4)
    assert a.std == pytest.approx(math.sqrt((9 + 0 + 9) / 4))
    assert a.std_err == pytest.approx(a.std / 2) and (a.min, a.max, a.count) == (1, 7, 3)
    assert result["b"].count == 1 and result["b"].mean == 2.0


def test_report_has_the_released_names() -> None:
    rows = [
        {"l2/mean": 1.0, "confidence/mean": 0.5, "confidence/min": 0.1},
        {"l2/mean": 3.0, "confidence/mean": 0.7, "confidence/min": 0.3},
    ]
    counts = [{"total_predictions": 10, "kept_predictions": 6}] * 2
    table = report(rows, ["droid", "behavior"], counts)
    assert table["full_eval/test/l2/mean"] == 2.0
    assert table["full_eval/test/l2/std_err"] == pytest.approx(1 / math.sqrt(2))
    assert table["full_eval/test/behavior/l2/mean"] == 3.0
    assert table["full_eval/test/l2/count"] == 2
    assert table["full_eval/test/confidence/min"] == pytest.approx(0.2)
    assert table["full_eval/test/_meta/confidence/keep_fraction"] == pytest.approx(0.6)
    assert table["full_eval/test/_meta/total_sequences"] == 2


@pytest.mark.rejects_input
def test_bad_shapes_and_modes() -> None:
    true = torch.zeros(11, 4, 3)
    flags = torch.ones(11, 4, dtype=torch.bool)
    with pytest.raises(InputError, match="predicted"):
        released_metrics(true[:, :3], true, supervised=flags)
    with pytest.raises(InputError, match="log_var"):
        released_metrics(true, true, supervised=flags, log_var=torch.zeros(11, 4, 1))
    with pytest.raises(InputError, match="mode 'exakt'"):
        released_metrics(true, true, supervised=flags, mode="exakt")  # type: ignore[arg-type]
