"""Image features in every Gaussian: what an encoder says about pixels, carried into the scene by transposed rendering.

A rendered picture is linear in the Gaussians' values, with the blending weights as matrix. Its transpose gathers, for
every Gaussian, the features of the pixels it was seen in; divided by the gathered weights that is their mean.
Source: Marrie et al., LUDVIG: Learning-free Uplifting of 2D Visual Features to Gaussian Splatting Scenes, 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from pointworld.errors import InputError
from splat.raster import Rasterizer
from splat.types import GaussianScene

Tensor = torch.Tensor

#: Largest number of channels a scene keeps.
CHANNELS = 32
#: Gaussians nearer to a camera than this are not drawn [m]; as in the fit.
NEAR = 0.1
#: A rendered feature counts where at least this much of the pixel is covered.
COVERED = 0.5
#: Names of the decoder in a scene file.
MEAN, COMPONENTS, ENCODER = "feature_mean", "feature_components", "feature_encoder"


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureView:
    """One image as the encoder sees it.

    grid: (channels, rows, columns); cell (i, j) is centred at ((j + 0.5) stride, (i + 0.5) stride) [px].
    viewmat: (4, 4) T_cam_world. K: (3, 3) [px]. width, height: of the image.
    shows_scene: (height, width) bool, False where something that is no part of the scene hides it; None = everywhere.
    """

    grid: Tensor
    stride: int
    viewmat: Tensor
    K: Tensor
    width: int
    height: int
    shows_scene: Tensor | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureBasis:
    """The few directions that are kept of an encoder's features, and the way back.

    mean: (channels,). components: (kept, channels), orthonormal rows. explained: share of the variance that is kept.
    """

    mean: Tensor
    components: Tensor
    explained: float = float("nan")

    def encode(self, features: Tensor) -> Tensor:
        """(..., channels) of the encoder to (..., kept)."""
        return (features - self.mean) @ self.components.T

    def decode(self, kept: Tensor) -> Tensor:
        """(..., kept) back to (..., channels)."""
        return self.mean + kept @ self.components

    def tensors(self) -> dict[str, Tensor]:
        """What a scene file keeps, by name."""
        return {MEAN: self.mean, COMPONENTS: self.components}


def read_basis(tensors: Mapping[str, Tensor]) -> FeatureBasis:
    """The basis among the tensors of a scene file.

    Raises:
        InputError: the file has none, or its shapes do not fit.
    """
    if MEAN not in tensors or COMPONENTS not in tensors:
        raise InputError(
            "the scene has no features. Fit it with: pointworld splat fit CAPTURE --features jepa --out DIR"
        )
    mean, components = tensors[MEAN].float(), tensors[COMPONENTS].float()
    if components.ndim != 2 or tuple(mean.shape) != (components.shape[1],):
        raise InputError(
            f"the scene's feature decoder has shapes {tuple(mean.shape)} and {tuple(components.shape)}, expected "
            "(channels,) and (kept, channels)"
        )
    return FeatureBasis(mean=mean, components=components)


def fit_basis(grids: Sequence[Tensor], channels: int = CHANNELS) -> FeatureBasis:
    """Principal directions of the cells of all grids (channels, rows, columns).

    Raises:
        InputError: no grids, or they differ in channels.
    """
    if not grids or len({len(grid) for grid in grids}) > 1 or channels < 1:
        raise InputError("features need at least one channel and grids of one encoder")
    cells = torch.cat([grid.flatten(1).T for grid in grids]).double()
    mean = cells.mean(0)
    covariance = (cells - mean).T @ (cells - mean) / len(cells)
    values, vectors = torch.linalg.eigh(covariance)
    kept = min(channels, len(mean))
    components = vectors[:, -kept:].flip(1).T
    # The sign of a direction is arbitrary: make its largest entry positive, so that results do not depend on it.
    peaks = components.gather(1, components.abs().argmax(1, keepdim=True))
    components = components * peaks.sign()
    explained = float(values[-kept:].sum() / values.sum().clamp_min(1e-30))
    return FeatureBasis(
        mean=mean.float(), components=components.float().contiguous(), explained=explained
    )


def pixel_features(grid: Tensor, stride: int, width: int, height: int) -> Tensor:
    """(height, width, channels) of a grid (channels, rows, columns), bilinear between the centres of its cells."""
    rows, columns = grid.shape[-2:]
    # Cell centres lie at (j + 0.5) stride; grid_sample's -1..1 spans the cells' outer edges.
    x = (torch.arange(width) + 0.5) * (2 / (columns * stride)) - 1
    y = (torch.arange(height) + 0.5) * (2 / (rows * stride)) - 1
    places = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], -1)
    sampled = F.grid_sample(
        grid[None].float(), places[None].to(grid.device), padding_mode="border", align_corners=False
    )
    return sampled[0].permute(1, 2, 0)


def gather(
    scene: GaussianScene,
    image: Tensor,
    viewmat: Tensor,
    K: Tensor,
    rasterizer: Rasterizer,
) -> Tensor:
    """Transposed rendering: (N, D), for every Gaussian the sum over pixels of its blending weight times the image.

    Args:
        image: (height, width, D). viewmat: (4, 4). K: (3, 3).
    """
    height, width, channels = image.shape
    values = torch.zeros(len(scene), channels, dtype=scene.means.dtype, device=scene.means.device)
    values.requires_grad_()
    with torch.enable_grad():
        seen = _draw(scene, values, viewmat, K, (width, height), rasterizer)[0]
        (gathered,) = torch.autograd.grad(seen, values, image.to(seen))
    return gathered


def draw_features(
    scene: GaussianScene,
    values: Tensor,
    viewmat: Tensor,
    K: Tensor,
    size: tuple[int, int],
    rasterizer: Rasterizer,
) -> tuple[Tensor, Tensor]:
    """(height, width, D) mean of the values (N, D) that a pixel sees, and (height, width) how much of it is covered."""
    seen, alpha = _draw(scene, values, viewmat, K, size, rasterizer)
    return seen / alpha.clamp_min(1e-6)[..., None], alpha


def _draw(
    scene: GaussianScene,
    values: Tensor,
    viewmat: Tensor,
    K: Tensor,
    size: tuple[int, int],
    rasterizer: Rasterizer,
) -> tuple[Tensor, Tensor]:
    output = rasterizer(
        scene.means,
        scene.quats_wxyz,
        scene.scales,
        scene.opacities,
        values,
        viewmat[None],
        K[None],
        *size,
        near=NEAR,
    )
    return output.colors[0], output.alphas[0, ..., 0]


@torch.no_grad()
def uplift(
    scene: GaussianScene,
    views: Sequence[FeatureView],
    basis: FeatureBasis,
    rasterizer: Rasterizer,
    *,
    on_view: Callable[[int], None] | None = None,
) -> tuple[GaussianScene, Tensor]:
    """The scene with features (N, kept): of every Gaussian the weighted mean over the pixels it was seen in.

    Returns:
        The scene, and (N,) the gathered weights [px]; a Gaussian that no view saw has weight 0 and features 0, which
        decode to the mean.

    Raises:
        InputError: there are no views.
    """
    if not views:
        raise InputError("features need at least one view")
    kept = len(basis.components)
    total = scene.means.new_zeros(len(scene), kept + 1)
    scene = scene.detach()
    for view in views:
        total += gather(scene, target_image(view, basis), view.viewmat, view.K, rasterizer)
        if on_view is not None:
            on_view(1)
    weights = total[:, -1]
    features = total[:, :-1] / weights.clamp_min(1e-6)[:, None]
    return replace(scene, features=features), weights


def target_image(view: FeatureView, basis: FeatureBasis) -> Tensor:
    """(height, width, kept + 1): the encoder's output in the basis, and ones; zero where the scene is hidden."""
    grid = basis.encode(view.grid.permute(1, 2, 0)).permute(2, 0, 1)
    image = pixel_features(grid, view.stride, view.width, view.height)
    image = torch.cat([image, torch.ones_like(image[..., :1])], -1)
    return image if view.shows_scene is None else image * view.shows_scene[..., None]


def refine(
    scene: GaussianScene,
    views: Sequence[FeatureView],
    basis: FeatureBasis,
    rasterizer: Rasterizer,
    *,
    iterations: int,
    rate: float = 0.05,
    seed: int = 0,
    on_step: Callable[[int], None] | None = None,
) -> GaussianScene:
    """Change features by gradient descent until rendered features are nearer to the encoder's; one view a step.

    Args:
        rate: of Adam, as a share of the features' standard deviation; it falls to a tenth.

    Raises:
        InputError: the scene has no features.
    """
    if scene.features is None:
        raise InputError("refine: the scene has no features; call uplift first")
    scene = scene.detach()
    start = scene.features
    assert start is not None
    features = start.clone().requires_grad_()
    step_size = rate * float(start.std().clamp_min(1e-6))
    optimizer = torch.optim.Adam([features], lr=step_size, betas=(0.9, 0.99), eps=1e-12)
    generator = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    for step in range(iterations):
        if not queue:
            queue = torch.randperm(len(views), generator=generator).tolist()
        view = views[queue.pop()]
        target = target_image(view, basis)
        size = (view.width, view.height)
        seen, alpha = draw_features(scene, features, view.viewmat, view.K, size, rasterizer)
        counted = target[..., -1] * (alpha > COVERED)
        error = (seen - target[..., :-1]).square().mean(-1)
        loss = (error * counted).sum() / counted.sum().clamp_min(1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.param_groups[0]["lr"] = step_size * 0.1 ** (step / max(iterations, 1))
        optimizer.step()
        if on_step is not None:
            on_step(1)
    return replace(scene, features=features.detach())


@torch.no_grad()
def rendered_grid(
    scene: GaussianScene, view: FeatureView, basis: FeatureBasis, rasterizer: Rasterizer
) -> tuple[Tensor, Tensor]:
    """Rendered features at the encoder's cells: (rows, columns, channels) decoded, and (rows, columns) which count.

    A cell is the mean over its pixels; it counts where the scene covers at least half of it and nothing hides it.
    """
    if scene.features is None:
        raise InputError("the scene has no features")
    rows, columns = view.grid.shape[-2:]
    size = (view.width, view.height)
    seen, alpha = _draw(scene, scene.features, view.viewmat, view.K, size, rasterizer)
    shown = view.shows_scene if view.shows_scene is not None else torch.ones_like(alpha)
    layers = torch.cat([seen, alpha[..., None], shown.to(seen)[..., None]], -1)
    inside = layers[: rows * view.stride, : columns * view.stride]
    cells = (
        inside.unflatten(0, (rows, view.stride)).unflatten(2, (columns, view.stride)).mean((1, 3))
    )
    cover, shown = cells[..., -2], cells[..., -1]
    kept = cells[..., :-2] / cover.clamp_min(1e-6)[..., None]
    return basis.decode(kept), (cover > COVERED) & (shown > 0.99)


def feature_cosine(
    scene: GaussianScene, views: Sequence[FeatureView], basis: FeatureBasis, rasterizer: Rasterizer
) -> dict[str, float]:
    """Mean cosine between rendered, decoded features and the encoder's own output, over cells of all views.

    Returns:
        cosine: as it is. cosine_centered: after subtracting the basis' mean from both, which all cells share.
        cosine_kept: between the encoder's own output and its part in the basis: the most that can be reached.
    """
    rows = []
    for view in views:
        rendered, counted = rendered_grid(scene, view, basis, rasterizer)
        own = view.grid.permute(1, 2, 0)[counted]
        mine = rendered[counted]
        part = basis.decode(basis.encode(own))
        rows.append(
            torch.stack(
                [
                    F.cosine_similarity(mine, own, dim=-1),
                    F.cosine_similarity(mine - basis.mean, own - basis.mean, dim=-1),
                    F.cosine_similarity(part, own, dim=-1),
                ],
                -1,
            )
        )
    cells = torch.cat(rows)
    if not len(cells):
        raise InputError("the scene covers no cell of these views")
    names = ("cosine", "cosine_centered", "cosine_kept")
    return {name: float(value) for name, value in zip(names, cells.mean(0), strict=True)}


def feature_span(features: Tensor) -> tuple[Tensor, Tensor]:
    """The values (3,) of the first three channels of (..., channels) that are shown as 0 and as 1."""
    flat = _three(features).reshape(-1, 3)
    # Quantiles of at most some 10^5 values: torch.quantile refuses very many.
    flat = flat[:: max(1, len(flat) // 100_000)]
    return flat.quantile(0.02, 0), flat.quantile(0.98, 0)


def feature_colors(features: Tensor, span: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """(..., 3) in 0-1: the first three channels as colours, for pictures; equal features, equal colour.

    Args:
        span: from `feature_span`, the same for pictures that are to be compared; by default that of `features`.
    """
    low, high = feature_span(features) if span is None else span
    return ((_three(features) - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)


def _three(features: Tensor) -> Tensor:
    first = features[..., :3]
    return F.pad(first, (0, 3 - first.shape[-1])) if first.shape[-1] < 3 else first
