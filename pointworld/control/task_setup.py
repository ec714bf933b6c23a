"""What is planned for a task: the space that is searched, the cost, and where the arm may be."""

from __future__ import annotations

import numpy as np

from pointworld.control.allowed import Allowed, joint_bounds
from pointworld.control.body import Space
from pointworld.control.safety import SafetyConfig, SafetyFilter
from pointworld.data.motions import CLEARANCE
from pointworld.plan.actions import Body, PathLimits, ToolPathSpace
from pointworld.plan.costs import (
    Approach,
    CostSum,
    Infeasible,
    KeepStill,
    PathLength,
    SceneCollision,
    Strain,
    Term,
    Uncertainty,
)
from pointworld.plan.tasks import Task
from pointworld.plan.tasks.push_paths import FLOOR, PRESS, THIN, plan_push
from pointworld.plan.tasks.seen import Seen
from pointworld.robot import RobotModel


def held_depth(task: Task) -> float:
    """Length of the tool in the hand below the fingertips [m]; 0 without one."""
    return 0.0 if task.tool is None else task.tool.length


def held_width(task: Task) -> float:
    """Half width of the tool in the hand [m]; 0 without one."""
    return 0.0 if task.tool is None else task.tool.half_width


def _presses(task: Task) -> bool:
    """Whether the task is a cloth, which is dragged by pressing it onto the table."""
    return task.kind == "deformable" and bool(np.ptp(task.points[:, 2]) < THIN)


def allowed_space(task: Task) -> Space:
    """Where the safety filter lets the arm of a task be."""
    table = task.scene.table_height
    return Space(
        lower=(0.2, -0.55, table),
        upper=(0.85, 0.55, 0.85),
        table=table,
        table_clearance=0.0 if _presses(task) else 0.002,
        tool_speed=0.75,
    )


def task_safety(task: Task) -> SafetyConfig:
    """The filter of a simulated arm, which may be quick."""
    return SafetyConfig(
        velocity=0.6,
        acceleration=0.8,
        jerk=0.3,
        tracking=0.2,
        ramp=0.2,
        space=allowed_space(task),
    )


def task_space(
    task: Task, robot: RobotModel, *, horizon: int = 10, safety: SafetyFilter | None = None
) -> ToolPathSpace:
    """What is searched over: paths of the upright hand above the table.

    Args:
        horizon: steps of 0.1 s. safety: the filter whose limits of the joints the paths should keep.
    """
    depth = held_depth(task)
    lowest = PRESS if _presses(task) else FLOOR
    low = task.scene.table_height + (depth + CLEARANCE if depth else lowest)
    limits = PathLimits(
        workspace_lower=(0.30, -0.45, low),
        workspace_upper=(0.80, 0.45, 0.7),
        speed=0.35,
        turn_speed=1.2,
    )
    body = Body.of(robot, step_dt=0.1, num_steps=horizon + 1, surface=96)
    return ToolPathSpace(
        body=body,
        limits=limits,
        translation=(0.3, 0.3, 0.3),
        rotation=(0.0, 0.0, 1.2),
        bounds=None if safety is None else joint_bounds(safety.limits),
    )


def task_cost(
    seen: Seen,
    table: float,
    *,
    depth: float = 0.0,
    allowed: Allowed | None = None,
    uncertainty: float = 0.0,
) -> CostSum:
    """What is minimised: goals reached, hand behind the target, others left alone, a short and possible path.

    Args:
        allowed: what the arm's safety filter asks for; it also knows the table. None = the table alone.
        uncertainty: weight of the predicted variance of the task points.
    """
    points, places = seen.points[seen.focus], seen.places[seen.focus]
    push = plan_push(seen, table, depth=depth)
    behind = float(np.linalg.norm(push.contact[:2] - points.mean(0)[:2])) + 0.005
    goal = seen.goals.new_tensor(places.mean(0))
    terms = [
        Term(name="task", cost=seen.task),
        Term(name="length", cost=PathLength(), weight=0.002),
        Term(name="feasible", cost=Infeasible(), weight=1.0),
        Term(name="strain", cost=Strain(), weight=0.02),
    ]
    if not (seen.owner > 0).any() and not push.press:
        # Of several targets the hand is at one after the other; on a cloth it may be anywhere.
        approach = Approach(index=seen.grip_index, goal=goal, behind=behind)
        terms.append(Term(name="approach", cost=approach, weight=0.05))
    if allowed is not None:
        terms.append(Term(name="allowed", cost=allowed, weight=0.1))
    else:
        floor = SceneCollision(index=seen.index[:0], floor=table + 0.002, margin=0.01)
        terms.append(Term(name="table", cost=floor, weight=0.01))
    if len(seen.still_index):
        terms.append(Term(name="still", cost=KeepStill(index=seen.still_index), weight=300.0))
    if uncertainty:
        terms.append(
            Term(name="uncertainty", cost=Uncertainty(index=seen.index), weight=uncertainty)
        )
    return CostSum(tuple(terms))
