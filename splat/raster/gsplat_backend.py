"""gsplat 1.5.3 on CUDA behind the same call."""

from __future__ import annotations

from typing import Any

import torch

from pointworld.errors import InputError, MissingExtraError
from splat.raster.protocol import (
    EPS2D,
    FAR,
    NEAR,
    RasterOutput,
    RenderMode,
    check_call,
)

Tensor = torch.Tensor


def _gsplat() -> Any:
    # gsplat renders nothing without CUDA, and finds that out only in the middle of a call.
    if not torch.cuda.is_available():
        raise InputError("the rasteriser 'gsplat' needs a CUDA GPU and there is none; use 'cpu'")
    try:
        import gsplat
    except ImportError as error:
        raise MissingExtraError("gsplat", "splat-cuda", "Rendering on a CUDA GPU") from error
    return gsplat


class GsplatRasterizer:
    """CUDA kernels of gsplat; see `splat.raster.protocol.Rasterizer`. float32 only; finds no top contributors."""

    name = "gsplat"

    def __init__(self) -> None:
        self._rasterization = _gsplat().rasterization

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
            InputError: top contributors are asked for, or the tensors are not on a GPU in float32.
        """
        check_call(
            means, quats_wxyz, scales, opacities, colors, viewmats, Ks, width, height, render_mode, backgrounds
        )  # fmt: skip
        if top_ids:
            raise InputError(
                "gsplat finds no top contributors; use the rasteriser 'cpu' for picking"
            )
        if means.device.type != "cuda" or means.dtype != torch.float32:
            raise InputError(
                f"means are {means.dtype} on {means.device}; the rasteriser 'gsplat' takes float32 on a CUDA GPU"
            )
        images, alphas, info = self._rasterization(
            means,
            quats_wxyz,
            scales,
            opacities,
            colors,
            viewmats,
            Ks,
            width,
            height,
            near_plane=near,
            far_plane=far,
            eps2d=EPS2D,
            packed=False,
            backgrounds=backgrounds,
            render_mode=render_mode,
        )
        return RasterOutput(
            colors=images,
            alphas=alphas,
            means2d=info["means2d"],
            radii=info["radii"].to(means.dtype),
        )
