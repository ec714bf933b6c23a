"""How well neighbouring frames agree: the two numbers by which a calibration is judged.

Geometric residual of a pair: unproject every valid pixel of frame i, move it into frame i+1, project it, and take
|z - depth| at the pixel it falls into, wherever that pixel has depth. No outlier is cut; the pair's value is the
median, the capture's value is the median over pairs.
Photometric residual of a pair: mean absolute difference of the colours (0-255, mean of R, G, B) at the same
pixels, where the depths agree within 2 % (so that occlusions do not count); again the median over pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pointworld.geometry import invert, project, transform_points, unproject
from pointworld.types import Capture, RGBDFrame

AGREEING_DEPTH = 0.02


@dataclass(frozen=True, kw_only=True)
class PairResidual:
    """Agreement of one pair of frames.

    geometric: median |z - depth| [m]. relative: the same divided by the depth. photometric: mean colour
    difference 0-255. overlap: share of the first frame's valid pixels that meet a valid pixel of the second.
    All but `overlap` are NaN when nothing overlaps.
    """

    first: str
    second: str
    geometric: float
    relative: float
    photometric: float
    overlap: float


def pair_residual(first: RGBDFrame, second: RGBDFrame) -> PairResidual:
    """Compare two frames; see the head of this module for the definition."""
    points = unproject(first.depth, first.K)[first.valid]
    colors = first.rgb[first.valid]
    moved = transform_points(invert(second.T_world_cam) @ first.T_world_cam, points)
    uv, z = project(moved, second.K)
    inside = (z > 0) & (uv >= 0).all(1) & (uv[:, 0] < second.width) & (uv[:, 1] < second.height)
    column, row = uv[inside].astype(np.int64).T
    z, colors = z[inside], colors[inside]
    met = second.valid[row, column]
    z, colors, row, column = z[met], colors[met], row[met], column[met]
    if len(z) == 0:
        nan = float("nan")
        return PairResidual(
            first=first.name,
            second=second.name,
            geometric=nan,
            relative=nan,
            photometric=nan,
            overlap=0.0,
        )
    depth = second.depth[row, column].astype(np.float64)
    error = np.abs(z - depth)
    agree = error < AGREEING_DEPTH * depth
    shade = np.abs(
        colors[agree].astype(np.int16) - second.rgb[row[agree], column[agree]].astype(np.int16)
    )
    return PairResidual(
        first=first.name,
        second=second.name,
        geometric=float(np.median(error)),
        relative=float(np.median(error / depth)),
        photometric=float(shade.mean()) if agree.any() else float("nan"),
        overlap=len(z) / max(len(points), 1),
    )


def neighbour_residuals(
    capture: Capture, *, advance: Callable[[int], None] | None = None
) -> tuple[PairResidual, ...]:
    """The residual of every frame with its successor; `advance` is called with 1 after each pair."""
    pairs = []
    for first, second in zip(capture.frames, capture.frames[1:], strict=False):
        pairs.append(pair_residual(first, second))
        if advance is not None:
            advance(1)
    return tuple(pairs)
