"""LPIPS: how different two images look to a network, with weights that the user has.

Source: Zhang et al. 2018, The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, with AlexNet, version
0.1: features after each of five ReLUs, unit length over channels, squared differences weighted per channel, mean over
the image, sum over layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import conv2d, max_pool2d

from pointworld.errors import InputError

Tensor = torch.Tensor

#: Channels are brought from -1..1 to about those that AlexNet was trained on.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
#: Of AlexNet's convolutions: name, output and input channels, kernel edge, stride, padding, max pooling before.
LAYERS = (
    ("features.0", 64, 3, 11, 4, 2, False),
    ("features.3", 192, 64, 5, 1, 2, True),
    ("features.6", 384, 192, 3, 1, 1, True),
    ("features.8", 256, 384, 3, 1, 1, False),
    ("features.10", 256, 256, 3, 1, 1, False),
)
#: Images with a shorter side leave nothing for the last layers.
SMALLEST = 32
TINY = 1e-10


class Lpips(nn.Module):
    """The distance of two images; 0 for equal ones.

    Args:
        alexnet: torchvision's names: features.0.weight and .bias, features.3, .6, .8, .10.
        linear: lin0.model.1.weight (1, 64, 1, 1) to lin4, of LPIPS 0.1 for AlexNet.

    Raises:
        InputError: a tensor is missing or has another shape.
    """

    def __init__(self, alexnet: Mapping[str, Tensor], linear: Mapping[str, Tensor]) -> None:
        super().__init__()
        for index, (name, out, inside, edge, *_) in enumerate(LAYERS):
            wanted = (
                (alexnet, f"{name}.weight", (out, inside, edge, edge), f"weight{index}"),
                (alexnet, f"{name}.bias", (out,), f"bias{index}"),
                (linear, f"lin{index}.model.1.weight", (1, out, 1, 1), f"linear{index}"),
            )
            for tensors, key, shape, ours in wanted:
                value = tensors.get(key)
                if value is None or tuple(value.shape) != shape:
                    got = "nothing" if value is None else str(tuple(value.shape))
                    raise InputError(f"LPIPS weights: {key} is {got}, expected {shape}")
                self.register_buffer(ours, value.detach().float())

    def features(self, image: Tensor) -> list[Tensor]:
        """Five (channels, h, w) of an image (height, width, 3) in 0-1, of unit length over channels."""
        shift, scale = (image.new_tensor(v) for v in (SHIFT, SCALE))
        value = ((2 * image - 1 - shift) / scale).permute(2, 0, 1)[None]
        found = []
        for index, (_, _, _, _, stride, padding, pooled) in enumerate(LAYERS):
            if pooled:
                value = max_pool2d(value, 3, 2)
            weight, bias = self.get_buffer(f"weight{index}"), self.get_buffer(f"bias{index}")
            value = conv2d(value, weight, bias, stride=stride, padding=padding).relu()
            found.append(value[0] / (value[0].square().sum(0).sqrt() + TINY))
        return found

    @torch.no_grad()
    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Distance () of two images (height, width, 3) with values in 0-1.

        Raises:
            InputError: they are smaller than 32 pixels.
        """
        if min(image.shape[:2]) < SMALLEST:
            raise InputError(
                f"LPIPS of {image.shape[1]} x {image.shape[0]} pixels; expected {SMALLEST} or more each way"
            )
        total = image.new_zeros(())
        for index, (a, b) in enumerate(
            zip(self.features(image), self.features(target), strict=True)
        ):
            weight = self.get_buffer(f"linear{index}")[0]
            total = total + (weight * (a - b).square()).sum(0).mean()
        return total


def read_lpips(folder: Path) -> Lpips:
    """LPIPS from a folder with `alexnet*` (torchvision's weights) and `alex.*` (the linear layers), .pth or
    .safetensors.

    Raises:
        InputError: a file is missing or holds other tensors.
    """
    return Lpips(_tensors(folder, "alexnet*"), _tensors(folder, "alex.*"))


def _tensors(folder: Path, pattern: str) -> Mapping[str, Tensor]:
    paths = sorted(p for p in folder.glob(pattern) if p.suffix in (".pth", ".pt", ".safetensors"))
    if len(paths) != 1:
        raise InputError(
            f"{folder} has {len(paths)} files {pattern} (.pth or .safetensors), expected one. LPIPS needs "
            "torchvision's AlexNet (alexnet-owt-7be5be79.pth) and the linear layers of LPIPS 0.1 (alex.pth)"
        )
    path = paths[0]
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, ValueError, EOFError, UnpicklingError) as error:
        raise InputError(
            f"{path} holds more than tensors, or is damaged; it is not read"
        ) from error
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise InputError(f"{path} holds no tensors by name")
    return found
