"""A plain Numba rasteriser, pixel by pixel, for `splat_raster.py` to compare with: what one writes first.

Projection in PyTorch, box-shaped tile lists, every pixel of a tile walks its list with `math.exp`; gradients are added
per thread and summed. It computes the same image as `splat.raster`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import njit, prange

from splat.raster.projection import project
from splat.raster.protocol import ALPHA_MAX, ALPHA_MIN, FAR, NEAR, TRANSMITTANCE_MIN

TILE = 16


@njit(cache=True)
def _lists(order, means2d, radii, columns, rows):  # type: ignore[no-untyped-def]
    counts = np.zeros(columns * rows + 1, np.int64)
    for turn in range(2):
        if turn == 1:
            for t in range(columns * rows):
                counts[t + 1] += counts[t]
            cursor = counts[:-1].copy()
            listed = np.empty(counts[-1], np.int32)
        for i in order:
            x0 = max(0, int((means2d[i, 0] - radii[i, 0]) // TILE))
            x1 = min(columns - 1, int((means2d[i, 0] + radii[i, 0]) // TILE))
            y0 = max(0, int((means2d[i, 1] - radii[i, 1]) // TILE))
            y1 = min(rows - 1, int((means2d[i, 1] + radii[i, 1]) // TILE))
            for y in range(y0, y1 + 1):
                for x in range(x0, x1 + 1):
                    t = y * columns + x
                    if turn == 0:
                        counts[t + 1] += 1
                    else:
                        listed[cursor[t]] = i
                        cursor[t] += 1
    return counts, listed


@njit(cache=True, parallel=True, fastmath=True)
def _forward(starts, listed, means2d, conics, opacities, colors, columns, image, through, ends):  # type: ignore[no-untyped-def]
    height, width, channels = image.shape
    for tile in prange(len(starts) - 1):
        x0, y0 = (tile % columns) * TILE, (tile // columns) * TILE
        for y in range(y0, min(y0 + TILE, height)):
            for x in range(x0, min(x0 + TILE, width)):
                passed = np.float32(1)
                end = starts[tile]
                for entry in range(starts[tile], starts[tile + 1]):
                    i = listed[entry]
                    dx = means2d[i, 0] - (np.float32(x) + np.float32(0.5))
                    dy = means2d[i, 1] - (np.float32(y) + np.float32(0.5))
                    sigma = (
                        np.float32(0.5) * (conics[i, 0] * dx * dx + conics[i, 2] * dy * dy)
                        + conics[i, 1] * dx * dy
                    )
                    alpha = min(opacities[i] * math.exp(-sigma), np.float32(ALPHA_MAX))
                    if sigma < 0 or alpha < np.float32(ALPHA_MIN):
                        continue
                    after = passed * (np.float32(1) - alpha)
                    if after <= np.float32(TRANSMITTANCE_MIN):
                        break
                    weight = alpha * passed
                    for d in range(channels):
                        image[y, x, d] += weight * colors[i, d]
                    passed = after
                    end = entry + 1
                through[y, x] = passed
                ends[y, x] = end


@njit(cache=True, parallel=True, fastmath=True)
def _backward(  # type: ignore[no-untyped-def]
    starts,
    listed,
    means2d,
    conics,
    opacities,
    colors,
    columns,
    through,
    ends,
    g_image,
    g_alpha,
    grads,
):
    height, width, channels = g_image.shape
    parts = grads.shape[0]
    tiles = len(starts) - 1
    for part in prange(parts):
        behind = np.empty(channels, np.float32)
        for tile in range(part, tiles, parts):
            x0, y0 = (tile % columns) * TILE, (tile // columns) * TILE
            for y in range(y0, min(y0 + TILE, height)):
                for x in range(x0, min(x0 + TILE, width)):
                    passed = through[y, x]
                    behind[:] = 0
                    for entry in range(ends[y, x] - 1, starts[tile] - 1, -1):
                        i = listed[entry]
                        dx = means2d[i, 0] - (np.float32(x) + np.float32(0.5))
                        dy = means2d[i, 1] - (np.float32(y) + np.float32(0.5))
                        sigma = (
                            np.float32(0.5) * (conics[i, 0] * dx * dx + conics[i, 2] * dy * dy)
                            + conics[i, 1] * dx * dy
                        )
                        raw = opacities[i] * math.exp(-sigma)
                        alpha = min(raw, np.float32(ALPHA_MAX))
                        if sigma < 0 or alpha < np.float32(ALPHA_MIN):
                            continue
                        back = np.float32(1) / (np.float32(1) - alpha)
                        passed *= back
                        weight = alpha * passed
                        g = through[y, x] * back * g_alpha[y, x]
                        for d in range(channels):
                            grads[part, i, 6 + d] += weight * g_image[y, x, d]
                            g += (colors[i, d] * passed - behind[d] * back) * g_image[y, x, d]
                            behind[d] += colors[i, d] * weight
                        if raw <= np.float32(ALPHA_MAX):
                            s = -raw * g
                            grads[part, i, 0] += s * (conics[i, 0] * dx + conics[i, 1] * dy)
                            grads[part, i, 1] += s * (conics[i, 1] * dx + conics[i, 2] * dy)
                            grads[part, i, 2] += np.float32(0.5) * s * dx * dx
                            grads[part, i, 3] += s * dx * dy
                            grads[part, i, 4] += np.float32(0.5) * s * dy * dy
                            grads[part, i, 5] += raw * g / opacities[i]


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means2d: Any, conics: Any, opacities: Any, colors: Any, view: Any, size: Any
    ) -> Any:
        arrays = [v.detach().numpy() for v in (means2d, conics, opacities, colors)]
        width, height = size
        columns, rows = -(-width // TILE), -(-height // TILE)
        ids = view.visible.nonzero()[:, 0]
        order = ids[view.depths[ids].detach().argsort()].numpy()
        starts, listed = _lists(order, arrays[0], view.radii.numpy(), columns, rows)
        image = np.zeros((height, width, arrays[3].shape[1]), np.float32)
        through, ends = np.empty((height, width), np.float32), np.empty((height, width), np.int64)
        _forward(starts, listed, *arrays, columns, image, through, ends)
        ctx.saved = (starts, listed, arrays, columns, through, ends)
        return torch.from_numpy(image), torch.from_numpy(1 - through)

    @staticmethod
    def backward(ctx: Any, g_image: Any, g_alpha: Any) -> Any:
        starts, listed, arrays, columns, through, ends = ctx.saved
        grads = np.zeros(
            (torch.get_num_threads(), len(arrays[0]), 6 + arrays[3].shape[1]), np.float32
        )
        _backward(
            starts, listed, *arrays, columns, through, ends,
            g_image.contiguous().numpy(), g_alpha.contiguous().numpy(), grads,
        )  # fmt: skip
        total = torch.from_numpy(grads.sum(0))
        return total[:, :2], total[:, 2:5], total[:, 5], total[:, 6:], None, None


def rasterize(
    means: Any,
    quats_wxyz: Any,
    scales: Any,
    opacities: Any,
    colors: Any,
    viewmats: Any,
    Ks: Any,
    width: int,
    height: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image (height, width, channels) and alpha of the first camera."""
    view = project(
        means, quats_wxyz, scales, opacities, viewmats[0], Ks[0], width, height, near=NEAR, far=FAR
    )
    result: tuple[torch.Tensor, torch.Tensor] = _Blend.apply(
        view.means2d, view.conics, opacities, colors, view, (width, height)
    )
    return result
