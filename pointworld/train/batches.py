"""The batches of a run: which clip every slot of every step draws, made ahead of the step where reading takes time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Literal

import numpy as np
import torch

from pointworld.errors import InputError
from pointworld.model import ModelSpec
from pointworld.train.augment import TrainingSample
from pointworld.train.cache import CachedSample
from pointworld.train.config import TrainConfig
from pointworld.train.model_sample import draw_sample, warn_left_out
from pointworld.train.source import Source

#: What is drawn equally often: every clip; every domain, as in the release; or in every domain, clips cached in memory
#: and clips that are read when they are drawn.
Mix = Literal["clips", "domains", "sources"]
#: Clips in a row that may be unreadable before a run ends: more is no damaged clip, but a wrong folder or robot.
TRIES = 8


def draw_generator(seed: int, step: int, slot: int) -> torch.Generator:
    """The random numbers of one sample of one step: they depend on nothing that came before."""
    # Of a larger seed torch's generator keeps 32 bits: a plain product would repeat itself every 65 536 steps.
    mixed = np.random.SeedSequence([seed, step, slot]).generate_state(1)
    return torch.Generator().manual_seed(int(mixed[0]))


class Batches:
    """The batches of this process; a context manager that ends its readers.

    Every sample depends on the seed, its step and its slot alone, so readers change nothing but speed.
    """

    def __init__(
        self,
        spec: ModelSpec,
        samples: Sequence[Source],
        config: TrainConfig,
        slots: range,
        *,
        mix: Mix = "clips",
        readers: int = 0,
    ) -> None:
        """Draw from `samples`.

        Args:
            slots: of the batch, those that this process computes.
            mix: what is equally likely (`Mix`).
            readers: threads that make the next batch during a step; 0 = none, made when it is asked for.
        """
        self.spec, self.config, self.slots = spec, config, slots
        self.groups = _groups(samples, mix)
        self.pool = ThreadPoolExecutor(readers) if readers > 0 else None
        self.ahead: dict[int, list[Future[TrainingSample]]] = {}

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def batch(self, step: int) -> list[TrainingSample]:
        """The samples of a step.

        Raises:
            InputError: a sample cannot be drawn.
        """
        if self.pool is None:
            return [self.sample(step, slot) for slot in self.slots]
        for wanted in (step, step + 1):
            if wanted not in self.ahead:
                jobs = [self.pool.submit(self.sample, wanted, slot) for slot in self.slots]
                self.ahead[wanted] = jobs
        return [job.result() for job in self.ahead.pop(step)]

    def sample(self, step: int, slot: int) -> TrainingSample:
        """One sample. For a clip that is read now and cannot be, the next draw takes its place, with a warning.

        Raises:
            InputError: a cached sample does not fit the model, or `TRIES` clips in a row cannot be read.
        """
        generator = draw_generator(self.config.seed, step, slot)
        failure: InputError | None = None
        for _ in range(TRIES):
            source = self.choose(generator)
            try:
                return draw_sample(self.spec, source, self.config.augment, generator)
            except InputError as error:
                if isinstance(source, CachedSample):
                    raise
                warn_left_out(source, error)
                failure = error
        raise InputError(f"{TRIES} clips in a row cannot be used; the last: {failure}") from failure

    def choose(self, generator: torch.Generator) -> Source:
        """The clip of one draw."""
        group = self.groups[0]
        if len(self.groups) > 1:
            group = self.groups[int(torch.randint(len(self.groups), (), generator=generator))]
        return group[int(torch.randint(len(group), (), generator=generator))]


def _groups(samples: Sequence[Source], mix: Mix) -> Sequence[Sequence[Source]]:
    """Samples that share a chance, in an order that does not depend on theirs."""
    if mix == "clips":
        return [samples]
    groups: dict[tuple[int, bool], list[Source]] = {}
    for sample in samples:
        lazy = mix == "sources" and not isinstance(sample, CachedSample)
        groups.setdefault((sample.domain, lazy), []).append(sample)
    return [groups[name] for name in sorted(groups)]
