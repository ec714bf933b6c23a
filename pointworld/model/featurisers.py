"""Raw point features to tokens: the scene and robot featurisers and the time embedding of the release.

Source: module and parameter names, layer order and the time embedding's periods are those of the published
PointWorld checkpoints, so that their weights load by name.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from pointworld.products import Linear

Tensor = torch.Tensor

#: Shortest and longest period of the time embedding [fractions of the horizon].
MIN_PERIOD, MAX_PERIOD = 4e-3, 4.0


class Mlp(nn.Module):
    """Linear, GELU (erf), Linear."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.fc1 = Linear(in_channels, channels)
        self.act = nn.GELU()
        self.fc2 = Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class TimeEmbedding(nn.Module):
    """Sine-cosine code of a time in [0, 1], then Linear, SiLU, Linear.

    channels/2 periods from 4e-3 to 4 in geometric progression; all sines first, then all cosines.

    Args:
        channels: width, even.
        precise: form the angles (up to 1571 rad) in float64. The release forms them in the type of the times, and in
            float32 that shifts the shortest periods by up to 1e-4 rad, which its weights have been trained with.
    """

    def __init__(self, channels: int, *, precise: bool = True) -> None:
        super().__init__()
        self.channels, self.precise = channels, precise
        self.mlp = nn.Sequential(Linear(channels, channels), nn.SiLU(), Linear(channels, channels))

    def forward(self, times: Tensor) -> Tensor:
        """(steps,) times in [0, 1] to (steps, channels)."""
        dtype = torch.float64 if self.precise else times.dtype
        fraction = torch.linspace(0.0, 1.0, self.channels // 2, dtype=dtype, device=times.device)
        period = MIN_PERIOD * (MAX_PERIOD / MIN_PERIOD) ** fraction
        angle = times.to(dtype)[:, None] / period * 2 * math.pi
        code = torch.cat([angle.sin(), angle.cos()], -1)
        return self.mlp(code.to(times.dtype))


class ImageProjection(nn.Module):
    """Sampled image features to token width. A point that no view sees has zero features and gets the bias."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.feat_proj = Linear(in_channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        return self.feat_proj(features)


class SceneFeaturiser(nn.Module):
    """Image and raw features of a scene point to one token; without an image branch when image_channels is 0."""

    def __init__(self, raw_channels: int, image_channels: int, channels: int) -> None:
        super().__init__()
        self.scene_encoder = ImageProjection(image_channels, channels) if image_channels else None
        self.scene_encoder_norm = nn.LayerNorm(channels) if image_channels else None
        self.scene_raw_feat_proj = Linear(raw_channels, channels)
        self.scene_raw_norm = nn.LayerNorm(channels)
        self.scene_proj = Linear(2 * channels if image_channels else channels, channels)

    def encode_images(self, features: Tensor) -> Tensor:
        """(..., points, image_channels) sampled features to (..., points, C); does not depend on the robot."""
        assert self.scene_encoder is not None and self.scene_encoder_norm is not None
        return self.scene_encoder_norm(self.scene_encoder(features))

    def forward(self, raw: Tensor, image_tokens: Tensor | None) -> Tensor:
        """(..., points, Ds) normalised raw features and the result of `encode_images` to (..., points, C)."""
        tokens = self.scene_raw_norm(self.scene_raw_feat_proj(raw))
        if image_tokens is not None:
            tokens = torch.cat([image_tokens.expand(*tokens.shape[:-1], -1), tokens], -1)
        return self.scene_proj(tokens)
