"""From token positions to the pyramid of lattices, curves and tables that the backbone runs on.

Two ways to build it (docs/ptv3.md): `released_pyramid` as the released PointWorld does, `stable_pyramid` on one fixed
lattice, where nothing about a token depends on other tokens, on the batch or on the order of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from pointworld.errors import InputError
from pointworld.geometry.voxel import lexicographic_order, voxel_indices
from pointworld.ptv3.arch import PTv3Arch
from pointworld.ptv3.curves import MAX_DEPTH, curve_codes
from pointworld.ptv3.neighbors import (
    NeighborTable,
    grouped_voxel_table,
    released_voxel_table,
    unique_voxel_table,
)
from pointworld.ptv3.patches import PatchPlan, plan_patches

STABLE_DEPTH = 10


@dataclass(frozen=True, eq=False)
class Level:
    """Tokens of one stage.

    grid: (tokens, 3) int64 lattice cells, 0 <= value < 2**depth.
    batch: (tokens,) int64 sample of every token, samples one after the other (ascending).
    counts: tokens per sample.
    depth: bits per axis of the curves' codes.
    curves: curve that block i of the stage uses, at i modulo their number.
    patch_size: tokens per attention patch.
    neighbors: table of the convolutions.
    cluster: (tokens of the previous level,) row of this level that each was pooled into; None at the first level.
    """

    grid: torch.Tensor
    batch: torch.Tensor
    counts: tuple[int, ...]
    depth: int
    curves: tuple[str, ...]
    patch_size: int
    neighbors: NeighborTable
    cluster: torch.Tensor | None = None
    _orders: dict[str, torch.Tensor] = field(default_factory=dict)
    _plans: dict[str, PatchPlan] = field(default_factory=dict)

    def codes(self, curve: str) -> torch.Tensor:
        """(tokens,) position along a curve, the sample in the bits above 3*depth."""
        return curve_codes(self.grid, self.depth, curve) | (self.batch << (3 * self.depth))

    def order(self, curve: str) -> torch.Tensor:
        """(tokens,) tokens along a curve; tokens of one cell keep their order."""
        if curve not in self._orders:
            self._orders[curve] = torch.argsort(self.codes(curve), stable=True)
        return self._orders[curve]

    def plan(self, block: int) -> PatchPlan:
        """Attention patches of a block of this stage."""
        curve = self.curves[block % len(self.curves)]
        if curve not in self._plans:
            self._plans[curve] = plan_patches(self.order(curve), self.counts, self.patch_size)
        return self._plans[curve]


@dataclass(frozen=True, eq=False)
class Pyramid:
    """Levels of all stages, and where the caller's tokens are.

    levels: first to last stage.
    canonical: (tokens,) the caller's token at every row of the first level; None = the caller's order is kept.
    """

    levels: tuple[Level, ...]
    canonical: torch.Tensor | None = None

    @cached_property
    def row_of(self) -> torch.Tensor | None:
        """(tokens,) row of the first level that holds the caller's token; None = the same."""
        if self.canonical is None:
            return None
        rows = torch.empty_like(self.canonical)
        rows[self.canonical] = torch.arange(len(rows), device=rows.device)
        return rows


def _bits(value: int) -> int:
    return max(1, value.bit_length())


def _check_code_width(depth: int, batch_size: int) -> None:
    if depth > MAX_DEPTH or 3 * depth + batch_size.bit_length() > 63:
        raise InputError(
            f"the tokens span 2**{depth} voxels in {batch_size} samples, more than a 63-bit code holds "
            f"(at most {MAX_DEPTH} bits per axis); crop the scene or use a larger grid_size"
        )


def _pool(level: Level, *, depth: int | None, curves: tuple[str, ...]) -> Level:
    """The next level: cells of twice the size, sorted by (batch, x, y, z)."""
    grid = level.grid >> 1
    extent = int(grid.max()) + 1 if len(grid) else 1
    key = ((level.batch * extent + grid[:, 0]) * extent + grid[:, 1]) * extent + grid[:, 2]
    unique, cluster = torch.unique(key, return_inverse=True)
    pooled = torch.stack(
        [unique // extent**2 % extent, unique // extent % extent, unique % extent], dim=1
    )
    batch = unique // extent**3
    return Level(
        grid=pooled,
        batch=batch,
        counts=tuple(torch.bincount(batch, minlength=len(level.counts)).tolist()),
        depth=_bits(extent) if depth is None else depth,
        curves=curves,
        patch_size=level.patch_size,
        neighbors=unique_voxel_table(pooled, batch),
        cluster=cluster,
    )


def draw_curves(curves: Sequence[str], generator: torch.Generator | None) -> tuple[str, ...]:
    """The curves in a drawn order; without a generator torch's global CPU generator is used, as the reference does."""
    drawn = torch.randperm(len(curves), generator=generator).tolist()
    return tuple(curves[i] for i in drawn)


def released_pyramid(
    coords: torch.Tensor,
    batch: torch.Tensor,
    batch_size: int,
    *,
    arch: PTv3Arch,
    grid_size: float,
    duplicates: str = "gpu_last",
    orders: str = "identity",
    generator: torch.Generator | None = None,
) -> Pyramid:
    """Pyramid with the released semantics: one lattice phase and depth for the whole batch.

    Args:
        coords: (tokens, 3) positions [m]; at least one token.
        batch: (tokens,) int64, ascending.
        batch_size: samples.
        arch: supplies stages, patch size and curves.
        grid_size: voxel edge [m].
        duplicates: treatment of tokens that share a voxel, see `released_voxel_table`.
        orders: "drawn" permutes the curves once per level with `generator` (torch's global CPU generator if None),
            in the reference's order of draws; "identity" keeps them.
        generator: CPU generator for orders="drawn".
    Raises:
        InputError: unknown `orders` or `duplicates`, or the tokens span too many voxels.
    """
    if orders not in ("identity", "drawn"):
        raise InputError(f"unknown orders '{orders}', expected 'identity' or 'drawn'")

    def next_curves() -> tuple[str, ...]:
        return draw_curves(arch.curves, generator) if orders == "drawn" else arch.curves

    exact = coords.detach().float()
    edge = torch.full((3,), grid_size, dtype=torch.float32, device=coords.device)
    grid = torch.trunc((exact - exact.amin(0)) / edge).to(torch.int64)
    depth = _bits(int(grid.max()) + 1)
    _check_code_width(depth, batch_size)
    levels = [
        Level(
            grid=grid,
            batch=batch,
            counts=tuple(torch.bincount(batch, minlength=batch_size).tolist()),
            depth=depth,
            curves=next_curves(),
            patch_size=arch.patch_size,
            neighbors=released_voxel_table(grid, batch, duplicates),
        )
    ]
    for _ in arch.enc_depths[1:]:
        levels.append(_pool(levels[-1], depth=None, curves=next_curves()))
    return Pyramid(levels=tuple(levels))


def stable_grid(coords: torch.Tensor, grid_size: float, depth: int = STABLE_DEPTH) -> torch.Tensor:
    """Cells of the fixed lattice floor(p / grid_size), shifted by 2**(depth-1) so that they are not negative.

    Args:
        coords: (tokens, 3) positions in the base frame [m].
        grid_size: voxel edge [m].
        depth: bits per axis.
    Raises:
        InputError: a position is not finite or outside the lattice, which holds
            -2**(depth-1)*grid_size <= p < 2**(depth-1)*grid_size (7.68 m for 10 bits of 1.5 cm).
    """
    half = 1 << (depth - 1)
    low, high = (float(coords.min()), float(coords.max())) if len(coords) else (0.0, 0.0)
    if not (low >= -half * grid_size and high < half * grid_size):
        raise InputError(
            f"token positions span {low:.3f} to {high:.3f} m, but the fixed lattice holds "
            f"{-half * grid_size:.2f} to {half * grid_size:.2f} m around the base frame's origin; "
            "crop the scene to the robot's workspace, and check units and frame"
        )
    return voxel_indices(coords.detach(), grid_size) + half


def canonical_order(
    grid: torch.Tensor,
    batch: torch.Tensor,
    rank: torch.Tensor,
    coords: torch.Tensor,
    features: torch.Tensor,
    depth: int = STABLE_DEPTH,
) -> torch.Tensor:
    """Order of the tokens that does not depend on the order in which they were given.

    Sorted by (batch, cell x, y, z), rank, position x, y, z; what is still equal by features. Tokens equal in all
    of these are interchangeable.

    Args:
        grid: (tokens, 3) int64, 0 <= value < 2**depth.
        batch: (tokens,) int64.
        rank: (tokens,) int64, 0 <= rank < 256: role and time.
        coords: (tokens, 3) positions.
        features: (tokens, channels).
        depth: bits per axis of `grid`.
    """
    key = batch
    for axis in grid.unbind(-1):
        key = (key << depth) | axis
    key = (key << 8) | rank
    key, order = torch.sort(key)
    for values in (coords, features):
        same = key[1:] == key[:-1]
        if not bool(same.any()):
            return order
        edge = same.new_zeros(1)
        tied = torch.nonzero(torch.cat([edge, same]) | torch.cat([same, edge])).squeeze(1)
        rows = order[tied]
        columns = values.detach()[rows].unbind(-1)
        inner = lexicographic_order(key[tied], *columns)
        order[tied] = rows[inner]
        split = (values.detach()[order[1:]] != values.detach()[order[:-1]]).any(-1) | ~same
        key = torch.cat([edge.long(), torch.cumsum(split, 0)])
    return order


def stable_pyramid(
    coords: torch.Tensor,
    batch: torch.Tensor,
    batch_size: int,
    *,
    arch: PTv3Arch,
    grid_size: float,
    rank: torch.Tensor,
    features: torch.Tensor,
    depth: int = STABLE_DEPTH,
) -> Pyramid:
    """Pyramid on the fixed lattice with constant curve depth; see docs/ptv3.md.

    Args:
        coords: (tokens, 3) positions in the base frame [m].
        batch: (tokens,) int64 sample of every token.
        batch_size: samples.
        arch: supplies stages, patch size and curves.
        grid_size: voxel edge [m].
        rank: (tokens,) int64 below 256; orders tokens within a voxel (role, then time).
        features: (tokens, channels); separates tokens that agree in everything else.
        depth: bits per axis.
    Raises:
        InputError: a position lies outside the lattice.
    """
    _check_code_width(depth, batch_size)
    grid = stable_grid(coords, grid_size, depth)
    canonical = canonical_order(grid, batch, rank, coords, features, depth)
    grid, batch = grid[canonical], batch[canonical]
    levels = [
        Level(
            grid=grid,
            batch=batch,
            counts=tuple(torch.bincount(batch, minlength=batch_size).tolist()),
            depth=depth,
            curves=arch.curves,
            patch_size=arch.patch_size,
            neighbors=grouped_voxel_table(grid, batch),
        )
    ]
    for _ in arch.enc_depths[1:]:
        levels.append(_pool(levels[-1], depth=max(1, levels[-1].depth - 1), curves=arch.curves))
    return Pyramid(levels=tuple(levels), canonical=canonical)
