"""What every rasteriser takes and gives. The call and the constants are those of gsplat 1.5.3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch

from pointworld.errors import InputError

Tensor = torch.Tensor

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]

#: A Gaussian's contribution to a pixel below this is skipped.
ALPHA_MIN = 1.0 / 255.0
#: Contributions are clamped to this.
ALPHA_MAX = 0.999
#: A pixel is finished before the Gaussian that would bring its transmittance to this or below.
TRANSMITTANCE_MIN = 1e-4
#: Added to both variances of a projected Gaussian [px^2].
EPS2D = 0.3
#: A Gaussian reaches at most this many standard deviations.
EXTENT = 3.33
NEAR, FAR = 0.01, 1e10
#: Share of the half image by which directions may lie outside it in the projection's Jacobian, twice (gsplat: 0.3).
JACOBIAN_MARGIN = 0.3
#: Expected depth divides by at least this alpha.
EXPECTED_DEPTH_MIN_ALPHA = 1e-10


@dataclass(frozen=True, kw_only=True, eq=False)
class RasterOutput:
    """Images of C cameras.

    colors: (C, height, width, channels): the colours' channels, then depth where the mode asks for it [m].
    alphas: (C, height, width, 1), accumulated opacity.
    means2d: (C, N, 2) projected centres [px]; meaningless where culled.
    radii: (C, N, 2) half size of the box that holds the Gaussian [px]; 0 = culled.
    top_ids: (C, height, width) the Gaussian that contributes most to each pixel, -1 = none; None if not asked for.
    """

    colors: Tensor
    alphas: Tensor
    means2d: Tensor
    radii: Tensor
    top_ids: Tensor | None = None


class Rasterizer(Protocol):
    """Renders Gaussians; differentiable with respect to everything but Ks."""

    name: str

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
        """Render.

        Args:
            means: (N, 3) [m]. quats_wxyz: (N, 4), any length. scales: (N, 3) [m]. opacities: (N,).
            colors: (N, D) or (C, N, D), any number of channels.
            viewmats: (C, 4, 4) T_cam_world, OpenCV axes. Ks: (C, 3, 3), pixel centres at integer + 0.5.
            backgrounds: (C, D) seen behind the Gaussians; black when absent. Depth has none.
            near, far: Gaussians whose centre is nearer or farther are not drawn [m].
            top_ids: also find the top contributor of every pixel (not differentiable).

        Raises:
            InputError: shapes, types or devices do not fit.
        """
        ...


@dataclass(frozen=True)
class Request:
    """A checked call.

    colors: (C or 1, N, D). with_colors, depth: "" for none, "D" accumulated, "ED" expected.
    """

    colors: Tensor
    with_colors: bool
    depth: str


def check_call(
    means: Tensor,
    quats_wxyz: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    render_mode: str,
    backgrounds: Tensor | None,
) -> Request:
    """Check shapes, types and devices of a rasteriser's call.

    Raises:
        InputError: what is wrong, with what was expected.
    """
    if render_mode not in get_args(RenderMode):
        raise InputError(
            f"render_mode is '{render_mode}', expected one of {', '.join(get_args(RenderMode))}"
        )
    if width < 1 or height < 1 or width * height > 2**28:
        raise InputError(f"image of {width} x {height} pixels, expected 1 to 2^28 pixels")
    n = means.shape[0] if means.ndim == 2 else -1
    cameras = viewmats.shape[0] if viewmats.ndim == 3 else -1
    channels = colors.shape[-1] if colors.ndim in (2, 3) else -1
    expected = {
        "means": (means, (n, 3)),
        "quats_wxyz": (quats_wxyz, (n, 4)),
        "scales": (scales, (n, 3)),
        "opacities": (opacities, (n,)),
        "viewmats": (viewmats, (cameras, 4, 4)),
        "Ks": (Ks, (cameras, 3, 3)),
        "colors": (colors, (n, channels) if colors.ndim == 2 else (cameras, n, channels)),
    }
    if backgrounds is not None:
        expected["backgrounds"] = (backgrounds, (cameras, channels))
    for name, (value, shape) in expected.items():
        if tuple(value.shape) != shape or -1 in shape:
            raise InputError(f"{name} is {tuple(value.shape)}, expected {shape}")
        if value.dtype != means.dtype or value.device != means.device:
            raise InputError(
                f"{name} is {value.dtype} on {value.device}, means are {means.dtype} on {means.device}; use one of each"
            )
    if means.dtype not in (torch.float32, torch.float64):
        raise InputError(f"means are {means.dtype}, expected float32 or float64")
    with_colors = render_mode.startswith("RGB")
    depth = render_mode.removeprefix("RGB").removeprefix("+")
    return Request(
        colors=colors if colors.ndim == 3 else colors[None], with_colors=with_colors, depth=depth
    )


def finish(images: Tensor, alphas: Tensor, request: Request, backgrounds: Tensor | None) -> Tensor:
    """Colours (C, H, W, D [+ 1]) with background and expected depth, from accumulated channels."""
    parts = []
    if request.with_colors:
        colors = images[..., : request.colors.shape[-1]]
        if backgrounds is not None:
            colors = colors + (1 - alphas) * backgrounds[:, None, None]
        parts.append(colors)
    if request.depth:
        depth = images[..., -1:]
        if request.depth == "ED":
            depth = depth / alphas.clamp_min(EXPECTED_DEPTH_MIN_ALPHA)
        parts.append(depth)
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)
