"""Predictions of rigid things agree with how friction lets them move, and leave everything else alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from pointworld.plan import Body, PlanState, ToolPathSpace
from pointworld.plan.actions import Actions
from pointworld.plan.rigid_dynamics import RigidTargets
from pointworld.plan.trajectory import Trajectory
from pointworld.types import ScenePoints

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Slide:
    """Points of a block (the first 80) go along x by `way` in all; the others stay."""

    way: float

    def rollout(self, state: PlanState, actions: Actions) -> Trajectory:
        positions = state.scene.points.expand(len(actions), actions.num_steps, -1, -1).clone()
        share = torch.linspace(0, 1, actions.num_steps)
        positions[:, :, :80, 0] += self.way * share[None, :, None]
        return Trajectory(positions=positions, variance=None, actions=actions)


def rollout(body: Body, home: Tensor, beside: float, **changes: object) -> tuple[Tensor, Tensor]:
    """Points at the first and last step for a hand that pushes along x, `beside` the middle [m]."""
    rng = np.random.default_rng(0)
    tool = body.robot.tool_pose(home)[:3, 3].numpy()
    block = tool + (0.06, beside, -0.02) + rng.uniform(-1, 1, (80, 3)) * (0.05, 0.08, 0.02)
    points = torch.from_numpy(np.concatenate([block, tool + rng.uniform(-1, 1, (20, 3))])).float()
    scene = ScenePoints(points=points, colors=points * 0, normals=points * 0 + 1)
    state = PlanState(
        scene=scene,
        joint_positions=home,
        task_index=torch.arange(80),
        bodies=torch.zeros(80, dtype=torch.int64),
    )
    state = replace(state, **changes)  # type: ignore[arg-type]
    space = ToolPathSpace(body=body)
    plan = space.rest()
    plan[:, 0] = torch.linspace(0.02, 0.08, 4, dtype=torch.float64)
    actions = space.decode(home, plan[None])
    moved = RigidTargets(dynamics=Slide(way=0.06)).rollout(state, actions).positions
    return moved[0, 0], moved[0, -1]


def turn(first: Tensor, last: Tensor) -> float:
    a, b = (p[:80, :2] - p[:80, :2].mean(0) for p in (first, last))
    return float(torch.atan2((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum(), (a * b).sum()))


def test_a_push_through_the_middle_moves_and_does_not_turn(body: Body, home: Tensor) -> None:
    first, last = rollout(body, home, 0.0)
    assert turn(first, last) == pytest.approx(0.0, abs=0.02)
    gone = (last - first)[:80].mean(0)
    assert torch.allclose(gone, torch.tensor([0.06, 0.0, 0.0]), atol=2e-3)


@pytest.mark.parametrize("beside", [0.05, -0.05])
def test_a_push_beside_the_middle_turns_and_moves_less(
    body: Body, home: Tensor, beside: float
) -> None:
    first, last = rollout(body, home, beside)
    angle = turn(first, last)
    assert np.sign(angle) == np.sign(beside), "what is touched on its right side turns left"
    assert 0.1 < abs(angle) < 0.8
    assert 0.02 < float((last - first)[:80, 0].mean()) < 0.056
    gaps = [torch.cdist(p[:80], p[:80]) for p in (first, last)]
    assert torch.allclose(*gaps, atol=1e-3), "it stays as it is"
    assert torch.equal(first[80:], last[80:]), "nothing else moves"


def test_what_is_no_rigid_thing_keeps_its_prediction(body: Body, home: Tensor) -> None:
    for changes in ({"bodies": None}, {"bodies": torch.full((80,), -1)}):
        first, last = rollout(body, home, 0.05, **changes)
        assert torch.allclose(
            (last - first)[:80], torch.tensor([0.06, 0.0, 0.0]).expand(80, 3), atol=1e-6
        )
