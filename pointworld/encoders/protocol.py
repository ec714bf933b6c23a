"""What every image encoder offers, and the two lines of preprocessing they share."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch

from pointworld.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@runtime_checkable
class ImageEncoder(Protocol):
    """A frozen network that turns images into a grid of feature vectors.

    Cell (row i, column j) of the grid describes the square of `stride` pixels whose centre is at
    u = (j + 0.5) * stride, v = (i + 0.5) * stride (pixel centres at integer + 0.5). Rows and columns of pixels that
    do not fill a cell at the bottom and at the right are not looked at.
    """

    @property
    def name(self) -> str:
        """The specification that `load_encoder` takes; stored with checkpoints."""
        ...

    @property
    def channels(self) -> int:
        """Length of a feature vector."""
        ...

    @property
    def stride(self) -> int:
        """Edge of a cell [px]."""
        ...

    @property
    def layers(self) -> tuple[int, ...]:
        """Indices of the blocks whose outputs are concatenated; empty for an encoder without a choice."""
        ...

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Encode images (views, 3, h, w), RGB in 0-1, to features (views, channels, h // stride, w // stride).

        The result is float32 on the device of `images` and carries no gradient.

        Raises:
            InputError: images are not (views, 3, h, w) floats, or smaller than one cell.
        """
        ...


def check_images(images: torch.Tensor, stride: int, owner: str) -> None:
    """Raise InputError unless `images` is a float tensor (views, 3, h, w) of at least one cell."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise InputError(
            f"{owner}: images must be (views, 3, height, width) floats in 0-1, got {tuple(images.shape)} "
            f"{images.dtype}. For a uint8 image use frame_to_tensor(rgb)[None]."
        )
    if images.shape[2] < stride or images.shape[3] < stride:
        raise InputError(
            f"{owner}: images of {images.shape[3]}x{images.shape[2]} are smaller than one {stride}-pixel cell"
        )


def imagenet_normalize(images: torch.Tensor) -> torch.Tensor:
    """(x - mean) / std per channel with ImageNet's statistics; images (..., 3, h, w) in 0-1."""
    mean = torch.tensor(IMAGENET_MEAN, dtype=images.dtype, device=images.device)[:, None, None]
    std = torch.tensor(IMAGENET_STD, dtype=images.dtype, device=images.device)[:, None, None]
    return (images - mean) / std


def frame_to_tensor(rgb: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """(height, width, 3) uint8 to (3, height, width) float32 in 0-1."""
    return torch.tensor(rgb, device=device).permute(2, 0, 1).float() / 255.0
