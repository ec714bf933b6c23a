"""The trivial encoder: the image itself."""

from __future__ import annotations

import torch

from pointworld.encoders.protocol import check_images


class RGBEncoder:
    """Every pixel is its own feature: 3 channels, stride 1. Needs no weights; useful as a baseline and in tests."""

    name = "rgb"
    channels = 3
    stride = 1
    layers: tuple[int, ...] = ()

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Return the images (views, 3, h, w) as float32."""
        check_images(images, 1, "rgb encoder")
        return images.detach().to(torch.float32)
