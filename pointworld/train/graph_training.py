"""Train the graph-network baseline on the samples, loss and augmentation that the world model is trained with."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pointworld.model import ModelInputs, collate
from pointworld.model.hand_frame import hand_frame
from pointworld.train.augment import TrainingSample, augment, whole
from pointworld.train.cache import CachedSample
from pointworld.train.config import TrainConfig, learning_rate
from pointworld.train.graph_model import GraphModel, GraphSpec
from pointworld.train.losses import flow_loss, loss_weights, movement_selector, weight_total
from pointworld.train.metrics import moved_mask, summarise

Tensor = torch.Tensor

VOXEL = 0.015
#: Samples from which the unit of motion is measured, and validation samples.
MEASURED, VALIDATED = 200, 64


@dataclass(frozen=True, kw_only=True)
class GraphTraining:
    """What a training run reached.

    steps: optimiser steps. seconds: wall clock. losses: mean per tenth of the run.
    moved_ratio: mover error over no motion on validation samples; None without movers.
    """

    steps: int
    seconds: float
    losses: tuple[float, ...]
    moved_ratio: float | None


def train_graph(
    samples: Sequence[CachedSample],
    validation: Sequence[CachedSample],
    config: TrainConfig,
    *,
    spec: GraphSpec | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> tuple[GraphModel, GraphTraining]:
    """Train for `config.minutes` of wall clock, or `config.steps` when they are 0; returns the averaged model.

    Precision, recomputation and the intervals of the configuration are the world model's and have no use here.
    """
    torch.manual_seed(config.seed)
    model = GraphModel(spec or GraphSpec())
    measure_scale(model, samples[:MEASURED])
    averaged = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    losses: list[float] = []
    start, share = time.monotonic(), 0.0
    while share < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, share)
        loss = graph_loss(model, _batch(model.spec, samples, config, len(losses)), config)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        losses.append(float(loss.detach()))
        _average_in(averaged, model, min(config.average, len(losses) / (10 + len(losses))))
        spent = (time.monotonic() - start) / 60
        share = spent / config.minutes if config.minutes > 0 else len(losses) / config.steps
        if on_step is not None:
            on_step(len(losses), min(share, 1.0))
    averaged.eval()
    return averaged, GraphTraining(
        steps=len(losses),
        seconds=time.monotonic() - start,
        losses=_tenths(losses),
        moved_ratio=moved_ratio(averaged, validation[:VALIDATED]),
    )


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


def _joined(batch: Sequence[TrainingSample]) -> tuple[ModelInputs, Tensor, Tensor]:
    """Padded inputs, true displacements (batch, steps, points, 3) [m], and where they are known after step 0."""
    inputs = collate([(item.scene, item.robot) for item in batch])
    rows, count = inputs.scene_exists.shape
    target = torch.zeros(rows, inputs.robot_exists.shape[1], count, 3)
    valid = torch.zeros(target.shape[:-1], dtype=torch.bool)
    for row, item in enumerate(batch):
        target[row, :, : len(item.scene)] = item.displacements
        valid[row, 1:, : len(item.scene)] = item.known()[1:]
    return inputs, target, valid


def graph_loss(model: GraphModel, batch: Sequence[TrainingSample], config: TrainConfig) -> Tensor:
    """The world model's loss of one batch."""
    inputs, target, valid = _joined(batch)
    outputs = model(inputs)
    weights = loss_weights(target, valid, static_weight=config.loss.static_weight)
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
        inputs, target, valid = _joined([item])
        travel = hand_frame(inputs.robot_positions, inputs.robot_exists).travel[0]
        part = (target[0] / travel[:, None, None]).square().mean(-1)
        moving = movement_selector(target)[0] * valid[0]
        squares += (part * moving).sum(-1)
        counts += moving.sum(-1)
    measured = (squares / counts.clamp_min(1e-6)).sqrt()
    model.scale.copy_(torch.where(counts > 1.0, measured, 1.0).clamp_min(1e-3))


@torch.no_grad()
def _average_in(averaged: GraphModel, model: GraphModel, decay: float) -> None:
    for mine, theirs in zip(averaged.parameters(), model.parameters(), strict=True):
        mine.lerp_(theirs, 1 - decay)


@torch.no_grad()
def moved_ratio(model: GraphModel, samples: Sequence[CachedSample]) -> float | None:
    """Mover error over no motion on whole samples."""
    errors, lengths = [], []
    for sample in samples:
        item = whole(sample, step_dt=model.spec.step_dt)
        predicted, _ = model.predict(item.scene, item.robot)
        moved = moved_mask(item.displacements) & item.known()
        errors.append(float((predicted - item.displacements).norm(dim=-1)[moved].mean()))
        lengths.append(float(item.displacements.norm(dim=-1)[moved].mean()))
    error, length = summarise(errors).mean, summarise(lengths).mean
    return None if not error or not length else error / length
