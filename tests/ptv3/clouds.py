"""Token clouds for the tests of the backbone."""

from __future__ import annotations

import torch


def surface_tokens(
    count: int,
    generator: torch.Generator,
    *,
    batch_size: int = 1,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, 3) positions on a table with a bump [m], and their (tokens,) sample; about 1 token per 1.5 cm voxel."""
    side = (count * 0.9) ** 0.5 * 0.015
    xy = torch.rand(batch_size * count, 2, generator=generator, dtype=dtype) * side
    bump = 0.08 * torch.exp(-((xy - side / 2) ** 2).sum(1) / (side / 6) ** 2)
    coords = torch.cat([xy - side / 3, bump[:, None]], dim=1)
    return coords, torch.arange(batch_size).repeat_interleave(count)
