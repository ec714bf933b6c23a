"""Any optimiser of the Nevergrad library, through its ask-and-tell interface."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pointworld.errors import InputError, MissingExtraError
from pointworld.plan.planners.loop import require_count, run_search
from pointworld.plan.problem import PlanResult, Problem

Tensor = torch.Tensor
#: Told instead of infinity: the library's models want finite losses.
UNUSABLE = 1e12


@dataclass(frozen=True, kw_only=True)
class Nevergrad:
    """Ask for `samples` plans, evaluate them together, tell their costs.

    optimizer: a name of nevergrad's registry ("NGOpt" chooses by dimension and budget).
    """

    samples: int = 64
    iterations: int = 5
    optimizer: str = "NGOpt"

    def __post_init__(self) -> None:
        require_count("samples", self.samples, 2)
        require_count("iterations", self.iterations, 1)

    def plan(self, problem: Problem, *, seed: int, budget_s: float | None = None) -> PlanResult:
        """See `Planner.plan`.

        Raises:
            MissingExtraError: nevergrad is not installed.
            InputError: it has no optimiser of that name.
        """
        search = _Search(problem, self, seed)
        return run_search(problem, search, iterations=self.iterations, budget_s=budget_s)


def import_nevergrad() -> Any:
    """The nevergrad module, or an error that names the extra."""
    try:
        return importlib.import_module("nevergrad")
    except ImportError as error:
        raise MissingExtraError("nevergrad", "planning", "The Nevergrad planner") from error


class _Search:
    """Works in offsets from the nominal, in units of the standard deviation."""

    needs_gradients = False

    def __init__(self, problem: Problem, settings: Nevergrad, seed: int) -> None:
        ng = import_nevergrad()
        if settings.optimizer not in ng.optimizers.registry:
            raise InputError(f"nevergrad has no optimiser '{settings.optimizer}'")
        self._problem, self._samples = problem, settings.samples
        self.mean = problem.clip(problem.nominal).clone()
        self._centre = self.mean.clone()
        self._asked: list[Any] = []
        self._best = float("inf")
        # Fixed entries (no deviation or no room) are left out.
        self._free = (problem.std > 0) & (problem.lower < problem.upper)
        unit = problem.std[self._free]
        low = ((problem.lower - self._centre)[self._free] / unit).double().cpu().numpy()
        high = ((problem.upper - self._centre)[self._free] / unit).double().cpu().numpy()
        bounds = {
            "lower": np.minimum(np.maximum(low, -1e6), 0.0),
            "upper": np.maximum(np.minimum(high, 1e6), 0.0),
        }
        self._optimizer: Any = None
        if not bool(self._free.any()):
            return
        array = ng.p.Array(init=np.zeros(int(self._free.sum()))).set_bounds(**bounds)
        array.set_mutation(sigma=1.0)
        array.random_state.seed(seed % 2**32)
        self._optimizer = ng.optimizers.registry[settings.optimizer](
            parametrization=array,
            budget=settings.samples * settings.iterations,
            num_workers=settings.samples,
        )

    def propose(self) -> Tensor:
        candidates = self._centre.expand(self._samples, -1, -1).clone()
        if self._optimizer is None:
            return candidates
        best = ((self.mean - self._centre)[self._free] / self._problem.std[self._free]).cpu()
        self._optimizer.suggest(best.double().numpy())
        self._asked = [self._optimizer.ask() for _ in range(self._samples)]
        offsets = torch.from_numpy(np.stack([item.value for item in self._asked]))
        unit = self._problem.std[self._free]
        candidates[:, self._free] += offsets.to(candidates) * unit
        return candidates

    def update(self, candidates: Tensor, costs: Tensor, gradients: Tensor | None) -> None:
        for item, cost in zip(self._asked, costs.tolist(), strict=bool(self._asked)):
            self._optimizer.tell(item, min(cost, UNUSABLE))
        index = int(costs.argmin())
        if float(costs[index]) < self._best:
            self._best, self.mean = float(costs[index]), candidates[index].clone()
