"""One fixed voxel lattice through the origin of the base frame, shared by scene points and network tokens."""

from __future__ import annotations

import torch


def voxel_indices(points: torch.Tensor, size: float) -> torch.Tensor:
    """Integer lattice cells floor(p / size), (..., 3) int64."""
    return torch.floor(points / size).to(torch.int64)


def lexicographic_order(*keys: torch.Tensor) -> torch.Tensor:
    """Stable argsort by several 1-D keys, the first the most significant."""
    order = torch.arange(keys[0].shape[0], device=keys[0].device)
    for key in reversed(keys):
        order = order[torch.argsort(key[order], stable=True)]
    return order


def voxel_representatives(points: torch.Tensor, size: float) -> torch.Tensor:
    """Indices of one point per occupied voxel, sorted by voxel (x, y, z).

    The representative is the point nearest to the voxel's centre; ties are broken by position (x, y, z), so the
    chosen *positions* never depend on the order of the input.

    Args:
        points: (points, 3) [m].
        size: voxel edge [m].
    """
    if points.shape[0] == 0:
        return torch.zeros(0, dtype=torch.int64, device=points.device)
    cells = voxel_indices(points, size)
    centre_distance = ((points / size - cells.to(points.dtype) - 0.5) ** 2).sum(-1)
    x, y, z = points.unbind(-1)
    order = lexicographic_order(cells[:, 0], cells[:, 1], cells[:, 2], centre_distance, x, y, z)
    ordered = cells[order]
    first = torch.ones(len(order), dtype=torch.bool, device=points.device)
    first[1:] = (ordered[1:] != ordered[:-1]).any(-1)
    return order[first]
