"""Views of an image for LeJEPA: crops at several scales, with other colours, and points that large crops share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pointworld.encoders.protocol import imagenet_normalize
from pointworld.errors import InputError

Tensor = torch.Tensor

#: Luma and two colour axes, and back (NTSC).
_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """What the views of an image look like.

    large, small: number of crops. large_size, small_size: their edge [px], a multiple of the patch.
    large_scale, small_scale: pixels of the image per pixel of the crop, drawn log-uniformly.
    shift: how far the crops' centres lie from one another, at most [share of the large crop's edge].
    points: places in both of the first two large crops whose patch features must agree.
    brightness, contrast, saturation: largest change as a factor of 1 ± this; hue [rad]; grey: share of grey views.
    noise: standard deviation at most.
    """

    large: int = 2
    small: int = 2
    large_size: int = 80
    small_size: int = 40
    large_scale: tuple[float, float] = (0.6, 1.8)
    small_scale: tuple[float, float] = (0.5, 1.3)
    shift: float = 0.25
    points: int = 8
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.4
    hue: float = 0.4
    grey: float = 0.1
    noise: float = 0.03

    def __post_init__(self) -> None:
        if self.large < 2 or self.small < 0 or self.points < 0:
            raise InputError(
                f"crops: large {self.large}, small {self.small}, points {self.points}; expected 2 or more large ones"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Crops:
    """Views of B images, normalised with ImageNet's statistics.

    large: (large, B, 3, s, s). small: (small, B, 3, s, s).
    places: (2, B, points, 2) the same points of the image in the first two large crops, x and y in -1..1.
    """

    large: Tensor
    small: Tensor
    places: Tensor


def draw_crops(images: Tensor, config: CropConfig, generator: torch.Generator) -> Crops:
    """Random views of images (B, 3, h, w) uint8."""
    size, count = config.large_size, len(images)
    height, width = images.shape[-2:]
    extent = torch.tensor([width, height], dtype=torch.float32)
    # More often near the middle, where pictures show what they were taken for.
    anchor = torch.rand(count, 2, 2, generator=generator).mean(-1) * extent
    windows = [
        _windows(anchor, size, config.large_scale, config, extent, generator)
        for _ in range(config.large)
    ]
    small = [
        _windows(anchor, config.small_size, config.small_scale, config, extent, generator)
        for _ in range(config.small)
    ]
    places = _shared_points(windows[0], windows[1], config.points, generator)
    pixels = images.float() / 255
    return Crops(
        large=torch.stack([_cut(pixels, w, size, config, generator) for w in windows]),
        small=torch.stack([_cut(pixels, w, config.small_size, config, generator) for w in small])
        if small
        else pixels.new_zeros(0, count, 3, config.small_size, config.small_size),
        places=places,
    )


def _windows(
    anchor: Tensor,
    size: int,
    scale: tuple[float, float],
    config: CropConfig,
    extent: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """(B, 4): centre x, y and half width (negative = mirrored) and half height [px of the image], inside the image."""
    count = len(anchor)
    logs = torch.rand(count, 1, generator=generator) * math.log(scale[1] / scale[0])
    half = 0.5 * size * scale[0] * logs.exp()
    half = torch.minimum(half, 0.5 * extent.min()).expand(-1, 2)
    offset = (2 * torch.rand(count, 2, generator=generator) - 1) * config.shift * config.large_size
    centre = torch.minimum(torch.maximum(anchor + offset, half), extent - half)
    sign = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    return torch.cat([centre, half[:, :1] * sign[:, None], half[:, 1:]], 1)


def _shared_points(a: Tensor, b: Tensor, points: int, generator: torch.Generator) -> Tensor:
    """(2, B, points, 2) places in both windows, in each one's own -1..1."""
    low = torch.maximum(a[:, :2] - a[:, 2:].abs(), b[:, :2] - b[:, 2:].abs())
    high = torch.minimum(a[:, :2] + a[:, 2:].abs(), b[:, :2] + b[:, 2:].abs())
    share = torch.rand(len(a), points, 2, generator=generator)
    # Windows that miss each other meet at the point between them; it lies on both edges or is clamped there.
    where = low[:, None] + share * (high - low).clamp_min(0)[:, None]
    return torch.stack([(where - w[:, None, :2]) / w[:, None, 2:] for w in (a, b)]).clamp(-1, 1)


def _cut(
    pixels: Tensor, window: Tensor, size: int, config: CropConfig, generator: torch.Generator
) -> Tensor:
    """(B, 3, size, size): the windows of the images, resampled, recoloured, normalised."""
    height, width = pixels.shape[-2:]
    steps = (2 * torch.arange(size) + 1) / size - 1
    x = (window[:, 0:1] + steps * window[:, 2:3]) * (2 / width) - 1
    y = (window[:, 1:2] + steps * window[:, 3:4]) * (2 / height) - 1
    grid = torch.stack([x[:, None].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], -1)
    crop = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    return imagenet_normalize(_recolour(crop, config, generator))


def _recolour(crop: Tensor, config: CropConfig, generator: torch.Generator) -> Tensor:
    """One linear change of colours per image, and noise."""
    count = len(crop)

    def factor(reach: float) -> Tensor:
        return 1 + reach * (2 * torch.rand(count, generator=generator) - 1)

    to_yiq = torch.tensor(_YIQ)
    angle = config.hue * (2 * torch.rand(count, generator=generator) - 1)
    grey = torch.rand(count, generator=generator) < config.grey
    chroma = torch.where(grey, torch.zeros(count), factor(config.saturation))
    turn = torch.zeros(count, 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = chroma * angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -chroma * angle.sin(), chroma * angle.sin()
    contrast = factor(config.contrast)
    change = torch.linalg.inv(to_yiq) @ turn @ to_yiq * contrast[:, None, None]
    middle = crop.mean((1, 2, 3))
    shift = (factor(config.brightness) - contrast) * middle
    flat = torch.baddbmm(shift[:, None, None], change, crop.flatten(2)).view_as(crop)
    sigma = config.noise * torch.rand(count, 1, 1, 1, generator=generator)
    noise = torch.randn(flat.shape, generator=generator)
    return (flat + sigma * noise).clamp(0, 1)
