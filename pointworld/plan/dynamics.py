"""From a state and candidate actions to predicted motion; the simplest implementation, and the objective of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from pointworld.errors import InputError
from pointworld.plan.actions import Actions, ActionSpace
from pointworld.plan.costs.base import Cost
from pointworld.plan.problem import Problem
from pointworld.plan.trajectory import Trajectory
from pointworld.types import ScenePoints

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Held:
    """What the hand holds fast. index: (held,) scene points of it. T_base_tool: (4, 4) pose of the tool point now."""

    index: Tensor
    T_base_tool: Tensor

    def motions(self, actions: Actions) -> Tensor:
        """(samples, steps, 4, 4) that carry what is held from where it is now to every step of the actions."""
        return actions.tool_poses @ torch.linalg.inv(self.T_base_tool.to(actions.tool_poses))


@dataclass(frozen=True, kw_only=True, eq=False)
class PlanState:
    """What is known now.

    scene: points in the base frame. joint_positions: (joints,) in the robot's order.
    task_index: (chosen,) int64 points that the task is about; dynamics may keep them in view.
    velocities: (points, 3) [m/s], None = at rest. joint_velocities: (joints,) [rad/s], None = at rest.
    bodies: (chosen,) int64 which rigid thing on a table a task point lies on, -1 = none; None = unknown.
    held: what the hand holds fast, which moves as it does; None = nothing.
    physics, point_bodies: for the simulator alone: its full state vector, and the body (points,) every point lies on.
    """

    scene: ScenePoints
    joint_positions: Tensor
    task_index: Tensor | None = None
    velocities: Tensor | None = None
    joint_velocities: Tensor | None = None
    bodies: Tensor | None = None
    held: Held | None = None
    physics: np.ndarray | None = None
    point_bodies: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = len(self.scene)
        if count == 0:
            raise InputError("the scene has no points: nothing to plan for")
        if self.velocities is not None and tuple(self.velocities.shape) != (count, 3):
            raise InputError(
                f"velocities are {tuple(self.velocities.shape)}, expected ({count}, 3)"
            )
        speeds = self.joint_velocities
        if speeds is not None and speeds.shape != self.joint_positions.shape:
            raise InputError(
                f"joint_velocities are {tuple(speeds.shape)}, expected {tuple(self.joint_positions.shape)}"
            )
        if self.point_bodies is not None and self.point_bodies.shape != (count,):
            raise InputError(f"point_bodies is {self.point_bodies.shape}, expected ({count},)")


class Dynamics(Protocol):
    """Predicts what candidate motions do to the scene."""

    def rollout(self, state: PlanState, actions: Actions) -> Trajectory:
        """Motion of all points of `state.scene` over all steps of the actions."""
        ...


@dataclass(frozen=True)
class ConstantMotion:
    """Every point keeps the speed it has now; the robot moves nothing."""

    def rollout(self, state: PlanState, actions: Actions) -> Trajectory:
        """See `Dynamics`."""
        points = state.scene.points
        times = actions.step_dt * torch.arange(actions.num_steps).to(points)
        speed = torch.zeros_like(points) if state.velocities is None else state.velocities
        path = points + times[:, None, None] * speed.to(points)
        positions = path.expand(len(actions), -1, -1, -1)
        return Trajectory(positions=positions, variance=None, actions=actions)


def make_problem(
    space: ActionSpace,
    dynamics: Dynamics,
    cost: Cost,
    state: PlanState,
    *,
    nominal: Tensor | None = None,
    chunk: int = 0,
) -> Problem:
    """What a planner should minimise: the cost of what the dynamics predict for a plan of the action space.

    Args:
        nominal: (knots, dims) where to start, for example `space.shift` of the last plan; None = stay.
        chunk: most candidates that are rolled out together, 0 for no bound.
    """

    def evaluate(plans: Tensor) -> Tensor:
        actions = space.decode(state.joint_positions, plans, speeds=state.joint_velocities)
        return cost(dynamics.rollout(state, actions))

    return Problem(
        evaluate=evaluate,
        nominal=space.rest() if nominal is None else nominal,
        lower=space.lower,
        upper=space.upper,
        std=space.std,
        chunk=chunk,
    )
