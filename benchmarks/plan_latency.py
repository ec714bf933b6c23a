"""How long planning takes, and whether the fast path ranks candidates as the full one does.

    python benchmarks/plan_latency.py --threads 2 --scenes 50

Scenes are drawn, simulated and rendered by the data generator (needs the extra [sim]). Candidates are random plans
around a push through the target object; costs are those of the paper (mean squared distance of the task points to
goals 11 cm away, summed over the horizon). "Full" is `WorldModel.predict` on the whole scene.

Results (EPYC, 2 quiet cores, torch 2.13, `tiny` of 23 November 2026, 2 322 scene points, 64 candidates, wall time):

                                    2 threads   1 thread
  knots to joints, flow, limits        0.03 s     0.03 s
  world model, cropped to 400          0.90 s     1.35 s
  world model, full (predict)          2.19 s     3.39 s
  costs                              < 0.01 s   < 0.01 s
  one iteration, all of it             0.96 s     1.40 s
  MPPI, 3 iterations                   2.89 s     4.30 s

With OMP_WAIT_POLICY=passive, which is right where cores are shared, two threads take longer than one.

Spearman of 64 costs, cropped against full, 50 scenes: mean 0.988, least 0.962, 84 % of the scenes at 0.98 or above.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import spearmanr

import pointworld
from pointworld.data import ClipGenerator, TabletopConfig, clip_to_sample
from pointworld.data.robot_tree import robot_tree
from pointworld.data.tabletop import FAMILIES
from pointworld.model import WorldModel
from pointworld.plan import MPPI, Body, ModelDynamics, PlanState, ToolPathSpace, Trajectory
from pointworld.plan.costs import Infeasible, PathLength, Reach, TaskPoints
from pointworld.plan.costs.base import CostSum, Term
from pointworld.plan.dynamics import make_problem
from pointworld.robot import RobotModel


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured. context: points kept around what matters, see `ModelDynamics`. seed: of the scenes."""

    threads: int
    scenes: int
    candidates: int
    context: int
    checkpoint: str
    seed: int
    device: str


def draw_states(robot: RobotModel, options: Options) -> list[PlanState]:
    """States at time 0 of push scenes, with the target object's points as task points."""
    weights = tuple(1.0 if family == "push" else 0.0 for family in FAMILIES)
    generator = ClipGenerator.create(
        robot_tree(robot), robot.name, TabletopConfig(family_weights=weights), "rays"
    )
    states: list[PlanState] = []
    index = 0
    while len(states) < options.scenes:
        clip = generator.make(options.seed, index)
        index += 1
        sample = clip_to_sample(clip, robot)
        target = clip.body_names.index(str(clip.info["target"]))
        task = (sample.body_ids == target).nonzero()[:, 0]
        if len(task) < 10:
            continue
        joints = torch.from_numpy(clip.joint_positions[0])
        states.append(PlanState(scene=sample.scene, joint_positions=joints, task_index=task))
    return states


def around_a_push(
    space: ToolPathSpace, robot: RobotModel, state: PlanState, count: int, seed: int
) -> torch.Tensor:
    """Plans (count, knots, dims) around a straight push through the task points."""
    assert state.task_index is not None
    now = robot.tool_pose(state.joint_positions)[:3, 3]
    way = state.scene.points[state.task_index].mean(0).double() - now
    way[2] = 0.0
    plan = space.rest()
    plan[:, :3] = torch.linspace(0.4, 1.6, space.knots)[:, None] * way
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((count, *plan.shape), generator=generator, dtype=torch.float64)
    scale = torch.tensor([0.05, 0.05, 0.02, 0, 0, 0.2, 0], dtype=torch.float64)
    plans = plan + noise.cumsum(1) * scale
    plans[0] = plan
    return torch.minimum(torch.maximum(plans, space.lower), space.upper)


def task_cost(state: PlanState) -> TaskPoints:
    """Ten centimetres ahead and five to the left."""
    assert state.task_index is not None
    goals = state.scene.points[state.task_index] + torch.tensor([0.1, 0.05, 0.0])
    return TaskPoints(index=state.task_index, goals=goals)


def best_time(action: Callable[[], object], repeats: int = 3) -> tuple[float, float]:
    """Least wall time and processor time [s] of several calls."""
    walls, works = [], []
    action()
    for _ in range(repeats):
        wall, work = time.perf_counter(), time.process_time()
        action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        walls.append(time.perf_counter() - wall)
        works.append(time.process_time() - work)
    return min(walls), min(works)


def latency(model: WorldModel, body: Body, state: PlanState, options: Options) -> None:
    """Print the times of one evaluation of all candidates and of a whole search."""
    space = ToolPathSpace(body=body)
    plans = around_a_push(space, body.robot, state, options.candidates, 0)
    actions = space.decode(state.joint_positions, plans)
    dynamics = ModelDynamics(model=model, context=options.context)
    cost = CostSum(
        (
            Term(name="task", cost=task_cost(state)),
            Term(name="length", cost=PathLength(), weight=0.01),
            Term(name="reach", cost=Reach(), weight=0.01),
            Term(name="feasible", cost=Infeasible(), weight=10.0),
        )
    )
    problem = make_problem(space, dynamics, cost, state, nominal=plans[0])
    trajectory = dynamics.rollout(state, actions)
    planner = MPPI(samples=options.candidates, iterations=3)
    cases = {
        "knots to joints, flow, limits": lambda: space.decode(state.joint_positions, plans),
        "world model, cropped": lambda: dynamics.rollout(state, actions),
        "world model, full (predict)": lambda: model.predict(state.scene, actions.robot_flow),
        "costs": lambda: cost(trajectory),
        "one iteration, all of it": lambda: problem.evaluate(plans),
        "MPPI, 3 iterations": lambda: planner.plan(problem, seed=0),
    }
    print(f"{options.candidates} candidates x 10 steps, {len(state.scene)} scene points")
    for name, action in cases.items():
        wall, work = best_time(action)
        print(f"  {name:32s} {wall:6.2f} s wall, {work:6.2f} s of processor time")


def agreement(model: WorldModel, body: Body, states: list[PlanState], options: Options) -> None:
    """Print how well the cropped path ranks candidates as the full one does."""
    space = ToolPathSpace(body=body)
    dynamics = ModelDynamics(model=model, context=options.context)
    ranks, regrets = [], []
    for index, state in enumerate(states):
        plans = around_a_push(space, body.robot, state, options.candidates, index + 1)
        actions = space.decode(state.joint_positions, plans)
        cost = task_cost(state)
        quick = cost(dynamics.rollout(state, actions))
        moved = model.predict(state.scene, actions.robot_flow).displacements.cpu()
        whole = cost(
            Trajectory(positions=state.scene.points + moved, variance=None, actions=actions)
        )
        ranks.append(float(spearmanr(quick, whole).statistic))
        span = float(whole.max() - whole.min())
        regrets.append(float(whole[quick.argmin()] - whole.min()) / max(span, 1e-12))
        if (index + 1) % 10 == 0:
            print(f"  {index + 1} scenes, mean Spearman {np.mean(ranks):.4f}", flush=True)
    low, middle = np.quantile(ranks, [0.05, 0.5])
    print(
        f"Spearman of {options.candidates} costs, cropped ({options.context} points) against full, over {len(states)} "
        f"scenes: mean {np.mean(ranks):.4f}, median {middle:.4f}, 5 % quantile {low:.4f}, least {min(ranks):.4f}\n"
        f"scenes at 0.98 or above: {np.mean(np.array(ranks) >= 0.98):.0%}; the cropped path's best candidate costs, in "
        f"the full one, {np.mean(regrets):.2%} of the span more than the full one's best"
    )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--context", type=int, default=ModelDynamics.context)
    parser.add_argument("--checkpoint", default="tiny")
    parser.add_argument("--seed", type=int, default=500)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = Options(**vars(parser.parse_args()))
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    print(
        f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{options.threads} threads, load before the start {load:.1f}"
    )
    model = pointworld.load(options.checkpoint, device=options.device)
    robot = RobotModel.load("fr3")
    states = draw_states(robot, options)
    body = Body.of(robot, step_dt=0.1, num_steps=11, surface=192)
    latency(model, body, states[0], options)
    agreement(model, body, states, options)


if __name__ == "__main__":
    main()
