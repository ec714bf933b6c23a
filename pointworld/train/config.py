"""How a model is trained, and the learning rate that follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from pointworld.errors import InputError
from pointworld.train.augment import AugmentConfig
from pointworld.train.losses import LossConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a model is trained.

    minutes: wall-clock budget, over sessions; the learning rate follows it. 0 = use `steps` instead.
    steps: number of optimiser steps when `minutes` is 0.
    batch_size: samples per step, over all processes. optimiser: `adamw` as in the release,
        or `muon` for the backbone's matrices. learning_rate, weight_decay, clip_norm: of either, and the gradient.
    schedule: after the warm-up a cosine down to 2 %, or constant as in the release.
    warmup: share of the budget with a rising learning rate.
    average: decay of the averaged weights that are evaluated and shipped.
    precision: of matrix products and attention; weights, sums and the loss stay float32.
    recompute: keep only the input of every backbone block and compute the rest again for the gradient: less memory,
        about a third more time.
    validate_every, save_every: steps.
    """

    minutes: float = 60.0
    steps: int = 5000
    batch_size: int = 8
    optimiser: Literal["muon", "adamw"] = "muon"
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"
    recompute: bool = False
    warmup: float = 0.03
    average: float = 0.998
    validate_every: int = 250
    save_every: int = 250
    seed: int = 0
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}, expected 0 or more")


def learning_rate(config: TrainConfig, progress: float) -> float:
    """Learning rate at a share of the budget in [0, 1]."""
    if progress < config.warmup:
        return config.learning_rate * max(progress / config.warmup, 0.01)
    if config.schedule == "constant":
        return config.learning_rate
    done = min((progress - config.warmup) / (1 - config.warmup), 1.0)
    return config.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
