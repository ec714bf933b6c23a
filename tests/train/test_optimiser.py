"""Muon beside AdamW."""

from __future__ import annotations

import torch

from pointworld.model import ModelSpec, WorldModel
from pointworld.ptv3 import PTv3Arch
from pointworld.train.config import TrainConfig
from pointworld.train.optimiser import make_optimiser, orthogonalise

Tensor = torch.Tensor


def small_model() -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(ModelSpec(arch=PTv3Arch.tiny(16)))


def test_singular_values_come_near_one_and_vectors_stay(generator: torch.Generator) -> None:
    for rows, columns in ((32, 128), (128, 32), (48, 48)):
        left = torch.linalg.qr(torch.randn(rows, rows, generator=generator)).Q[:, :16]
        right = torch.linalg.qr(torch.randn(columns, columns, generator=generator)).Q[:, :16]
        matrix = left * torch.logspace(-1, 0, 16) @ right.T
        inner = left.T @ orthogonalise(matrix) @ right
        assert (inner.diagonal() - 1).abs().max() < 0.35
        assert (inner - inner.diagonal().diag()).abs().max() < 1e-3


def test_every_weight_belongs_to_one_group_and_heads_to_adamw() -> None:
    model = small_model()
    groups = make_optimiser(model, TrainConfig()).param_groups
    assert [group["muon"] for group in groups] == [False, True]
    named = {id(p): name for name, p in model.named_parameters()}
    inner = [named[id(p)] for p in groups[1]["params"]]
    assert sum(len(group["params"]) for group in groups) == len(named)
    assert inner and all("predictor_model" in name for name in inner)
    assert any("qkv" in name for name in inner) and not any("norm" in name for name in inner)
    assert len(make_optimiser(model, TrainConfig(optimiser="adamw")).param_groups) == 1


def test_steps_are_of_adamws_size_and_the_rest_moves_as_with_adamw(
    generator: torch.Generator,
) -> None:
    models = {name: small_model() for name in ("muon", "adamw")}
    gradients = {
        name: torch.randn(p.shape, generator=generator)
        for name, p in models["muon"].named_parameters()
    }
    moved: dict[str, dict[str, Tensor]] = {}
    for kind, model in models.items():
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        config = TrainConfig(optimiser=kind, weight_decay=0.0)  # type: ignore[arg-type]
        optimiser = make_optimiser(model, config)
        for name, p in model.named_parameters():
            p.grad = gradients[name].clone()
        optimiser.step()
        moved[kind] = {name: p.detach() - before[name] for name, p in model.named_parameters()}
        assert all(p.grad is not None for p in model.parameters())
    inner = {id(p) for p in make_optimiser(models["muon"], TrainConfig()).param_groups[1]["params"]}
    for name, p in models["muon"].named_parameters():
        muon, adamw = moved["muon"][name], moved["adamw"][name]
        if id(p) not in inner:
            assert torch.equal(muon, adamw)
            continue
        size = float(muon.square().mean().sqrt()) / TrainConfig().learning_rate
        assert 0.1 < size < 0.3
        assert float((muon * gradients[name]).sum()) < 0
