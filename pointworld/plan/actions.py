"""Action spaces: from the numbers a planner searches over to what the robot would do.

A plan is a few knots of a spline over the horizon, (knots, dims), in units of metres and radians relative to now. The
path is clipped to workspace and speed limits, turned into joints, and measured: what cannot be done is not refused but
reported, for a cost to weigh.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Protocol

import torch

from pointworld.errors import InputError
from pointworld.plan.arm_chain import ArmChain
from pointworld.plan.follow import JointBounds, follow_path, pose_error, take_over
from pointworld.plan.rotations import rotation_exp, rotation_log
from pointworld.plan.samplers import spline_basis
from pointworld.plan.self_collision import SelfCollision
from pointworld.robot import RobotModel, SurfacePoints
from pointworld.types import RobotFlow

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class PathLimits:
    """Limits of planned motion.

    workspace_lower, workspace_upper: box of the tool point in the base frame [m].
    speed [m/s], turn_speed [rad/s], gripper_speed [m/s of width]: of the tool and fingers.
    """

    workspace_lower: tuple[float, float, float] = (0.25, -0.45, 0.0)
    workspace_upper: tuple[float, float, float] = (0.80, 0.45, 0.60)
    speed: float = 0.5
    turn_speed: float = 1.5
    gripper_speed: float = 0.1

    def __post_init__(self) -> None:
        if not all(a < b for a, b in zip(self.workspace_lower, self.workspace_upper, strict=True)):
            raise InputError(
                f"workspace {self.workspace_lower} .. {self.workspace_upper}: lower must be below upper"
            )
        if not all(
            s > 0 and math.isfinite(s) for s in (self.speed, self.turn_speed, self.gripper_speed)
        ):
            raise InputError("speed limits must be positive numbers")


@dataclass(frozen=True, kw_only=True, eq=False)
class Actions:
    """Candidate motions, as the robot would carry them out; index 0 = now.

    joint_positions: (samples, steps, joints) [rad or m], within limits. tool_poses: (samples, steps, 4, 4) T_base_tool.
    gripper_width: (samples, steps) [m]. robot_flow: of the gripper's surface, batch (samples,).
    position_error [m], rotation_error [rad]: (samples, steps) between wanted and possible tool pose.
    workspace_excess: (samples, steps) distance of the tool from the workspace [m].
    speed_excess: (samples, steps) tool speed above its limit [m/s]; zero at step 0.
    self_clearance: (samples, steps) distance of the robot to itself [m]. manipulability: (samples, steps).
    """

    joint_positions: Tensor
    tool_poses: Tensor
    gripper_width: Tensor
    robot_flow: RobotFlow
    position_error: Tensor
    rotation_error: Tensor
    workspace_excess: Tensor
    speed_excess: Tensor
    self_clearance: Tensor
    manipulability: Tensor
    step_dt: float

    def __len__(self) -> int:
        return int(self.joint_positions.shape[0])

    @property
    def num_steps(self) -> int:
        return int(self.joint_positions.shape[1])


class ActionSpace(Protocol):
    """What a planner searches over."""

    @property
    def lower(self) -> Tensor:
        """(dims,) bounds of every knot."""
        ...

    @property
    def upper(self) -> Tensor: ...

    @property
    def std(self) -> Tensor:
        """(dims,) sensible spread of a first search."""
        ...

    def rest(self) -> Tensor:
        """(knots, dims) the plan that stays where it is."""
        ...

    def decode(self, joints: Tensor, plans: Tensor, *, speeds: Tensor | None = None) -> Actions:
        """Motions of plans (samples, knots, dims) from the joint positions (joints,) now.

        Args:
            speeds: (joints,) that the arm has already [rad/s]; None = at rest.
        """
        ...

    def shift(self, plan: Tensor, steps: int) -> Tensor:
        """The rest of a plan (knots, dims) after its first `steps`, as seen from there; then it stays."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Body:
    """The robot as the action spaces need it. Made by `Body.of`."""

    robot: RobotModel
    chain: ArmChain
    self_collision: SelfCollision
    surface: SurfacePoints
    step_dt: float
    num_steps: int

    @staticmethod
    def of(
        robot: RobotModel,
        *,
        step_dt: float,
        num_steps: int,
        surface: SurfacePoints | int = 192,
        seed: int = 0,
    ) -> Body:
        """Args: surface: points for the robot flow, or how many to sample on the gripper."""
        if num_steps < 2 or not step_dt > 0:
            raise InputError(
                f"{num_steps} steps of {step_dt} s: expected at least 2 steps (now and one later) of positive length"
            )
        points = robot.sample_surface(surface, seed=seed) if isinstance(surface, int) else surface
        return Body(
            robot=robot,
            chain=ArmChain.of(robot),
            self_collision=SelfCollision.of(robot),
            surface=points,
            step_dt=step_dt,
            num_steps=num_steps,
        )

    def measure(
        self, joints: Tensor, arm: Tensor, width: Tensor, wanted: Tensor | None, limits: PathLimits
    ) -> Actions:
        """Everything the costs need of arm joint paths (samples, steps, arm joints) and widths (samples, steps).

        Args:
            joints: (joints,) now; joints that are neither arm nor gripper keep their place.
            wanted: tool poses the path was made for; None when the joints themselves were wanted.
        """
        q = joints.to(arm).expand(*arm.shape[:-1], -1).clone()
        q[..., list(self.chain.columns)] = arm
        if self.robot.gripper is not None:
            q = _with_width(self.robot, q, width)
        tool, J = self.chain.tool_and_jacobian(arm)
        error = arm.new_zeros(*arm.shape[:-1], 6) if wanted is None else pose_error(wanted, tool)
        position = tool[..., :3, 3]
        lower, upper = (position.new_tensor(v) for v in _box(limits))
        outside = (lower - position).clamp_min(0) + (position - upper).clamp_min(0)
        speed = _norm(position.diff(dim=1)) / self.step_dt
        excess = (speed - limits.speed).clamp_min(0)
        gram = J @ J.transpose(-1, -2)
        flow = self.robot.flow(self.surface, q.float(), step_dt=self.step_dt)
        return Actions(
            joint_positions=q,
            tool_poses=tool,
            gripper_width=width,
            robot_flow=flow,
            position_error=_norm(error[..., :3]),
            rotation_error=_norm(error[..., 3:]),
            workspace_excess=_norm(outside),
            speed_excess=torch.cat([torch.zeros_like(excess[:, :1]), excess], 1),
            self_clearance=self.self_collision.clearance(self.robot.forward_kinematics(q)),
            manipulability=torch.linalg.det(gram).clamp_min(1e-24).sqrt(),
            step_dt=self.step_dt,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ToolPathSpace:
    """Knots of the tool's path in the tangent space of SE(3) at the pose now, and of the gripper's width.

    dims: translation in base axes [m] (3), rotation vector in base axes [rad] (3), change of the width [m] (1). The
    pose at a time is (p_now + translation, exp(rotation) R_now), with a natural cubic spline between the knots.
    translation, rotation: bounds of a knot per axis; a zero fixes that axis. width: bound of its change.
    bounds: limits of the joints where they are stricter than the robot's own.
    """

    body: Body
    knots: int = 4
    limits: PathLimits = PathLimits()
    translation: tuple[float, float, float] = (0.3, 0.3, 0.2)
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.8)
    width: float = 0.0
    bounds: JointBounds | None = None

    def __post_init__(self) -> None:
        _check_space(self.knots, (*self.translation, *self.rotation, self.width))

    @property
    def upper(self) -> Tensor:
        return torch.tensor([*self.translation, *self.rotation, self.width], dtype=torch.float64)

    @property
    def lower(self) -> Tensor:
        return -self.upper

    @property
    def std(self) -> Tensor:
        return self.upper / 3

    def rest(self) -> Tensor:
        """See `ActionSpace`."""
        return torch.zeros(self.knots, 7, dtype=torch.float64)

    def decode(self, joints: Tensor, plans: Tensor, *, speeds: Tensor | None = None) -> Actions:
        """See `ActionSpace`."""
        body, limits = self.body, self.limits
        joints = joints.to(plans)
        start = joints[list(body.chain.columns)]
        now, _ = body.chain.tool_and_jacobian(start)
        path = _curve(plans, body.num_steps)
        lower, upper = (plans.new_tensor(v) for v in _box(limits))
        places = torch.minimum(torch.maximum(now[:3, 3] + path[..., :3], lower), upper)
        places = limit_speed(now[:3, 3], places, limits.speed * body.step_dt)
        # The exponential never turns by more than its argument moves, so bounding the one bounds the other.
        turns = limit_speed(plans.new_zeros(3), path[..., 3:6], limits.turn_speed * body.step_dt)
        width = _width_path(body, joints, path[..., 6], limits)
        wanted = _poses(rotation_exp(turns) @ now[:3, :3], places)
        arm = follow_path(body.chain, start, wanted, step_dt=body.step_dt, bounds=self.bounds)
        if speeds is not None:
            arm = take_over(arm, speeds[list(body.chain.columns)], body.step_dt)
        return body.measure(joints, arm, width, wanted, limits)

    def shift(self, plan: Tensor, steps: int) -> Tensor:
        """See `ActionSpace`."""
        later, now = _later(plan, self.body.num_steps, steps)
        turned = rotation_log(rotation_exp(later[:, 3:6]) @ rotation_exp(now[3:6]).T)
        shifted = torch.cat([later[:, :3] - now[:3], turned, later[:, 6:] - now[6:]], -1)
        return torch.minimum(torch.maximum(shifted, self.lower), self.upper)


@dataclass(frozen=True, kw_only=True, eq=False)
class JointPathSpace:
    """Knots of the arm's joint displacements from now [rad or m], and of the gripper's width [m] (the last dim).

    turn: bound of a knot per arm joint; width: bound of its change.
    """

    body: Body
    knots: int = 4
    limits: PathLimits = PathLimits()
    turn: float = 0.5
    width: float = 0.0
    speed: float = 0.9

    def __post_init__(self) -> None:
        _check_space(self.knots, (self.turn, self.width))

    @property
    def upper(self) -> Tensor:
        arm = len(self.body.chain.columns)
        return torch.tensor([self.turn] * arm + [self.width], dtype=torch.float64)

    @property
    def lower(self) -> Tensor:
        return -self.upper

    @property
    def std(self) -> Tensor:
        return self.upper / 3

    def rest(self) -> Tensor:
        """See `ActionSpace`."""
        return torch.zeros(self.knots, len(self.body.chain.columns) + 1, dtype=torch.float64)

    def decode(self, joints: Tensor, plans: Tensor, *, speeds: Tensor | None = None) -> Actions:
        """See `ActionSpace`."""
        body, chain = self.body, self.body.chain
        joints = joints.to(plans)
        start = joints[list(chain.columns)]
        path = _curve(plans, body.num_steps)
        low = torch.minimum(chain.lower.to(plans), start)
        high = torch.maximum(chain.upper.to(plans), start)
        wanted = torch.minimum(torch.maximum(start + path[..., :-1], low), high)
        arm = limit_rate(start, wanted, self.speed * body.step_dt * chain.velocity.to(plans))
        if speeds is not None:
            arm = take_over(arm, speeds[list(chain.columns)], body.step_dt)
        width = _width_path(body, joints, path[..., -1], self.limits)
        return body.measure(joints, arm, width, None, self.limits)

    def shift(self, plan: Tensor, steps: int) -> Tensor:
        """See `ActionSpace`."""
        later, now = _later(plan, self.body.num_steps, steps)
        return torch.minimum(torch.maximum(later - now, self.lower), self.upper)


def limit_speed(start: Tensor, path: Tensor, most: float) -> Tensor:
    """Follow `path` (samples, steps, dims) from `start` (dims,) by steps no longer than `most`; step 0 is the start."""
    place = start.expand(len(path), -1)
    places = [place]
    for step in range(1, path.shape[1]):
        change = path[:, step] - place
        place = place + change * (most / _norm(change).clamp_min(most))[:, None]
        places.append(place)
    return torch.stack(places, 1)


def limit_rate(start: Tensor, path: Tensor, most: Tensor) -> Tensor:
    """As `limit_speed`, with a bound (dims,) of its own for every coordinate."""
    place = start.expand(len(path), -1)
    places = [place]
    for step in range(1, path.shape[1]):
        change = path[:, step] - place
        place = place + torch.minimum(torch.maximum(change, -most), most)
        places.append(place)
    return torch.stack(places, 1)


def _norm(vectors: Tensor) -> Tensor:
    """Length over the last axis, with gradient zero (not NaN) at zero."""
    square = vectors.square().sum(-1)
    zero = square == 0
    return torch.where(zero, square, torch.where(zero, torch.ones_like(square), square).sqrt())


def _check_space(knots: int, bounds: tuple[float, ...]) -> None:
    if knots < 1:
        raise InputError(f"a plan of {knots} knots, expected at least 1")
    if not all(b >= 0 and math.isfinite(b) for b in bounds):
        raise InputError(f"bounds of the knots are {bounds}, expected numbers >= 0 (0 = fixed)")


def _box(limits: PathLimits) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return limits.workspace_lower, limits.workspace_upper


def _curve(plans: Tensor, steps: int) -> Tensor:
    """Values (samples, steps, dims) of the curve from zero through the knots (samples, knots, dims)."""
    basis = spline_basis(plans.shape[-2] + 1, steps)[:, 1:].to(plans)
    return torch.einsum("tk,skd->std", basis, plans)


def _later(plan: Tensor, num_steps: int, steps: int) -> tuple[Tensor, Tensor]:
    """Values of a plan's curve `steps` after each knot (knots, dims), held at its end, and after now (dims,)."""
    if not steps >= 0:
        raise InputError(f"cannot shift a plan by {steps} steps")
    knots, fine = plan.shape[0], 32
    horizon = num_steps - 1
    curve = _curve(plan[None], horizon * fine + 1)[0]
    times = torch.arange(knots + 1, dtype=torch.float64) * (horizon * fine / knots) + steps * fine
    values = curve[times.round().long().clamp(max=len(curve) - 1)]
    return values[1:], values[0]


def _width_path(body: Body, joints: Tensor, change: Tensor, limits: PathLimits) -> Tensor:
    """Gripper widths (samples, steps) [m] within the gripper's range and speed; zeros without a gripper."""
    if body.robot.gripper is None:
        return torch.zeros_like(change)
    start = body.robot.gripper_width(joints)
    wanted = (start + change).clamp(0.0, body.robot.gripper_max_width)
    most = change.new_full((1,), limits.gripper_speed * body.step_dt)
    return limit_rate(start[None], wanted[..., None], most)[..., 0]


def _with_width(robot: RobotModel, q: Tensor, width: Tensor) -> Tensor:
    """q with the gripper at `width`; the range check there reads plain numbers, which torch warns of in a gradient."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad")
        return robot.with_gripper_width(q, width)


def _poses(R: Tensor, t: Tensor) -> Tensor:
    bottom = t.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*t.shape[:-1], 1, 4)
    return torch.cat([torch.cat([R, t[..., None]], -1), bottom], -2)
