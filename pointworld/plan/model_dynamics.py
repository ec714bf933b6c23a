"""The world model as dynamics: many candidates, few points each, image features encoded once.

The result of `pointworld.model.rollout.predict` for planning: each candidate sees only the points that its gripper
comes nearest to (task points first), what depends on images alone is computed once per scene, and gradients can flow
back to the actions. Points that are left out stay where they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch

from pointworld.errors import InputError
from pointworld.model.inputs import ModelInputs, clusters_of
from pointworld.model.normalisation import VARIANCE_CEILING, VARIANCE_FLOOR
from pointworld.model.prepare import pad_steps
from pointworld.model.rollout import carry_normals
from pointworld.model.world_model import WorldModel
from pointworld.plan.actions import Actions
from pointworld.plan.dynamics import PlanState
from pointworld.plan.trajectory import Trajectory
from pointworld.types import RobotFlow, ScenePoints

Tensor = torch.Tensor

#: Surface points per step that decide what lies near the gripper's path.
_PATH_POINTS = 24
#: Task points count as this much nearer [m], so that they stay in view first.
_TASK_BONUS = 0.05
#: Scene points farther than this from every candidate's path are not even considered, if enough others are left [m].
_FAR = 0.25


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelDynamics:
    """A world model in `stable` mode. It computes where the model is; results lie where the actions do.

    context: scene points per candidate in the network; 0 = all (the model's own limit still holds).
    max_tokens: bound on the tokens (points + chosen robot points x steps) of the candidates in the network together,
        and so on memory; small groups also run faster on a CPU, where they fit its caches.
    gradients: let gradients flow to the actions (for the gradient planner).
    """

    model: WorldModel
    context: int = 400
    max_tokens: int = 8192
    gradients: bool = False
    domain: str | None = None
    _images: dict[str, tuple[ScenePoints, Tensor]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.model.spec.mode != "stable":
            raise InputError(
                f"planning needs a model in 'stable' mode, this one is '{self.model.spec.mode}': there the candidates "
                "of a batch would change each other's result"
            )
        if self.context < 0 or self.max_tokens < 1:
            raise InputError("context must be at least 0 and max_tokens at least 1")

    def rollout(self, state: PlanState, actions: Actions) -> Trajectory:
        """See `Dynamics`.

        Raises:
            InputError: the actions' step, the gripper's channels or the scene's image features do not fit the model.
        """
        self._check(actions)
        model = self.model
        scene = replace(state.scene, clusters=clusters_of(state.scene))
        scene = scene.to(model.device, model.dtype)
        flow = actions.robot_flow.to(model.device, model.dtype)
        group = self._group(len(scene), flow.positions.shape[-2])
        training = model.training
        model.eval()
        try:
            with torch.set_grad_enabled(self.gradients):
                images = self._image_tokens(state.scene, scene)
                held = _held(state, actions, scene)
                parts = [
                    self._predict(
                        scene,
                        images,
                        state.task_index,
                        _rows(flow, first, first + group),
                        None if held is None else held.rows(first, first + group),
                    )
                    for first in range(0, len(actions), group)
                ]
        finally:
            model.train(training)
        back = actions.joint_positions.device
        return Trajectory(
            positions=torch.cat([positions for positions, _ in parts]).to(back),
            variance=torch.cat([variance for _, variance in parts]).to(back),
            actions=actions,
        )

    def _check(self, actions: Actions) -> None:
        spec = self.model.spec
        step_dt = spec.step_dt_of(self.domain)
        if not math.isclose(actions.step_dt, step_dt, rel_tol=0.01):
            raise InputError(
                f"actions have steps of {actions.step_dt:.4g} s, the model was trained at {step_dt:.4g} s"
            )
        grippers = int(actions.robot_flow.gripper_open.shape[-1])
        if grippers != spec.grippers:
            raise InputError(
                f"the robot has {grippers} gripper channel(s), the model expects {spec.grippers}"
            )

    def _group(self, points: int, surface: int) -> int:
        spec = self.model.spec
        scene = min(n for n in (points, self.context, spec.context_points) if n > 0)
        robot = min(n for n in (surface, spec.robot_tokens) if n > 0)
        return max(1, self.max_tokens // (scene + spec.num_steps * robot))

    def _image_tokens(self, key: ScenePoints, scene: ScenePoints) -> Tensor | None:
        """What images alone say about the points (1, points, C), kept until another scene comes."""
        if scene.features is None or not self.model.spec.image_channels:
            return None
        known = self._images.get("last")
        if known is None or known[0] is not key:
            with torch.no_grad():
                tokens = self.model.encode_images(scene.features[None])
            assert tokens is not None
            known = self._images["last"] = (key, tokens)
        return known[1]

    def _predict(
        self,
        scene: ScenePoints,
        images: Tensor | None,
        task: Tensor | None,
        flow: RobotFlow,
        held: _Carried | None,
    ) -> tuple[Tensor, Tensor]:
        """Positions (samples, steps, points, 3) and variance (samples, steps, points) of a group, chunk by chunk."""
        count, steps, horizon = len(flow.positions), flow.num_steps, self.model.spec.horizon
        points = scene.points.expand(count, -1, -1)
        normals = scene.normals.expand(count, -1, -1)
        if held is not None:
            points = held.put(points, 0)
            normals = normals.index_copy(1, held.index, held.normals)
        variance = points.new_zeros(count, len(scene))
        positions, variances = [points[:, None]], [variance[:, None]]
        for start in range(0, steps - 1, horizon):
            stop = min(start + horizon + 1, steps)
            chunk = pad_steps(flow.steps(start, stop), self.model.spec.num_steps)
            path = chunk.positions.detach()
            seen = task
            if held is not None:
                # A tool works where it comes to, however far below the hand that is.
                path = torch.cat([path, held.over(start, path.shape[1])], 2)
                seen = held.index if task is None else torch.cat([task.to(held.index), held.index])
            chosen = self._chosen(points.detach(), path, seen)
            moved, spread = self._chunk(scene, images, points, normals, chunk, chosen)
            taken = stop - start - 1
            ahead = points[:, None] + moved[:, 1 : taken + 1]
            if held is not None:
                ahead = held.put_all(ahead, start + 1)
            positions.append(ahead)
            variances.append(variance[:, None] + spread[:, 1 : taken + 1])
            if stop < steps:
                target = ahead[:, -1]
                normals = carry_normals(points.detach(), target.detach(), normals)
                points, variance = target, variance + spread[:, horizon]
        return torch.cat(positions, 1), torch.cat(variances, 1)

    def _chunk(
        self,
        scene: ScenePoints,
        images: Tensor | None,
        points: Tensor,
        normals: Tensor,
        chunk: RobotFlow,
        chosen: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Displacements (samples, steps, points, 3) and their variance (samples, steps, points) over one chunk."""
        count = len(points)
        colors = scene.colors.expand(count, -1, -1)
        clusters = clusters_of(scene).expand(count, -1)
        tokens = None if images is None else images.expand(count, -1, -1)
        whole = points.shape[1]
        if chosen is not None:
            points, normals, colors = (_take(x, chosen) for x in (points, normals, colors))
            clusters = clusters.gather(1, chosen)
            tokens = None if tokens is None else _take(tokens, chosen)
        domain = 0 if self.domain is None else self.model.spec.domain_index(self.domain)
        device = points.device
        inputs = ModelInputs(
            scene_points=points,
            scene_colors=colors,
            scene_normals=normals,
            scene_features=None,
            scene_clusters=clusters,
            scene_exists=torch.ones(points.shape[:2], dtype=torch.bool, device=device),
            robot_positions=chunk.positions,
            robot_normals=chunk.normals,
            robot_exists=torch.ones(chunk.positions.shape[:-1], dtype=torch.bool, device=device),
            gripper_open=chunk.gripper_open,
            domain=torch.full((count,), domain, dtype=torch.int64, device=device),
        )
        outputs = self.model(inputs, image_tokens=tokens)
        low, high = math.log(VARIANCE_FLOOR), math.log(VARIANCE_CEILING)
        scale = self.model.norm_stats_per_step_var[domain].clamp_min(VARIANCE_FLOOR).mean(-1)
        variance = outputs.log_var[..., 0].clamp(low, high).exp() * scale[None, :, None]
        if chosen is None:
            return outputs.displacements, variance
        index = chosen[:, None, :].expand(-1, variance.shape[1], -1)
        still = variance.new_zeros(*variance.shape[:2], whole)
        moved = still[..., None].expand(-1, -1, -1, 3)
        spread = still.scatter(2, index, variance)
        return moved.scatter(
            2, index[..., None].expand(-1, -1, -1, 3), outputs.displacements
        ), spread

    @torch.no_grad()
    def _chosen(self, points: Tensor, surface: Tensor, task: Tensor | None) -> Tensor | None:
        """Indices (samples, context), ascending, of the points that the network sees; None = all of them."""
        total = points.shape[1]
        if not 0 < self.context < total:
            return None
        stride = max(1, surface.shape[2] // _PATH_POINTS)
        path = surface[:, :, ::stride].flatten(1, 2)
        lower, upper = path.amin((0, 1)) - _FAR, path.amax((0, 1)) + _FAR
        near = ((points > lower) & (points < upper)).all(-1).any(0)
        rows = near.nonzero()[:, 0]
        if len(rows) <= self.context:
            rows = torch.arange(total, device=points.device)
        reach = torch.cdist(points[:, rows], path).amin(-1)
        if task is not None:
            reach = reach - _TASK_BONUS * torch.isin(rows, task.to(rows)).to(reach)
        found = reach.topk(self.context, dim=1, largest=False, sorted=False).indices
        return rows[found].sort(dim=1).values


@dataclass(frozen=True, kw_only=True, eq=False)
class _Carried:
    """What the hand holds. index: (held,) scene points. positions: (samples, steps, held, 3), normals: at step 0."""

    index: Tensor
    positions: Tensor
    normals: Tensor

    def rows(self, first: int, last: int) -> _Carried:
        """Of some of the candidates."""
        return replace(self, positions=self.positions[first:last], normals=self.normals[first:last])

    def put(self, points: Tensor, step: int) -> Tensor:
        """Scene points (samples, points, 3) with those that are held where they are at a step."""
        return points.index_copy(1, self.index, self.positions[:, step])

    def put_all(self, points: Tensor, first: int) -> Tensor:
        """As `put`, for points (samples, steps, points, 3) from step `first` on."""
        mine = self.positions[:, first : first + points.shape[1]]
        return points.index_copy(2, self.index, mine)

    def over(self, first: int, count: int) -> Tensor:
        """(samples, count, held, 3) places from a step on, standing still at the end of what is known."""
        last = self.positions.shape[1] - 1
        steps = (first + torch.arange(count, device=self.positions.device)).clamp(max=last)
        return self.positions[:, steps].detach()


def _held(state: PlanState, actions: Actions, scene: ScenePoints) -> _Carried | None:
    if state.held is None or len(state.held.index) == 0:
        return None
    index = state.held.index.to(scene.points.device)
    T = state.held.motions(actions).to(scene.points)
    places = scene.points[index] @ T[..., :3, :3].mT + T[..., None, :3, 3]
    return _Carried(
        index=index, positions=places, normals=scene.normals[index] @ T[:, 0, :3, :3].mT
    )


def _take(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def _rows(flow: RobotFlow, start: int, stop: int) -> RobotFlow:
    return RobotFlow(
        positions=flow.positions[start:stop],
        normals=flow.normals[start:stop],
        gripper_open=flow.gripper_open[start:stop],
        step_dt=flow.step_dt,
    )
