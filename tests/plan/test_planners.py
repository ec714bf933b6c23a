"""Planners on problems with a known optimum, and the properties of the loop they share."""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pointworld.errors import InputError, MissingExtraError
from pointworld.plan import (
    CEM,
    ICEM,
    MPPI,
    ColoredNoise,
    Gradient,
    Nevergrad,
    Planner,
    Problem,
    SplineNoise,
    WhiteNoise,
    shift_plan,
)
from pointworld.plan.planners import path_integral_weights

Tensor = torch.Tensor
HAS_NEVERGRAD = importlib.util.find_spec("nevergrad") is not None
needs_nevergrad = pytest.mark.skipif(not HAS_NEVERGRAD, reason="nevergrad is not installed")
STEPS, DIMS = 4, 2
TARGET = torch.tensor([[0.3, -0.2], [0.5, 0.1], [-0.4, 0.6], [0.0, -0.7]], dtype=torch.float64)

#: Settings with enough evaluations to come close to the optimum of the quadratic.
PLANNERS: list[object] = [
    pytest.param(
        MPPI(samples=128, iterations=40, temperature=0.05, noise=WhiteNoise(), decay=0.9), id="mppi"
    ),
    pytest.param(CEM(samples=128, iterations=25, elites=12, min_std=0.0), id="cem"),
    pytest.param(
        ICEM(
            samples=128,
            iterations=25,
            elites=20,
            min_std=0.0,
            keep=2,
            shrink=1.05,
            noise=ColoredNoise(0.5),
        ),
        id="icem",
    ),
    pytest.param(Gradient(starts=4, iterations=150, learning_rate=0.1), id="gradient"),
    pytest.param(
        Nevergrad(samples=64, iterations=40, optimizer="CMA"), id="nevergrad", marks=needs_nevergrad
    ),
]


def quadratic(plans: Tensor) -> Tensor:
    weights = torch.arange(1, DIMS + 1, dtype=plans.dtype)
    return ((plans - TARGET.to(plans)) ** 2 * weights).sum((-1, -2)) + 0.5


def problem(**changes: object) -> Problem:
    base = Problem(
        evaluate=quadratic,
        nominal=torch.zeros(STEPS, DIMS, dtype=torch.float64),
        lower=torch.tensor(-1.0),
        upper=torch.tensor(1.0),
        std=torch.tensor(0.5),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("planner", PLANNERS)
def test_finds_the_optimum_of_a_quadratic(planner: Planner) -> None:
    result = planner.plan(problem(), seed=0)
    assert result.cost == pytest.approx(0.5, abs=2e-3)
    assert (result.actions - TARGET).abs().max() < 0.05
    assert result.nominal_cost == pytest.approx(float(quadratic(torch.zeros(1, STEPS, DIMS))[0]))
    assert list(result.history) == sorted(result.history, reverse=True)
    assert not result.timed_out


@pytest.mark.parametrize("planner", PLANNERS)
def test_finds_the_constrained_optimum(planner: Planner) -> None:
    result = planner.plan(problem(upper=torch.tensor([0.2, 1.0])), seed=0)
    wanted = TARGET.clone()
    wanted[:, 0].clamp_(max=0.2)
    assert (result.actions - wanted).abs().max() < 0.05


@pytest.mark.parametrize("planner", PLANNERS)
def test_chunked_equals_unchunked(planner: Planner) -> None:
    short = replace(planner, iterations=3)  # type: ignore[type-var]
    whole, parts = (short.plan(problem(chunk=size), seed=1) for size in (0, 7))
    assert torch.equal(whole.actions, parts.actions)
    assert torch.equal(whole.mean, parts.mean)
    assert whole.evaluations == parts.evaluations


@pytest.mark.parametrize("planner", PLANNERS)
def test_same_seed_same_plan(planner: Planner) -> None:
    short = replace(planner, iterations=3)  # type: ignore[type-var]
    seen: list[Tensor] = []

    def watch(plans: Tensor) -> Tensor:
        seen.append(plans.detach().clone())
        return quadratic(plans)

    torch.manual_seed(1)
    first = short.plan(problem(evaluate=watch), seed=3)
    torch.manual_seed(2)
    again = short.plan(problem(evaluate=watch), seed=3)
    half = len(seen) // 2
    assert all(torch.equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))
    assert torch.equal(first.actions, again.actions)
    short.plan(problem(evaluate=watch), seed=4)
    assert not torch.equal(seen[0], seen[2 * half])


@pytest.mark.parametrize("planner", PLANNERS)
def test_first_candidate_is_the_nominal(planner: Planner) -> None:
    seen: list[Tensor] = []
    nominal = TARGET * 0.5

    def watch(plans: Tensor) -> Tensor:
        seen.append(plans.detach().clone())
        return quadratic(plans)

    replace(planner, iterations=2).plan(problem(evaluate=watch, nominal=nominal), seed=0)  # type: ignore[type-var]
    assert torch.equal(seen[0][0], nominal)


SMALL = [
    MPPI(samples=8, iterations=2),
    CEM(samples=8, iterations=2, elites=2),
    ICEM(samples=8, iterations=2, elites=2, keep=1),
    Gradient(starts=3, iterations=2, learning_rate=2.0),
    *([Nevergrad(samples=8, iterations=2)] if HAS_NEVERGRAD else []),
]


@settings(max_examples=40, deadline=None)
@given(
    planner=st.sampled_from(SMALL),
    seed=st.integers(0, 2**31),
    centre=st.floats(-2, 2),
    room=st.floats(0, 2),
    std=st.floats(0, 10),
    start=st.floats(-5, 5),
)
def test_bounds_are_never_broken(
    planner: Planner, seed: int, centre: float, room: float, std: float, start: float
) -> None:
    lower, upper = torch.tensor(centre - room), torch.tensor(centre + room)

    def inside(plans: Tensor) -> Tensor:
        assert (plans >= lower.double()).all()
        assert (plans <= upper.double()).all()
        return quadratic(plans)

    nominal = torch.full((STEPS, DIMS), start, dtype=torch.float64)
    result = planner.plan(
        problem(evaluate=inside, nominal=nominal, lower=lower, upper=upper, std=torch.tensor(std)),
        seed=seed,
    )
    inside(result.actions[None])
    inside(result.mean[None])


@pytest.mark.parametrize("planner", PLANNERS)
def test_unusable_candidates_are_survived(planner: Planner) -> None:
    def holes(plans: Tensor) -> Tensor:
        costs = quadratic(plans)
        bad = plans[:, 0, 0] > 0.25
        return torch.where(bad, torch.where(plans[:, 0, 1] > 0, math.nan, math.inf), costs)

    result = replace(planner, iterations=15).plan(problem(evaluate=holes), seed=0)  # type: ignore[type-var]
    assert math.isfinite(result.cost)
    assert result.cost < result.nominal_cost
    assert result.actions[0, 0] <= 0.25
    assert torch.isfinite(result.mean).all()


@pytest.mark.parametrize("planner", PLANNERS)
def test_nothing_usable_returns_the_nominal(planner: Planner) -> None:
    def nothing(plans: Tensor) -> Tensor:
        return plans.sum((-1, -2)) * 0 + math.inf

    result = replace(planner, iterations=2).plan(problem(evaluate=nothing), seed=0)  # type: ignore[type-var]
    assert result.cost == math.inf
    assert torch.equal(result.actions, torch.zeros(STEPS, DIMS, dtype=torch.float64))
    assert torch.isfinite(result.mean).all()


@pytest.mark.parametrize("planner", PLANNERS)
def test_time_budget_returns_the_best_so_far(planner: Planner) -> None:
    seen: list[Tensor] = []

    def count(plans: Tensor) -> Tensor:
        seen.append(plans.detach())
        return quadratic(plans)

    result = planner.plan(problem(evaluate=count, chunk=2), seed=0, budget_s=0.0)
    assert result.timed_out
    assert result.evaluations == sum(map(len, seen)) == 2
    assert result.cost == float(quadratic(torch.cat(seen)).min()) <= result.nominal_cost


def test_gradient_planner_says_when_costs_have_no_gradient() -> None:
    with pytest.raises(InputError, match="differentiable"):
        Gradient(iterations=1).plan(
            problem(evaluate=lambda plans: quadratic(plans.detach())), seed=0
        )


def test_gradient_planner_takes_the_steps_of_adam() -> None:
    """Adam's first step has the length of the learning rate in every coordinate, whatever the gradient's size."""
    planner = Gradient(starts=1, iterations=1, learning_rate=0.1)
    result = planner.plan(problem(), seed=0)
    assert torch.allclose(result.mean.abs()[TARGET != 0], torch.tensor(0.05, dtype=torch.float64))


def test_missing_nevergrad_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nevergrad", None)
    with pytest.raises(MissingExtraError, match=r"pointworld-open\[planning\]"):
        Nevergrad(samples=4, iterations=1).plan(problem(), seed=0)


def test_wrong_cost_shape_is_refused() -> None:
    with pytest.raises(InputError, match="expected"):
        MPPI(samples=4, iterations=1).plan(
            problem(evaluate=lambda plans: quadratic(plans)[:, None]), seed=0
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"nominal": torch.zeros(3)},
        {"nominal": torch.full((2, 2), math.nan)},
        {"lower": torch.tensor(2.0)},
        {"std": torch.tensor(-1.0)},
        {"std": torch.ones(7)},
        {"chunk": -1},
    ],
)
@pytest.mark.rejects_input
def test_bad_problems_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InputError):
        problem(**changes)


@pytest.mark.rejects_input
def test_bad_settings_are_refused() -> None:
    for make in (
        lambda: MPPI(samples=1),
        lambda: MPPI(temperature=0.0),
        lambda: CEM(samples=8, elites=8),
        lambda: CEM(momentum=1.0),
        lambda: ICEM(shrink=0.5),
        lambda: Gradient(learning_rate=0.0),
        lambda: SplineNoise(1),
        lambda: ColoredNoise(-1.0),
    ):
        with pytest.raises(InputError):
            make()


def test_path_integral_weights() -> None:
    costs = torch.tensor([1.0, 2.0, math.inf, 1.5])
    weights = path_integral_weights(costs, 0.5)
    wanted = torch.exp(-costs / 0.5)
    assert torch.allclose(weights, wanted / wanted.sum())
    assert torch.allclose(
        path_integral_weights(10 * costs, 0.5, scale="spread"),
        path_integral_weights(costs, 0.5, scale="spread"),
    )


def test_warm_start_shifts_and_repeats_the_last() -> None:
    plan = torch.arange(8.0).reshape(4, 2)
    assert shift_plan(plan, 1).tolist() == [[2, 3], [4, 5], [6, 7], [6, 7]]
    assert torch.equal(shift_plan(plan, 0), plan)
    assert shift_plan(plan, 9).tolist() == [[6, 7]] * 4


def test_warm_start_beats_a_cold_one() -> None:
    """A moving target: the shifted old plan is a better start than none."""
    planner = MPPI(samples=32, iterations=2, noise=WhiteNoise())
    old = MPPI(samples=128, iterations=20, noise=WhiteNoise(), decay=0.9).plan(problem(), seed=0)

    def later(plans: Tensor) -> Tensor:
        return ((plans - shift_plan(TARGET, 1)) ** 2).sum((-1, -2))

    cold = planner.plan(problem(evaluate=later), seed=1)
    warm = planner.plan(problem(evaluate=later, nominal=shift_plan(old.mean, 1)), seed=1)
    assert warm.cost < 0.2 * cold.cost


@pytest.mark.parametrize(
    "noise",
    [WhiteNoise(), ColoredNoise(0.0), ColoredNoise(1.0), ColoredNoise(2.0), SplineNoise(4)],
)
@pytest.mark.parametrize("steps", [1, 2, 9, 10])
def test_noise_has_unit_variance(noise: WhiteNoise, steps: int) -> None:
    draws = noise.draw((20000, steps, 2), torch.Generator().manual_seed(0))
    assert draws.shape == (20000, steps, 2)
    assert torch.allclose(draws.mean(0), torch.zeros(steps, 2, dtype=draws.dtype), atol=0.05)
    assert torch.allclose(draws.var(0), torch.ones(steps, 2, dtype=draws.dtype), atol=0.06)


def test_noise_gets_smoother_with_the_exponent() -> None:
    generator = torch.Generator().manual_seed(0)
    roughness = [
        float(ColoredNoise(e).draw((2000, 20, 1), generator).diff(dim=1).square().mean())
        for e in (0.0, 1.0, 2.0, 3.0)
    ]
    assert roughness == sorted(roughness, reverse=True)
    assert roughness[0] == pytest.approx(2.0, rel=0.05)
    assert roughness[2] < 0.5


def test_colored_noise_follows_its_power_law() -> None:
    draws = ColoredNoise(2.0).draw((4000, 64, 1), torch.Generator().manual_seed(0))[..., 0]
    power = torch.fft.rfft(draws).abs().square().mean(0)[1:-1]
    frequency = torch.fft.rfftfreq(64)[1:-1].double()
    slope = torch.linalg.lstsq(
        torch.stack([frequency.log(), torch.ones_like(frequency)], -1), power.log()[:, None]
    ).solution[0, 0]
    assert float(slope) == pytest.approx(-2.0, abs=0.05)


def test_mppi_agrees_with_pytorch_mppi() -> None:
    """The same noise, costs and temperature give the same weighted mean (single integrator, one iteration)."""
    reference = pytest.importorskip("pytorch_mppi", reason="pytorch-mppi is not installed")
    steps, samples, temperature, sigma = 6, 200, 0.7, 0.3
    goal = torch.tensor([0.4, -0.3], dtype=torch.float64)

    def rollout(plans: Tensor) -> Tensor:
        return ((plans.cumsum(1) - goal) ** 2).sum((1, 2))

    control = reference.MPPI(
        dynamics=lambda state, action: state + action,
        running_cost=lambda state, action: ((state - goal) ** 2).sum(-1),
        nx=2,
        noise_sigma=torch.eye(2, dtype=torch.float64) * sigma**2,
        num_samples=samples,
        horizon=steps,
        lambda_=temperature,
        U_init=torch.zeros(steps, 2, dtype=torch.float64),
        u_init=torch.zeros(2, dtype=torch.float64),
        noise_abs_cost=False,
    )
    torch.manual_seed(0)
    control.command(torch.zeros(2, dtype=torch.float64), shift_nominal_trajectory=False)

    class Same:
        def draw(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
            return control.noise / sigma

    weights = path_integral_weights(rollout(control.noise), temperature)
    mean = torch.einsum("s,sij->ij", weights, control.noise)
    assert torch.allclose(control.U, mean, atol=1e-4)
    ours = MPPI(
        samples=samples, iterations=1, temperature=temperature, scale="absolute", noise=Same()
    ).plan(
        problem(
            evaluate=rollout,
            nominal=torch.zeros(steps, 2, dtype=torch.float64),
            lower=torch.tensor(-9.0),
            upper=torch.tensor(9.0),
            std=torch.tensor(sigma),
        ),
        seed=0,
    )
    # Ours has the nominal itself in place of the first draw.
    assert torch.allclose(ours.mean, control.U, atol=0.02)
