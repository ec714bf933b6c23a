"""LeJEPA pretraining of a small vision transformer."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from pointworld.encoders.lejepa import PatchViT, ViTSpec
from pointworld.errors import CheckpointError, InputError
from pointworld.files import atomic_path, write_text
from pointworld.train.jepa.crops import CropConfig, Crops, draw_crops
from pointworld.train.jepa.sigreg import SLICES, lejepa_loss

Tensor = torch.Tensor

STATE_FILE, CURVE_FILE = "state.safetensors", "curve.csv"
#: Position codes start anywhere up to here, so that images of this many patches each way hold no unknown position.
ORIGINS = 64
#: Steps between rows of the curve.
CURVE_EVERY = 20
BUDGETS = ("minutes", "steps", "save_every", "threads")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """How the network is pretrained.

    minutes: wall-clock budget, over sessions; 0 = use `steps`. steps: optimiser steps when `minutes` is 0.
    batch_size: images per step. learning_rate, weight_decay, clip_norm: of AdamW and the gradient; the rate rises over
        the share `warmup` of the budget and falls as a cosine to 2 %.
    sigreg: weight of SIGReg against invariance (lambda); without it, 0, embeddings collapse. slices: its directions.
    patches: weight of the loss on patch features at shared points against that on whole crops.
    embedding: dimensions in which the loss is measured. hidden: of the projections to it.
    precision: of matrix products. save_every: steps.
    """

    minutes: float = 45.0
    steps: int = 2000
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    warmup: float = 0.05
    sigreg: float = 0.05
    slices: int = SLICES
    patches: float = 1.0
    embedding: int = 64
    hidden: int = 384
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    save_every: int = 100
    seed: int = 0
    network: ViTSpec = field(default_factory=ViTSpec)
    crops: CropConfig = field(default_factory=CropConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.sigreg < 1 or self.batch_size < 2 or self.minutes < 0:
            raise InputError(
                f"sigreg {self.sigreg}, batch_size {self.batch_size}, minutes {self.minutes}: expected sigreg in "
                "[0, 1), at least 2 images, no negative minutes"
            )
        sizes = (self.crops.large_size, self.crops.small_size)
        if any(size % self.network.patch for size in sizes):
            raise InputError(
                f"crops of {sizes} px are no multiples of the {self.network.patch} px patch"
            )


class Student(nn.Module):
    """The network and the two projections in which the loss is measured; only the network is kept."""

    def __init__(self, config: PretrainConfig) -> None:
        super().__init__()
        width = config.network.width
        self.network = PatchViT(config.network)
        self.whole = _projection(width, config.hidden, config.embedding)
        self.local = _projection(width, config.hidden, config.embedding)

    def forward(self, crops: Crops, origins: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (views, B, dim) of whole crops, and (2, B * points, dim) of shared points.

        Args:
            origins: (large + small, B, 2) where position codes start.
        """
        large, batch = crops.large.shape[:2]
        tokens = self._tokens(crops.large, origins[:large])
        pooled = [tokens.mean(1)]
        if len(crops.small):
            pooled.append(self._tokens(crops.small, origins[large:]).mean(1))
        whole = self.whole(torch.cat(pooled)).view(-1, batch, self.whole[-1].out_features)
        side = crops.large.shape[-1] // self.network.spec.patch
        maps = tokens[: 2 * batch].transpose(1, 2).unflatten(2, (side, side))
        places = crops.places.flatten(0, 1)[:, None]
        sampled = F.grid_sample(maps.float(), places, padding_mode="border", align_corners=False)
        local = self.local(sampled[:, :, 0].transpose(1, 2).flatten(0, 1))
        return whole, local.view(2, -1, local.shape[-1])

    def _tokens(self, views: Tensor, origins: Tensor) -> Tensor:
        return self.network(views.flatten(0, 1), origins=origins.flatten(0, 1))[0]


def _projection(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.GELU(),
        nn.Linear(hidden, out),
    )


@dataclass(eq=False)
class PretrainState:
    """Progress: steps done, seconds over all sessions, rows of the curve."""

    step: int = 0
    elapsed: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)


def pretrain(
    images: Tensor,
    out: Path,
    config: PretrainConfig,
    *,
    device: torch.device | str = "cpu",
    on_step: Callable[[int, float], None] | None = None,
) -> tuple[PatchViT, list[dict[str, float]]]:
    """Pretrain on images (n, 3, h, w) uint8; a run whose state lies in `out` goes on.

    Every step draws its images, crops and directions from the seed and its number alone.

    Args:
        on_step: called after every step with its number and the share of the budget that is spent.

    Returns:
        The network and the curve: step, minutes, loss, sigreg and invariance of both losses, and the spread of
        whole-crop embeddings (standard deviation per dimension; 0 = collapsed, 1 = as SIGReg wants).

    Raises:
        InputError: fewer images than a batch, or `out` holds a run with other settings.
        CheckpointError: the state is damaged.
    """
    if len(images) < config.batch_size:
        raise InputError(f"{len(images)} images are fewer than a batch of {config.batch_size}")
    torch.manual_seed(config.seed)
    student = Student(config).to(device)
    optimizer = torch.optim.AdamW(
        _groups(student, config.weight_decay), lr=config.learning_rate, betas=(0.9, 0.95)
    )
    state = read_state(out, student, optimizer, config)
    began = time.perf_counter() - state.elapsed
    share = _share(config, state)
    while share < 1:
        for group in optimizer.param_groups:
            group["lr"] = _rate(config, share)
        row = _step(student, optimizer, images, config, state.step, device)
        state.step += 1
        state.elapsed = time.perf_counter() - began
        share = _share(config, state)
        if state.step % CURVE_EVERY == 0 or share >= 1:
            state.curve.append({"step": state.step, "minutes": state.elapsed / 60, **row})
        if state.step % config.save_every == 0 or share >= 1:
            write_state(out, student, optimizer, state, config)
        if on_step is not None:
            on_step(state.step, min(share, 1.0))
    return student.network, state.curve


def _share(config: PretrainConfig, state: PretrainState) -> float:
    if config.minutes:
        return state.elapsed / (60 * config.minutes)
    return state.step / max(config.steps, 1)


def _rate(config: PretrainConfig, share: float) -> float:
    if share < config.warmup:
        return config.learning_rate * max(share / config.warmup, 0.01)
    done = (share - config.warmup) / (1 - config.warmup)
    return config.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def _groups(student: Student, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay; biases and normalisations do not."""
    matrices = [p for p in student.parameters() if p.ndim > 1]
    vectors = [p for p in student.parameters() if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def _step(
    student: Student,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    config: PretrainConfig,
    step: int,
    device: torch.device | str,
) -> dict[str, float]:
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    chosen = torch.randperm(len(images), generator=generator)[: config.batch_size]
    crops = draw_crops(images[chosen], config.crops, generator)
    views = config.crops.large + config.crops.small
    origins = torch.randint(ORIGINS, (views, config.batch_size, 2), generator=generator)
    crops = Crops(**{f.name: getattr(crops, f.name).to(device) for f in dataclasses.fields(crops)})
    with torch.autocast(
        torch.device(device).type, torch.bfloat16, enabled=config.precision == "bfloat16"
    ):
        whole, local = student(crops, origins.to(device))
    loss, spread, alike = lejepa_loss(
        whole, weight=config.sigreg, generator=generator, slices=config.slices
    )
    row = {"sigreg": float(spread), "invariance": float(alike)}
    if config.patches > 0:
        extra, spread, alike = lejepa_loss(
            local, weight=config.sigreg, generator=generator, slices=config.slices
        )
        loss = loss + config.patches * extra
        row |= {"sigreg_patches": float(spread), "invariance_patches": float(alike)}
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(student.parameters(), config.clip_norm)
    optimizer.step()
    deviation = whole.detach().float().mean(0).std(0).mean()
    return {"loss": float(loss.detach()), **row, "spread": float(deviation)}


def write_state(
    folder: Path,
    student: Student,
    optimizer: torch.optim.Optimizer,
    state: PretrainState,
    config: PretrainConfig,
) -> None:
    """Save everything that going on needs, and the curve as CSV."""
    tensors = {f"model.{name}": value.detach() for name, value in student.state_dict().items()}
    for index, entry in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(v) for name, v in entry.items()}
    record = {**dataclasses.asdict(state), "config": dataclasses.asdict(config)}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / STATE_FILE) as temporary:
        save_file(
            {name: value.cpu().contiguous().clone() for name, value in tensors.items()},
            temporary,
            metadata={"record": json.dumps(record)},
        )
    if state.curve:
        text = io.StringIO()
        writer = csv.DictWriter(text, state.curve[-1].keys())
        writer.writeheader()
        writer.writerows(state.curve)
        write_text(folder / CURVE_FILE, text.getvalue())


def read_state(
    folder: Path, student: Student, optimizer: torch.optim.Optimizer, config: PretrainConfig
) -> PretrainState:
    """Load a saved run into `student` and `optimizer`; a fresh state when the folder holds none.

    Raises:
        InputError: the run has other settings (budgets may differ).
        CheckpointError: the file is damaged.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        return PretrainState()
    try:
        with safe_open(path, framework="pt") as archive:
            record = json.loads((archive.metadata() or {})["record"])
            tensors = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}). Delete it to start the run again."
        ) from error
    wanted = json.loads(json.dumps(dataclasses.asdict(config)))
    different = [
        f"{name}: {record['config'].get(name)} there, {value} here"
        for name, value in wanted.items()
        if name not in BUDGETS and record["config"].get(name) != value
    ]
    if different:
        raise InputError(
            f"{path} belongs to a run with other settings ({'; '.join(different)}). "
            "Choose another --out folder, or use the same settings to continue it."
        )
    model = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            moments.setdefault(int(index), {})[name] = value
    student.load_state_dict(model)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    return PretrainState(record["step"], record["elapsed"], record["curve"])
