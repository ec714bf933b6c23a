"""Which push to make next: many are drawn, and each is judged by what the dynamics predict from its contact on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from pointworld.plan.actions import Actions, ToolPathSpace
from pointworld.plan.dynamics import Dynamics
from pointworld.plan.follow import follow_path
from pointworld.plan.problem import TIMED_GROUP
from pointworld.plan.rotations import rotation_exp
from pointworld.plan.tasks.push_paths import Aim, Push, Shot, turn_left
from pointworld.plan.tasks.seen import Seen
from pointworld.plan.tasks.way import FreeAir, Hand
from pointworld.plan.trajectory import Trajectory

Tensor = torch.Tensor

#: Steps of the way from now to the place behind the target, which is solved for and not simulated.
_JUMP = 5
#: The hand must get this near to its place behind the target, and what is predicted begins this near to contact [m].
_MISSED, _BEFORE = 0.006, 0.012
#: What moving others and pressing against what does not give way cost, next to the squared distance to the goal.
_STILL, _STRAIN, _SHORT = 300.0, 0.02, 1.0
#: Motion of others, and strain [rad], that costs nothing.
_STILL_FREE, _STRAIN_FREE = 0.005, 0.06


#: So many of the best pushes are varied; a target whose centre is this near to its goal is pushed from all sides [m].
_BEST, _SHORT_WAY = 4, 0.04
#: A hand that drags from rest has its speed after this time [s].
_RAMP = 0.3
#: The fingertips travel at most this high above the table [m].
_HIGHEST = 0.32


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """A push and what it is predicted to leave: mean squared distance of the task points [m^2].

    after: with what else it costs; infinite where no push was found that the hand can get to.
    """

    push: Push
    before: float
    after: float

    @property
    def free(self) -> bool:
        """Whether the hand can get there."""
        return bool(np.isfinite(self.after))


@dataclass(frozen=True, kw_only=True, eq=False)
class PushChooser:
    """Draws pushes at a seen target and rates them.

    shortfall: (samples, steps) by which motions fail what the arm's safety asks for [m], None = not asked.
    wide: half width of a tool in the hand, depth: its length below the fingertips [m].
    draws: pushes per choice, the straight one and the one that turns come first.
    uncertainty: weight of the predicted variance of the task points.
    """

    space: ToolPathSpace
    dynamics: Dynamics
    table: float
    depth: float = 0.0
    wide: float = 0.0
    shortfall: Callable[[Actions], Tensor] | None = None
    draws: int = 24
    uncertainty: float = 0.0

    def choose(self, seen: Seen, seed: int, *, deadline: float = math.inf) -> Choice:
        """The best push from here; its way ends where the target is predicted to be nearest to its goal.

        Args:
            deadline: on the clock of `time.perf_counter` [s]. Pushes are then rated in groups, until time is up; the
                first group, which holds the two pushes by rule, always is.
        """
        rng = np.random.default_rng(seed)
        shots = self.draw(seen, rng)
        # Where things stand close, the hand goes as near to them as it must.
        first = self._judge_in_time(seen, shots, deadline)
        first = first or self._judge_in_time(seen, shots, deadline, room=0.0)
        near = [shot for shot, choice in first if choice.after < choice.before][:_BEST]
        again = [
            near[int(rng.integers(len(near)))].near(rng) for _ in range(self.draws // 2) if near
        ]
        if time.perf_counter() < deadline:
            first = first + self._judge_in_time(seen, again, deadline)
        found = sorted(first, key=lambda pair: pair[1].after)
        if found:
            return found[0][1]
        return Choice(push=shots[0].push(), before=0.0, after=torch.inf)

    def draw(self, seen: Seen, rng: np.random.Generator) -> list[Shot]:
        """The two pushes by rule, and others around them, from all sides and at all places of the target."""
        first = [Aim.of(seen, self.table, self.depth).shot(turn=turn) for turn in (False, True)]
        groups = [seen.owner == k for k in np.unique(seen.owner)]
        aims = [Aim.of(seen, self.table, self.depth, chosen=g & seen.grip) for g in groups]
        handle = not seen.grip.all()
        far = np.array([np.linalg.norm(a.goals - a.points, axis=-1).mean() for a in aims])
        shots = list(first)
        for number in range(self.draws - len(first)):
            aim = aims[int(rng.choice(len(aims), p=far / max(far.sum(), 1e-9)))]
            if handle:
                shots.append(aim.around(rng, spread=0.1))
            elif number % 2 and not (self.depth or aim.thin):
                shots.append(aim.at_side(rng))
            else:
                lost = number % 3 == 0 and float(np.linalg.norm(aim.way)) < _SHORT_WAY
                shots.append(aim.around(rng, spread=np.pi if lost else 0.45))
        return shots

    def _judge_in_time(
        self, seen: Seen, shots: list[Shot], deadline: float, *, room: float = 1.0
    ) -> list[tuple[Shot, Choice]]:
        """`_judge` of groups until the deadline, of the first one in any case; of all at once without a deadline."""
        size = max(len(shots), 1) if math.isinf(deadline) else TIMED_GROUP
        found: list[tuple[Shot, Choice]] = []
        for start in range(0, len(shots), size):
            if start and time.perf_counter() >= deadline:
                break
            found += self._judge(seen, shots[start : start + size], room=room)
        return sorted(found, key=lambda pair: pair[1].after)

    def _judge(
        self, seen: Seen, shots: list[Shot], *, room: float = 1.0
    ) -> list[tuple[Shot, Choice]]:
        """What the hand can do of some pushes, each ending at its best, best first. Args: room: see `FreeAir`."""
        cleared = [(shot, self._clear(seen, shot.push(), room)) for shot in shots]
        able = [(shot, push) for shot, push in cleared if push is not None]
        if not able:
            return []
        pushes = [push for _, push in able]
        trajectory, reached = self._predict(seen, pushes)
        cost, distance = self.rate(seen, trajectory), seen.task.squares(trajectory)
        ahead = cost[:, 1:]
        found = []
        for row in np.flatnonzero(reached):
            shot, push = able[row]
            # The last of equals: dynamics that move nothing leave the way as it was drawn.
            steps = int(ahead[row].argmin()) + 1
            flat = bool((ahead[row] >= cost[row, 0] - 1e-9).all())
            gone = float(_travelled(push, np.array(self.space.body.step_dt * steps)))
            way = push.way if flat else gone - _near(push)
            choice = Choice(
                push=replace(push, way=max(way, 0.005)),
                before=float(distance[row, 0]),
                after=float(ahead[row].min()),
            )
            found.append((shot, choice))
        return sorted(found, key=lambda pair: pair[1].after)

    def _clear(self, seen: Seen, push: Push, room: float) -> Push | None:
        """The push with the height of the way to it through free air, None where there is none in the workspace."""
        limits = self.space.limits
        lower, upper = limits.workspace_lower[:2], limits.workspace_upper[:2]
        if bool(((push.behind[:2] < lower) | (push.behind[:2] > upper)).any()):
            return None
        hand = Hand(depth=self.depth, wide=self.wide)
        highest = min(self.table + self.depth + _HIGHEST, limits.workspace_upper[2])
        air = FreeAir(hand=hand, table=self.table, highest=highest, room=room)
        tool = self.space.body.robot.tool_pose(seen.state.joint_positions).numpy()[:3, 3]
        return air.clear(seen, tool, push)

    def _predict(self, seen: Seen, pushes: list[Push]) -> tuple[Trajectory, np.ndarray]:
        """Outcomes of pushes from behind the target on, and which of them the hand can begin."""
        space, body = self.space, self.space.body
        joints = seen.state.joint_positions.double()
        start = joints[list(body.chain.columns)]
        pose, _ = body.chain.tool_and_jacobian(start)
        turns = torch.tensor([turn_left(pose.numpy(), p.yaw) for p in pushes]).double()
        R = rotation_exp(turns[:, None] * torch.tensor([0.0, 0.0, 1.0]).double()) @ pose[:3, :3]
        behind = torch.from_numpy(np.stack([_begin(p) for p in pushes]))
        share = torch.linspace(0, 1, _JUMP + 1, dtype=torch.float64)
        there = torch.eye(4, dtype=torch.float64).repeat(len(pushes), _JUMP + 1, 1, 1)
        yaw = share[None, :, None] * turns[:, None, None] * torch.tensor([0.0, 0.0, 1.0]).double()
        there[..., :3, :3] = rotation_exp(yaw) @ pose[:3, :3]
        there[..., :3, 3] = pose[:3, 3] + share[:, None] * (behind - pose[:3, 3])[:, None]
        arm = follow_path(body.chain, start, there, step_dt=10.0, iterations=4, bounds=space.bounds)
        first = arm[:, -1]
        missed = (body.chain.tool_and_jacobian(first)[0][:, :3, 3] - behind).norm(dim=-1)
        ahead = torch.from_numpy(np.stack([np.append(p.ahead, 0.0) for p in pushes]))
        times = np.arange(body.num_steps) * body.step_dt
        steps = torch.from_numpy(np.stack([_travelled(push, times) for push in pushes]))
        wanted = torch.eye(4, dtype=torch.float64).repeat(len(pushes), body.num_steps, 1, 1)
        wanted[..., :3, :3] = R[:, None]
        wanted[..., :3, 3] = behind[:, None] + steps[..., None] * ahead[:, None]
        path = follow_path(body.chain, first, wanted, step_dt=body.step_dt, bounds=space.bounds)
        width = body.robot.gripper_width(joints).expand(path.shape[:2])
        actions = body.measure(joints, path, width, wanted, space.limits)
        # Put there at rest.
        state = replace(seen.state, joint_velocities=None)
        return self.dynamics.rollout(state, actions), missed.numpy() < _MISSED

    def foresee(self, seen: Seen, plans: Tensor) -> Tensor:
        """(samples, steps) cost of plans (samples, knots, dims) from here that end after each step."""
        state = seen.state
        actions = self.space.decode(state.joint_positions, plans, speeds=state.joint_velocities)
        return self.rate(seen, self.dynamics.rollout(state, actions))

    def rate(self, seen: Seen, trajectory: Trajectory) -> Tensor:
        """(samples, steps) cost of a push that ends after each step."""
        cost = seen.task.squares(trajectory)
        if len(seen.still_index):
            still = trajectory.positions[:, :, seen.still_index]
            moved = (still - still[:, :1]).norm(dim=-1)
            cost = cost + _STILL * (moved - _STILL_FREE).clamp_min(0).square().mean(-1)
        if trajectory.strain is not None:
            over = (trajectory.strain.to(cost) - _STRAIN_FREE).clamp_min(0)
            cost = cost + _STRAIN * over.cumsum(1)
        if self.uncertainty and trajectory.variance is not None:
            spread = trajectory.variance[:, :, seen.index].mean(-1)
            cost = cost + self.uncertainty * spread.to(cost)
        if self.shortfall is not None:
            cost = cost + _SHORT * self.shortfall(trajectory.actions).to(cost).cumsum(1)
        return cost


def _travelled(push: Push, times: np.ndarray) -> np.ndarray:
    """Distance that the hand has gone at times from its beginning on [m].

    A push has its speed when it meets its target. A cloth is touched before the hand moves: how the hand sets off, as
    the arm lets it, is part of what is predicted.
    """
    if not push.press:
        return push.speed * times
    return push.speed * np.where(times < _RAMP, times**2 / (2 * _RAMP), times - _RAMP / 2)


def _near(push: Push) -> float:
    """Distance from contact at which a push is predicted to begin [m]: the hand may come down further away."""
    return min(push.gap, _BEFORE)


def _begin(push: Push) -> np.ndarray:
    """(3,) where a push is predicted to begin."""
    return np.asarray(push.contact - np.append(_near(push) * push.ahead, 0.0))
