"""What a fit looks at: resized images with depth, and which of them are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import binary_dilation, binary_opening

from pointworld.capture import clean_depth
from pointworld.errors import InputError
from pointworld.geometry import invert, scale_intrinsics
from pointworld.types import Capture, RGBDFrame

Tensor = torch.Tensor

#: Nearer than this is no scene but what carries the camera [m].
MIN_DEPTH = 0.2
#: Share of the image's width by which the silhouette of what is too near is widened.
OCCLUDER_MARGIN = 0.04
#: Neighbouring pixels whose depths differ by less than this share are on one surface.
ONE_SURFACE = 0.04
#: What keeps its brightness while the camera moves is carried by it: standard deviation of its logarithm, after adding
#: DARK, over at least FEWEST frames whose poses differ by at least MOTION, with depth in fewer than SEEN of them.
STILL, DARK, FEWEST, MOTION, SEEN = 0.15, 0.08, 6, 0.1, 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class FitView:
    """One frame as float32 tensors.

    rgb: (height, width, 3) in 0-1. depth: (height, width) [m]. valid: (height, width) bool.
    shows_scene: (height, width) bool; False where something too near for the depth camera, such as the arm that
        carries it, hides the scene. K: (3, 3) [px]. viewmat: (4, 4) T_cam_world. name: of the frame.
    position: of the frame among all used ones.
    """

    rgb: Tensor
    depth: Tensor
    valid: Tensor
    shows_scene: Tensor
    K: Tensor
    viewmat: Tensor
    name: str
    position: int = 0

    @property
    def height(self) -> int:
        return int(self.rgb.shape[0])

    @property
    def width(self) -> int:
        return int(self.rgb.shape[1])


def view_of(frame: RGBDFrame, max_width: int, *, min_depth: float, position: int) -> FitView:
    """The frame at most `max_width` pixels wide: colours are averaged, depth is taken, never mixed over an edge."""
    scale = min(1.0, max_width / frame.width)
    width, height = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
    picture = Image.fromarray(frame.rgb).resize((width, height), Image.Resampling.BOX)
    rows = ((np.arange(height) + 0.5) * frame.height / height).astype(int)
    columns = ((np.arange(width) + 0.5) * frame.width / width).astype(int)
    K = scale_intrinsics(frame.K, width / frame.width, height / frame.height)
    trusted = clean_depth(frame.depth, frame.valid, frame.K, min_depth=min_depth)
    taken = np.ix_(rows, columns)
    # What is too near has ragged depth: single pixels are noise, and the silhouette of the rest is widened.
    near = binary_opening((frame.valid & (frame.depth < min_depth))[taken], np.ones((3, 3)))
    grown = binary_dilation(near, iterations=max(1, round(OCCLUDER_MARGIN * width)))
    return FitView(
        rgb=torch.from_numpy(np.asarray(picture).copy()).float() / 255,
        depth=torch.from_numpy(np.ascontiguousarray(frame.depth[taken])),
        valid=torch.from_numpy(trusted[taken] & ~grown),
        shows_scene=torch.from_numpy(~grown),
        K=torch.from_numpy(K).float(),
        viewmat=torch.from_numpy(invert(frame.T_world_cam)).float(),
        name=frame.name,
        position=position,
    )


def half_size(view: FitView) -> FitView:
    """The view at half the width and height; depth where the four pixels lie on one surface."""
    height, width = view.height // 2 * 2, view.width // 2 * 2

    def fours(image: Tensor) -> Tensor:
        """(height/2, width/2, 4, ...)"""
        cut = image[:height, :width]
        return torch.stack([cut[a::2, b::2] for a in (0, 1) for b in (0, 1)], 2)

    depths = fours(view.depth)
    mean = depths.mean(2)
    together = depths.amax(2) - depths.amin(2) < ONE_SURFACE * mean
    return replace(
        view,
        rgb=fours(view.rgb).mean(2),
        depth=mean,
        valid=fours(view.valid).all(2) & together,
        shows_scene=fours(view.shows_scene).all(2),
        K=torch.from_numpy(scale_intrinsics(view.K.numpy(), 0.5, 0.5)).float(),
    )


def split_views(
    capture: Capture,
    *,
    max_width: int,
    holdout: Sequence[int] | int,
    min_depth: float = MIN_DEPTH,
) -> tuple[list[FitView], list[FitView]]:
    """Training and held-out views.

    Args:
        min_depth: what is nearer to a camera hides the scene and is left out [m].
        holdout: indices of held-out frames, or n: every n-th, the first included; 0 = none.

    Raises:
        InputError: nothing is left to train on, images differ in size, or an index does not exist.
    """
    count = len(capture.frames)
    if isinstance(holdout, int):
        held = set(range(0, count, holdout)) if holdout > 0 else set()
    else:
        held = set(holdout)
    if missing := sorted(i for i in held if not 0 <= i < count):
        raise InputError(f"held-out frames {missing} do not exist; the capture has {count} frames")
    if len(held) == count:
        raise InputError(f"all {count} frames are held out; leave some to train on")
    views = [
        view_of(frame, max_width, min_depth=min_depth, position=index)
        for index, frame in enumerate(capture.frames)
    ]
    if len({(v.width, v.height) for v in views}) > 1:
        raise InputError("the frames differ in size; fit them separately or resize them first")
    training = [v for i, v in enumerate(views) if i not in held]
    carried = carried_by_camera(training)
    views = [_without(view, carried) for view in views]
    return (
        [v for i, v in enumerate(views) if i not in held],
        [v for i, v in enumerate(views) if i in held],
    )


def carried_by_camera(views: Sequence[FitView]) -> Tensor:
    """(height, width) bool: what moves with the camera, such as the arm that holds it; nothing if that stands still."""
    none = torch.zeros_like(views[0].valid)
    poses = torch.stack([v.viewmat for v in views])
    if (
        len(views) < FEWEST
        or float((poses - poses.mean(0)).square().sum((1, 2)).sqrt().median()) < MOTION
    ):
        return none
    shades = torch.stack([v.rgb.mean(-1) for v in views])
    still = (shades + DARK).log().std(0) < STILL
    unseen = torch.stack([v.valid for v in views]).float().mean(0) < SEEN
    found = binary_opening((still & unseen).numpy(), np.ones((5, 5)))
    grown = binary_dilation(found, np.ones((3, 3)), iterations=max(1, round(views[0].width / 80)))
    return torch.from_numpy(grown)


def _without(view: FitView, carried: Tensor) -> FitView:
    return replace(view, valid=view.valid & ~carried, shows_scene=view.shows_scene & ~carried)
