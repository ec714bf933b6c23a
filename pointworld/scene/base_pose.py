"""Where the robot stands in a capture: known, given, or chosen on the dominant horizontal plane."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from pointworld.errors import InputError
from pointworld.files import write_json
from pointworld.geometry import (
    fit_plane_ransac,
    make_transform,
    quat_wxyz_to_matrix,
    transform_points,
    unproject,
)
from pointworld.types import Capture, RGBDFrame, check_rigid

BASE_DISTANCE = 0.55
"""Distance of the base from the middle of the scene in `auto` [m]: within a tabletop arm's dexterous reach."""

REMEDY = (
    "Give T_world_base in capture.json, or --base-pose FILE (JSON with T_world_base), or "
    "--base-pose x,y,z,qw,qx,qy,qz (base in the world of the capture), or --base-pose auto to stand it on the "
    "dominant horizontal plane."
)

_PLANE_TOLERANCE = 0.006  # inliers of a plane, per metre of distance to the cameras
_GROUP = 0.3  # [m], radius of one group of things
_CELL = 0.05  # [m], cells in which the surface of the plane is mapped
_NEAR = 2.5  # [m], what the cameras see farther away is the room, not the scene
_PLANES = 10  # planes tried, the one with the most points first
_COMPARABLE = 0.3  # a plane with this share of the largest one's points may be the one worked on
_POINTS = 60_000
_FRAMES = 16
_UPRIGHT = 0.5  # cosine between "up" and the mean up direction of the cameras: nobody films a table on the side
_STANDING = (0.02, 0.35)  # [m], heights above the plane of what stands on it


@dataclass(frozen=True, eq=False)
class _Cloud:
    """World points (n, 3), their median distance, and the cameras' positions, up and forward axes (frames, 3)."""

    points: np.ndarray
    distance: float
    positions: np.ndarray
    ups: np.ndarray
    forwards: np.ndarray


def resolve_base_pose(
    capture: Capture, spec: str | None, *, workspace_center: np.ndarray | None = None
) -> tuple[np.ndarray, str]:
    """Find the pose of the robot base in the world of a capture.

    Args:
        capture: calibrated frames; for `auto` only those the scene will be built from (`capture.select`), because a
            long capture may see several places to work at.
        spec: None for the capture's own T_world_base; "auto"; "x,y,z,qw,qx,qy,qz"; or a file: JSON with
            "T_world_base" (4x4), or a text or .npy file with a 4x4 matrix.
        workspace_center: (3,) point in the world [m] that `auto` stands 0.55 m away from; None for the middle of
            what stands on the plane.

    Returns:
        T_world_base: (4, 4) float64. description: one line for the user.

    Raises:
        InputError: no base pose is known (the message names the remedies), the text or file cannot be read or is
            not rigid, or `auto` finds no horizontal plane.
    """
    if spec is None:
        if capture.T_world_base is None:
            raise InputError(
                f"capture '{capture.source}' does not say where the robot stands. {REMEDY}"
            )
        return np.asarray(capture.T_world_base, dtype=np.float64), "base pose of the capture"
    if spec == "auto":
        return _auto(capture, workspace_center)
    if Path(spec).is_file():
        return _read_file(Path(spec)), f"base pose from {spec}"
    if "," in spec:
        return _parse_numbers(spec), f"base pose {spec}"
    raise InputError(
        f"base pose '{spec}' is neither 'auto', nor seven numbers, nor an existing file. {REMEDY}"
    )


def save_base_pose(path: str | Path, T_world_base: np.ndarray, description: str) -> None:
    """Write a base pose as JSON that `--base-pose FILE` reads back."""
    write_json(
        path, {"T_world_base": np.asarray(T_world_base).tolist(), "description": description}
    )


def _parse_numbers(text: str) -> np.ndarray:
    try:
        values = np.array([float(part) for part in text.split(",")])
    except ValueError as error:
        raise InputError(f"base pose '{text}' cannot be read. {REMEDY}") from error
    if values.shape != (7,) or not np.isfinite(values).all():
        raise InputError(
            f"base pose '{text}' has {values.size} numbers, expected seven finite ones. {REMEDY}"
        )
    norm = float(np.linalg.norm(values[3:]))
    if abs(norm - 1.0) > 0.02:
        raise InputError(
            f"base pose '{text}': the quaternion has length {norm:.3g}, expected 1; its order is qw,qx,qy,qz"
        )
    return make_transform(quat_wxyz_to_matrix(values[3:]), values[:3])


def _read_file(path: Path) -> np.ndarray:
    expected = f"base pose file {path}: expected JSON with T_world_base, or a text or .npy file with a 4x4 matrix"
    try:
        if path.suffix == ".npy":
            T = np.load(path, allow_pickle=False)
        elif path.suffix == ".json":
            T = np.array(json.loads(path.read_text())["T_world_base"], dtype=np.float64)
        else:
            T = np.loadtxt(path)
        T = np.asarray(T, dtype=np.float64)
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise InputError(f"{expected} ({error})") from error
    check_rigid(T, f"base pose file {path}", "T_world_base")
    return T


def _auto(capture: Capture, workspace_center: np.ndarray | None) -> tuple[np.ndarray, str]:
    cloud = _collect(capture)
    plane = _horizontal_plane(cloud, capture.source)
    normal, offset = plane.normal, plane.offset
    if workspace_center is None:
        center, middle = _standing_center(cloud.points, plane)
    else:
        center, middle = np.asarray(workspace_center, dtype=np.float64), "the given centre"
    center = center - (normal @ center - offset) * normal
    towards_viewer = _towards_viewer(cloud, center, normal)
    x_axis = -towards_viewer
    R = np.stack([x_axis, np.cross(normal, x_axis), normal], axis=1)
    position = center + BASE_DISTANCE * towards_viewer
    share = len(plane.inliers) / len(cloud.points)
    description = (
        f"auto base pose: upright on the horizontal plane that holds {share:.0%} of the points (normal "
        f"{_vector(normal)}), {BASE_DISTANCE} m from {middle} {_vector(center)} on the cameras' side, x axis towards it"
    )
    return make_transform(R, position), description


def _collect(capture: Capture) -> _Cloud:
    count = min(_FRAMES, len(capture.frames))
    picked = np.linspace(0, len(capture.frames) - 1, count).round().astype(int)
    frames = [capture.frames[i] for i in picked]
    clouds = [_frame_points(frame, _POINTS // count) for frame in frames]
    points = np.concatenate(clouds)
    if len(points) < 100:
        raise InputError(
            f"capture '{capture.source}': only {len(points)} usable depth pixels, too few to find a plane for the "
            "base. Give --base-pose x,y,z,qw,qx,qy,qz."
        )
    poses = np.stack([frame.T_world_cam for frame in frames])
    distances = [np.linalg.norm(p - T[:3, 3], axis=1) for p, T in zip(clouds, poses, strict=True)]
    distance = float(np.median(np.concatenate(distances)))
    return _Cloud(points, distance, poses[:, :3, 3], -poses[:, :3, 1], poses[:, :3, 2])


def _frame_points(frame: RGBDFrame, count: int) -> np.ndarray:
    """At most `count` world points on a regular grid of the image, those near the camera when there are enough."""
    step = max(1, int(np.ceil(np.sqrt(frame.depth.size / max(count, 1)))))
    use = np.zeros_like(frame.valid)
    use[::step, ::step] = True
    use &= frame.valid & (frame.depth > 0)
    near = use & (frame.depth < _NEAR)
    if near.sum() > 0.1 * use.sum():
        use = near
    return transform_points(
        frame.T_world_cam, unproject(np.where(use, frame.depth, 0.0), frame.K)[use]
    )


@dataclass(frozen=True, eq=False)
class _Plane:
    """A plane n . p = offset with n towards the cameras, its inliers (n, 3), and the cameras' mean height above it."""

    normal: np.ndarray
    offset: float
    inliers: np.ndarray
    camera_height: float


def _horizontal_plane(cloud: _Cloud, source: str) -> _Plane:
    """The plane to stand on, among the planes that the cameras see the right way up.

    Of those that hold at least `_COMPARABLE` times as many points as the largest, the highest: a table is seen
    together with the floor below it, and is worked on. Where no plane is the right way up, one that the cameras look
    at squarely (from straight above) is taken.
    """
    upright, squarely = [], []
    for plane in _planes(cloud):
        if float((cloud.ups @ plane.normal).mean()) > _UPRIGHT:
            upright.append(plane)
        elif float((cloud.forwards @ plane.normal).mean()) < -0.9:
            squarely.append(plane)
    candidates = upright or squarely[:1]
    if not candidates:
        raise InputError(
            f"capture '{source}': no horizontal plane found to stand the robot on (looked at the {_PLANES} largest "
            "planes). Give --base-pose x,y,z,qw,qx,qy,qz."
        )
    least = _COMPARABLE * max(len(plane.inliers) for plane in candidates)
    return min((p for p in candidates if len(p.inliers) >= least), key=lambda p: p.camera_height)


def _planes(cloud: _Cloud) -> list[_Plane]:
    """Up to `_PLANES` planes, each fitted to what the ones before it left."""
    rest, found = cloud.points, []
    tolerance = float(np.clip(_PLANE_TOLERANCE * cloud.distance, 0.004, 0.015))
    for seed in range(_PLANES):
        if len(rest) < max(100, 0.02 * len(cloud.points)):
            break
        normal, offset, inside = fit_plane_ransac(rest, seed=seed, threshold=tolerance)
        height = float((cloud.positions @ normal - offset).mean())
        sign = 1.0 if height >= 0 else -1.0
        found.append(_Plane(sign * normal, sign * offset, rest[inside], abs(height)))
        rest = rest[~inside]
    return found


def _standing_center(points: np.ndarray, plane: _Plane) -> tuple[np.ndarray, str]:
    """Middle of what stands on the plane's largest connected surface, away from its edge.

    The edge (5 cm) is left out, or the backs of chairs would count. Where too little stands on the surface, its own
    middle.
    """
    axes, inliers = _plane_axes(plane.normal), plane.inliers
    height = points @ plane.normal - plane.offset
    above = points[(height > _STANDING[0]) & (height < _STANDING[1])]
    cells = np.floor(inliers @ axes / _CELL).astype(np.int64)
    low = cells.min(0) - 1
    grid = np.zeros(cells.max(0) - low + 2, dtype=np.int64)
    np.add.at(grid, tuple((cells - low).T), 1)
    occupied = ndimage.binary_closing(grid > 0, np.ones((3, 3)))
    labels, count = ndimage.label(occupied)
    totals = ndimage.sum_labels(grid, labels, np.arange(1, count + 1))
    surface = labels == 1 + int(np.argmax(totals))
    on_surface = surface[tuple((cells - low).T)]
    inner = ndimage.binary_erosion(ndimage.binary_fill_holes(surface), np.ones((3, 3)))
    index = np.floor(above @ axes / _CELL).astype(np.int64) - low
    inside = ((index >= 0) & (index < np.array(grid.shape))).all(-1)
    index, above = index[inside], above[inside]
    standing = above[inner[tuple(index.T)]]
    if len(standing) < 50:
        return np.median(inliers[on_surface], axis=0), "the middle of it,"
    return _densest(standing, axes), "the middle of what stands on it,"


def _densest(points: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Median of the group of points (30 cm around the 5 cm cell with most neighbours): one pile of several."""
    cells = np.floor(points @ axes / _CELL).astype(np.int64)
    unique, counts = np.unique(cells, axis=0, return_counts=True)
    near = np.linalg.norm(unique[:, None] - unique[None], axis=-1) * _CELL <= _GROUP
    best = unique[int(np.argmax(near @ counts))]
    member = np.linalg.norm(cells - best, axis=-1) * _CELL <= _GROUP
    return np.median(points[member], axis=0)


def _plane_axes(normal: np.ndarray) -> np.ndarray:
    """Two orthonormal directions in the plane, (3, 2)."""
    helper = np.eye(3)[int(np.argmin(np.abs(normal)))]
    first = np.cross(normal, helper)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(normal, first)], axis=1)


def _towards_viewer(cloud: _Cloud, center: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Unit direction in the plane from the scene to the cameras; for cameras straight above, to the image's bottom."""
    direction = cloud.positions.mean(0) - center
    direction = direction - (direction @ normal) * normal
    if np.linalg.norm(direction) < 0.05:
        direction = -cloud.ups.mean(0)
        direction = direction - (direction @ normal) * normal
    length = float(np.linalg.norm(direction))
    return direction / length if length > 1e-6 else _plane_axes(normal)[:, 0]


def _vector(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in values) + ")"
