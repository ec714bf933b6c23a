"""From a goal and a scene to the points that are meant, their goals, and the costs that pull them there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from pointworld.errors import InputError
from pointworld.geometry import invert, project, quat_wxyz_to_matrix, transform_points, unproject
from pointworld.plan.costs.base import Reduction, Term
from pointworld.plan.costs.keep_still import KeepStill
from pointworld.plan.costs.task_points import TaskPoints, TaskSurface
from pointworld.plan.goal import (
    BoxSelection,
    ClickSelection,
    Goal,
    MaskSelection,
    ObjectSelection,
    PointSet,
    PointsGoal,
    PoseGoal,
    StillGoal,
    TranslationGoal,
)
from pointworld.types import Capture, RGBDFrame, ScenePoints

Tensor = torch.Tensor
#: A scene point is seen in a pixel when its depth differs from the pixel's by less than this [m].
DEPTH_TOLERANCE = 0.02
#: Pixels around a click that are searched for a known depth.
_CLICK_REACH = 3

#: Images of object ids (height, width), by camera and frame name.
Segmentations = Mapping[tuple[str, str], np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedSet:
    """Points of one set. goals: (chosen, 3), one per point; targets: (targets, 3) without pairing; neither: still."""

    name: str
    index: Tensor
    goals: Tensor | None
    targets: Tensor | None
    weight: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedGoal:
    """A goal for one scene."""

    sets: tuple[ResolvedSet, ...]

    @property
    def task_index(self) -> Tensor:
        """Points that should go somewhere, ascending."""
        moving = [s.index for s in self.sets if s.goals is not None or s.targets is not None]
        return torch.cat(moving).unique()

    def terms(self, *, reduction: Reduction = "sum") -> tuple[Term, ...]:
        """One cost per set."""
        return tuple(
            Term(name=item.name, weight=item.weight, cost=_cost(item, reduction))
            for item in self.sets
        )


def _cost(item: ResolvedSet, reduction: Reduction) -> TaskPoints | TaskSurface | KeepStill:
    if item.goals is not None:
        return TaskPoints(index=item.index, goals=item.goals, reduction=reduction)
    if item.targets is not None:
        return TaskSurface(index=item.index, targets=item.targets, reduction=reduction)
    return KeepStill(index=item.index)


def resolve_goal(
    goal: Goal, scene: ScenePoints, capture: Capture, *, segmentations: Segmentations | None = None
) -> ResolvedGoal:
    """Find the scene points of every set.

    Args:
        scene: in the base frame, made from `capture`.
        capture: holds the named frames; `T_world_base` places the robot (None: the world is the base frame).
        segmentations: object ids for selections by id that name no file.

    Raises:
        InputError: no such camera or frame, a mask of another size, a click on unknown depth, or nothing selected.
    """
    base = np.eye(4) if capture.T_world_base is None else capture.T_world_base
    return ResolvedGoal(
        sets=tuple(
            _resolve(item, goal, scene, _frame(item, capture), base, segmentations or {})
            for item in goal.sets
        )
    )


def _frame(item: PointSet, capture: Capture) -> RGBDFrame:
    of_camera = [frame for frame in capture.frames if frame.camera == item.camera]
    if not of_camera:
        cameras = sorted({frame.camera for frame in capture.frames})
        raise InputError(
            f"goal set '{item.name}': no camera '{item.camera}', the capture has {', '.join(cameras)}"
        )
    for frame in of_camera:
        if frame.name == item.frame:
            return frame
    shown = ", ".join(frame.name for frame in of_camera[:5])
    raise InputError(
        f"goal set '{item.name}': camera '{item.camera}' has no frame '{item.frame}'; its frames are {shown}"
        f"{', ...' if len(of_camera) > 5 else ''}"
    )


def _resolve(
    item: PointSet,
    goal: Goal,
    scene: ScenePoints,
    frame: RGBDFrame,
    T_world_base: np.ndarray,
    segmentations: Segmentations,
) -> ResolvedSet:
    T_cam_base = invert(frame.T_world_cam) @ T_world_base
    points = scene.points.double().cpu().numpy()
    if isinstance(item.select, ClickSelection):
        clicked = transform_points(invert(T_cam_base), _clicked_places(item, frame))
        index = _near_clicks(item, points, clicked)
    else:
        wanted = _wanted_pixels(item, goal, frame, segmentations)
        row, column, seen = _seen_pixels(points, frame, T_cam_base)
        index = np.flatnonzero(seen & wanted[row, column])
    if len(index) == 0:
        raise InputError(
            f"goal set '{item.name}': selects no scene point in frame '{frame.name}'. Is it inside the workspace, and "
            "does the depth camera see it?"
        )
    rows = torch.from_numpy(index)
    goals, targets = _targets(item, scene.points[rows])
    return ResolvedSet(name=item.name, index=rows, goals=goals, targets=targets, weight=item.weight)


def _seen_pixels(
    points: np.ndarray, frame: RGBDFrame, T_cam_base: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and visibility (points,) of scene points; row and column are 0 where not in the image."""
    uv, z = project(transform_points(T_cam_base, points), frame.K)
    column, row = np.floor(uv[:, 0]), np.floor(uv[:, 1])
    inside = (z > 0) & (column >= 0) & (column < frame.width) & (row >= 0) & (row < frame.height)
    column, row = (np.where(inside, v, 0).astype(np.int64) for v in (column, row))
    near = np.abs(frame.depth[row, column] - z) < DEPTH_TOLERANCE
    return row, column, inside & frame.valid[row, column] & near


def _wanted_pixels(
    item: PointSet, goal: Goal, frame: RGBDFrame, segmentations: Segmentations
) -> np.ndarray:
    """(height, width) bool of a selection by mask, box or object id."""
    select, shape = item.select, (frame.height, frame.width)
    if isinstance(select, BoxSelection):
        left, top, right, bottom = select.pixels
        u, v = np.arange(frame.width) + 0.5, np.arange(frame.height) + 0.5
        return ((v >= top) & (v <= bottom))[:, None] & ((u >= left) & (u <= right))
    if isinstance(select, MaskSelection):
        return _image(goal, item.name, select.file, shape) != 0
    assert isinstance(select, ObjectSelection)
    if select.file is not None:
        return _image(goal, item.name, select.file, shape) == select.id
    key = (item.camera, item.frame)
    if key not in segmentations:
        raise InputError(
            f"goal set '{item.name}': selects object {select.id}, but there is no image of object ids for camera "
            f"'{item.camera}', frame '{item.frame}'. Name one with 'file'"
        )
    ids = np.asarray(segmentations[key])
    if ids.shape != shape:
        raise InputError(
            f"goal set '{item.name}': the image of object ids is {ids.shape}, the frame {shape}"
        )
    return ids == select.id


def _image(goal: Goal, name: str, file: str, shape: tuple[int, int]) -> np.ndarray:
    path = goal.folder / file
    try:
        with Image.open(path, formats=("PNG",)) as image:
            values = np.array(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"goal set '{name}': {path} is no readable PNG ({error})") from error
    values = values.max(-1) if values.ndim == 3 else values
    if values.shape != shape:
        raise InputError(
            f"goal set '{name}': {path} is {values.shape[1]}x{values.shape[0]}, the frame is {shape[1]}x{shape[0]}"
        )
    return values


def _clicked_places(item: PointSet, frame: RGBDFrame) -> np.ndarray:
    """(clicks, 3) what is seen at the clicked pixels, in the camera frame [m]."""
    assert isinstance(item.select, ClickSelection)
    known = np.argwhere(frame.valid & (frame.depth > 0))
    places = unproject(frame.depth, frame.K)
    found = []
    for u, v in item.select.pixels:
        if not (0 <= u < frame.width and 0 <= v < frame.height):
            raise InputError(
                f"goal set '{item.name}': click ({u:g}, {v:g}) is outside the {frame.width}x{frame.height} image"
            )
        away = np.abs(known + 0.5 - (v, u)).max(1) if len(known) else np.array([np.inf])
        if away.min() > _CLICK_REACH:
            raise InputError(
                f"goal set '{item.name}': there is no depth at the click ({u:g}, {v:g}) in frame '{frame.name}'"
            )
        row, column = known[int(away.argmin())]
        found.append(places[row, column])
    return np.stack(found)


def _near_clicks(item: PointSet, points: np.ndarray, clicked: np.ndarray) -> np.ndarray:
    """Scene points within the radius of any click; one per click, the nearest, where every click has its own goal."""
    assert isinstance(item.select, ClickSelection)
    distance = np.linalg.norm(points[:, None] - clicked, axis=-1)
    if not isinstance(item.goal, PointsGoal):
        return np.flatnonzero(distance.min(1) <= item.select.radius)
    nearest = distance.argmin(0)
    far = distance[nearest, np.arange(len(clicked))] > item.select.radius
    if far.any():
        u, v = item.select.pixels[int(far.argmax())]
        raise InputError(
            f"goal set '{item.name}': no scene point within {item.select.radius:g} m of the click ({u:g}, {v:g})"
        )
    return nearest


def _targets(item: PointSet, points: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Paired goals (chosen, 3) or unpaired targets (targets, 3), for points (chosen, 3)."""
    goal = item.goal
    if isinstance(goal, StillGoal):
        return None, None
    if isinstance(goal, TranslationGoal):
        return points + points.new_tensor(goal.vector), None
    if isinstance(goal, PoseGoal):
        R = quat_wxyz_to_matrix(points.new_tensor(goal.quat_wxyz))
        centre = points.mean(0)
        return (points - centre) @ R.T + centre + points.new_tensor(goal.vector), None
    targets = points.new_tensor(goal.points)
    if not isinstance(item.select, ClickSelection):
        return None, targets
    if len(targets) != len(points):
        raise InputError(
            f"goal set '{item.name}': {len(points)} clicks and {len(targets)} target points, expected one each"
        )
    return targets, None
