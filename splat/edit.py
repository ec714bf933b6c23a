"""Change a scene object by object: remove, move, duplicate, recolour, extract; and what no view saw behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from pointworld.errors import InputError
from pointworld.types import check_rigid
from splat.features import draw_features, gather
from splat.motion_rotate import compose_quats, rotate_sh
from splat.query import Plane
from splat.raster import Rasterizer
from splat.sh import C0
from splat.types import GaussianScene, concatenate

Tensor = torch.Tensor

#: Weights of red, green and blue in brightness.
LUMA = (0.299, 0.587, 0.114)
#: A pixel is a hole where less than this of it is covered, and was covered before.
COVERED = 0.5
#: A Gaussian is hidden by an object when its weight with it is below this share of that without it, and when it
#: would show in at least so many pixels.
HIDDEN, HIDDEN_PIXELS = 0.3, 0.5
#: What is seen this far below the support through a removed object is not what was behind it [m].
BELOW = 0.03


def members(scene: GaussianScene, number: int) -> Tensor:
    """(N,) bool, the Gaussians of object `number`.

    Raises:
        InputError: there is no such object.
    """
    if scene.ids is None or number < 0 or not bool((scene.ids == number).any()):
        known = [] if scene.ids is None else sorted({int(i) for i in scene.ids.unique()} - {-1})
        raise InputError(
            f"the scene has no object {number}; it has {known or 'none'}. Make one with pointworld splat query."
        )
    return scene.ids == number


def remove(scene: GaussianScene, mask: Tensor) -> GaussianScene:
    """The scene without the Gaussians in `mask` (N,)."""
    return scene.select(~_checked(scene, mask))


@torch.no_grad()
def hidden_by(
    scene: GaussianScene,
    mask: Tensor,
    cameras: Sequence[tuple[Tensor, Tensor, tuple[int, int]]],
    rasterizer: Rasterizer,
) -> Tensor:
    """(N,) bool: Gaussians that hardly any camera saw past the object in `mask`; a fit leaves them with any colour.

    Those whose blending weights, summed over all cameras, are less than HIDDEN of what they are without the object.

    Args:
        cameras: T_cam_world (4, 4), K (3, 3) [px], (width, height) of the cameras the scene was fitted to.
    """
    rest = ~_checked(scene, mask)
    index = torch.nonzero(rest)[:, 0]
    before, after = scene.means.new_zeros(len(scene)), scene.means.new_zeros(len(index))
    without = scene.select(rest)
    for viewmat, K, (width, height) in cameras:
        ones = torch.ones(height, width, 1)
        before += gather(scene, ones, viewmat, K, rasterizer)[:, 0]
        after += gather(without, ones, viewmat, K, rasterizer)[:, 0]
    hidden = torch.zeros(len(scene), dtype=torch.bool)
    hidden[index] = (after > HIDDEN_PIXELS) & (before[index] < HIDDEN * after)
    return hidden


def extract(scene: GaussianScene, mask: Tensor) -> GaussianScene:
    """The Gaussians in `mask` (N,) alone."""
    return scene.select(_checked(scene, mask))


def move(scene: GaussianScene, mask: Tensor, T: Tensor) -> GaussianScene:
    """The scene with the Gaussians in `mask` (N,) moved by the rigid transform T (4, 4), p' = T p; colours turn along.

    Raises:
        InputError: T is not rigid, or the mask is empty.
    """
    mask = _checked(scene, mask)
    check_rigid(T.double().cpu().numpy(), "move", "T")
    R, t = T[:3, :3].to(scene.means), T[:3, 3].to(scene.means)
    rotations = R.double().expand(int(mask.sum()), 3, 3)
    means, quats, sh = scene.means.clone(), scene.quats_wxyz.clone(), scene.sh.clone()
    means[mask] = scene.means[mask] @ R.T + t
    quats[mask] = compose_quats(rotations, scene.quats_wxyz[mask])
    sh[mask] = rotate_sh(scene.sh[mask], rotations)
    return replace(scene, means=means, quats_wxyz=quats, sh=sh)


def duplicate(scene: GaussianScene, mask: Tensor, T: Tensor) -> tuple[GaussianScene, int]:
    """The scene with a copy of the Gaussians in `mask` (N,), moved by T (4, 4), and the copy's id (-1 without ids)."""
    copy = extract(scene, mask)
    copy = move(copy, torch.ones(len(copy), dtype=torch.bool), T)
    number = -1
    if copy.ids is not None and scene.ids is not None:
        number = int(scene.ids.max()) + 1
        copy = replace(copy, ids=torch.full_like(copy.ids, number))
    return concatenate([scene, copy]), number


def recolor(scene: GaussianScene, mask: Tensor, color: Tensor) -> GaussianScene:
    """The scene with the Gaussians in `mask` (N,) in another colour (3,) in 0-1, light and shade kept.

    What is as bright as the object on average gets the colour itself.
    """
    mask = _checked(scene, mask)
    color = color.to(scene.sh)
    if color.shape != (3,) or bool((color < 0).any()) or bool((color > 1).any()):
        raise InputError(f"the colour is {color.tolist()}, expected red, green and blue in 0-1")
    luma = torch.tensor(LUMA).to(scene.sh)
    brightness = ((0.5 + C0 * scene.sh[mask, 0]).clamp(0, 1) * luma).sum(-1)
    weight = scene.opacities[mask]
    average = (brightness * weight).sum() / weight.sum().clamp_min(1e-9)
    ratio = (brightness / average.clamp_min(1e-3)).clamp(0, 3)
    sh = scene.sh.clone()
    changed = sh[mask]
    changed[:, 0] = ((ratio[:, None] * color).clamp(0, 1) - 0.5) / C0
    # What depends on the direction keeps its brightness and takes the colour.
    grey = (changed[:, 1:] * luma).sum(-1, keepdim=True)
    changed[:, 1:] = grey * color / average.clamp_min(1e-3)
    sh[mask] = changed
    return replace(scene, sh=sh)


@torch.no_grad()
def hole_mask(
    before: GaussianScene,
    after: GaussianScene,
    viewmat: Tensor,
    K: Tensor,
    size: tuple[int, int],
    rasterizer: Rasterizer,
    *,
    plane: Plane | None = None,
) -> Tensor:
    """(height, width) bool: pixels that show something no view saw after an edit.

    Those that were covered before and are not any more; and, where `plane` says what the object stood on, those that
    looked at something above it and now look through it.
    """
    depth_before, alpha_before = _depth(before, viewmat, K, size, rasterizer)
    depth_after, alpha_after = _depth(after, viewmat, K, size, rasterizer)
    hole = (alpha_before >= COVERED) & (alpha_after < COVERED)
    if plane is None:
        return hole
    width, height = size
    inverse = torch.linalg.inv(viewmat.double())
    x = (torch.arange(width, dtype=torch.float64) + 0.5 - K[0, 2]) / K[0, 0]
    y = (torch.arange(height, dtype=torch.float64) + 0.5 - K[1, 2]) / K[1, 1]
    rays = torch.stack(
        [x.expand(height, -1), y[:, None].expand(-1, width), torch.ones(height, width)], -1
    )
    rays = rays @ inverse[:3, :3].T
    above = [_heights(rays, inverse[:3, 3], depth, plane) for depth in (depth_before, depth_after)]
    changed = (depth_after - depth_before) > BELOW
    return hole | (changed & (above[0] > -BELOW) & (above[1] < -BELOW))


def _depth(
    scene: GaussianScene, viewmat: Tensor, K: Tensor, size: tuple[int, int], rasterizer: Rasterizer
) -> tuple[Tensor, Tensor]:
    """(height, width) mean depth and (height, width) cover."""
    z = (scene.means @ viewmat[:3, :3].T + viewmat[:3, 3])[:, 2:3]
    depth, alpha = draw_features(scene, z.contiguous(), viewmat, K, size, rasterizer)
    return depth[..., 0], alpha


def _heights(rays: Tensor, eye: Tensor, depth: Tensor, plane: Plane) -> Tensor:
    """(height, width) of what is seen, above the plane [m]."""
    normal = torch.from_numpy(np.asarray(plane.normal)).double()
    return (rays * depth[..., None].double() + eye) @ normal - plane.offset


def _checked(scene: GaussianScene, mask: Tensor) -> Tensor:
    if mask.shape != (len(scene),) or mask.dtype != torch.bool:
        raise InputError(
            f"the mask is {tuple(mask.shape)} {mask.dtype}, expected ({len(scene)},) bool"
        )
    if not bool(mask.any()):
        raise InputError("the object has no Gaussians")
    return mask
