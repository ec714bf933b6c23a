"""Numba kernels: blending front to back inside 16 x 16 tiles, its gradient, and the top contributor of every pixel.

A Gaussian is applied to one row of 16 pixels at a time, without branches, so that the compiler uses vector instructions;
colours lie channel by channel for the same reason. Gradients are first written per (tile, Gaussian) and then summed per
Gaussian in a fixed order: the number of threads changes nothing.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, types
from numba.extending import overload

from splat.raster.kernels_tiles import TILE

#: exp is only needed down to here: what is smaller is below ALPHA_MIN for every opacity.
LOWEST = -6.0
#: How often a tile looks whether all its pixels are finished [Gaussians].
CHECK_EVERY = 8


def _exp(x):  # type: ignore[no-untyped-def]
    """exp(x) for x in LOWEST..0."""
    return math.exp(x)


@overload(_exp, inline="always")
def _exp_overload(x):  # type: ignore[no-untyped-def]
    if x is types.float32:
        # (Taylor polynomial of x / 16) ^ 16: relative error 2e-6, and it vectorises.
        def short(x):  # type: ignore[no-untyped-def]
            y = x * np.float32(0.0625)
            p = np.float32(1 / 720)
            p = p * y + np.float32(1 / 120)
            p = p * y + np.float32(1 / 24)
            p = p * y + np.float32(1 / 6)
            p = p * y + np.float32(0.5)
            p = p * y + np.float32(1)
            p = p * y + np.float32(1)
            p = p * p
            p = p * p
            p = p * p
            return p * p

        return short

    def exact(x):  # type: ignore[no-untyped-def]
        return math.exp(x)

    return exact


@njit(cache=True, nogil=True, fastmath={"contract", "arcp", "nsz", "reassoc"}, error_model="numpy")
def blend_range(  # type: ignore[no-untyped-def]
    first,
    last,
    starts,
    listed,
    means2d,
    conics,
    radii,
    opacities,
    values,
    columns,
    bounds,
    images,
    alphas,
    ends,
):
    """Blend tiles first..last-1.

    Args:
        values: (N, D) channels. bounds: alpha_min, alpha_max, transmittance_min.
        images: (height, width, D), alphas: (height, width), filled here.
        ends: (height, width) int32, one past the entry of the last contributor in the tile's list.
    """
    kind = means2d.dtype.type
    height, width, channels = images.shape
    alpha_min, alpha_max, floor = bounds[0], bounds[1], bounds[2]
    zero, one, half, lowest = kind(0), kind(1), kind(0.5), kind(LOWEST)
    total = np.empty((channels, TILE, TILE), means2d.dtype)
    passed = np.empty((TILE, TILE), means2d.dtype)
    alive = np.empty((TILE, TILE), means2d.dtype)
    end = np.empty((TILE, TILE), np.int32)
    weight = np.empty(TILE, means2d.dtype)
    lane = np.empty(TILE, means2d.dtype)
    for q in range(TILE):
        lane[q] = kind(q) + half
    for tile in range(first, last):
        x0, y0 = (tile % columns) * TILE, (tile // columns) * TILE
        total[:] = zero
        passed[:] = one
        alive[:] = one
        end[:] = 0
        for entry in range(starts[tile], starts[tile + 1]):
            i = listed[entry]
            mx, my = means2d[i, 0] - kind(x0), means2d[i, 1] - kind(y0)
            k0, k1, k2, opacity = (
                half * conics[i, 0],
                conics[i, 1],
                half * conics[i, 2],
                opacities[i],
            )
            top = max(0, math.floor(my - radii[i, 1]))
            bottom = min(TILE - 1, math.floor(my + radii[i, 1]))
            for r in range(top, bottom + 1):
                dy = my - (kind(r) + half)
                linear, constant = k1 * dy, k2 * dy * dy
                for q in range(TILE):
                    dx = mx - lane[q]
                    power = -((k0 * dx + linear) * dx + constant)
                    alpha = min(opacity * _exp(max(power, lowest)), alpha_max)
                    wanted = alive[r, q] if alpha >= alpha_min and power <= zero else zero
                    after = passed[r, q] * (one - alpha)
                    drawn = wanted if after > floor else zero
                    weight[q] = drawn * alpha * passed[r, q]
                    alive[r, q] = alive[r, q] - (wanted - drawn)
                    passed[r, q] = after if drawn > zero else passed[r, q]
                    end[r, q] = np.int32(entry + 1) if drawn > zero else end[r, q]
                for d in range(channels):
                    value = values[i, d]
                    for q in range(TILE):
                        total[d, r, q] += weight[q] * value
            if entry % CHECK_EVERY == 0:
                left = zero
                for r in range(TILE):
                    for q in range(TILE):
                        left += alive[r, q]
                if left == zero:
                    break
        for r in range(min(TILE, height - y0)):
            for q in range(min(TILE, width - x0)):
                alphas[y0 + r, x0 + q] = one - passed[r, q]
                ends[y0 + r, x0 + q] = end[r, q]
                for d in range(channels):
                    images[y0 + r, x0 + q, d] = total[d, r, q]


@njit(cache=True, nogil=True, fastmath={"contract", "arcp", "nsz", "reassoc"}, error_model="numpy")
def blend_backward_range(  # type: ignore[no-untyped-def]
    first,
    last,
    starts,
    listed,
    means2d,
    conics,
    radii,
    opacities,
    values,
    columns,
    bounds,
    alphas,
    ends,
    g_images,
    g_alphas,
    g_pairs,
):
    """Fill g_pairs (entries, 6 + D): mean x, y, conic xx, xy, yy, opacity, channels; zero where nothing is drawn."""
    kind = means2d.dtype.type
    height, width, channels = g_images.shape
    alpha_min, alpha_max = bounds[0], bounds[1]
    zero, one, half, lowest = kind(0), kind(1), kind(0.5), kind(LOWEST)
    received = np.empty((channels, TILE, TILE), means2d.dtype)
    passed = np.empty((TILE, TILE), means2d.dtype)
    behind = np.empty((TILE, TILE), means2d.dtype)
    through = np.empty((TILE, TILE), means2d.dtype)
    end = np.empty((TILE, TILE), np.int32)
    lane = np.empty(TILE, means2d.dtype)
    weight = np.empty(TILE, means2d.dtype)
    dot = np.empty(TILE, means2d.dtype)
    sums = np.empty((6, TILE), means2d.dtype)
    color = np.empty((channels, TILE), means2d.dtype)
    for q in range(TILE):
        lane[q] = kind(q) + half
    for tile in range(first, last):
        x0, y0 = (tile % columns) * TILE, (tile // columns) * TILE
        received[:] = zero
        passed[:] = one
        behind[:] = zero
        through[:] = zero
        end[:] = 0
        deepest = starts[tile]
        for r in range(min(TILE, height - y0)):
            for q in range(min(TILE, width - x0)):
                passed[r, q] = one - alphas[y0 + r, x0 + q]
                through[r, q] = passed[r, q] * g_alphas[y0 + r, x0 + q]
                end[r, q] = ends[y0 + r, x0 + q]
                deepest = max(deepest, ends[y0 + r, x0 + q])
                for d in range(channels):
                    received[d, r, q] = g_images[y0 + r, x0 + q, d]
        for entry in range(deepest, starts[tile + 1]):
            g_pairs[entry, :] = zero
        for entry in range(deepest - 1, starts[tile] - 1, -1):
            i = listed[entry]
            mx, my = means2d[i, 0] - kind(x0), means2d[i, 1] - kind(y0)
            k0, k1, k2, opacity = (
                half * conics[i, 0],
                conics[i, 1],
                half * conics[i, 2],
                opacities[i],
            )
            top = max(0, math.floor(my - radii[i, 1]))
            bottom = min(TILE - 1, math.floor(my + radii[i, 1]))
            sums[:] = zero
            color[:] = zero
            for r in range(top, bottom + 1):
                dy = my - (kind(r) + half)
                linear, constant = k1 * dy, k2 * dy * dy
                for q in range(TILE):
                    dot[q] = zero
                for d in range(channels):
                    value = values[i, d]
                    for q in range(TILE):
                        dot[q] += value * received[d, r, q]
                for q in range(TILE):
                    dx = mx - lane[q]
                    power = -((k0 * dx + linear) * dx + constant)
                    raw = opacity * _exp(max(power, lowest))
                    alpha = min(raw, alpha_max)
                    seen = alpha >= alpha_min and power <= zero and entry < end[r, q]
                    drawn = one if seen else zero
                    back = one / (one - alpha)
                    before = passed[r, q] * back
                    weight[q] = drawn * alpha * before
                    g_alpha = before * dot[q] + back * (through[r, q] - behind[r, q])
                    behind[r, q] += weight[q] * dot[q]
                    passed[r, q] = before if seen else passed[r, q]
                    g_power = drawn * raw * g_alpha if raw <= alpha_max else zero
                    sums[0, q] += g_power
                    sums[1, q] += g_power * dx
                    sums[2, q] += g_power * dy
                    sums[3, q] += g_power * dx * dx
                    sums[4, q] += g_power * dx * dy
                    sums[5, q] += g_power * dy * dy
                for d in range(channels):
                    for q in range(TILE):
                        color[d, q] += weight[q] * received[d, r, q]
            s0 = s1 = s2 = s3 = s4 = s5 = zero
            for q in range(TILE):
                s0 += sums[0, q]
                s1 += sums[1, q]
                s2 += sums[2, q]
                s3 += sums[3, q]
                s4 += sums[4, q]
                s5 += sums[5, q]
            g_pairs[entry, 0] = -(conics[i, 0] * s1 + k1 * s2)
            g_pairs[entry, 1] = -(k1 * s1 + conics[i, 2] * s2)
            g_pairs[entry, 2] = -half * s3
            g_pairs[entry, 3] = -s4
            g_pairs[entry, 4] = -half * s5
            g_pairs[entry, 5] = s0 / opacity
            for d in range(channels):
                part = zero
                for q in range(TILE):
                    part += color[d, q]
                g_pairs[entry, 6 + d] = part


@njit(cache=True, nogil=True)
def sum_pairs_range(first, last, order, pair_starts, pair_slots, g_pairs, summed):  # type: ignore[no-untyped-def]
    """summed (N, 6 + D): every Gaussian's gradient over its tiles, for the first..last-1-th of `order`."""
    width = g_pairs.shape[1]
    for k in range(first, last):
        i = order[k]
        for p in range(pair_starts[k], pair_starts[k + 1]):
            slot = pair_slots[p]
            for d in range(width):
                summed[i, d] += g_pairs[slot, d]


@njit(cache=True, nogil=True)
def top_range(  # type: ignore[no-untyped-def]
    first, last, starts, listed, means2d, conics, opacities, columns, bounds, ends, top_ids
):
    """top_ids (height, width): the Gaussian with the largest weight in each pixel of tiles first..last-1, -1 = none."""
    kind = means2d.dtype.type
    height, width = top_ids.shape
    half, one, zero = kind(0.5), kind(1), kind(0)
    for tile in range(first, last):
        x0, y0 = (tile % columns) * TILE, (tile // columns) * TILE
        for y in range(y0, min(y0 + TILE, height)):
            for x in range(x0, min(x0 + TILE, width)):
                passed, best, winner = one, zero, -1
                for entry in range(starts[tile], ends[y, x]):
                    i = listed[entry]
                    dx, dy = means2d[i, 0] - (kind(x) + half), means2d[i, 1] - (kind(y) + half)
                    power = -(
                        half * (conics[i, 0] * dx * dx + conics[i, 2] * dy * dy)
                        + conics[i, 1] * dx * dy
                    )
                    if power > zero:
                        continue
                    alpha = min(opacities[i] * _exp(max(power, kind(LOWEST))), bounds[1])
                    if alpha < bounds[0]:
                        continue
                    if alpha * passed > best:
                        best, winner = alpha * passed, i
                    passed *= one - alpha
                top_ids[y, x] = winner
