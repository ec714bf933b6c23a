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
    if not det > 0:  # so large that its inverse covariance vanishes: it covers every row
        return -math.inf, math.inf
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
def span_range(  # type: ignore[no-untyped-def]
    first,
    last,
    order,
    means2d,
    conics,
    radii,
    opacities,
    columns,
    alpha_min,
    top_rows,
    span_starts,
    spans,
    counts,
):
    """Columns of tiles that the first..last-1-th Gaussian of `order` touches, for every row of tiles it may touch.

    Args:
        order: visible Gaussians front to back. top_rows: first row of tiles of each of them.
        span_starts: (len(order) + 1,) where the spans of each begin.
        spans: (all, 3) first column, last column, number of tiles in the rows before; filled here.
        counts: (len(order),) tiles of each; filled here.
    """
    for k in range(first, last):
        i = order[k]
        x, y, rx = np.float64(means2d[i, 0]), np.float64(means2d[i, 1]), np.float64(radii[i, 0])
        a, b, c = np.float64(conics[i, 0]), np.float64(conics[i, 1]), np.float64(conics[i, 2])
        level = 2.0 * math.log(np.float64(opacities[i]) / alpha_min) + 1e-4
        tiles = 0
        for s in range(span_starts[k], span_starts[k + 1]):
            row = top_rows[k] + s - span_starts[k]
            left, right = _span(a, b, c, level, x, y, row * TILE + 0.5, row * TILE + TILE - 0.5)
            # Pixel centres lie at integer + 0.5. Clipped as real numbers: a huge one does not fit an integer.
            left = max(max(left, x - rx) - 0.5, 0.0)
            right = min(min(right, x + rx) - 0.5, columns * TILE - 1.0)
            start, stop = 0, -1
            if left <= right:
                start, stop = math.floor(left / TILE), math.floor(right / TILE)
            spans[s, 0], spans[s, 1], spans[s, 2] = start, stop, tiles
            tiles += max(0, stop - start + 1)
        counts[k] = tiles


@njit(cache=True, nogil=True)
def count_range(first, last, top_rows, span_starts, spans, columns, counts):  # type: ignore[no-untyped-def]
    """counts (tiles,): Gaussians of every tile in rows first..last-1 of tiles."""
    for k in range(len(top_rows)):
        base = span_starts[k] - top_rows[k]
        bottom = span_starts[k + 1] - base
        for row in range(max(first, top_rows[k]), min(last, bottom)):
            for column in range(spans[base + row, 0], spans[base + row, 1] + 1):
                counts[row * columns + column] += 1


@njit(cache=True, nogil=True)
def place_range(  # type: ignore[no-untyped-def]
    first, last, order, top_rows, span_starts, spans, pair_starts, columns, starts, listed, slots
):
    """Lists of the tiles in rows first..last-1 of tiles.

    Args:
        starts: (tiles + 1,) where each tile's list begins. listed: Gaussian of every entry; filled here.
        pair_starts: (len(order) + 1,); slots: entries that belong to the k-th Gaussian of `order`; filled here.
    """
    cursor = starts[first * columns : last * columns].copy()
    for k in range(len(top_rows)):
        base = span_starts[k] - top_rows[k]
        bottom = span_starts[k + 1] - base
        for row in range(max(first, top_rows[k]), min(last, bottom)):
            pair = pair_starts[k] + spans[base + row, 2]
            for column in range(spans[base + row, 0], spans[base + row, 1] + 1):
                tile = (row - first) * columns + column
                listed[cursor[tile]] = order[k]
                slots[pair] = cursor[tile]
                cursor[tile] += 1
                pair += 1
