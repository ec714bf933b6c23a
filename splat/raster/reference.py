"""The oracle: every pixel against every visible Gaussian, in plain PyTorch, in float32 or float64, with autograd."""

from __future__ import annotations

import torch

from splat.raster.projection import Projected, project
from splat.raster.protocol import (
    ALPHA_MAX,
    ALPHA_MIN,
    FAR,
    NEAR,
    TRANSMITTANCE_MIN,
    RasterOutput,
    RenderMode,
    check_call,
    finish,
)

Tensor = torch.Tensor

#: Pixels times Gaussians that are held at a time.
CHUNK = 4_000_000


class ReferenceRasterizer:
    """Slow and plain; see `splat.raster.protocol.Rasterizer`."""

    name = "reference"

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
        """Render; see `Rasterizer`."""
        request = check_call(
            means, quats_wxyz, scales, opacities, colors, viewmats, Ks, width, height, render_mode, backgrounds
        )  # fmt: skip
        images, alphas, tops, means2d, radii = [], [], [], [], []
        for camera in range(len(viewmats)):
            view = project(
                means, quats_wxyz, scales, opacities, viewmats[camera], Ks[camera], width, height,
                near=near, far=far,
            )  # fmt: skip
            rows = request.colors[camera if len(request.colors) > 1 else 0]
            if request.depth:
                rows = torch.cat([rows, view.depths[:, None]], 1)
            image, alpha, top = _composite(view, opacities, rows, width, height)
            images.append(image)
            alphas.append(alpha)
            tops.append(top)
            means2d.append(view.means2d)
            radii.append(view.radii)
        alpha = torch.stack(alphas)
        return RasterOutput(
            colors=finish(torch.stack(images), alpha, request, backgrounds),
            alphas=alpha,
            means2d=torch.stack(means2d),
            radii=torch.stack(radii),
            top_ids=torch.stack(tops) if top_ids else None,
        )


def _composite(
    view: Projected, opacities: Tensor, rows: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(height, width, channels), (height, width, 1), (height, width)."""
    ids = view.visible.nonzero()[:, 0]
    ids = ids[torch.sort(view.depths[ids].detach(), stable=True).indices]
    channels = rows.shape[1]
    if not len(ids):
        empty = rows.new_zeros(height, width, channels) + 0 * rows.sum()
        none = torch.full((height, width), -1, dtype=torch.int64, device=rows.device)
        return empty, empty.new_zeros(height, width, 1), none
    means2d, conics = view.means2d[ids], view.conics[ids]
    opacity, rows = opacities[ids], rows[ids]
    y, x = torch.meshgrid(
        torch.arange(height, device=rows.device),
        torch.arange(width, device=rows.device),
        indexing="ij",
    )
    pixels = torch.stack([x.flatten(), y.flatten()], -1).to(rows.dtype) + 0.5
    images, alphas, tops = [], [], []
    for part in pixels.split(max(1, CHUNK // len(ids))):
        dx, dy = (means2d[None] - part[:, None]).unbind(-1)
        sigma = 0.5 * (conics[:, 0] * dx * dx + conics[:, 2] * dy * dy) + conics[:, 1] * dx * dy
        alpha = (opacity * torch.exp(-sigma)).clamp_max(ALPHA_MAX)
        alpha = torch.where((sigma >= 0) & (alpha >= ALPHA_MIN), alpha, 0.0)
        after = torch.cumprod(1 - alpha, 1)
        before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], 1)
        weight = torch.where(after > TRANSMITTANCE_MIN, alpha * before, 0.0)
        images.append(weight @ rows)
        alphas.append(weight.sum(1))
        best, at = weight.detach().max(1)
        tops.append(torch.where(best > 0, ids[at], -1))
    return (
        torch.cat(images).view(height, width, channels),
        torch.cat(alphas).view(height, width, 1),
        torch.cat(tops).view(height, width),
    )
