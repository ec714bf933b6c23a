"""Which voxels touch: the table that a 3x3x3 submanifold convolution walks, for unique and for shared voxels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from pointworld.errors import InputError

TAPS = 27
CENTER = 13
DUPLICATE_RULES = ("gpu_last", "gpu_first", "native")


@dataclass(frozen=True, eq=False)
class VoxelGroups:
    """Rows of several tokens that share a voxel, where the tokens of a voxel are consecutive.

    voxel_of: (tokens,) voxel of every token, ascending.
    starts: (voxels,) first token of every voxel.
    counts: (voxels, 1) tokens in every voxel.
    """

    voxel_of: torch.Tensor
    starts: torch.Tensor
    counts: torch.Tensor

    @cached_property
    def arange(self) -> torch.Tensor:
        """(tokens,) 0, 1, 2, ..."""
        return torch.arange(len(self.voxel_of), device=self.voxel_of.device)


@dataclass(frozen=True, eq=False)
class NeighborTable:
    """Pairs (source row, target row) of every tap but the centre, tap by tap.

    Tap (i*3 + j)*3 + k holds the pairs whose source voxel lies at target + (i-1, j-1, k-1).

    source, target: (pairs,) rows, grouped by tap.
    taps: (tap, first pair, one past its last pair) of every tap that has pairs.
    by_target: (pairs,) permutation that groups the pairs by target.
    target_starts: (rows,) start of every target's group inside `by_target`.
    reverse: (pairs,) where the table is symmetric: place of the pair with source and target exchanged, which
        belongs to the opposite tap. None where tokens that share a voxel are treated unequally.
    groups: set where rows are voxels and the features given are tokens' (the voxel's mean is what neighbours read).
    """

    source: torch.Tensor
    target: torch.Tensor
    taps: tuple[tuple[int, int, int], ...]
    by_target: torch.Tensor
    target_starts: torch.Tensor
    reverse: torch.Tensor | None = None
    groups: VoxelGroups | None = None

    @cached_property
    def by_source(self) -> torch.Tensor:
        """(pairs,) permutation that groups the pairs by source."""
        if self.reverse is not None:
            return self.reverse[self.by_target]
        return torch.argsort(self.source, stable=True)

    @cached_property
    def source_starts(self) -> torch.Tensor:
        """(rows,) start of every source's group inside `by_source`."""
        if self.reverse is not None:
            return self.target_starts
        return _starts(torch.bincount(self.source, minlength=len(self.target_starts)))

    @cached_property
    def _products(self) -> dict[tuple[int, torch.dtype], torch.Tensor]:
        return {}

    def products(self, channels: int, like: torch.Tensor) -> torch.Tensor:
        """(pairs, channels) to compute in, of the type and device of `like`; its content is left from the last use.

        The convolutions of a stage take turns with it: hundreds of megabytes from the system for each of them cost a
        quarter of a large batch's time.
        """
        key = (channels, like.dtype)
        if key not in self._products:
            self._products[key] = like.new_empty(len(self.source), channels)
        return self._products[key]


def _starts(counts: torch.Tensor) -> torch.Tensor:
    return torch.cumsum(counts, 0) - counts


def voxel_keys(grid: torch.Tensor, batch: torch.Tensor) -> tuple[torch.Tensor, int]:
    """One integer per voxel that sorts like (batch, x, y, z), and its stride per row of voxels.

    A free cell around the lattice keeps neighbours of border voxels from wrapping to the next row.
    """
    extent = int(grid.max()) + 3 if len(grid) else 3
    key = ((batch * extent + grid[:, 0] + 1) * extent + grid[:, 1] + 1) * extent + grid[:, 2] + 1
    return key, extent


def neighbor_rows(keys: torch.Tensor, extent: int) -> torch.Tensor:
    """Rows of the 27 neighbours of every voxel.

    Args:
        keys: (voxels,) unique, ascending, from `voxel_keys`.
        extent: stride from `voxel_keys`.
    Returns:
        (27, voxels) rows, -1 where there is no such voxel.
    """
    rows = torch.arange(len(keys), device=keys.device)
    table = torch.full((TAPS, len(keys)), -1, dtype=torch.int64, device=keys.device)
    table[CENTER] = rows
    if len(keys) == 0:
        return table
    offsets = torch.tensor([-extent - 1, -extent, -extent + 1, -1], device=keys.device) * extent - 1
    wanted = keys + offsets[:, None]
    found = torch.searchsorted(keys, wanted)
    last = len(keys) - 1
    for dz in range(3):  # consecutive z are consecutive keys: one search serves three taps
        hit = keys[found.clamp(max=last)] == wanted + dz
        table[dz : CENTER - 1 : 3] = torch.where(hit, found, -1)
        found = found + hit
    below = torch.cat([keys.new_zeros(1, dtype=torch.bool), keys[1:] == keys[:-1] + 1])
    table[CENTER - 1] = torch.where(below, rows - 1, -1)
    for tap in range(CENTER):  # the other half by symmetry
        target = torch.nonzero(table[tap] >= 0).squeeze(1)
        table[TAPS - 1 - tap, table[tap, target]] = target
    return table


def table_from_rows(
    rows: torch.Tensor, *, symmetric: bool, groups: VoxelGroups | None = None
) -> NeighborTable:
    """Turns (27, targets) source rows (-1 = none) into pair lists; the centre tap is left out."""
    present = rows >= 0
    present[CENTER] = False
    counts = present.sum(1).tolist()
    taps, first = [], 0
    for tap, count in enumerate(counts):
        if count:
            taps.append((tap, first, first + count))
        first += count
    place = (torch.cumsum(present.reshape(-1), 0) - 1).view_as(rows)
    source = rows[present]
    tap_of, target = torch.nonzero(present).unbind(1)
    return NeighborTable(
        source=source,
        target=target,
        taps=tuple(taps),
        by_target=place.t()[present.t()],
        target_starts=_starts(present.sum(0)),
        reverse=place[TAPS - 1 - tap_of, source] if symmetric else None,
        groups=groups,
    )


def unique_voxel_table(grid: torch.Tensor, batch: torch.Tensor) -> NeighborTable:
    """Table of voxels that are unique and sorted by (batch, x, y, z)."""
    keys, extent = voxel_keys(grid, batch)
    return table_from_rows(neighbor_rows(keys, extent), symmetric=True)


def grouped_voxel_table(grid: torch.Tensor, batch: torch.Tensor) -> NeighborTable:
    """Table of tokens sorted by (batch, x, y, z) whose voxels may hold several of them.

    Neighbours read the mean over the tokens of a voxel, and all tokens of a voxel receive the same sum.
    """
    keys, extent = voxel_keys(grid, batch)
    unique, voxel_of, counts = torch.unique_consecutive(
        keys, return_inverse=True, return_counts=True
    )
    if len(unique) == len(keys):
        return table_from_rows(neighbor_rows(keys, extent), symmetric=True)
    groups = VoxelGroups(voxel_of=voxel_of, starts=_starts(counts), counts=counts[:, None])
    return table_from_rows(neighbor_rows(unique, extent), symmetric=True, groups=groups)


def released_voxel_table(grid: torch.Tensor, batch: torch.Tensor, rule: str) -> NeighborTable:
    """Table of tokens in any order, with the reference's treatment of tokens that share a voxel.

    One token of every voxel, the winner, is the only one that neighbours read: the last row of the voxel with rule
    "gpu_last", the first with "gpu_first" (the reference leaves it to a race). Taps before the centre reach every
    token; taps after the centre reach winners only. Rule "native" is that of spconv's CPU path: the winner is the
    first row; taps before the centre sum over all tokens of the source voxel and reach winners only; taps after
    the centre read winners and reach every token.

    Source: spconv 2.3.8, checked against shared fixtures made with its kernels.
    """
    if rule not in DUPLICATE_RULES:
        raise InputError(
            f"unknown duplicate rule '{rule}', expected one of {list(DUPLICATE_RULES)}"
        )
    keys, extent = voxel_keys(grid, batch)
    unique, voxel_of = torch.unique(keys, return_inverse=True)
    tokens = torch.arange(len(keys), device=keys.device)
    reduce = "amax" if rule == "gpu_last" else "amin"
    winner = torch.zeros_like(unique).scatter_reduce(
        0, voxel_of, tokens, reduce, include_self=False
    )
    near = neighbor_rows(unique, extent)
    near = torch.where(near >= 0, winner[near], -1)
    rows = near[:, voxel_of]
    is_winner = winner[voxel_of] == tokens
    if rule != "native":
        rows[CENTER + 1 :, ~is_winner] = -1
        return table_from_rows(rows, symmetric=len(unique) == len(keys))
    rows[:CENTER, ~is_winner] = -1
    table = table_from_rows(rows, symmetric=len(unique) == len(keys))
    return table if len(unique) == len(keys) else _sum_over_source_voxels(table, voxel_of)


def _sum_over_source_voxels(table: NeighborTable, voxel_of: torch.Tensor) -> NeighborTable:
    """Repeats every pair of a tap before the centre for all tokens of its source voxel."""
    tokens_by_voxel = torch.argsort(voxel_of, stable=True)
    counts = torch.bincount(voxel_of)
    starts = _starts(counts)
    sources, targets, taps, first = [], [], [], 0
    for tap, begin, end in table.taps:
        source, target = table.source[begin:end], table.target[begin:end]
        if tap < CENTER:
            voxel = voxel_of[source]
            repeats = counts[voxel]
            within = torch.arange(int(repeats.sum()), device=source.device)
            within = within - torch.repeat_interleave(_starts(repeats), repeats)
            source = tokens_by_voxel[torch.repeat_interleave(starts[voxel], repeats) + within]
            target = torch.repeat_interleave(target, repeats)
        sources.append(source)
        targets.append(target)
        taps.append((tap, first, first + len(source)))
        first += len(source)
    source, target = torch.cat(sources), torch.cat(targets)
    return NeighborTable(
        source=source,
        target=target,
        taps=tuple(taps),
        by_target=torch.argsort(target, stable=True),
        target_starts=_starts(torch.bincount(target, minlength=len(voxel_of))),
    )
