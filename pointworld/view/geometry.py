"""What is drawn: trails of moving points, arrow heads, camera frusta, as plain triangle arrays with colours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

from pointworld.view.result import FlowResult, ViewedCamera

ColorBy = Literal["magnitude", "uncertainty"]


@dataclass(frozen=True, kw_only=True)
class FlowStyle:
    """How flow is drawn.

    density: share of moving points that get a trail. thickness: width of a trail [m].
    color_by: `magnitude` (distance from now) or `uncertainty` (predicted log-variance).
    threshold: points that never move farther get no trail [m].
    """

    density: float = 0.35
    thickness: float = 0.0022
    color_by: ColorBy = "magnitude"
    threshold: float = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class ColoredMesh:
    """vertices, colors: (n, 3). triangles: (m, 3). shaded: lit by the scene's light."""

    vertices: np.ndarray
    triangles: np.ndarray
    colors: np.ndarray
    shaded: bool = True


@cache
def _colormap(name: str) -> Any:
    from matplotlib import colormaps

    return colormaps[name]


def map_colors(values: np.ndarray, low: float, high: float, *, name: str) -> np.ndarray:
    """RGB (..., 3) in 0-1 of values on a colour map between low and high."""
    share = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    return np.asarray(_colormap(name)(share))[..., :3]


def color_range(result: FlowResult, color_by: ColorBy) -> tuple[float, float, str, str]:
    """Lowest and highest value of the colour bar, its label and its colour map."""
    if color_by == "uncertainty" and result.log_var is not None:
        values = result.log_var[1:][np.isfinite(result.log_var[1:])]
        low, high = np.percentile(values, [2, 98]) if values.size else (0.0, 1.0)
        return float(low), float(high), "log variance", "viridis"
    reach = np.linalg.norm(result.displacements, axis=-1)
    if result.truth is not None:
        reach = np.maximum(reach, np.linalg.norm(result.truth, axis=-1))
    return 0.0, max(float(reach.max()), 0.02), "distance from now [m]", "turbo"


def chosen_points(displacements: np.ndarray, style: FlowStyle) -> np.ndarray:
    """Indices of the points that get a trail: moving ones, evenly thinned."""
    moving = np.flatnonzero(np.linalg.norm(displacements, axis=-1).max(0) > style.threshold)
    keep = max(1, round(len(moving) * style.density)) if len(moving) else 0
    return moving[np.linspace(0, len(moving) - 1, keep).astype(int)] if keep else moving


def trails(
    result: FlowResult, displacements: np.ndarray, step: int, style: FlowStyle
) -> ColoredMesh | None:
    """Trails of the moving points from now to `step`, with an arrow head; None when nothing moves."""
    chosen = chosen_points(displacements, style)
    if step == 0 or not len(chosen):
        return None
    low, high, _, colormap = color_range(result, style.color_by)
    path = result.points[chosen] + displacements[: step + 1, chosen]
    if style.color_by == "uncertainty" and result.log_var is not None:
        values = np.nan_to_num(result.log_var[: step + 1, chosen, 0], nan=low)
    else:
        values = np.linalg.norm(displacements[: step + 1, chosen], axis=-1)
    colors = map_colors(values, low, high, name=colormap)
    starts, ends = path[:-1].reshape(-1, 3), path[1:].reshape(-1, 3)
    long_enough = np.linalg.norm(ends - starts, axis=-1) > 5e-4
    pieces = [
        _prisms(
            starts[long_enough],
            ends[long_enough],
            colors[1:].reshape(-1, 3)[long_enough],
            style.thickness,
            taper=1.0,
        )
    ]
    heading = path[-1] - path[max(step - 1, 0)]
    length = np.linalg.norm(heading, axis=-1, keepdims=True)
    pointed = length[:, 0] > 5e-4
    tips = path[-1] + heading / np.maximum(length, 1e-9) * style.thickness * 5
    pieces.append(
        _prisms(
            path[-1][pointed], tips[pointed], colors[-1][pointed], style.thickness * 3, taper=0.02
        )
    )
    return merge(pieces)


def _prisms(
    starts: np.ndarray, ends: np.ndarray, colors: np.ndarray, width: float, *, taper: float
) -> ColoredMesh:
    """Four-sided prisms from starts to ends; `taper` scales the far end (0 = a pyramid)."""
    axis = ends - starts
    axis = axis / np.maximum(np.linalg.norm(axis, axis=-1, keepdims=True), 1e-12)
    helper = np.where(np.abs(axis[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    u = np.cross(axis, helper)
    u /= np.maximum(np.linalg.norm(u, axis=-1, keepdims=True), 1e-12)
    v = np.cross(axis, u)
    ring = (u, v, -u, -v)
    near = [starts + r * width / 2 for r in ring]
    far = [ends + r * width / 2 * taper for r in ring]
    vertices = np.stack([*near, *far], 1).reshape(-1, 3)
    faces = []
    for i in range(4):
        j = (i + 1) % 4
        faces += [[i, j, i + 4], [j, j + 4, i + 4]]
    faces += [[0, 2, 1], [0, 3, 2], [4, 5, 6], [4, 6, 7]]
    offsets = 8 * np.arange(len(starts))[:, None, None]
    triangles = (np.array(faces)[None] + offsets).reshape(-1, 3)
    return ColoredMesh(
        vertices=vertices, triangles=triangles, colors=np.repeat(colors, 8, 0), shaded=False
    )


def frustum(camera: ViewedCamera, *, depth: float = 0.08, width: float = 0.002) -> ColoredMesh:
    """Edges of a camera's field of view out to `depth` [m]."""
    corners = np.array(
        [[0, 0], [camera.width, 0], [camera.width, camera.height], [0, camera.height]], float
    )
    x = (corners[:, 0] - camera.K[0, 2]) / camera.K[0, 0]
    y = (corners[:, 1] - camera.K[1, 2]) / camera.K[1, 1]
    rays = np.stack([x, y, np.ones(4)], -1) * depth
    far = rays @ camera.T_base_cam[:3, :3].T + camera.T_base_cam[:3, 3]
    eye = np.broadcast_to(camera.T_base_cam[:3, 3], (4, 3))
    starts = np.concatenate([eye, far])
    ends = np.concatenate([far, np.roll(far, -1, 0)])
    colors = np.broadcast_to([0.25, 0.45, 0.85], (8, 3))
    return _prisms(starts, ends, colors, width, taper=1.0)


def merge(meshes: list[ColoredMesh]) -> ColoredMesh:
    """One mesh of several."""
    offsets = np.cumsum([0, *[len(m.vertices) for m in meshes[:-1]]])
    return ColoredMesh(
        vertices=np.concatenate([m.vertices for m in meshes]),
        triangles=np.concatenate([m.triangles + o for m, o in zip(meshes, offsets, strict=True)]),
        colors=np.concatenate([m.colors for m in meshes]),
        shaded=meshes[0].shaded,
    )
