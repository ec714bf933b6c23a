"""Pretraining on a handful of pictures: no collapse with SIGReg, collapse without it, and going on after a stop."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pointworld.encoders.lejepa import ViTSpec
from pointworld.errors import CheckpointError, InputError
from pointworld.train.jepa import CropConfig, PretrainConfig, pretrain
from pointworld.train.jepa.crops import draw_crops
from pointworld.train.jepa.loop import STATE_FILE

TINY = PretrainConfig(
    minutes=0,
    steps=60,
    batch_size=16,
    learning_rate=3e-3,
    slices=64,
    embedding=8,
    hidden=32,
    precision="float32",
    network=ViTSpec(width=32, depth=2, heads=2),
    crops=CropConfig(large_size=32, small=1, small_size=16, points=4),
)


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Coloured rectangles on coloured ground."""
    rng = np.random.default_rng(3)
    images = np.repeat(rng.integers(0, 256, (48, 1, 1, 3)), 60, 1).repeat(80, 2)
    for image in images:
        for _ in range(5):
            y, x = rng.integers(0, 40), rng.integers(0, 60)
            image[y : y + 20, x : x + 20] = rng.integers(0, 256, 3)
    return torch.from_numpy(images.astype(np.uint8)).permute(0, 3, 1, 2)


def test_collapses_without_sigreg_and_not_with_it(pictures: torch.Tensor, tmp_path: Path) -> None:
    _, kept = pretrain(pictures, tmp_path / "with", TINY)
    _, lost = pretrain(pictures, tmp_path / "without", dataclasses.replace(TINY, sigreg=0.0))
    assert kept[-1]["spread"] > 0.5, kept
    assert lost[-1]["spread"] < 0.1, lost
    assert lost[-1]["invariance"] < kept[-1]["invariance"]


def test_goes_on_exactly_where_it_stopped(pictures: torch.Tensor, tmp_path: Path) -> None:
    short = dataclasses.replace(TINY, steps=6, save_every=3)
    straight, _ = pretrain(pictures, tmp_path / "a", short)

    class StopError(Exception):
        pass

    def stop(step: int, _: float) -> None:
        if step == 3:
            raise StopError

    with pytest.raises(StopError):
        pretrain(pictures, tmp_path / "b", short, on_step=stop)
    resumed, _ = pretrain(pictures, tmp_path / "b", short)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.rejects_input
def test_refuses_other_settings_damage_and_few_pictures(
    pictures: torch.Tensor, tmp_path: Path
) -> None:
    short = dataclasses.replace(TINY, steps=1)
    pretrain(pictures, tmp_path, short)
    with pytest.raises(InputError, match=r"other settings \(embedding: 8 there, 4 here"):
        pretrain(pictures, tmp_path, dataclasses.replace(short, embedding=4))
    with pytest.raises(InputError, match="fewer than a batch"):
        pretrain(pictures[:4], tmp_path, short)
    state = tmp_path / STATE_FILE
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        pretrain(pictures, tmp_path, short)


def test_shared_points_are_the_same_place(generator: torch.Generator) -> None:
    """A picture whose colours say where a pixel is: both large crops show the same colour at a shared point."""
    row, column = torch.meshgrid(torch.arange(120), torch.arange(200), indexing="ij")
    ramp = torch.stack([column, row, torch.zeros_like(row)]).to(torch.uint8)
    plain = CropConfig(brightness=0, contrast=0, saturation=0, hue=0, grey=0, noise=0)
    crops = draw_crops(ramp[None].repeat(8, 1, 1, 1), plain, generator)
    mean, std = (0.485, 0.456), (0.229, 0.224)
    seen = torch.nn.functional.grid_sample(
        crops.large.flatten(0, 1), crops.places.flatten(0, 1)[:, None], align_corners=False,
        padding_mode="border",
    )[:, :2, 0]  # fmt: skip
    for axis in range(2):
        values = (seen[:, axis] * std[axis] + mean[axis]).view(2, 8, -1) * 255
        assert float((values[0] - values[1]).abs().max()) < 1.5
