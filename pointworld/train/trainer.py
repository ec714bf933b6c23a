"""Train a world model on cached samples: AdamW, warm-up and cosine, averaged weights, exact resumption."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pointworld.files import atomic_path
from pointworld.model import ModelSpec, WorldModel, collate
from pointworld.model.normalisation import moments
from pointworld.train.augment import AugmentConfig, TrainingSample, augment, whole
from pointworld.train.cache import CachedSample
from pointworld.train.losses import LossConfig, flow_loss, loss_weights
from pointworld.train.metrics import moved_mask
from pointworld.train.state import TrainState, read_state, write_state

Tensor = torch.Tensor

VALIDATION_CLIPS, VALIDATION_POINTS = 64, 600


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a model is trained.

    minutes: wall-clock budget, over sessions; the learning rate follows it. 0 = use `steps` instead.
    steps: number of optimiser steps when `minutes` is 0.
    batch_size, learning_rate, weight_decay, clip_norm: of AdamW and the gradient.
    warmup: share of the budget with a rising learning rate; then a cosine down to 2 %.
    average: decay of the averaged weights that are evaluated and shipped.
    validate_every, save_every: steps.
    """

    minutes: float = 60.0
    steps: int = 5000
    batch_size: int = 8
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    warmup: float = 0.03
    average: float = 0.998
    validate_every: int = 250
    save_every: int = 250
    seed: int = 0
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


def learning_rate(config: TrainConfig, progress: float) -> float:
    """Learning rate at a share of the budget in [0, 1]."""
    if progress < config.warmup:
        return config.learning_rate * max(progress / config.warmup, 0.01)
    done = min((progress - config.warmup) / (1 - config.warmup), 1.0)
    return config.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def set_normalisation(model: WorldModel, samples: Sequence[CachedSample], *, seed: int) -> None:
    """Fill the model's normalisation buffers from training samples (real points only, never padding).

    Displacements get mean 0 and, per step, one variance for all three axes, that of points on moving bodies: a
    direction must not matter for a model that is trained on all of them.
    """
    generator = torch.Generator().manual_seed(seed)
    config = AugmentConfig()
    spread = torch.zeros(model.spec.num_steps)
    count = 0
    scene_rows, robot_rows = [], []
    for sample in samples:
        drawn = augment(
            sample,
            config,
            generator,
            step_dt=model.spec.step_dt,
            voxel_size=model.spec.grid_size,
        )
        moved = moved_mask(drawn.displacements).any(0)
        spread += drawn.displacements[:, moved].square().mean(-1).sum(-1)
        count += int(moved.sum())
        raw_scene, raw_robot = model.raw_features(collate([(drawn.scene, drawn.robot)]))
        scene_rows.append(raw_scene[0])
        robot_rows.append(raw_robot[0].flatten(0, 1))
    variance = (spread / max(count, 1)).clamp_min(1e-6)
    with torch.no_grad():
        model.norm_stats_per_step_mean.zero_()
        model.norm_stats_per_step_var.copy_(
            variance[None, :, None].expand_as(model.norm_stats_per_step_var)
        )
        for name, rows in (("scene", scene_rows), ("robot", robot_rows)):
            mean, var = moments(rows)
            getattr(model, f"{name}_norm_mean").copy_(
                mean.expand_as(getattr(model, f"{name}_norm_mean"))
            )
            getattr(model, f"{name}_norm_var").copy_(
                var.clamp_min(1e-4).expand_as(getattr(model, f"{name}_norm_var"))
            )


def batch_loss(model: WorldModel, batch: Sequence[TrainingSample], loss: LossConfig) -> Tensor:
    """Loss of one batch."""
    inputs = collate([(item.scene, item.robot) for item in batch])
    target = torch.zeros(
        *inputs.scene_exists.shape[:1], model.spec.num_steps, inputs.scene_exists.shape[1], 3
    )
    for row, item in enumerate(batch):
        target[row, :, : len(item.scene)] = item.displacements
    valid = inputs.scene_exists[:, None].expand(target.shape[:-1]).clone()
    valid[:, 0] = False
    outputs = model(inputs)
    return flow_loss(
        outputs.pred_norm,
        outputs.log_var,
        model.normalise_displacements(target, inputs.domain),
        loss_weights(target, valid, static_weight=loss.static_weight),
        variance_power=loss.variance_power,
    )


@torch.no_grad()
def validate(model: WorldModel, samples: Sequence[CachedSample]) -> dict[str, float]:
    """Mover error over no motion, and error of points at rest [mm], on crops of a few clips."""
    moved_error, moved_length, rest = [], [], []
    for start in range(0, len(samples), 8):
        batch = [
            whole(s, step_dt=model.spec.step_dt, max_points=VALIDATION_POINTS)
            for s in samples[start : start + 8]
        ]
        outputs = model(collate([(item.scene, item.robot) for item in batch]))
        for row, item in enumerate(batch):
            error = (outputs.displacements[row, :, : len(item.scene)] - item.displacements).norm(
                dim=-1
            )
            moved = moved_mask(item.displacements)
            still = item.displacements.norm(dim=-1).amax(0) < 1e-3
            rest.append(error[1:, still].mean())
            if moved.any():
                moved_error.append(error[moved].mean())
                moved_length.append(item.displacements.norm(dim=-1)[moved].mean())
    ratio = torch.stack(moved_error).mean() / torch.stack(moved_length).mean()
    return {"moved_ratio": float(ratio), "rest_mm": float(torch.stack(rest).nanmean()) * 1e3}


def prepare_heads(model: WorldModel) -> None:
    """Start with unit variance: the release's start, ln(0.005^2), would let the first steps see static points only."""
    last = model.dynamics_predictor.log_var_head[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.bias.zero_()
        last.weight.mul_(0.1)


def train(
    spec: ModelSpec,
    samples: Sequence[CachedSample],
    validation: Sequence[CachedSample],
    folder: str | Path,
    config: TrainConfig,
    *,
    on_step: Callable[[int, float], None] | None = None,
) -> WorldModel:
    """Train, or continue the run in `folder`, and return the averaged model.

    Args:
        on_step: called with the step and the share of the budget that is used.

    Raises:
        InputError: the folder holds a run of another configuration.
    """
    torch.manual_seed(config.seed)
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    model = WorldModel(spec)
    prepare_heads(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    state = read_state(out, model, optimizer, config)
    if state is None:
        set_normalisation(model, samples[:400], seed=config.seed)
        state = TrainState.start(model, config.seed)
    loop = _Loop(model, optimizer, state, samples, validation, out, config)
    loop.run(on_step)
    return state.averaged_model(model)


class _Loop:
    def __init__(
        self,
        model: WorldModel,
        optimizer: torch.optim.Optimizer,
        state: TrainState,
        samples: Sequence[CachedSample],
        validation: Sequence[CachedSample],
        out: Path,
        config: TrainConfig,
    ) -> None:
        self.model, self.optimizer, self.state = model, optimizer, state
        self.samples, self.validation = samples, validation[:VALIDATION_CLIPS]
        self.out, self.config = out, config
        self.resumed_at, self.elapsed_before = time.monotonic(), state.elapsed

    def progress(self) -> float:
        if self.config.minutes > 0:
            return self.state.elapsed / (60 * self.config.minutes)
        return self.state.step / self.config.steps

    def run(self, on_step: Callable[[int, float], None] | None) -> None:
        config, state = self.config, self.state
        losses: list[float] = []
        while self.progress() < 1.0:
            losses.append(self._step())
            state.elapsed = self.elapsed_before + time.monotonic() - self.resumed_at
            if on_step is not None:
                on_step(state.step, min(self.progress(), 1.0))
            if state.step % config.validate_every == 0 or self.progress() >= 1.0:
                self._log(sum(losses) / len(losses))
                losses.clear()
            if state.step % config.save_every == 0 or self.progress() >= 1.0:
                write_state(self.out, self.model, self.optimizer, state, config)

    def _step(self) -> float:
        config, state, spec = self.config, self.state, self.model.spec
        chosen = torch.randint(len(self.samples), (config.batch_size,), generator=state.generator)
        batch = [
            augment(
                self.samples[int(i)],
                config.augment,
                state.generator,
                step_dt=spec.step_dt,
                voxel_size=spec.grid_size,
            )
            for i in chosen
        ]
        self.model.train()
        loss = batch_loss(self.model, batch, config.loss)
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        state.step += 1
        if not bool(torch.isfinite(norm)):
            return math.nan
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.progress())
        self.optimizer.step()
        state.average_in(self.model, config.average)
        return float(loss.detach())

    def _log(self, loss: float) -> None:
        averaged = self.state.averaged_model(self.model)
        scores = validate(averaged, self.validation)
        row = {
            "step": self.state.step,
            "minutes": round(self.state.elapsed / 60, 3),
            "samples": self.state.step * self.config.batch_size,
            "learning_rate": round(learning_rate(self.config, self.progress()), 7),
            "loss": round(loss, 5),
            **{name: round(value, 5) for name, value in scores.items()},
        }
        self.state.curve.append(row)
        write_curve(self.out / "curve.csv", self.state.curve)


def write_curve(path: Path, rows: Sequence[dict[str, float]]) -> None:
    """Write the learning curve as CSV."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
