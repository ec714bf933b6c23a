"""Train a world model on cached samples: averaged weights, exact resumption, one process or several."""

from __future__ import annotations

import csv
import hashlib
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pointworld.errors import InputError
from pointworld.files import atomic_path
from pointworld.model import ModelSpec, WorldModel
from pointworld.model.released_encoder import fingerprint
from pointworld.ptv3 import PTv3
from pointworld.train.batches import Batches, Mix, draw_generator
from pointworld.train.cache import CachedSample, spread_out
from pointworld.train.config import TrainConfig, learning_rate
from pointworld.train.model_sample import require_step_dt
from pointworld.train.objective import batch_loss, prepare_heads, validate
from pointworld.train.optimiser import make_optimiser
from pointworld.train.parallel import Ranks
from pointworld.train.source import Source
from pointworld.train.state import TrainState, read_state, write_state
from pointworld.train.statistics import DomainStatistics, apply_statistics, measure

VALIDATION_CLIPS = 64
#: Steps in a row without a finite gradient after which training gives up.
MOST_SKIPPED = 100


def train(
    spec: ModelSpec,
    samples: Sequence[Source],
    validation: Sequence[Source],
    folder: str | Path,
    config: TrainConfig,
    *,
    init: WorldModel | None = None,
    statistics: Mapping[str, DomainStatistics] | None = None,
    ranks: Ranks | None = None,
    mix: Mix = "clips",
    readers: int = 0,
    on_step: Callable[[int, float], None] | None = None,
) -> WorldModel:
    """Train, or continue the run in `folder`, and return the averaged model.

    Every process of a run draws the same batches and computes its share of each.

    Args:
        init: a model of the same spec to start from; it keeps its normalisation statistics.
        statistics: per domain, for the normalisation; measured from `samples` when absent.
        ranks: the processes of this run; one when absent.
        mix: what is drawn equally often (`Mix`).
        readers: threads that make the next batch during a step, for clips that are read when they are drawn.
        on_step: called with the step and the share of the budget that is used.

    Raises:
        InputError: the folder holds a run of another configuration, `init` is of another spec, samples have another
            time base than the model, the batch cannot be split over the processes, statistics are given beside
            `init`, or gradients stay infinite.
    """
    ranks = ranks or Ranks()
    if config.batch_size % ranks.world:
        raise InputError(
            f"batch_size is {config.batch_size}, which {ranks.world} processes cannot share; make it a multiple"
        )
    require_step_dt(spec, samples)
    require_step_dt(spec, validation)
    torch.manual_seed(config.seed)
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    model = WorldModel(spec)
    prepare_heads(model)
    if init is not None:
        if statistics is not None:
            raise InputError(
                "statistics were given beside a model to start from, which keeps its own: leave out one of the two"
            )
        _start_from(model, init)
    inputs = _inputs(samples, mix, init, statistics)
    optimizer = make_optimiser(model.to(ranks.device), config)
    state = read_state(out, model, optimizer, config, inputs=inputs)
    if state is None:
        if init is None:
            if statistics is None:
                statistics = measure(spec, samples, seed=config.seed)
            apply_statistics(model, statistics)
        state = TrainState.start(model)
    with Batches(
        spec,
        samples,
        config,
        ranks.mine(config.batch_size),
        mix=mix,
        readers=readers,
    ) as batches:
        loop = _Loop(model, optimizer, state, batches, validation, out, config, ranks, inputs)
        loop.run(on_step)
    return state.averaged_model(model)


def _start_from(model: WorldModel, init: WorldModel) -> None:
    if init.spec != model.spec:
        raise InputError(
            "the model to start from was made for another task: its description differs from the one to be trained "
            f"({init.spec} against {model.spec})"
        )
    model.load_state_dict(init.state_dict())


def _inputs(
    samples: Sequence[Source],
    mix: Mix,
    init: WorldModel | None,
    statistics: Mapping[str, DomainStatistics] | None,
) -> dict[str, str]:
    """What a run is given beside its settings, so that it is not continued with something else."""
    clips = hashlib.sha256()
    for sample in samples:
        points = len(sample.points) if isinstance(sample, CachedSample) else 0
        clips.update(f"{sample.key} {sample.family} {sample.domain} {points};".encode())
    given = "measured" if statistics is None else repr(sorted(statistics.items()))
    return {
        "training clips": f"{len(samples)} ({clips.hexdigest()[:12]})",
        "mix": mix,
        "model to start from": "none" if init is None else fingerprint(init.state_dict()),
        "statistics": given
        if statistics is None
        else hashlib.sha256(given.encode()).hexdigest()[:12],
    }


class _Loop:
    def __init__(
        self,
        model: WorldModel,
        optimizer: torch.optim.Optimizer,
        state: TrainState,
        batches: Batches,
        validation: Sequence[Source],
        out: Path,
        config: TrainConfig,
        ranks: Ranks,
        inputs: Mapping[str, str],
    ) -> None:
        self.inputs, self.skipped = inputs, 0
        self.model, self.optimizer, self.state = model, optimizer, state
        self.network = ranks.wrap(model)
        for part in model.modules():
            if isinstance(part, PTv3):
                part.recompute = config.recompute
        self.batches, self.validation = batches, spread_out(validation, VALIDATION_CLIPS)
        self.out, self.config, self.ranks = out, config, ranks
        self.resumed_at, self.elapsed_before = time.monotonic(), state.elapsed

    def progress(self) -> float:
        if self.config.minutes > 0:
            return self.state.elapsed / (60 * self.config.minutes)
        return self.state.step / self.config.steps

    def run(self, on_step: Callable[[int, float], None] | None) -> None:
        config, state, leads = self.config, self.state, self.ranks.leads
        losses: list[float] = []
        while self.progress() < 1.0:
            losses.append(self._step())
            elapsed = self.elapsed_before + time.monotonic() - self.resumed_at
            state.elapsed = self.ranks.agree(elapsed)
            if on_step is not None:
                on_step(state.step, min(self.progress(), 1.0))
            done = self.progress() >= 1.0
            validates = state.step % config.validate_every == 0 or done
            saves = state.step % config.save_every == 0 or done
            if leads and validates:
                finite = [loss for loss in losses if math.isfinite(loss)]
                self._log(sum(finite) / len(finite) if finite else math.nan)
                losses.clear()
            if leads and saves:
                write_state(self.out, self.model, self.optimizer, state, config, inputs=self.inputs)
            if validates or saves:
                self.ranks.wait()  # the others, however long that takes

    def _step(self) -> float:
        config, state, ranks = self.config, self.state, self.ranks
        batch = self.batches.batch(state.step)
        # Drop path draws from torch's own generator, whose state must not depend on what ran before.
        torch.manual_seed(
            draw_generator(config.seed, state.step, 65_535 - ranks.rank).initial_seed()
        )
        self.model.train()
        now = replace(config, loss=config.loss.at(self.progress()))
        loss = batch_loss(self.model, batch, now, network=self.network, ranks=ranks)
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        state.step += 1
        if not bool(torch.isfinite(norm)):
            self._skip()
            return math.nan
        self.skipped = 0
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.progress())
        self.optimizer.step()
        state.average_in(self.model, config.average)
        return float(ranks.total(loss)) / ranks.world

    def _skip(self) -> None:
        """Note a step whose gradient is of no use.

        Raises:
            InputError: there have been MOST_SKIPPED in a row (the release gives up after as many).
        """
        self.skipped += 1
        if self.skipped >= MOST_SKIPPED:
            raise InputError(
                f"the gradients of {self.skipped} steps in a row were not finite, up to step {self.state.step}: lower "
                "--train.learning-rate, or look for clips with wrong positions"
            )
        if self.ranks.leads:
            warnings.warn(
                f"step {self.state.step}: the gradient is not finite, and is left out", stacklevel=2
            )

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
