"""LPIPS with drawn weights: against loops, and what its files must hold."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pointworld.errors import InputError
from splat.fit.lpips import LAYERS, Lpips, read_lpips

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def weights() -> tuple[Weights, Weights]:
    generator = torch.Generator().manual_seed(0)
    alexnet: Weights = {"classifier.1.weight": torch.zeros(2, 2)}
    linear: Weights = {}
    for index, (name, out, inside, edge, *_) in enumerate(LAYERS):
        shape = (out, inside, edge, edge)
        alexnet[f"{name}.weight"] = (
            torch.randn(shape, generator=generator) / (inside * edge**2) ** 0.5
        )
        alexnet[f"{name}.bias"] = 0.1 * torch.randn(out, generator=generator)
        linear[f"lin{index}.model.1.weight"] = torch.rand(1, out, 1, 1, generator=generator) / out
    return alexnet, linear


def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.rand(2, 40, 48, 3, generator=generator)
    return a, b


def test_equal_images_have_no_distance_and_nearer_ones_less(
    weights: tuple[Weights, Weights],
) -> None:
    distance = Lpips(*weights)
    a, b = images()
    assert float(distance(a, a)) == 0
    assert 0 < float(distance(a, 0.8 * a + 0.2 * b)) < float(distance(a, b))
    assert float(distance(a, b)) == pytest.approx(float(distance(b, a)), rel=1e-5)


def test_the_distance_equals_its_formula(weights: tuple[Weights, Weights]) -> None:
    """The first two layers' part, computed pixel by pixel in float64."""
    alexnet, linear = weights
    only = {k: v if k < "lin2" else torch.zeros_like(v) for k, v in linear.items()}
    a, b = images()
    total = 0.0
    for index in range(2):
        rows = []
        for image in (a, b):
            x = image.double().numpy() * 2 - 1
            x = (x - np.array([-0.030, -0.088, -0.188])) / np.array([0.458, 0.448, 0.450])
            x = _relu_conv(x, alexnet, "features.0", 4, 2)
            if index == 1:
                h, w = ((n - 3) // 2 + 1 for n in x.shape[:2])
                pooled = [
                    [x[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((0, 1)) for j in range(w)]
                    for i in range(h)
                ]
                x = _relu_conv(np.array(pooled), alexnet, "features.3", 1, 2)
            rows.append(x / (np.sqrt((x**2).sum(-1, keepdims=True)) + 1e-10))
        weight = only[f"lin{index}.model.1.weight"].double().numpy()[0, :, 0, 0]
        total += float((((rows[0] - rows[1]) ** 2) @ weight).mean())
    assert float(Lpips(alexnet, only)(a, b)) == pytest.approx(total, rel=1e-4)


def _relu_conv(x: np.ndarray, tensors: Weights, name: str, stride: int, padding: int) -> np.ndarray:
    weight = tensors[f"{name}.weight"].double().numpy()
    bias = tensors[f"{name}.bias"].double().numpy()
    edge = weight.shape[-1]
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    h, w = ((n - edge) // stride + 1 for n in x.shape[:2])
    out = np.empty((h, w, len(weight)))
    for i in range(h):
        for j in range(w):
            patch = x[i * stride : i * stride + edge, j * stride : j * stride + edge]
            out[i, j] = np.einsum("ocyx,yxc->o", weight, patch) + bias
    return np.maximum(out, 0)


def test_weights_are_read_from_a_folder(tmp_path: Path, weights: tuple[Weights, Weights]) -> None:
    torch.save(weights[0], tmp_path / "alexnet-owt.pth")
    save_file(weights[1], tmp_path / "alex.safetensors")
    a, b = images()
    assert torch.equal(read_lpips(tmp_path)(a, b), Lpips(*weights)(a, b))


@pytest.mark.rejects_input
def test_other_files_are_refused(tmp_path: Path, weights: tuple[Weights, Weights]) -> None:
    with pytest.raises(InputError, match="expected one"):
        read_lpips(tmp_path)
    save_file(weights[1], tmp_path / "alex.safetensors")
    with (tmp_path / "alexnet.pth").open("wb") as file:
        pickle.dump({"features.0.weight": Path("x")}, file)
    with pytest.raises(InputError, match=r"alexnet\.pth"):
        read_lpips(tmp_path)
    with pytest.raises(InputError, match=r"features\.3\.bias is nothing"):
        Lpips({k: v for k, v in weights[0].items() if k != "features.3.bias"}, weights[1])
    with pytest.raises(InputError, match="32"):
        Lpips(*weights)(torch.zeros(20, 60, 3), torch.zeros(20, 60, 3))
