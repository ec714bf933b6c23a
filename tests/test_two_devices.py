"""Models predict, learn, go on and are corrected on another device than main memory (simulated: see two_devices)."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

import pointworld
from pointworld.model import ModelInputs, ModelSpec, WorldModel, collate
from pointworld.train import AugmentConfig, TrainConfig, train
from pointworld.train.augment import whole
from pointworld.train.corrections import with_corrections
from pointworld.train.parallel import Ranks
from tests.train.synthetic import push
from tests.train.test_trainer import ARCH
from tests.two_devices import SECOND, MixedDevicesError, TwoDevices, is_there, there

CONFIG = TrainConfig(
    minutes=0,
    steps=2,
    batch_size=2,
    validate_every=1,
    save_every=1,
    augment=AugmentConfig(min_points=40, max_points=60),
)
SPEC = ModelSpec(arch=ARCH, robot_tokens=6, context_points=50, sliding=True)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def inputs_there() -> ModelInputs:
    item = whole(push(0), step_dt=0.1)
    inputs = collate([(item.scene, item.robot)] * 2)
    for field in fields(inputs):
        if isinstance(value := getattr(inputs, field.name), torch.Tensor):
            there(value)
    return inputs


def test_mixing_is_noticed() -> None:
    far, near = there(torch.ones(3)), torch.ones(3)
    with TwoDevices():
        assert far.device == SECOND != near.device
        assert is_there(2 * far[:2]) and is_there(near.to(far.device)) and not is_there(far.cpu())
        assert is_there(torch.zeros(2, device=far.device)) and is_there(far[torch.tensor([0])])
        assert is_there(far * torch.tensor(2.0))
        for mixed in (
            lambda: far + near,
            lambda: torch.cat([far, near]),
            lambda: near.add_(far),
            lambda: far.numpy(),
            lambda: torch.where(near > 0, far, 0.0),
        ):
            with pytest.raises(MixedDevicesError):
                mixed()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_shipped_model_predicts(precision: str) -> None:
    model = there(pointworld.load("tiny"))
    item = whole(push(0), step_dt=0.1)
    expected = pointworld.load("tiny").predict(item.scene, item.robot, precision=precision)
    with TwoDevices():
        found = model.predict(item.scene, item.robot, precision=precision)
        assert is_there(found.displacements)
    assert torch.equal(found.displacements, expected.displacements)


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        replace(SPEC, context_points=0, robot_tokens=0, sliding=False),
        replace(SPEC, features="released", sliding=False),
        replace(SPEC, mode="released", features="released", context_points=0, sliding=False),
    ],
)
def test_networks_of_all_kinds_predict(spec: ModelSpec) -> None:
    model = there(WorldModel(spec).eval())
    with torch.no_grad(), TwoDevices():
        assert is_there(model(inputs_there()).displacements)


def test_training_goes_on_and_is_corrected(tmp_path: Path) -> None:
    samples, validation = [push(i) for i in range(4)], [push(100 + i) for i in (0, 2)]
    straight = train(SPEC, samples, validation, tmp_path / "main", replace(CONFIG, steps=3))
    ranks = Ranks(device=SECOND)
    with TwoDevices():
        train(SPEC, samples, validation, tmp_path / "far", CONFIG, ranks=ranks)
        longer = replace(CONFIG, steps=3)
        model = train(SPEC, samples, validation, tmp_path / "far", longer, ranks=ranks)
        assert all(is_there(value) for value in model.state_dict().values())
        corrected = with_corrections(model, validation)
        assert corrected.spec.spread and corrected.device == SECOND
    for name, value in straight.state_dict().items():
        assert value.shape == model.state_dict()[name].shape and torch.isfinite(value).all()
