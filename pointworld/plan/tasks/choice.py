"""Which push to make next: many are drawn, and each is judged by what the dynamics predict from its contact on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from pointworld.plan.actions import Actions, ToolPathSpace
from pointworld.plan.dynamics import Dynamics
from pointworld.plan.follow import follow_path
from pointworld.plan.rotations import rotation_exp
from pointworld.plan.tasks.push_paths import Aim, Push, plan_push, turn_left
from pointworld.plan.tasks.seen import Seen
from pointworld.plan.trajectory import Trajectory

Tensor = torch.Tensor

#: Steps of the way from now to the place behind the target, which is solved for and not simulated.
_JUMP = 5
#: The hand must get this near to its place behind the target [m], and stays this far from other things there.
_MISSED, _ROOM = 0.006, 0.028
#: The palm is this far above the fingertips and this wide and thick (half) [m].
_PALM, _PALM_WIDE, _PALM_THICK = 0.05, 0.10, 0.04
#: What moving others and pressing against what does not give way cost, next to the squared distance to the goal.
_STILL, _STRAIN, _SHORT = 300.0, 0.02, 1.0
#: Motion of others, and strain [rad], that costs nothing.
_STILL_FREE, _STRAIN_FREE = 0.005, 0.06


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """A push and what it is predicted to leave. before, after: mean squared distance of the task points [m^2]."""

    push: Push
    before: float
    after: float


@dataclass(frozen=True, kw_only=True, eq=False)
class PushChooser:
    """Draws pushes at a seen target and rates them.

    shortfall: (samples, steps) by which motions fail what the arm's safety asks for [m], None = not asked.
    wide: half width of a tool in the hand [m].
    draws: pushes per choice, the straight one and the one that turns come first.
    """

    space: ToolPathSpace
    dynamics: Dynamics
    table: float
    depth: float = 0.0
    wide: float = 0.0
    shortfall: Callable[[Actions], Tensor] | None = None
    draws: int = 24

    def choose(self, seen: Seen, seed: int) -> Choice:
        """The best push from here; its way ends where the target is predicted to be nearest to its goal."""
        pushes = self.draw(seen, np.random.default_rng(seed))
        trajectory, reached = self._predict(seen, pushes)
        cost = self._rate(seen, trajectory)
        cost = cost + torch.where(torch.from_numpy(reached), 0.0, torch.inf).to(cost)[:, None]
        ahead = cost[:, 1:]
        if not bool(torch.isfinite(ahead).any()):
            return Choice(push=pushes[0], before=float(cost[0, 0]), after=torch.inf)
        best = int(ahead.amin(1).argmin())
        # The last of equals: dynamics that move nothing leave the way as it was drawn.
        steps = int(ahead[best].argmin()) + 1
        flat = bool((ahead[best] >= cost[best, 0] - 1e-9).all())
        push = pushes[best]
        way = push.way if flat else push.speed * self.space.body.step_dt * steps - push.gap
        now = self._distance(seen, trajectory)[best]
        return Choice(
            push=replace(push, way=max(way, 0.005)),
            before=float(now[0]),
            after=float(ahead[best].min()),
        )

    def draw(self, seen: Seen, rng: np.random.Generator) -> list[Push]:
        """The two pushes by rule, and others around them, from all sides and at all places of the target."""
        pushes = [plan_push(seen, self.table, depth=self.depth, turn=t) for t in (False, True)]
        groups = [seen.owner == k for k in np.unique(seen.owner)]
        aims = [Aim.of(seen, self.table, self.depth, chosen=g & seen.grip) for g in groups]
        handle = not seen.grip.all()
        far = np.array([np.linalg.norm(a.goals - a.points, axis=-1).mean() for a in aims])
        for number in range(self.draws - len(pushes)):
            aim = aims[int(rng.choice(len(aims), p=far / max(far.sum(), 1e-9)))]
            length = float(np.linalg.norm(aim.way))
            heading = float(np.arctan2(aim.way[1], aim.way[0])) + 0.45 * rng.standard_normal()
            if handle:
                heading = pushes[0].yaw + 0.1 * rng.standard_normal()
            elif number % 3 == 0 and length < 0.04:
                heading = float(rng.uniform(-np.pi, np.pi))
            ahead = np.array([np.cos(heading), np.sin(heading)])
            half = 0.85 * aim.half_width(ahead)
            offset, along = half * rng.uniform(-1, 1), half * rng.uniform(-1, 1)
            pushes.append(aim.push(ahead, offset, max(length, 0.03), along=along))
        return pushes

    def _predict(self, seen: Seen, pushes: list[Push]) -> tuple[Trajectory, np.ndarray]:
        """Outcomes of pushes from behind the target on, and which of them the hand can begin."""
        space, body = self.space, self.space.body
        joints = seen.state.joint_positions.double()
        start = joints[list(body.chain.columns)]
        pose, _ = body.chain.tool_and_jacobian(start)
        turns = torch.tensor([turn_left(pose.numpy(), p.yaw) for p in pushes]).double()
        R = rotation_exp(turns[:, None] * torch.tensor([0.0, 0.0, 1.0]).double()) @ pose[:3, :3]
        behind = torch.from_numpy(np.stack([p.behind for p in pushes]))
        share = torch.linspace(0, 1, _JUMP + 1, dtype=torch.float64)
        there = torch.eye(4, dtype=torch.float64).repeat(len(pushes), _JUMP + 1, 1, 1)
        yaw = share[None, :, None] * turns[:, None, None] * torch.tensor([0.0, 0.0, 1.0]).double()
        there[..., :3, :3] = rotation_exp(yaw) @ pose[:3, :3]
        there[..., :3, 3] = pose[:3, 3] + share[:, None] * (behind - pose[:3, 3])[:, None]
        arm = follow_path(body.chain, start, there, step_dt=10.0, iterations=4, bounds=space.bounds)
        first = arm[:, -1]
        missed = (body.chain.tool_and_jacobian(first)[0][:, :3, 3] - behind).norm(dim=-1)
        ahead = torch.from_numpy(np.stack([np.append(p.ahead, 0.0) for p in pushes]))
        speed = torch.tensor([p.speed for p in pushes], dtype=torch.float64)
        steps = torch.arange(body.num_steps, dtype=torch.float64) * body.step_dt * speed[:, None]
        wanted = torch.eye(4, dtype=torch.float64).repeat(len(pushes), body.num_steps, 1, 1)
        wanted[..., :3, :3] = R[:, None]
        wanted[..., :3, 3] = behind[:, None] + steps[..., None] * ahead[:, None]
        path = follow_path(body.chain, first, wanted, step_dt=body.step_dt, bounds=space.bounds)
        width = body.robot.gripper_width(joints).expand(path.shape[:2])
        actions = body.measure(joints, path, width, wanted, space.limits)
        # Put there at rest.
        state = replace(seen.state, joint_velocities=None)
        free = np.array([self._free(seen, push) for push in pushes])
        return self.dynamics.rollout(state, actions), free & (missed.numpy() < _MISSED)

    def _free(self, seen: Seen, push: Push) -> bool:
        """Whether nothing else stands where the hand comes down."""
        others = seen.state.scene.points[seen.still_index].double().cpu().numpy()
        if len(others) == 0:
            return True
        off = others[:, :2] - push.behind[:2]
        along, beside = np.abs(off @ push.ahead), np.abs(off @ [-push.ahead[1], push.ahead[0]])
        if self.depth:
            return not bool(((along < _ROOM) & (beside < self.wide + 0.005)).any())
        low = others[:, 2] < push.behind[2] + _PALM
        fingers = low & (np.hypot(along, beside) < _ROOM)
        palm = ~low & (along < _PALM_THICK) & (beside < _PALM_WIDE)
        return not bool((fingers | palm).any())

    def _distance(self, seen: Seen, trajectory: Trajectory) -> Tensor:
        """(samples, steps) mean squared distance of the task points to their goals [m^2]."""
        points = trajectory.positions[:, :, seen.index]
        return (points - seen.goals.to(points)).square().sum(-1).mean(-1)

    def _rate(self, seen: Seen, trajectory: Trajectory) -> Tensor:
        """(samples, steps) cost of a push that ends after each step."""
        cost = self._distance(seen, trajectory)
        if len(seen.still_index):
            still = trajectory.positions[:, :, seen.still_index]
            moved = (still - still[:, :1]).norm(dim=-1)
            cost = cost + _STILL * (moved - _STILL_FREE).clamp_min(0).square().mean(-1)
        if trajectory.strain is not None:
            over = (trajectory.strain.to(cost) - _STRAIN_FREE).clamp_min(0)
            cost = cost + _STRAIN * over.cumsum(1)
        if self.shortfall is not None:
            cost = cost + _SHORT * self.shortfall(trajectory.actions).to(cost).cumsum(1)
        return cost
