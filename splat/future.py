"""The predicted future as pictures: a scene at every step of a flow, and how near it comes to the true later images.

Points of the scene move as a flow says; parts whose motion is commanded, such as a robot's links, move rigidly. Both
are always made from time 0. Later images of a simulator, or of a recording, say what the future really looked like.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from scipy.spatial import cKDTree

from pointworld.errors import InputError
from splat.features import gather
from splat.fit.optimise import render
from splat.motion import MotionBinding, MotionOptions, bind, move, place
from splat.raster import Rasterizer
from splat.types import GaussianScene

Tensor = torch.Tensor

#: Gaussians nearer than this to a part's surface at time 0 are of that part [m].
PART_MARGIN = 0.012
#: What moves farther than this is no part of what stays [m].
WILL_MOVE = 0.01
#: Fewer pixels than this do not say what a Gaussian belongs to.
SEEN_PIXELS = 0.05
#: Two images of one place differ where colour (0-1) or depth [m] differ by more than this.
CHANGED_COLOR, CHANGED_DEPTH = 0.08, 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class RigidParts:
    """Parts whose motion is known: the links of a robot that follows a joint path.

    points: (M, 3) on their surfaces at time 0, in the scene's frame [m]. part: (M,) int64. motions: (steps, parts, 4,
    4), each takes a point of the part from time 0 to that step.
    """

    points: Tensor
    part: Tensor
    motions: Tensor

    def __post_init__(self) -> None:
        count = self.motions.shape[1] if self.motions.ndim == 4 else 0
        shapes = self.points.shape == (len(self.part), 3) and self.motions.shape[2:] == (4, 4)
        if not shapes or (
            len(self.part) and not 0 <= int(self.part.min()) <= int(self.part.max()) < count
        ):
            raise InputError(
                f"rigid parts: points {tuple(self.points.shape)}, part {tuple(self.part.shape)} and motions "
                f"{tuple(self.motions.shape)} do not fit; expected (M, 3), (M,) below parts, (steps, parts, 4, 4)"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class FutureBinding:
    """What each Gaussian follows: flow points, a part, or nothing.

    binding: to flow points; weights of what belongs to parts are zero. owner: (N,) int64 part, -1 = none.
    parts: None where there are none.
    """

    binding: MotionBinding
    owner: Tensor
    parts: RigidParts | None


@dataclass(frozen=True, kw_only=True, eq=False)
class MarkedView:
    """Pixels of a camera that show the parts at time 0.

    mask: (height, width) bool. viewmat: (4, 4) T_cam_world. K: (3, 3) [px].
    """

    mask: Tensor
    viewmat: Tensor
    K: Tensor


@torch.no_grad()
def part_owners(
    scene: GaussianScene,
    parts: RigidParts,
    *,
    views: Sequence[MarkedView] = (),
    rasterizer: Rasterizer | None = None,
    margin: float = PART_MARGIN,
) -> Tensor:
    """(N,) int64: the part that every Gaussian belongs to, -1 = none.

    Those within `margin` [m] of a part's surface at time 0, and those that the cameras saw mainly in pixels that show
    parts: a fit leaves some of them in front of or behind the surface.

    Args:
        views: with `rasterizer`, pixels that show the parts; empty where that is not known.
    """
    owner = torch.full((len(scene),), -1, dtype=torch.int64)
    if not len(parts.points) or not len(scene):
        return owner
    means = scene.means.detach().cpu().double().numpy()
    distance, nearest = cKDTree(parts.points.double().numpy()).query(means, workers=1)
    mine = torch.from_numpy(distance <= margin)
    if views and rasterizer is not None:
        total = scene.means.new_zeros(len(scene), 2)
        for view in views:
            layers = torch.stack([view.mask.float(), torch.ones(view.mask.shape)], -1)
            total += gather(scene.detach(), layers, view.viewmat, view.K, rasterizer)
        inside, seen = total.cpu().unbind(1)
        mine |= (seen > SEEN_PIXELS) & (inside > 0.5 * seen)
    owner[mine] = parts.part[torch.from_numpy(nearest)[mine]]
    return owner


def bind_future(
    scene: GaussianScene,
    points: Tensor,
    *,
    parts: RigidParts | None = None,
    owner: Tensor | None = None,
    point_ids: Tensor | None = None,
    point_features: Tensor | None = None,
    options: MotionOptions | None = None,
) -> FutureBinding:
    """Find what every Gaussian of a scene at time 0 follows.

    Args:
        points: (P, 3) flow points at time 0, in the scene's frame [m].
        parts: their Gaussians move with them, whatever the flow says.
        owner: (N,) int64 part of every Gaussian, -1 = none; by default `part_owners`.
        point_ids, point_features, options: as for `splat.motion.bind`.

    Raises:
        InputError: as for `splat.motion.bind`, or the owners are not one per Gaussian.
    """
    binding = bind(
        scene, points, point_ids=point_ids, point_features=point_features, options=options
    )
    if parts is None:
        owner = torch.full((len(scene),), -1, dtype=torch.int64)
    elif owner is None:
        owner = part_owners(scene, parts)
    if owner.shape != (len(scene),):
        raise InputError(
            f"owners are {tuple(owner.shape)}, expected ({len(scene)},): one per Gaussian"
        )
    weights = torch.where((owner >= 0)[:, None].to(binding.weights.device), 0.0, binding.weights)
    return FutureBinding(binding=replace(binding, weights=weights), owner=owner, parts=parts)


def will_move(
    binding: MotionBinding, displacements: Tensor, *, threshold: float = WILL_MOVE
) -> Tensor:
    """(N,) bool: Gaussians whose nearest point moves farther than `threshold` [m] at some step (steps, P, 3)."""
    farthest = displacements.norm(dim=-1).amax(0)
    nearest, followed = binding.index[:, 0], binding.weights[:, 0] > 0
    if len(farthest) == 0:
        return torch.zeros(len(nearest), dtype=torch.bool)
    return followed & (farthest[nearest] > threshold)


def future_scenes(future: FutureBinding, displacements: Tensor) -> list[GaussianScene]:
    """The scene at every step.

    Args:
        displacements: (steps, P, 3) of the flow points from time 0 [m]; zero where nothing moves.

    Returns:
        One scene a step; `moving` marks what moved, by flow or with a part.

    Raises:
        InputError: the parts' motions have another number of steps, or as for `splat.motion.move`.
    """
    parts = future.parts
    if displacements.ndim != 3 or (parts is not None and len(parts.motions) != len(displacements)):
        steps = None if parts is None else len(parts.motions)
        raise InputError(
            f"displacements are {tuple(displacements.shape)} and the parts move for {steps} steps: expected (steps, "
            "points, 3) and as many steps"
        )
    rows = torch.nonzero(future.owner >= 0)[:, 0]
    scenes = []
    for step, displacement in enumerate(displacements):
        scene = move(future.binding, displacement)
        if parts is not None and len(rows):
            T = parts.motions[step, future.owner[rows]].double().to(scene.means.device)
            turned = (T - torch.eye(4, dtype=T.dtype, device=T.device)).abs().amax((1, 2)) > 0
            moved, T = rows[turned], T[turned]
            assert scene.moving is not None
            moving = scene.moving.clone()
            moving[moved] = True
            scene = place(scene, T, moved, moving, future.binding.options)
        scenes.append(scene)
    return scenes


@dataclass(frozen=True, kw_only=True, eq=False)
class TrueFrame:
    """A later image, as it really was.

    step: of the flow. rgb: (height, width, 3) in 0-1. viewmat: (4, 4) T_cam_world. K: (3, 3) [px].
    moving: (height, width) bool, pixels that show something that has moved, then or at time 0.
    """

    step: int
    rgb: Tensor
    viewmat: Tensor
    K: Tensor
    moving: Tensor


def changed_pixels(
    rgb: tuple[Tensor, Tensor], depth: tuple[Tensor, Tensor], without: Tensor
) -> Tensor:
    """(height, width) bool: where two images of a camera that stands still differ, for captures without segmentation.

    Args:
        rgb: two (height, width, 3) in 0-1. depth: two (height, width) [m], 0 = unknown. without: (height, width) bool,
            pixels that do not count, such as the robot's.
    """
    color = (rgb[0] - rgb[1]).abs().amax(-1) > CHANGED_COLOR
    known = (depth[0] > 0) & (depth[1] > 0)
    return (color | (known & ((depth[0] - depth[1]).abs() > CHANGED_DEPTH))) & ~without


@torch.no_grad()
def score_future(
    scenes: Sequence[GaussianScene], frames: Sequence[TrueFrame], rasterizer: Rasterizer
) -> dict[str, float]:
    """How near the scenes of all steps come to true later images.

    Returns:
        psnr, psnr_moving [dB] of the error over all frames together, of all pixels and of moving ones (NaN where none
        moves); moving_pixels.

    Raises:
        InputError: there are no frames, or one is of a step that the scenes do not have.
    """
    if not frames or max(frame.step for frame in frames) >= len(scenes):
        raise InputError(
            f"{len(frames)} later frames for {len(scenes)} steps: expected at least one, of these steps"
        )
    total, moving, pixels, moved = 0.0, 0.0, 0, 0
    for frame in frames:
        height, width = frame.rgb.shape[:2]
        seen, _ = render(
            rasterizer, scenes[frame.step], frame.viewmat, frame.K, (width, height), "RGB"
        )
        square = (seen.clamp(0, 1) - frame.rgb).square().mean(-1)
        total, pixels = total + float(square.double().sum()), pixels + square.numel()
        moving += float(square[frame.moving].double().sum())
        moved += int(frame.moving.sum())
    return {
        "psnr": _decibel(total, pixels),
        "psnr_moving": _decibel(moving, moved),
        "moving_pixels": moved,
    }


def compare_futures(
    futures: Mapping[str, Sequence[GaussianScene]],
    frames: Sequence[TrueFrame],
    rasterizer: Rasterizer,
) -> dict[str, dict[str, float]]:
    """`score_future` of several futures of one scene, by name: the model's flow, no motion, the true flow."""
    return {name: score_future(scenes, frames, rasterizer) for name, scenes in futures.items()}


def _decibel(square_error: float, pixels: int) -> float:
    if pixels == 0:
        return math.nan
    return math.inf if square_error == 0 else -10 * math.log10(square_error / pixels)
