"""After the fit, `splat fit --features`: encode the frames, lift their features into the Gaussians, measure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pointworld.cli.common import progress
from pointworld.encoders import ImageEncoder
from pointworld.files import atomic_path
from splat.features import (
    FeatureBasis,
    FeatureView,
    draw_features,
    feature_colors,
    feature_cosine,
    fit_basis,
    pixel_features,
    refine,
    uplift,
)
from splat.fit import Fitted
from splat.fit.views import FitView
from splat.raster import get_rasterizer
from splat.types import GaussianScene

Tensor = torch.Tensor

#: Held-out views in the picture of features.
PICTURE_ROWS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Featured:
    """A scene with features, their decoder, and what was measured."""

    scene: GaussianScene
    basis: FeatureBasis
    report: dict[str, float | int | str]


def encode_view(encoder: ImageEncoder, view: FitView, viewmat: Tensor) -> FeatureView:
    """A frame of a fit as the encoder sees it, from `viewmat` (4, 4) T_colorcam_world."""
    return FeatureView(
        grid=encoder.encode(view.rgb.permute(2, 0, 1)[None])[0],
        stride=encoder.stride,
        viewmat=viewmat,
        K=view.K,
        width=view.width,
        height=view.height,
        shows_scene=view.shows_scene,
    )


@torch.no_grad()
def feature_views(
    encoder: ImageEncoder, fitted: Fitted, views: Sequence[FitView], *, trained: bool
) -> list[FeatureView]:
    """Encode frames; those that were `trained` on have pose corrections of their own."""
    found = []
    with progress(len(views), f"encoding with {encoder.name}") as advance:
        for index, view in enumerate(views):
            pose = fitted.cameras.viewmat(view.viewmat, index if trained else None)
            found.append(encode_view(encoder, view, pose))
            advance(1)
    return found


def add_features(
    encoder: ImageEncoder,
    fitted: Fitted,
    training: Sequence[FitView],
    held: Sequence[FitView],
    *,
    channels: int,
    iterations: int,
    backend: str,
    picture: Path,
    seed: int = 0,
) -> Featured:
    """Features of the training views in every Gaussian, and how well they show held-out views.

    Args:
        channels: kept of the encoder's. iterations: of gradient refinement; 0 = none.
        picture: PNG of held-out views: image, the encoder's features, rendered features.
    """
    began = time.perf_counter()
    seen = feature_views(encoder, fitted, training, trained=True)
    basis = fit_basis([view.grid for view in seen], channels)
    rasterizer = get_rasterizer(backend)
    encoded = time.perf_counter()
    with progress(len(seen), "lifting features") as advance:
        scene, weights = uplift(fitted.scene, seen, basis, rasterizer, on_view=advance)
    lifted = time.perf_counter()
    if iterations:
        with progress(iterations, "refining features") as advance:
            scene = refine(
                scene, seen, basis, rasterizer, iterations=iterations, seed=seed, on_step=advance
            )
    refined = time.perf_counter()
    checked = feature_views(encoder, fitted, held, trained=False) if held else seen[:PICTURE_ROWS]
    report: dict[str, float | int | str] = {
        "features": encoder.name,
        "feature_channels": len(basis.components),
        "feature_explained": basis.explained,
        "feature_seen": float((weights > 0).float().mean()),
        "feature_encode_seconds": round(encoded - began, 2),
        "feature_uplift_seconds": round(lifted - encoded, 2),
        "feature_refine_seconds": round(refined - lifted, 2),
    }
    if held:
        found = feature_cosine(scene, checked, basis, rasterizer)
        report |= {f"feature_{name}": value for name, value in found.items()}
    images = (held or training)[:PICTURE_ROWS]
    write_feature_picture(picture, scene, basis, checked, [view.rgb for view in images], backend)
    return Featured(scene=scene, basis=basis, report=report)


@torch.no_grad()
def write_feature_picture(
    path: Path,
    scene: GaussianScene,
    basis: FeatureBasis,
    views: Sequence[FeatureView],
    images: Sequence[Tensor],
    backend: str,
) -> None:
    """Rows of: image, the encoder's features, the scene's; the first three directions of the basis as colours."""
    assert scene.features is not None
    rasterizer = get_rasterizer(backend)
    rows = []
    for view, image in zip(views, images, strict=False):
        grid = basis.encode(view.grid.permute(1, 2, 0)).permute(2, 0, 1)
        own = pixel_features(grid, view.stride, view.width, view.height)
        size = (view.width, view.height)
        mine, alpha = draw_features(scene, scene.features, view.viewmat, view.K, size, rasterizer)
        both = feature_colors(torch.cat([own, mine], 1))
        both[:, view.width :] *= (alpha > 0.5)[..., None]
        rows.append(torch.cat([image, both], 1))
    sheet = (torch.cat(rows).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    with atomic_path(path) as temporary:
        Image.fromarray(np.ascontiguousarray(sheet)).save(temporary, format="PNG")
