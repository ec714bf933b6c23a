"""Costs on trajectories whose value is known by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from pointworld.errors import InputError
from pointworld.plan.actions import Actions, Body, PathLimits, ToolPathSpace
from pointworld.plan.costs import (
    Approach,
    Cost,
    CostSum,
    Infeasible,
    KeepStill,
    LearnedCost,
    PathLength,
    Reach,
    SceneCollision,
    Smoothness,
    TaskPoints,
    TaskSurface,
    Term,
    Uncertainty,
    reduce_time,
)
from pointworld.plan.trajectory import Trajectory

Tensor = torch.Tensor
ALL = torch.arange(4)


@pytest.fixture(scope="module")
def actions(body: Body, home: Tensor) -> Actions:
    """Three candidates: rest, 10 cm along x, 10 cm along x with a turn of 0.3 rad."""
    space = ToolPathSpace(body=body, knots=4)
    plans = space.rest().repeat(3, 1, 1)
    plans[1:, :, 0] = torch.linspace(0.025, 0.1, 4)
    plans[2, :, 5] = torch.linspace(0.075, 0.3, 4)
    return space.decode(home, plans)


@pytest.fixture
def trajectory(actions: Actions) -> Trajectory:
    """Four points; candidate k moves points 0 and 1 by k centimetres per step along x."""
    positions = torch.tensor([[0.5, 0, 0], [0.6, 0, 0], [0.5, 0.3, 0], [0.6, 0.3, 0]])
    positions = positions.repeat(3, 11, 1, 1)
    travel = 0.01 * torch.arange(3)[:, None] * torch.arange(11)
    positions[:, :, :2, 0] += travel[..., None]
    variance = 1e-4 * torch.arange(11.0)[None, :, None] * torch.ones(3, 11, 4)
    return Trajectory(positions=positions, variance=variance, actions=actions)


def test_turns_count_more_than_ways_and_weights_share(trajectory: Trajectory) -> None:
    goals = trajectory.positions[0, 0, :2] + torch.tensor([[0.1, 0.02, 0.0], [0.1, -0.02, 0.0]])
    pair = {"index": ALL[:2], "goals": goals, "reduction": "last"}
    whole = TaskPoints(**pair)(trajectory)
    assert float(whole[0]) == pytest.approx(0.1**2 + 0.02**2)
    bodies = torch.zeros(2, dtype=torch.int64)
    half = TaskPoints(**pair, bodies=bodies, move=0.5)(trajectory)
    assert float(half[0]) == pytest.approx(0.5 * 0.1**2 + 0.02**2)
    assert torch.allclose(TaskPoints(**pair, bodies=bodies, move=1.0)(trajectory), whole)
    two = TaskPoints(**pair, bodies=torch.tensor([0, 1]), move=0.5)(trajectory)
    assert torch.allclose(two, 0.5 * whole), "single points do not turn"
    far = goals + torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.0, 0.0]])
    heavy = TaskPoints(
        index=ALL[:2], goals=far, weights=torch.tensor([3.0, 1.0]), reduction="last"
    )(trajectory)
    assert float(heavy[0]) == pytest.approx(0.75 * 0.0104 + 0.25 * (0.4**2 + 0.02**2), rel=1e-4)


def test_reductions() -> None:
    values = torch.tensor([[9.0, 3.0, 1.0, 2.0]])
    assert reduce_time(values, "last").tolist() == [2.0]
    assert reduce_time(values, "sum").tolist() == [6.0]
    assert reduce_time(values, "min").tolist() == [1.0]
    with pytest.raises(InputError, match="mean"):
        reduce_time(values, "mean")  # type: ignore[arg-type]


def test_task_points(trajectory: Trajectory) -> None:
    goals = trajectory.positions[0, 0, :2] + torch.tensor([0.1, 0.0, 0.0])
    last = TaskPoints(index=ALL[:2], goals=goals, reduction="last")(trajectory)
    assert torch.allclose(last, torch.tensor([0.01, 0.0, 0.01]), atol=1e-7)
    best = TaskPoints(index=ALL[:2], goals=goals, reduction="min")(trajectory)
    assert torch.allclose(best, torch.tensor([0.01, 0.0, 0.0]), atol=1e-7)
    total = TaskPoints(index=ALL[:2], goals=goals)(trajectory)
    assert float(total[1]) == pytest.approx(1e-4 * sum(k**2 for k in range(10)), rel=1e-4)


def test_task_surface_needs_no_pairing(trajectory: Trajectory) -> None:
    targets = trajectory.positions[1, -1, [1, 0]]
    cost = TaskSurface(index=ALL[:2], targets=targets, reduction="last")(trajectory)
    assert float(cost[1]) == pytest.approx(0.0, abs=1e-10)
    # At rest point 1 already lies on the target of point 0; point 0 is 10 cm away.
    assert float(cost[0]) == pytest.approx(0.005, rel=1e-4)


def test_path_length(trajectory: Trajectory) -> None:
    plain = PathLength(turn=0.0)(trajectory)
    assert torch.allclose(plain, torch.tensor([0.0, 0.1, 0.1]), atol=2e-3)
    turned = PathLength(turn=0.5)(trajectory)
    assert float(turned[2] - plain[2]) == pytest.approx(0.15, abs=5e-3)


def test_smoothness_prefers_even_motion(trajectory: Trajectory) -> None:
    even = trajectory.actions.joint_positions.clone()
    even[:] = torch.linspace(0, 1, 11, dtype=even.dtype)[None, :, None]
    uneven = even.clone()
    uneven[1, 5] += 0.1
    cost = Smoothness()(
        replace(trajectory, actions=replace(trajectory.actions, joint_positions=uneven))
    )
    assert float(cost[0]) == pytest.approx(0.0, abs=1e-12)
    # One kink of 0.1 in 8 joints: second differences 0.1, -0.2, 0.1 over dt^2 = 0.01.
    assert float(cost[1]) == pytest.approx(8 * (0.01 + 0.04 + 0.01) / 1e-4 / 9, rel=1e-4)


def test_reach_counts_missed_poses(trajectory: Trajectory) -> None:
    base = Reach()(trajectory)
    error = trajectory.actions.position_error.clone()
    error[1, -1] += 0.02
    off = Reach()(replace(trajectory, actions=replace(trajectory.actions, position_error=error)))
    assert float(off[1] - base[1]) == pytest.approx(4.0 / 10, rel=1e-2)
    stiff = replace(trajectory.actions, manipulability=torch.zeros(3, 11))
    assert torch.allclose(
        Reach()(replace(trajectory, actions=stiff)) - base, torch.ones(3), atol=0.05
    )


def test_infeasible_motions_cost_more_than_any_feasible(trajectory: Trajectory) -> None:
    assert Infeasible()(trajectory).tolist() == [0.0, 0.0, 0.0]
    near = trajectory.actions.self_clearance.clone()
    near[1, 4] = -0.02
    outside = torch.zeros(3, 11, dtype=torch.float64)
    outside[2, 3] = 0.011
    bad = replace(trajectory.actions, self_clearance=near, workspace_excess=outside)
    cost = Infeasible()(replace(trajectory, actions=bad))
    assert torch.allclose(cost, torch.tensor([0.0, 3.0, 2.0]))


def test_scene_collision(trajectory: Trajectory) -> None:
    surface = trajectory.actions.robot_flow.positions
    lowest = float(surface[..., 2].min())
    far = SceneCollision(index=ALL[2:], floor=lowest - 0.01)(trajectory)
    assert far.tolist() == [0.0, 0.0, 0.0]
    table = SceneCollision(index=ALL[:0], floor=lowest + 0.02, margin=0.02)(trajectory)
    assert bool((table > 0.1).all())
    positions = trajectory.positions.clone()
    positions[1, 5, 2] = surface[1, 5, 0] + torch.tensor([0.0, 0.0, 0.005])
    hit = SceneCollision(index=ALL, margin=0.02)(replace(trajectory, positions=positions))
    assert float(hit[0]) == 0.0
    assert float(hit[1]) >= 0.74**2


def test_uncertainty(trajectory: Trajectory) -> None:
    cost = Uncertainty(index=ALL[:2])(trajectory)
    assert torch.allclose(cost, torch.full((3,), 55e-4))
    none = Uncertainty(index=ALL[:2])(replace(trajectory, variance=None))
    assert none.tolist() == [0.0, 0.0, 0.0]


def test_keep_still(trajectory: Trajectory) -> None:
    assert KeepStill(index=ALL[2:])(trajectory).tolist() == [0.0, 0.0, 0.0]
    cost = KeepStill(index=ALL[1:3], tolerance=0.02)(trajectory)
    assert torch.allclose(cost, torch.tensor([0.0, 0.08**2 / 2, 0.18**2 / 2]), atol=1e-6)


def test_approach_leads_behind_the_object(trajectory: Trajectory) -> None:
    tool = trajectory.actions.tool_poses[1, -1, :3, 3].float()
    positions = (tool + torch.tensor([0.08, 0.0, 0.0])).expand(3, 11, 4, 3)
    cost = Approach(index=ALL, goal=tool + torch.tensor([1.0, 0, 0]), reduction="last")(
        replace(trajectory, positions=positions)
    )
    assert float(cost[1]) == pytest.approx(0.0, abs=1e-6)
    assert float(cost[0]) == pytest.approx(0.01, rel=0.05)


def test_learned_cost_takes_any_energy(trajectory: Trajectory) -> None:
    cost = LearnedCost(energy=lambda t: t.positions[..., 0].mean(-1), reduction="last")(trajectory)
    assert torch.allclose(cost, trajectory.positions[:, -1, :, 0].mean(-1))
    with pytest.raises(InputError, match="samples, steps"):
        LearnedCost(energy=lambda t: t.positions[..., 0])(trajectory)


def test_sum_weighs_and_names(trajectory: Trajectory) -> None:
    terms = (
        Term(name="length", cost=PathLength(), weight=2.0),
        Term(name="still", cost=KeepStill(index=ALL)),
    )
    total = CostSum(terms)
    parts = total.parts(trajectory)
    assert list(parts) == ["length", "still"]
    assert torch.allclose(total(trajectory), parts["length"] + parts["still"])
    assert torch.allclose(parts["length"], 2 * PathLength()(trajectory))


COSTS: list[Cost] = [
    TaskPoints(index=ALL, goals=torch.zeros(4, 3)),
    TaskSurface(index=ALL, targets=torch.ones(5, 3)),
    Approach(index=ALL, goal=torch.zeros(3)),
    PathLength(),
    Smoothness(),
    Reach(),
    Infeasible(margin=1.0),
    SceneCollision(index=ALL, margin=0.5, floor=1.0),
    KeepStill(index=ALL),
]


@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: type(cost).__name__)
def test_every_cost_has_one_finite_value_and_gradient_per_candidate(
    cost: Cost, body: Body, home: Tensor
) -> None:
    space = ToolPathSpace(body=body, limits=PathLimits())
    plans = space.rest().repeat(2, 1, 1)
    plans[1, :, 0] = 0.05
    plans.requires_grad_(True)
    actions = space.decode(home, plans)
    moved = actions.tool_poses[..., None, :3, 3].float() - actions.tool_poses[:, :1, None, :3, 3]
    positions = (0.5 + moved).float().expand(-1, -1, 4, -1)
    values = cost(Trajectory(positions=positions, variance=None, actions=actions))
    assert values.shape == (2,)
    assert values.dtype == torch.float32
    assert torch.isfinite(values).all()
    values.sum().backward()
    assert torch.isfinite(plans.grad).all()


@pytest.mark.rejects_input
def test_bad_costs_are_refused(trajectory: Trajectory) -> None:
    for make in (
        lambda: TaskPoints(index=ALL, goals=torch.zeros(3, 3)),
        lambda: TaskPoints(index=torch.tensor([7]), goals=torch.zeros(1, 3))(trajectory),
        lambda: TaskSurface(index=ALL, targets=torch.zeros(0, 3)),
        lambda: KeepStill(index=ALL[:0])(trajectory),
        lambda: Term(name="x", cost=PathLength(), weight=math.nan),
        lambda: Term(name="x", cost=PathLength(), weight=-1.0),
        lambda: CostSum(()),
        lambda: CostSum((Term(name="x", cost=PathLength()),) * 2),
        lambda: CostSum((Term(name="x", cost=lambda t: t.positions),))(trajectory),
        lambda: replace(trajectory, positions=trajectory.positions[:2]),
        lambda: replace(trajectory, variance=trajectory.positions),
    ):
        with pytest.raises(InputError):
            make()
