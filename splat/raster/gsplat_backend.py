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
    """CUDA kernels of gsplat; see `splat.raster.protocol.Rasterizer`. float32 only; finds no top contributors.

    Tensors in main memory are copied to the GPU, and what is rendered of them comes back.
    """

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
            InputError: top contributors are asked for, or the tensors are not float32.
        """
        check_call(
            means, quats_wxyz, scales, opacities, colors, viewmats, Ks, width, height, render_mode, backgrounds
        )  # fmt: skip
        if top_ids:
            raise InputError(
                "gsplat finds no top contributors; use the rasteriser 'cpu' for picking"
            )
        if means.dtype != torch.float32:
            raise InputError(f"means are {means.dtype}; the rasteriser 'gsplat' takes float32 only")
        home = means.device
        device = home if home.type == "cuda" else torch.device("cuda")
        given = (means, quats_wxyz, scales, opacities, colors, viewmats, Ks)
        images, alphas, info = self._rasterization(
            *(values.to(device) for values in given),
            width,
            height,
            near_plane=near,
            far_plane=far,
            eps2d=EPS2D,
            packed=False,
            backgrounds=None if backgrounds is None else backgrounds.to(device),
            render_mode=render_mode,
        )
        return RasterOutput(
            colors=images.to(home),
            alphas=alphas.to(home),
            means2d=info["means2d"].to(home),
            radii=info["radii"].to(means),
        )
