"""Image differences: PSNR and SSIM."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import conv2d

Tensor = torch.Tensor

#: SSIM's window and constants for values in 0-1 [source: Wang et al. 2004, as 3D Gaussian splatting uses it].
WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def psnr(image: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio [dB] for values in 0-1, over all pixels or those in `mask` (height, width)."""
    square = (image - target).square()
    error = float((square if mask is None else square[mask]).mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def _blur(values: Tensor, kernel: Tensor) -> Tensor:
    half = WINDOW // 2
    channels = values.shape[1]
    across = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    blurred = conv2d(values, across, padding=(0, half), groups=channels)
    return conv2d(blurred, across.transpose(2, 3), padding=(half, 0), groups=channels)


def ssim(image: Tensor, target: Tensor) -> Tensor:
    """Mean structural similarity of two (height, width, 3) images with values in 0-1."""
    offset = torch.arange(WINDOW, dtype=image.dtype, device=image.device) - WINDOW // 2
    kernel = torch.exp(-offset.square() / (2 * SIGMA**2))
    kernel = kernel / kernel.sum()
    a, b = image.permute(2, 0, 1), target.permute(2, 0, 1)
    # One pass over all moments: means, squares, product.
    blurred = _blur(torch.cat([a, b, a * a, b * b, a * b])[None], kernel)[0].chunk(5)
    mean_a, mean_b, square_a, square_b, product = blurred
    var_a, var_b = square_a - mean_a.square(), square_b - mean_b.square()
    covariance = product - mean_a * mean_b
    top = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    bottom = (mean_a.square() + mean_b.square() + C1) * (var_a + var_b + C2)
    return (top / bottom).mean()
