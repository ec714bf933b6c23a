"""How well a fitted scene shows views that it was not fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from splat.fit.cameras import fit_exposure
from splat.fit.images import psnr, ssim
from splat.fit.lpips import Lpips
from splat.fit.optimise import COVERED, Fitted, render
from splat.fit.views import FitView
from splat.raster import get_rasterizer

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """One view as the scene shows it. image: (height, width, 3) in 0-1. depth: (height, width) [m]."""

    view: FitView
    image: Tensor
    depth: Tensor
    alpha: Tensor


@torch.no_grad()
def show_views(fitted: Fitted, views: Sequence[FitView], *, backend: str = "auto") -> list[Shown]:
    """Render views that were not trained on: their exposure is that of the training frames next to them."""
    rasterizer = get_rasterizer(backend)
    shown = []
    for view in views:
        size = (view.width, view.height)
        images, alpha = render(rasterizer, fitted.scene, view.viewmat, view.K, size, "RGB+ED")
        image = fitted.cameras.expose_between(images[..., :3], fitted.positions, view.position)
        shown.append(Shown(view=view, image=image.clamp(0, 1), depth=images[..., 3], alpha=alpha))
    return shown


def measure(shown: Sequence[Shown]) -> dict[str, float]:
    """Means over views: PSNR [dB] of the whole frame, where depth is valid, and after a per-image exposure fit (which
    looks at the held-out image), SSIM, and depth L1 [m] where depth is valid and the scene covers the pixel."""
    if not shown:
        return {}
    rows = []
    for item in shown:
        view = item.view
        exposed = fit_exposure(item.image, view.rgb).clamp(0, 1)
        seen = view.valid & (item.alpha > COVERED)
        gap = (item.depth - view.depth)[seen].abs()
        rows.append(
            {
                "psnr": psnr(item.image, view.rgb),
                "psnr_depth_valid": psnr(item.image, view.rgb, view.valid),
                "psnr_exposure_fit": psnr(exposed, view.rgb),
                "ssim": float(ssim(item.image, view.rgb)),
                "depth_l1_m": float(gap.mean()) if len(gap) else float("nan"),
                "covered": float(seen.sum() / view.valid.sum().clamp_min(1)),
            }
        )
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def mean_lpips(shown: Sequence[Shown], lpips: Lpips | None) -> float | None:
    """Mean over views; None without its weights."""
    if lpips is None or not shown:
        return None
    return sum(float(lpips(item.image, item.view.rgb)) for item in shown) / len(shown)
