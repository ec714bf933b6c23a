"""The optimisers of training: AdamW, and Muon for the weight matrices of the backbone beside AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pointworld.model import WorldModel
from pointworld.products import matmul
from pointworld.train.config import TrainConfig

Tensor = torch.Tensor

#: Quintic Newton-Schulz iteration that drives singular values towards 1 (Muon: Jordan et al. 2024).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_MOMENTUM = 0.95
#: Root mean square of an update over the learning rate: that of AdamW, whose learning rates then suit
#: (Liu et al. 2025, "Muon is scalable for LLM training").
_UPDATE_SIZE = 0.2
#: Narrower matrices are left to AdamW.
_LEAST_WIDTH = 16


def orthogonalise(matrix: Tensor) -> Tensor:
    """(rows, columns) with the same singular vectors and singular values near 1 (0.7 to 1.2)."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp_min(1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = matmul(x, x.T)
        x = a * x + matmul(b * gram + c * matmul(gram, gram), x)
    return x.T if tall else x


class MuonAdamW(torch.optim.AdamW):
    """AdamW in which groups with `muon` set take orthogonalised momentum steps instead.

    torch.optim.Muon would be a second optimiser to step, save and schedule, and rounds to bfloat16.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step from the gradients; `closure` is not supported."""
        gradients: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            for weight in group["params"] if group["muon"] else ():
                if weight.grad is not None:
                    self._step_matrix(weight, weight.grad, group)
                    gradients.append((weight, weight.grad))
                    weight.grad = None  # AdamW passes it by
        super().step()
        for weight, gradient in gradients:
            weight.grad = gradient

    def _step_matrix(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if "momentum" not in state:
            # AdamW looks for `step` in every state that it loads.
            state.update(step=torch.zeros(()), momentum=torch.zeros_like(weight))
        state["step"] += 1
        momentum = state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
        update = orthogonalise(gradient.lerp(momentum, _MOMENTUM))
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(update, alpha=-group["lr"] * _UPDATE_SIZE * max(weight.shape) ** 0.5)


def make_optimiser(model: WorldModel, config: TrainConfig) -> MuonAdamW:
    """The optimiser that `config` asks for; Muon takes the matrices inside the backbone (convolutions gain nothing)."""
    backbone = {id(p) for p in model.dynamics_predictor.predictor_model.parameters()}
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for weight in model.parameters():
        wide = weight.ndim == 2 and min(weight.shape) >= _LEAST_WIDTH
        inner = config.optimiser == "muon" and wide and id(weight) in backbone
        (matrices if inner else others).append(weight)
    groups = [{"params": others, "muon": False}, {"params": matrices, "muon": True}]
    return MuonAdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )
