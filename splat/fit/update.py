"""Frames in which something moved: refit what changed, and leave every other Gaussian as it is, to the bit.

Where the new frames disagree with what the scene shows, Gaussians that they look through are removed, new ones start
from their depth, and these and the ones that were already right are optimised on those pixels alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import (
    binary_dilation,
    binary_opening,
    gaussian_filter,
    label,
    maximum_filter,
    minimum_filter,
)

from pointworld.errors import InputError
from splat.fit.initialise import FREE_SHARE, scene_from_depth
from splat.fit.optimise import COVERED, FitConfig, Fitted, fit, render
from splat.fit.views import FitView
from splat.raster import Rasterizer, get_rasterizer
from splat.types import SH_COUNTS, GaussianScene, concatenate

Tensor = torch.Tensor

#: Depth has changed by more than this [m], or this share of the distance; a colour by this much in 0-1.
DEPTH_CHANGE, DEPTH_SHARE, COLOR_CHANGE = 0.015, 0.03, 0.12
#: Patches of fewer pixels than this share of the image are noise.
LEAST_PATCH = 1e-3
#: Blur before colours are compared, and margin round a change that is fitted too, as shares of the width.
BLUR, MARGIN = 0.006, 0.015
#: A Gaussian is changed when it lies in the changed pixels of at least this share of the frames that see it.
MAJORITY = 0.5
#: Fewest Gaussians to begin with where something changed.
FEWEST = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Updated:
    """A refitted scene.

    scene: first the Gaussians that stayed as they were, then those that were fitted.
    kept: (n,) int64 which of the old scene's Gaussians these first n are.
    changed: per view (height, width) bool. fitted: the fit, None where nothing changed.
    """

    scene: GaussianScene
    kept: Tensor
    changed: list[Tensor]
    fitted: Fitted | None


@torch.no_grad()
def changed_pixels(rasterizer: Rasterizer, scene: GaussianScene, view: FitView) -> Tensor:
    """(height, width) bool: where a view disagrees in depth or colour with what the scene shows."""
    size = (view.width, view.height)
    images, alphas = render(rasterizer, scene, view.viewmat, view.K, size, "RGB+ED")
    seen, z = view.shows_scene.numpy(), images[..., 3].numpy()
    measured = view.depth.numpy()
    # One pixel of play: silhouettes are soft.
    low, high = minimum_filter(z, 3), maximum_filter(z, 3)
    gap = np.maximum(low - measured, measured - high)
    deep = view.valid.numpy() & (gap > np.maximum(DEPTH_CHANGE, DEPTH_SHARE * measured))
    sigma = max(BLUR * view.width, 0.5)
    shown, wanted = (
        gaussian_filter(i.numpy(), (sigma, sigma, 0)) for i in (images[..., :3], view.rgb)
    )
    other = np.abs(_exposed(shown, wanted, seen & ~deep) - wanted).mean(-1) > COLOR_CHANGE
    covered = alphas.numpy() > COVERED
    found = binary_opening(seen & (deep | (other & covered)), np.ones((3, 3)))
    patches, count = label(found)
    sizes = np.bincount(patches.ravel(), minlength=count + 1)
    large = sizes >= max(LEAST_PATCH * found.size, 4)
    large[0] = False
    return torch.from_numpy(large[patches])


@torch.no_grad()
def missing_pixels(rasterizer: Rasterizer, scene: GaussianScene, view: FitView) -> Tensor:
    """(height, width) bool: pixels of a view that the scene leaves bare, or shows something else in."""
    size = (view.width, view.height)
    _, alphas = render(rasterizer, scene, view.viewmat, view.K, size, "ED")
    bare = view.shows_scene & (alphas < COVERED)
    return bare | changed_pixels(rasterizer, scene, view)


def _exposed(image: np.ndarray, target: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image as bright as the target is, by medians of every channel where the mask says."""
    if not mask.any():
        return image
    middle, wanted = (np.median(x[mask], axis=0) for x in (image, target))
    spread, wide = (np.abs(x[mask] - m).mean(0) for x, m in ((image, middle), (target, wanted)))
    gain = np.clip(wide / np.maximum(spread, 1e-3), 0.5, 2.0)
    return np.asarray((image - middle) * gain + wanted)


def update(scene: GaussianScene, views: Sequence[FitView], config: FitConfig) -> Updated:
    """Refit a scene to new views where they disagree with it.

    Args:
        scene: fitted before; in the views' world.
        config: `iterations`, rates and weights; the number of Gaussians follows from the scene's own.

    Raises:
        InputError: there are no views.
    """
    if not views:
        raise InputError("update was given no views")
    rasterizer = get_rasterizer(config.backend)
    changed = [changed_pixels(rasterizer, scene, view) for view in views]
    share = float(torch.stack(changed).float().mean())
    everything = torch.arange(len(scene))
    if share == 0:
        return Updated(scene=scene, kept=everything, changed=changed, fitted=None)
    margin = max(1, round(MARGIN * views[0].width))
    masked = [_only(view, _grown(mask, margin)) for view, mask in zip(views, changed, strict=True)]
    kept, refitted, missing = _sorted_out(rasterizer, scene, masked, changed)
    begin = [scene.select(refitted)]
    if any(bool(view.valid.any()) for view in missing):
        needed = float(torch.stack([view.shows_scene for view in missing]).float().mean())
        count = max(FEWEST, round(len(scene) * needed))
        begin.append(_like(scene, scene_from_depth(missing, count=count, seed=config.seed)))
    start, fixed = concatenate(begin), scene.select(kept)
    if not len(start):
        return Updated(scene=fixed, kept=kept, changed=changed, fitted=None)
    # Errors are means over whole images, what keeps Gaussians small is a mean over those that are fitted.
    local = replace(
        config,
        gaussians=len(start),
        grow=0.0,
        depth_weight=config.depth_weight * share,
        scale_weight=config.scale_weight * share,
        opacity_weight=config.opacity_weight * share,
        sh_degree=scene.sh_degree,
        poses=False,
        background=False,
    )
    fitted = fit(masked, local, start=start, fixed=fixed)
    return Updated(
        scene=concatenate([fixed, _with_extras(scene, start, fitted.scene)]),
        kept=kept,
        changed=changed,
        fitted=fitted,
    )


def _sorted_out(
    rasterizer: Rasterizer,
    scene: GaussianScene,
    views: Sequence[FitView],
    changed: Sequence[Tensor],
) -> tuple[Tensor, Tensor, list[FitView]]:
    """Which Gaussians stay as they are and which are fitted again (indices), and the views with only those pixels that
    need new ones.

    What other views saw behind a thing is there already when the thing is gone.
    """
    gone, _ = _affected(rasterizer, scene, views, changed)
    left = (~gone).nonzero()[:, 0]
    rest = scene.select(left)
    missing = [missing_pixels(rasterizer, rest, view) for view in views]
    wrong, refitted = _affected(rasterizer, rest, views, missing)
    fresh = [_only(view, mask) for view, mask in zip(views, missing, strict=True)]
    return left[~(wrong | refitted)], left[refitted], fresh


@torch.no_grad()
def _affected(
    rasterizer: Rasterizer,
    scene: GaussianScene,
    views: Sequence[FitView],
    changed: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """(n,) bool twice: Gaussians that are in the way of what the views see, and those in changed pixels that are not.

    What lies behind something new is neither: it is hidden, not gone.
    """
    seen, inside, through, free, met = (torch.zeros(len(scene)) for _ in range(5))
    for view, mask in zip(views, changed, strict=True):
        size = (view.width, view.height)
        images, _ = render(rasterizer, scene, view.viewmat, view.K, size, "ED")
        local = scene.means @ view.viewmat[:3, :3].T + view.viewmat[:3, 3]
        z = local[:, 2]
        pixel = (local[:, :2] / z.clamp_min(1e-6)[:, None]) * view.K[[0, 1], [0, 1]] + view.K[:2, 2]
        u, v = pixel.long().unbind(1)
        within = (z > 0.05) & (u >= 0) & (u < view.width) & (v >= 0) & (v < view.height)
        u, v = torch.where(within, u, 0), torch.where(within, v, 0)
        play = (DEPTH_SHARE * z).clamp_min(DEPTH_CHANGE)
        ahead = z < images[v, u, 0] + play
        known, depth = view.valid[v, u], view.depth[v, u]
        facing = within & ahead & view.shows_scene[v, u] & ~(known & (z > depth + play))
        seen += facing
        inside += facing & mask[v, u]
        through += facing & mask[v, u] & known & (z < depth - play)
        # Whether the scene showed it or not, nothing can be where a camera now sees farther.
        clear = within & known & view.shows_scene[v, u]
        free += clear & mask[v, u] & (z < depth - play)
        met += clear & ((z - depth).abs() <= play)
    chosen = (inside > 0) & (inside >= MAJORITY * seen)
    wrong = (chosen & (through >= MAJORITY * inside)) | (free > FREE_SHARE * (free + met))
    return wrong, chosen & ~wrong


def _only(view: FitView, mask: Tensor) -> FitView:
    """The view with nothing but these pixels."""
    return replace(view, valid=view.valid & mask, shows_scene=view.shows_scene & mask)


def _grown(mask: Tensor, margin: int) -> Tensor:
    return torch.from_numpy(binary_dilation(mask.numpy(), np.ones((3, 3)), iterations=margin))


def _like(scene: GaussianScene, new: GaussianScene) -> GaussianScene:
    """New Gaussians with the optional fields that the scene has: no features, no object, not moving."""
    n = len(new)
    missing = SH_COUNTS[scene.sh_degree] - new.sh.shape[1]
    return replace(
        new,
        sh=torch.cat([new.sh, new.sh.new_zeros(n, missing, 3)], 1),
        features=None
        if scene.features is None
        else scene.features.new_zeros(n, scene.features.shape[1]),
        ids=None if scene.ids is None else torch.full((n,), -1),
        moving=None if scene.moving is None else torch.zeros(n, dtype=torch.bool),
    )


def _with_extras(
    scene: GaussianScene, start: GaussianScene, fitted: GaussianScene
) -> GaussianScene:
    """Fitted Gaussians with the optional fields that they started with."""
    if len(fitted) != len(start):
        return _like(scene, fitted)
    return replace(fitted, features=start.features, ids=start.ids, moving=start.moving)
