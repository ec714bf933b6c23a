"""What training draws its samples from: clips cached in memory, or clips that are read when they are drawn."""

from __future__ import annotations

from typing import Protocol

import torch

from pointworld.model import ModelSpec
from pointworld.train.augment import AugmentConfig, TrainingSample
from pointworld.train.cache import CachedSample


class LazyClip(Protocol):
    """A clip that is read whenever it is drawn. Its numbers depend on the arguments alone.

    key, family: for messages and choices. domain: row of the model's normalisation buffers. step_dt: [s].
    """

    @property
    def key(self) -> str: ...

    @property
    def family(self) -> str: ...

    @property
    def domain(self) -> int: ...

    @property
    def step_dt(self) -> float: ...

    def draw(
        self, spec: ModelSpec, config: AugmentConfig, generator: torch.Generator
    ) -> TrainingSample:
        """One training sample, as the model takes it in."""

    def whole(self, spec: ModelSpec, *, max_points: int | None = None) -> TrainingSample:
        """The sample of validation, the same every time; in `released` mode all points, whatever `max_points` is."""


#: One clip of a training or validation set.
Source = CachedSample | LazyClip
