"""The rasteriser for machines without CUDA: Numba kernels on all cores, forward and backward."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from pointworld.errors import InputError, MissingExtraError
from splat.raster.protocol import (
    ALPHA_MAX,
    ALPHA_MIN,
    EPS2D,
    EXTENT,
    FAR,
    JACOBIAN_MARGIN,
    NEAR,
    TRANSMITTANCE_MIN,
    RasterOutput,
    RenderMode,
    check_call,
    finish,
)

try:
    from splat.raster import kernels_blend as blend
    from splat.raster import kernels_project as projection
    from splat.raster import kernels_tiles as tiles
except ImportError as error:
    raise MissingExtraError("numba", "splat", "The CPU rasteriser") from error

Tensor = torch.Tensor
Array = np.ndarray[Any, Any]

#: Pieces of work per thread: tiles differ in how much is in them.
PIECES = 8
#: Gaussians per block of the projection's backward pass.
BLOCK = 2048


def _array(value: Tensor) -> Array:
    """The tensor's memory, in row order."""
    return np.ascontiguousarray(value.detach().numpy())


def _spread(work: Callable[..., None], count: int, *arguments: Any) -> None:
    """Call work(first, last, ...) over ranges of 0..count-1 on torch's number of threads.

    The kernels release Python's lock; plain threads, made for this call, survive a fork of the process (OpenMP's and
    Numba's own do not), and what is written does not depend on how the range is cut.
    """
    threads = torch.get_num_threads()
    if threads == 1 or count < 2 * threads:
        work(0, count, *arguments)
        return
    edges = np.linspace(0, count, threads * PIECES + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        jobs = [
            pool.submit(work, int(a), int(b), *arguments)
            for a, b in itertools.pairwise(edges)
            if a < b
        ]
        for job in jobs:
            job.result()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Camera:
    """One view's constants. lens: fx, fy, cx, cy, width, height, near, far."""

    viewmat: Array
    lens: Array
    width: int
    height: int
    limits: Array
    bounds: Array

    @property
    def columns(self) -> int:
        return -(-self.width // tiles.TILE)

    @property
    def rows(self) -> int:
        return -(-self.height // tiles.TILE)


@dataclass(frozen=True, kw_only=True, eq=False)
class _View:
    """A projected and listed scene."""

    means2d: Array
    depths: Array
    conics: Array
    radii: Array
    order: Array
    starts: Array
    listed: Array
    pair_starts: Array
    pair_slots: Array


def _camera(
    viewmat: Tensor, K: Tensor, width: int, height: int, near: float, far: float
) -> _Camera:
    pose = _array(viewmat)
    fx, fy, cx, cy = (float(K[r, c]) for r, c in ((0, 0), (1, 1), (0, 2), (1, 2)))
    kind = pose.dtype
    return _Camera(
        viewmat=pose,
        lens=np.array([fx, fy, cx, cy, width, height, near, far], kind),
        width=width,
        height=height,
        limits=np.array([EPS2D, EXTENT, ALPHA_MIN, JACOBIAN_MARGIN], kind),
        bounds=np.array([ALPHA_MIN, ALPHA_MAX, TRANSMITTANCE_MIN], kind),
    )


def _prepare(camera: _Camera, means: Array, quats: Array, scales: Array, opacities: Array) -> _View:
    n = len(means)
    means2d, conics = np.zeros((n, 2), means.dtype), np.zeros((n, 3), means.dtype)
    depths, radii = np.empty(n, means.dtype), np.empty((n, 2), means.dtype)
    _spread(
        projection.project_range, n, means, quats, scales, opacities, camera.viewmat, camera.lens,
        camera.limits, means2d, depths, conics, radii,
    )  # fmt: skip
    visible = np.flatnonzero(radii[:, 0] > 0)
    order = visible[np.argsort(depths[visible], kind="stable")]
    starts, listed, pair_starts, pair_slots = _list_tiles(
        camera, order, means2d, conics, radii, opacities
    )
    return _View(
        means2d=means2d,
        depths=depths,
        conics=conics,
        radii=radii,
        order=order,
        starts=starts,
        listed=listed,
        pair_starts=pair_starts,
        pair_slots=pair_slots,
    )


def _list_tiles(
    camera: _Camera, order: Array, means2d: Array, conics: Array, radii: Array, opacities: Array
) -> tuple[Array, Array, Array, Array]:
    """Starts and entries of every tile's list front to back; starts and slots of every Gaussian's entries in them."""
    y, reach = means2d[order, 1], radii[order, 1]
    top_rows = np.clip(np.floor((y - reach) / tiles.TILE), 0, camera.rows).astype(np.int64)
    bottoms = np.clip(np.floor((y + reach) / tiles.TILE) + 1, 0, camera.rows).astype(np.int64)
    span_starts = _starts(np.maximum(bottoms - top_rows, 0))
    spans = np.empty((span_starts[-1], 3), np.int32)
    counts = np.empty(len(order), np.int64)
    _spread(
        tiles.span_range, len(order), order, means2d, conics, radii, opacities, camera.columns,
        ALPHA_MIN, top_rows, span_starts, spans, counts,
    )  # fmt: skip
    pair_starts = _starts(counts)
    in_tiles = np.zeros(camera.columns * camera.rows, np.int64)
    _spread(tiles.count_range, camera.rows, top_rows, span_starts, spans, camera.columns, in_tiles)
    starts = _starts(in_tiles)
    listed, slots = (np.empty(starts[-1], np.int32) for _ in range(2))
    _spread(
        tiles.place_range, camera.rows, order, top_rows, span_starts, spans, pair_starts,
        camera.columns, starts, listed, slots,
    )  # fmt: skip
    return starts, listed, pair_starts, slots


def _starts(counts: Array) -> Array:
    """Where each of consecutive pieces of these lengths begins, and where the last ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


class _Rasterize(torch.autograd.Function):
    """One camera: channels (and depth) blended, with gradients for everything but K."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor,
        scales: Tensor,
        opacities: Tensor,
        colors: Tensor,
        viewmat: Tensor,
        camera: _Camera,
        with_depth: bool,
        find_top: bool,
    ) -> tuple[Tensor, ...]:
        arrays = [_array(v) for v in (means, quats, scales, opacities, colors)]
        view = _prepare(camera, *arrays[:4])
        values = arrays[4]
        if with_depth:
            values = np.concatenate([values, view.depths[:, None]], 1)
        shape = (camera.height, camera.width)
        images = np.empty((*shape, values.shape[1]), values.dtype)
        alphas, ends = np.empty(shape, values.dtype), np.empty(shape, np.int32)
        count = camera.columns * camera.rows
        _spread(
            blend.blend_range, count, view.starts, view.listed, view.means2d, view.conics,
            view.radii, arrays[3], values, camera.columns, camera.bounds, images, alphas, ends,
        )  # fmt: skip
        top = np.full(shape, -1, np.int64)
        if find_top:
            _spread(
                blend.top_range, count, view.starts, view.listed, view.means2d, view.conics,
                arrays[3], camera.columns, camera.bounds, ends, top,
            )  # fmt: skip
        # The inputs are saved torch's way: changing one of them before the backward pass is then an error.
        ctx.save_for_backward(means, quats, scales, opacities, colors)
        ctx.view, ctx.camera, ctx.with_depth = view, camera, with_depth
        ctx.values, ctx.alphas, ctx.ends = values, alphas, ends
        results = tuple(
            torch.from_numpy(v) for v in (images, alphas, view.means2d, view.radii, top)
        )
        ctx.mark_non_differentiable(*results[2:])
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        view: _View = ctx.view
        camera: _Camera = ctx.camera
        means, quats, scales, opacities, colors = (_array(v) for v in ctx.saved_tensors)
        g_images, g_alphas = (_array(g) for g in grads[:2])
        n, width = len(means), 6 + ctx.values.shape[1]
        g_pairs = np.empty((len(view.listed), width), means.dtype)
        _spread(
            blend.blend_backward_range, camera.columns * camera.rows, view.starts, view.listed,
            view.means2d, view.conics, view.radii, opacities, ctx.values, camera.columns,
            camera.bounds, ctx.alphas, ctx.ends, g_images, g_alphas, g_pairs,
        )  # fmt: skip
        summed = np.zeros((n, width), means.dtype)
        _spread(
            blend.sum_pairs_range, len(view.order), view.order, view.pair_starts, view.pair_slots,
            g_pairs, summed,
        )  # fmt: skip
        g_means, g_quats, g_scales = (np.zeros_like(v) for v in (means, quats, scales))
        g_depths = (
            np.ascontiguousarray(summed[:, -1]) if ctx.with_depth else np.zeros(n, means.dtype)
        )
        # In blocks of fixed size: the camera's gradient is summed in one order on any number of threads.
        blocks = -(-n // BLOCK)
        g_viewmats = np.zeros((blocks, 4, 4), means.dtype)

        def project_blocks(first: int, last: int) -> None:
            for block in range(first, last):
                projection.project_backward_range(
                    block * BLOCK, min(n, (block + 1) * BLOCK), means, quats, scales,
                    camera.viewmat, camera.lens, camera.limits, view.conics, view.radii,
                    summed[:, :2], g_depths, summed[:, 2:5], g_means, g_quats, g_scales, g_viewmats[block],
                )  # fmt: skip

        _spread(project_blocks, blocks)
        results = (
            g_means,
            g_quats,
            g_scales,
            summed[:, 5],
            summed[:, 6 : 6 + colors.shape[1]],
            g_viewmats.sum(0),
        )
        return (*(torch.from_numpy(np.ascontiguousarray(v)) for v in results), None, None, None)


class CpuRasterizer:
    """Tiles of 16 x 16 pixels on all cores, float32 or float64; see `splat.raster.protocol.Rasterizer`."""

    name = "cpu"

    def __call__(
        self,
        means: Tensor,
        quats_wxyz: Tensor,
        scales: Tensor,
        opacities: Tensor,
        colors: Tensor,
        viewmats: Tensor,
        Ks: Tensor,
        width: int,
        height: int,
        *,
        render_mode: RenderMode = "RGB",
        backgrounds: Tensor | None = None,
        near: float = NEAR,
        far: float = FAR,
        top_ids: bool = False,
    ) -> RasterOutput:
        """Render; see `Rasterizer`.

        Raises:
            InputError: shapes, types or devices do not fit, or the tensors are not in main memory.
        """
        if means.device.type != "cpu":
            raise InputError(
                f"means are on {means.device}; the rasteriser 'cpu' takes tensors in main memory"
            )
        request = check_call(
            means, quats_wxyz, scales, opacities, colors, viewmats, Ks, width, height, render_mode, backgrounds
        )  # fmt: skip
        views = []
        for index in range(len(viewmats)):
            rows = request.colors[index if len(request.colors) > 1 else 0]
            if not request.with_colors:
                rows = rows[:, :0]
            camera = _camera(viewmats[index], Ks[index], width, height, near, far)
            views.append(
                _Rasterize.apply(
                    means,
                    quats_wxyz,
                    scales,
                    opacities,
                    rows,
                    viewmats[index],
                    camera,
                    bool(request.depth),
                    top_ids,
                )
            )
        images, alphas, means2d, radii, tops = (
            torch.stack(parts) for parts in zip(*views, strict=True)
        )
        return RasterOutput(
            colors=finish(images, alphas[..., None], request, backgrounds),
            alphas=alphas[..., None],
            means2d=means2d,
            radii=radii,
            top_ids=tops if top_ids else None,
        )
