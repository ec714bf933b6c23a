"""Numba kernels: which Gaussians touch which 16 x 16 tile, front to back.

A Gaussian is listed in a tile only where it reaches ALPHA_MIN somewhere in the tile's rows: the span of its ellipse
over every row of tiles is computed exactly.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

TILE = 16
#: Widening of every span [px], against rounding.
SLACK = 0.01


@njit(cache=True, nogil=True, inline="always")
def _span(a, b, c, level, x, y, low, high):  # type: ignore[no-untyped-def]
    """Range of x that the ellipse a dx^2 + 2 b dx dy + c dy^2 <= level round (x, y) covers for rows low..high."""
    top, bottom = low - y, high - y
    det = a * c - b * b
    reach = math.sqrt(level * a / det)
    top, bottom = max(top, -reach), min(bottom, reach)
    if top > bottom:
        return 1.0, 0.0
    # The rightmost point of the whole ellipse lies at this dy; the leftmost at minus it.
    turn = -b * math.sqrt(level / (c * det)) if c > 0 else 0.0
    right_dy = min(max(turn, top), bottom)
    left_dy = min(max(-turn, top), bottom)
    inner = a * level - det * right_dy * right_dy
    right = x + (-b * right_dy + math.sqrt(max(inner, 0.0))) / a
    inner = a * level - det * left_dy * left_dy
    left = x + (-b * left_dy - math.sqrt(max(inner, 0.0))) / a
    return left - SLACK, right + SLACK


@njit(cache=True, nogil=True)
def list_tiles(order, means2d, conics, radii, opacities, columns, rows, alpha_min):  # type: ignore[no-untyped-def]
    """Lists of Gaussians per tile.

    Args:
        order: visible Gaussians front to back.

    Returns:
        starts: (tiles + 1,) where each tile's list begins. listed: Gaussian of every entry.
        pair_starts: (len(order) + 1,), pair_slots: entries that belong to the k-th Gaussian of `order`.
    """
    tiles = columns * rows
    counts = np.zeros(tiles + 1, np.int64)
    pair_starts = np.zeros(len(order) + 1, np.int64)
    spans = np.empty((len(order), 2), np.int32)
    for k in range(len(order)):
        i = order[k]
        y, ry = float(means2d[i, 1]), float(radii[i, 1])
        first = max(0, math.floor((y - ry) / TILE))
        last = min(rows - 1, math.floor((y + ry) / TILE))
        spans[k, 0], spans[k, 1] = first, last
    # Two passes over the same spans: count, then place.
    total = 0
    cursor = np.zeros(tiles, np.int64)
    listed = np.empty(0, np.int32)
    slots = np.empty(0, np.int32)
    for turn in range(2):
        if turn == 1:
            total = pair_starts[len(order)]
            listed = np.empty(total, np.int32)
            slots = np.empty(total, np.int32)
            for tile in range(tiles):
                counts[tile + 1] += counts[tile]
                cursor[tile] = counts[tile]
        for k in range(len(order)):
            i = order[k]
            x, y = float(means2d[i, 0]), float(means2d[i, 1])
            a, b, c = float(conics[i, 0]), float(conics[i, 1]), float(conics[i, 2])
            level = 2.0 * math.log(float(opacities[i]) / alpha_min) + 1e-4
            rx = float(radii[i, 0])
            pairs = pair_starts[k]
            for row in range(spans[k, 0], spans[k, 1] + 1):
                left, right = _span(a, b, c, level, x, y, row * TILE + 0.5, row * TILE + TILE - 0.5)
                left, right = max(left, x - rx), min(right, x + rx)
                if left > right:
                    continue
                # Pixel centres lie at integer + 0.5.
                start = max(0, math.floor((left - 0.5) / TILE))
                stop = min(columns - 1, math.floor((right - 0.5) / TILE))
                for column in range(start, stop + 1):
                    tile = row * columns + column
                    if turn == 0:
                        counts[tile + 1] += 1
                    else:
                        listed[cursor[tile]] = i
                        slots[pairs] = cursor[tile]
                        cursor[tile] += 1
                    pairs += 1
            if turn == 0:
                pair_starts[k + 1] = pairs
    return counts, listed, pair_starts, slots
