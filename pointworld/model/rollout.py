"""Predictions of any length for any number of candidate robot motions on one scene.

The robot's path is cut into chunks of the model's horizon. After each chunk the scene points move to where they were
predicted and their normals turn with them; colours and image features are carried; nothing is voxelised again. The last
chunk is padded by letting the robot stand still, and its surplus steps are dropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from scipy.spatial import cKDTree

from pointworld.errors import InputError
from pointworld.geometry import fit_rigid
from pointworld.model.inputs import ModelInputs, ModelOutputs, clusters_of
from pointworld.model.normalisation import SIMULATED_VARIANCE, VARIANCE_CEILING, VARIANCE_FLOOR
from pointworld.model.prepare import pad_steps, prepare_released
from pointworld.types import FlowPrediction, RobotFlow, ScenePoints

if TYPE_CHECKING:
    from pointworld.model.world_model import WorldModel

Tensor = torch.Tensor
Precision = Literal["float32", "bfloat16"]

#: Tokens (scene points + robot points x steps) of all candidates that go through the network together. They bound
#: memory; more at once is hardly faster, because the network is bound by arithmetic (see docs/checkpoints.md).
MAX_TOKENS = 32_768
#: Points that moved less than this keep their normal [m].
STILL = 1e-3
#: Neighbours whose motion differs by more than a few of these belong to another body [m].
MOTION_SPREAD = 0.01
NEIGHBOURS = 16


def products_in(precision: Precision, device: torch.device) -> torch.autocast:
    """Context in which a network computes its matrix products in this precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


@dataclass
class _State:
    """Where a group of candidates is between two chunks (positions are absolute, variance in square metres)."""

    points: Tensor
    normals: Tensor
    variance: Tensor | None = None
    kept: list[Tensor] | None = None


def predict(
    model: WorldModel,
    scene: ScenePoints,
    robot_flow: RobotFlow,
    *,
    domain: str | None = None,
    max_tokens: int = MAX_TOKENS,
    precision: Precision = "float32",
) -> FlowPrediction:
    """Motion of every scene point under each candidate robot motion.

    Args:
        model: any mode. In `released` mode every candidate runs alone, because there the samples of a batch share a
            lattice and would change each other's result.
        scene: in the base frame, with the image features the model was made for.
        robot_flow: (*batch, steps, ...) in the base frame, any number of steps >= 2, at the model's `step_dt`.
        domain: row of the normalisation buffers; the first when absent.
        max_tokens: bound on the tokens that are in the network at once, and so on memory.
        precision: of the network's matrix products; geometry, sums and attention on a CPU stay float32. bfloat16
            changes displacements by under 1 % (root mean square) and is about twice as fast.

    Returns:
        displacements (*batch, steps, points, 3) [m], log_var (*batch, steps, points, 1). Over chunks variances add up.

    Raises:
        InputError: empty scene, wrong `step_dt`, gripper channels or image features.
    """
    spec = model.spec
    step_dt = spec.step_dt_of(domain)
    _check(model, scene, robot_flow, step_dt)
    row = 0 if domain is None else spec.domain_index(domain)
    scene = replace(scene, clusters=clusters_of(scene)).to(model.device, model.dtype)
    flow = _flat(robot_flow.to(model.device, model.dtype))
    count = flow.positions.shape[0]
    tokens = len(scene) + spec.num_steps * flow.positions.shape[-2]
    group = 1 if spec.mode == "released" else max(1, min(count, max_tokens // tokens))
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), products_in(precision, model.device):
            image_tokens = None if scene.features is None else model.encode_images(scene.features)
            parts = [
                _predict_group(
                    model, scene, image_tokens, _candidates(flow, start, start + group), row
                )
                for start in range(0, count, group)
            ]
    finally:
        model.train(training)
    shape = robot_flow.batch_shape
    displacements = torch.cat([part[0] for part in parts])
    log_var = torch.cat([part[1] for part in parts])
    return FlowPrediction(
        displacements=displacements.reshape(*shape, *displacements.shape[1:]),
        log_var=log_var.reshape(*shape, *log_var.shape[1:]),
        step_dt=step_dt,
    )


def _check(model: WorldModel, scene: ScenePoints, robot_flow: RobotFlow, step_dt: float) -> None:
    spec = model.spec
    if len(scene) == 0:
        raise InputError(
            "the scene has no points: nothing to predict. Is the workspace box where the scene is?"
        )
    if robot_flow.num_steps < 2:
        raise InputError(
            f"robot flow has {robot_flow.num_steps} step, expected now and at least one later"
        )
    if not math.isclose(robot_flow.step_dt, step_dt, rel_tol=0.01):
        raise InputError(
            f"robot flow has step_dt {robot_flow.step_dt:.4g} s, this model was trained at {step_dt:.4g} s. "
            f"Resample the joint path with resample_joint_path(path, {step_dt:.6g})"
        )
    grippers = int(robot_flow.gripper_open.shape[-1])
    fewer_allowed = spec.mode == "released" and 1 <= grippers < spec.grippers
    if grippers != spec.grippers and not fewer_allowed:
        raise InputError(
            f"robot flow has {grippers} gripper channel(s), the model expects {spec.grippers}"
        )
    channels = 0 if scene.features is None else int(scene.features.shape[-1])
    if spec.image_channels and channels != spec.image_channels:
        raise InputError(
            f"scene points have {channels} image feature channels, this model needs {spec.image_channels} from the "
            f"encoder '{spec.encoder}': pass encoder=load_encoder('{spec.encoder}') to build_scene"
        )


def _flat(flow: RobotFlow) -> RobotFlow:
    return RobotFlow(
        positions=flow.positions.reshape(-1, *flow.positions.shape[-3:]),
        normals=flow.normals.reshape(-1, *flow.normals.shape[-3:]),
        gripper_open=flow.gripper_open.reshape(-1, *flow.gripper_open.shape[-2:]),
        step_dt=flow.step_dt,
    )


def _candidates(flow: RobotFlow, start: int, stop: int) -> RobotFlow:
    return RobotFlow(
        positions=flow.positions[start:stop],
        normals=flow.normals[start:stop],
        gripper_open=flow.gripper_open[start:stop],
        step_dt=flow.step_dt,
    )


def _predict_group(
    model: WorldModel, scene: ScenePoints, image_tokens: Tensor | None, flow: RobotFlow, domain: int
) -> tuple[Tensor, Tensor]:
    """All chunks of a few candidates: displacements (candidates, steps, points, 3) and log_var (..., 1)."""
    count, steps, horizon = flow.positions.shape[0], flow.num_steps, model.spec.horizon
    start_points = scene.points.expand(count, -1, -1)
    state = _State(points=start_points, normals=scene.normals.expand(count, -1, -1))
    displacements = start_points.new_zeros(count, steps, len(scene), 3)
    log_var = start_points.new_full((count, steps, len(scene), 1), math.nan)
    scale = (
        model.norm_stats_per_step_var[domain]
        .clamp_min(VARIANCE_FLOOR)
        .mean(-1)[None, :, None, None]
    )
    for start in range(0, steps - 1, horizon):
        stop = min(start + horizon + 1, steps)
        chunk = pad_steps(flow.steps(start, stop), model.spec.num_steps)
        if model.spec.mode == "released":
            moved, chunk_log_var = _released_chunk(model, scene, state, chunk, domain, image_tokens)
        else:
            outputs = _stable_chunk(model, scene, state, chunk, domain, image_tokens)
            moved, chunk_log_var = outputs.displacements, outputs.log_var
        low, high = math.log(VARIANCE_FLOOR), math.log(VARIANCE_CEILING)
        variance = chunk_log_var.clamp(low, high).exp() * scale
        if state.variance is not None:
            variance = variance + state.variance[:, None]
            chunk_log_var = (variance / scale).log()
        taken = stop - start - 1
        offset = (state.points - start_points)[:, None]
        displacements[:, start + 1 : stop] = offset + moved[:, 1 : taken + 1]
        log_var[:, start + 1 : stop] = chunk_log_var[:, 1 : taken + 1]
        if stop < steps:
            target = state.points + moved[:, horizon]
            normals = carry_normals(state.points, target, state.normals)
            state = replace(state, points=target, normals=normals, variance=variance[:, horizon])
    return displacements, log_var


def _stable_chunk(
    model: WorldModel,
    scene: ScenePoints,
    state: _State,
    chunk: RobotFlow,
    domain: int,
    image_tokens: Tensor | None,
) -> ModelOutputs:
    count, points = state.points.shape[:2]
    device = state.points.device
    inputs = ModelInputs(
        scene_points=state.points,
        scene_colors=scene.colors.expand(count, -1, -1),
        scene_normals=state.normals,
        scene_features=None,
        scene_clusters=clusters_of(scene).expand(count, -1),
        scene_exists=torch.ones(count, points, dtype=torch.bool, device=device),
        robot_positions=chunk.positions,
        robot_normals=chunk.normals,
        robot_exists=torch.ones(chunk.positions.shape[:-1], dtype=torch.bool, device=device),
        gripper_open=chunk.gripper_open,
        domain=torch.full((count,), domain, dtype=torch.int64, device=device),
    )
    return model(inputs, image_tokens=None if image_tokens is None else image_tokens[None])


def _released_chunk(
    model: WorldModel,
    scene: ScenePoints,
    state: _State,
    chunk: RobotFlow,
    domain: int,
    image_tokens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """One candidate in the released frame; points that are no tokens move with the nearest token."""
    current = replace(scene, points=state.points[0], normals=state.normals[0])
    kept = None if state.kept is None else state.kept[0]
    flow = RobotFlow(
        positions=chunk.positions[0],
        normals=chunk.normals[0],
        gripper_open=chunk.gripper_open[0],
        step_dt=chunk.step_dt,
    )
    prepared = prepare_released(current, flow, model.spec, domain=domain, kept=kept)
    state.kept = [prepared.kept]
    tokens = None if image_tokens is None else image_tokens[prepared.kept][None]
    outputs = model(prepared.inputs, image_tokens=tokens)
    log_var = outputs.log_var
    if model.spec.domains[domain] in model.spec.simulated_domains:
        # The release did not train the log-variance of simulated domains and states a constant instead.
        log_var = torch.full_like(log_var, math.log(SIMULATED_VARIANCE))
    rows = nearest_row(current.points, current.points[prepared.kept])
    return outputs.displacements[:, :, rows], log_var[:, :, rows]


def nearest_row(points: Tensor, tokens: Tensor) -> Tensor:
    """For each of `points` (points, 3), the index of the nearest of `tokens` (tokens, 3)."""
    _, index = cKDTree(tokens.detach().cpu().numpy()).query(points.detach().cpu().numpy())
    return torch.from_numpy(np.asarray(index, dtype=np.int64)).to(points.device)


def carry_normals(before: Tensor, after: Tensor, normals: Tensor) -> Tensor:
    """Turn normals with the motion of their surroundings.

    Each moved point takes the best rotation of the moved points nearest to it, in which a neighbour counts less the
    more its own motion differs (it is then likely part of another body).

    Args:
        before, after: (batch, points, 3) [m]. normals: (batch, points, 3) unit.
    """
    with torch.autocast(before.device.type, enabled=False):
        return _carry_normals(before, after, normals)


def _carry_normals(before: Tensor, after: Tensor, normals: Tensor) -> Tensor:
    turned = normals.clone()
    for index in range(before.shape[0]):
        motion = after[index] - before[index]
        rows = (motion.norm(dim=-1) > STILL).nonzero()[:, 0]
        if len(rows) == 0:
            continue
        source, motion = before[index, rows], motion[rows]
        places = source.cpu().numpy()
        _, found = cKDTree(places).query(places, k=min(NEIGHBOURS, len(rows)))
        near = torch.from_numpy(np.asarray(found, dtype=np.int64).reshape(len(rows), -1))
        near = near.to(source.device)
        difference = (motion[near] - motion[:, None]).norm(dim=-1)
        weights = torch.exp(-0.5 * (difference / MOTION_SPREAD) ** 2)
        rotation = fit_rigid(source[near], (source + motion)[near], weights)[:, :3, :3]
        turned[index, rows] = (rotation @ normals[index, rows, :, None])[..., 0]
    return turned
