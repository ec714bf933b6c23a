"""Train the graph-network baseline on the samples, loss and augmentation that the world model is trained with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pointworld.model import ModelInputs, collate
from pointworld.model.hand_frame import hand_frame
from pointworld.train.augment import TrainingSample, augment, whole
from pointworld.train.cache import CachedSample, spread_out
from pointworld.train.config import TrainConfig, learning_rate
from pointworld.train.graph_model import GraphModel, GraphSpec
from pointworld.train.losses import flow_loss, loss_weights, movement_selector, weight_total
from pointworld.train.metrics import moved_mask, summarise
from pointworld.train.state import TrainState, read_state, write_state

Tensor = torch.Tensor

VOXEL = 0.015
#: Samples from which the unit of motion is measured, and validation samples.
MEASURED, VALIDATED = 200, 64


@dataclass(frozen=True, kw_only=True)
class GraphTraining:
    """What a training run reached.

    steps: optimiser steps. seconds: wall clock, over all sessions. losses: mean per tenth of the run.
    moved_ratio: mover error over no motion on validation samples; None without movers.
    """

    steps: int
    seconds: float
    losses: tuple[float, ...]
    moved_ratio: float | None


def train_graph(
    samples: Sequence[CachedSample],
    validation: Sequence[CachedSample],
    folder: str | Path,
    config: TrainConfig,
    *,
    spec: GraphSpec | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> tuple[GraphModel, GraphTraining]:
    """Train, or continue the run in `folder`, for `config.minutes` of wall clock, or `config.steps` when they are 0.

    Returns the averaged model. Precision and recomputation are the world model's and have no use here.

    Raises:
        InputError: the folder holds a run of another configuration.
    """
    torch.manual_seed(config.seed)
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    model = GraphModel(spec or GraphSpec())
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    state = read_state(out, model, optimizer, config)
    if state is None:
        measure_scale(model, spread_out(samples, MEASURED))
        state = TrainState.start(model)
    before, resumed_at = state.elapsed, time.monotonic()
    while (share := _share(state, config)) < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, share)
        loss = graph_loss(model, _batch(model.spec, samples, config, state.step), config)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        state.step += 1
        state.average_in(model, config.average)
        state.curve.append({"step": float(state.step), "loss": float(loss.detach())})
        state.elapsed = before + time.monotonic() - resumed_at
        if state.step % config.save_every == 0:
            write_state(out, model, optimizer, state, config)
        if on_step is not None:
            on_step(state.step, min(_share(state, config), 1.0))
    write_state(out, model, optimizer, state, config)
    averaged = state.averaged_model(model)
    chosen = validation[:: max(1, math.ceil(len(validation) / VALIDATED))]
    return averaged, GraphTraining(
        steps=state.step,
        seconds=state.elapsed,
        losses=_tenths([row["loss"] for row in state.curve]),
        moved_ratio=moved_ratio(averaged, chosen),
    )


def _share(state: TrainState, config: TrainConfig) -> float:
    """Share of the budget that is used."""
    if config.minutes > 0:
        return state.elapsed / (60 * config.minutes)
    return state.step / config.steps


def _tenths(losses: Sequence[float]) -> tuple[float, ...]:
    size = max(1, len(losses) // 10)
    parts = [losses[i : i + size] for i in range(0, len(losses), size)]
    return tuple(round(sum(part) / len(part), 5) for part in parts)


def _batch(
    spec: GraphSpec, samples: Sequence[CachedSample], config: TrainConfig, step: int
) -> list[TrainingSample]:
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    chosen = torch.randint(len(samples), (config.batch_size,), generator=generator)
    return [
        augment(samples[int(i)], config.augment, generator, step_dt=spec.step_dt, voxel_size=VOXEL)
        for i in chosen
    ]


def _joined(batch: Sequence[TrainingSample]) -> tuple[ModelInputs, Tensor, Tensor, Tensor]:
    """Padded inputs, true displacements (batch, steps, points, 3) [m], where they are known after step 0, and which
    points (batch, points) are held.
    """
    inputs = collate([(item.scene, item.robot) for item in batch])
    rows, count = inputs.scene_exists.shape
    target = torch.zeros(rows, inputs.robot_exists.shape[1], count, 3)
    valid = torch.zeros(target.shape[:-1], dtype=torch.bool)
    held = torch.zeros(rows, count, dtype=torch.bool)
    for row, item in enumerate(batch):
        target[row, :, : len(item.scene)] = item.displacements
        valid[row, 1:, : len(item.scene)] = item.known()[1:]
        held[row, : len(item.scene)] = ~item.free()
    return inputs, target, valid, held


def graph_loss(model: GraphModel, batch: Sequence[TrainingSample], config: TrainConfig) -> Tensor:
    """The world model's loss of one batch."""
    inputs, target, valid, held = _joined(batch)
    outputs = model(inputs)
    weights = loss_weights(target, valid, config.loss, held=held)
    frame = hand_frame(inputs.robot_positions, inputs.robot_exists)
    return flow_loss(
        outputs.pred_norm,
        outputs.log_var,
        model.normalise(target, frame),
        weights / weight_total(weights),
        variance_power=config.loss.variance_power,
    )


@torch.no_grad()
def measure_scale(model: GraphModel, samples: Sequence[CachedSample]) -> None:
    """Set the unit of motion: root mean square over moving points of motion as a part of travel, per axis."""
    squares, counts = torch.zeros(len(model.scale)), torch.zeros(len(model.scale))
    for sample in samples:
        item = whole(sample, step_dt=model.spec.step_dt)
        inputs, target, valid, _ = _joined([item])
        travel = hand_frame(inputs.robot_positions, inputs.robot_exists).travel[0]
        part = (target[0] / travel[:, None, None]).square().mean(-1)
        moving = movement_selector(target)[0] * valid[0]
        squares += (part * moving).sum(-1)
        counts += moving.sum(-1)
    measured = (squares / counts.clamp_min(1e-6)).sqrt()
    model.scale.copy_(torch.where(counts > 1.0, measured, 1.0).clamp_min(1e-3))


@torch.no_grad()
def moved_ratio(model: GraphModel, samples: Sequence[CachedSample]) -> float | None:
    """Mover error over no motion on whole samples."""
    errors, lengths = [], []
    for sample in samples:
        item = whole(sample, step_dt=model.spec.step_dt)
        predicted, _ = model.predict(item.scene, item.robot)
        moved = moved_mask(item.displacements) & item.known() & item.free()
        errors.append(float((predicted - item.displacements).norm(dim=-1)[moved].mean()))
        lengths.append(float(item.displacements.norm(dim=-1)[moved].mean()))
    error, length = summarise(errors).mean, summarise(lengths).mean
    return None if not error or not length else error / length
