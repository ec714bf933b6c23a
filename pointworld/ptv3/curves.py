"""Space-filling curves over a cubic lattice: z-order, Hilbert, and both with x and y swapped."""

from __future__ import annotations

import torch

from pointworld.errors import InputError

CURVES = ("z", "z-trans", "hilbert", "hilbert-trans")
MAX_DEPTH = 16


def curve_codes(grid: torch.Tensor, depth: int, curve: str) -> torch.Tensor:
    """Position of every cell along a curve.

    Args:
        grid: (cells, 3) int64, 0 <= value < 2**depth.
        depth: bits per axis, at most 16.
        curve: one of `CURVES`; "-trans" swaps x and y first.
    Returns:
        (cells,) int64, 0 <= code < 2**(3*depth); the top bits of a code are the code of the parent cell.
    """
    if curve not in CURVES:
        raise InputError(f"unknown curve '{curve}', expected one of {list(CURVES)}")
    if not 1 <= depth <= MAX_DEPTH:
        raise InputError(f"curves take 1 to {MAX_DEPTH} bits per axis, got {depth}")
    x, y, z = grid.unbind(-1)
    if curve.endswith("-trans"):
        x, y = y, x
    return z_codes(x, y, z) if curve.startswith("z") else hilbert_codes(x, y, z, depth)


def _spread(values: torch.Tensor) -> torch.Tensor:
    """Moves bit i to bit 3*i (up to 21 bits)."""
    values = values & 0x1FFFFF
    for shift, mask in (
        (32, 0x1F00000000FFFF),
        (16, 0x1F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        values = (values | (values << shift)) & mask
    return values


def z_codes(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Morton codes; in every triple of bits x is the most significant."""
    return (_spread(x) << 2) | (_spread(y) << 1) | _spread(z)


def hilbert_codes(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, depth: int) -> torch.Tensor:
    """Hilbert codes by Skilling's transform with `depth` bits per axis.

    From the most significant bit down, for every axis in turn: where the bit is set, the lower bits of the first
    axis are inverted, elsewhere the lower bits of the first axis and of this one are exchanged. The interleaved
    bits are then a Gray code of the position.

    Source: J. Skilling, Programming the Hilbert curve, AIP Conf. Proc. 707 (2004).
    """
    axes = [x.clone(), y.clone(), z.clone()]
    for bit in range(depth - 1, 0, -1):
        lower = (1 << bit) - 1
        for i, axis in enumerate(axes):
            is_set = -((axis >> bit) & 1)  # all ones where the bit is set
            if i == 0:
                axes[0] = axis ^ (is_set & lower)
                continue
            exchange = (axes[0] ^ axis) & ~is_set & lower
            axes[0] = axes[0] ^ (exchange | (is_set & lower))
            axes[i] = axis ^ exchange
    code = z_codes(*axes)
    shift = 1
    while shift < 3 * depth:
        code = code ^ (code >> shift)
        shift *= 2
    return code
