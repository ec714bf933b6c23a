"""Numba kernels: blending front to back inside 16 x 16 tiles, its gradient, and the top contributor of every pixel.

Opacities are computed for a row of 16 pixels at a time, without branches, so that the compiler uses vector
instructions; channels lie side by side in memory, and only pixels that a Gaussian really reaches touch them. Gradients
are first written per (tile, Gaussian) and then summed per Gaussian in a fixed order: the number of threads changes
nothing.
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
    edge = kind(TILE - 1)
    total = np.empty((TILE, TILE, channels), means2d.dtype)
    passed = np.empty((TILE, TILE), means2d.dtype)
    alive = np.empty((TILE, TILE), np.bool_)
    end = np.empty((TILE, TILE), np.int32)
    alpha = np.empty(TILE, means2d.dtype)
    for tile in range(first, last):
        x0, y0 = (tile % columns) * TILE, (tile // columns) * TILE
        total[:] = zero
        passed[:] = one
        alive[:] = True
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
            # Clipped as real numbers: a huge one does not fit an integer.
            top = math.floor(max(my - radii[i, 1], zero))
            bottom = math.floor(min(my + radii[i, 1], edge))
            left = math.floor(max(mx - radii[i, 0], zero))
            right = math.floor(min(mx + radii[i, 0], edge))
            for r in range(top, bottom + 1):
                dy = my - (kind(r) + half)
                linear, constant = k1 * dy, k2 * dy * dy
                for q in range(TILE):
                    dx = mx - (kind(q) + half)
                    power = -((k0 * dx + linear) * dx + constant)
                    value = min(opacity * _exp(max(power, lowest)), alpha_max)
                    alpha[q] = value if value >= alpha_min and power <= zero else zero
                for q in range(left, right + 1):
                    if alpha[q] == zero or not alive[r, q]:
                        continue
                    after = passed[r, q] * (one - alpha[q])
                    if after <= floor:
                        alive[r, q] = False
                        continue
                    weight = alpha[q] * passed[r, q]
                    passed[r, q] = after
                    end[r, q] = entry + 1
                    for d in range(channels):
                        total[r, q, d] += weight * values[i, d]
            if entry % CHECK_EVERY == 0 and not alive.any():
                break
        for r in range(min(TILE, height - y0)):
            for q in range(min(TILE, width - x0)):
                alphas[y0 + r, x0 + q] = one - passed[r, q]
                ends[y0 + r, x0 + q] = end[r, q]
                for d in range(channels):
                    images[y0 + r, x0 + q, d] = total[r, q, d]


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
    edge = kind(TILE - 1)
    passed = np.empty((TILE, TILE), means2d.dtype)
    behind = np.empty((TILE, TILE), means2d.dtype)
    through = np.empty((TILE, TILE), means2d.dtype)
    end = np.empty((TILE, TILE), np.int32)
    raw = np.empty(TILE, means2d.dtype)
    for tile in range(first, last):
        x0, y0 = (tile % columns) * TILE, (tile // columns) * TILE
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
        for entry in range(starts[tile], starts[tile + 1]):
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
            # Clipped as real numbers: a huge one does not fit an integer.
            top = math.floor(max(my - radii[i, 1], zero))
            bottom = math.floor(min(my + radii[i, 1], edge))
            left = math.floor(max(mx - radii[i, 0], zero))
            right = math.floor(min(mx + radii[i, 0], edge))
            s0 = s1 = s2 = s3 = s4 = s5 = zero
            for r in range(top, bottom + 1):
                dy = my - (kind(r) + half)
                linear, constant = k1 * dy, k2 * dy * dy
                for q in range(TILE):
                    dx = mx - (kind(q) + half)
                    power = -((k0 * dx + linear) * dx + constant)
                    value = opacity * _exp(max(power, lowest))
                    raw[q] = value if value >= alpha_min and power <= zero else zero
                for q in range(left, right + 1):
                    if raw[q] == zero or entry >= end[r, q]:
                        continue
                    alpha = min(raw[q], alpha_max)
                    back = one / (one - alpha)
                    passed[r, q] *= back
                    weight = alpha * passed[r, q]
                    dot = zero
                    for d in range(channels):
                        dot += values[i, d] * g_images[y0 + r, x0 + q, d]
                        g_pairs[entry, 6 + d] += weight * g_images[y0 + r, x0 + q, d]
                    g_alpha = passed[r, q] * dot + back * (through[r, q] - behind[r, q])
                    behind[r, q] += weight * dot
                    if raw[q] <= alpha_max:
                        g_power = raw[q] * g_alpha
                        dx = mx - (kind(q) + half)
                        s0 += g_power
                        s1 += g_power * dx
                        s2 += g_power * dy
                        s3 += g_power * dx * dx
                        s4 += g_power * dx * dy
                        s5 += g_power * dy * dy
            g_pairs[entry, 0] = -(conics[i, 0] * s1 + k1 * s2)
            g_pairs[entry, 1] = -(k1 * s1 + conics[i, 2] * s2)
            g_pairs[entry, 2] = -half * s3
            g_pairs[entry, 3] = -s4
            g_pairs[entry, 4] = -half * s5
            g_pairs[entry, 5] = s0 / opacity


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
