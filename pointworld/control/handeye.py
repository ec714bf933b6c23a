"""Hand-eye calibration: where a camera is, from views of a board while the arm takes many postures.

One unknown pose X belongs to the camera (on the base or on the tool), one pose Y to the board (on the tool or on the
base). A closed form gives a start; least squares on the reprojection of all corners gives the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from pointworld.errors import InputError

Mode = Literal["eye_to_hand", "eye_in_hand"]

MIN_VIEWS, MIN_CORNERS = 4, 6
#: Postures that turn the tool by less than this about a second axis leave part of the pose undetermined [rad].
MIN_TURN = 0.15


@dataclass(frozen=True, kw_only=True, eq=False)
class BoardView:
    """One image of the board. T_base_tool: (4, 4). pixels: (corners, 2), pixel centres at integer + 0.5.

    points: (corners, 3) the same corners on the board [m], z = 0.
    """

    T_base_tool: np.ndarray
    pixels: np.ndarray
    points: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.pixels)
        if self.pixels.shape != (count, 2) or self.points.shape != (count, 3):
            raise InputError(
                f"a board view of {self.pixels.shape} pixels and {self.points.shape} points, expected (corners, 2) "
                "and (corners, 3)"
            )
        if self.T_base_tool.shape != (4, 4) or not np.isfinite(self.T_base_tool).all():
            raise InputError("a board view needs a finite tool pose (4, 4)")


@dataclass(frozen=True, kw_only=True, eq=False)
class HandEye:
    """A calibrated camera.

    T_parent_cam: (4, 4) camera (OpenCV axes) in the base frame (eye_to_hand) or tool frame (eye_in_hand).
    T_other_board: (4, 4) board in the tool frame (eye_to_hand) or base frame. residuals: (views,) RMS [px].
    translation_std: (3,) [m], rotation_std: (3,) [rad], of the camera's pose, from the fit.
    """

    mode: Mode
    K: np.ndarray
    T_parent_cam: np.ndarray
    T_other_board: np.ndarray
    residuals: np.ndarray
    translation_std: np.ndarray
    rotation_std: np.ndarray

    @property
    def rms(self) -> float:
        """Over all views [px]."""
        return float(np.sqrt((self.residuals**2).mean()))


def solve_hand_eye(views: Sequence[BoardView], K: np.ndarray, *, mode: Mode) -> HandEye:
    """Calibrate from views with known intrinsics K (3, 3), images free of distortion.

    Raises:
        InputError: too few views or corners, or the tool turned about one axis only.
    """
    usable = [v for v in views if len(v.pixels) >= MIN_CORNERS]
    if len(usable) < MIN_VIEWS:
        raise InputError(
            f"{len(usable)} usable views of the board (of {len(views)}), at least {MIN_VIEWS} with {MIN_CORNERS} "
            "corners are needed; 15 to 25 give a good result"
        )
    tools = np.stack([v.T_base_tool for v in usable])
    G = tools if mode == "eye_to_hand" else np.linalg.inv(tools)
    _check_turns(G)
    B = np.stack([board_pose(v.pixels, v.points, K) for v in usable])
    X, Y = _closed_form(G, B)
    start = np.concatenate([_to_vector(X), _to_vector(Y)])

    def residual(vector: np.ndarray) -> np.ndarray:
        cam, board = _from_vector(vector[:6]), _from_vector(vector[6:])
        poses = np.linalg.inv(cam) @ G @ board
        parts = [
            (_project(T, v.points, K) - v.pixels).ravel()
            for T, v in zip(poses, usable, strict=True)
        ]
        return np.concatenate(parts)

    fit = least_squares(residual, start, loss="soft_l1", f_scale=1.0, x_scale="jac")
    errors = residual(fit.x)
    ends = np.cumsum([2 * len(v.pixels) for v in usable])[:-1]
    per_view = np.array([np.sqrt(2 * (e**2).mean()) for e in np.split(errors, ends)])
    variance = (errors**2).sum() / max(len(errors) - 12, 1)
    std = np.sqrt(np.maximum(np.diag(np.linalg.pinv(fit.jac.T @ fit.jac)) * variance, 0.0))
    return HandEye(
        mode=mode,
        K=K,
        T_parent_cam=_from_vector(fit.x[:6]),
        T_other_board=_from_vector(fit.x[6:]),
        residuals=per_view,
        translation_std=std[:3],
        rotation_std=std[3:6],
    )


def board_pose(pixels: np.ndarray, points: np.ndarray, K: np.ndarray) -> np.ndarray:
    """T_cam_board (4, 4) of a flat board: homography, its decomposition, then least squares on the pixels."""
    rays = (pixels - K[:2, 2]) / [K[0, 0], K[1, 1]]
    H = _homography(points[:, :2], rays)
    scale = (np.linalg.norm(H[:, 0]) + np.linalg.norm(H[:, 1])) / 2
    H = H / (scale if H[2, 2] > 0 else -scale)
    r1 = H[:, 0] / np.linalg.norm(H[:, 0])
    r2 = H[:, 1] - r1 * (r1 @ H[:, 1])
    r2 = r2 / np.linalg.norm(r2)
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = np.stack([r1, r2, np.cross(r1, r2)], axis=1), H[:, 2]

    def residual(vector: np.ndarray) -> np.ndarray:
        return np.asarray((_project(_from_vector(vector), points, K) - pixels).ravel())

    return _from_vector(least_squares(residual, _to_vector(T), x_scale="jac").x)


def _homography(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(3, 3) from plane points (n, 2) to image points (n, 2), direct linear transform on normalised points."""
    A, b = _normaliser(source), _normaliser(target)
    x = np.c_[source, np.ones(len(source))] @ A.T
    y = np.c_[target, np.ones(len(target))] @ b.T
    zero = np.zeros_like(x)
    rows = np.concatenate([np.c_[x, zero, -y[:, :1] * x], np.c_[zero, x, -y[:, 1:2] * x]])
    H = np.linalg.svd(rows)[2][-1].reshape(3, 3)
    return np.asarray(np.linalg.inv(b) @ H @ A)


def _normaliser(points: np.ndarray) -> np.ndarray:
    middle = points.mean(0)
    size = np.sqrt(2) / max(float(np.linalg.norm(points - middle, axis=1).mean()), 1e-12)
    return np.array([[size, 0, -size * middle[0]], [0, size, -size * middle[1]], [0, 0, 1]])


def _closed_form(G: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """X, Y with G_i Y = X B_i: rotations from the null space of a linear system, then translations."""
    eye = np.eye(3)
    rows = [
        np.c_[np.kron(b[:3, :3].T, eye), -np.kron(eye, g[:3, :3])]
        for g, b in zip(G, B, strict=True)
    ]
    solution = np.linalg.svd(np.concatenate(rows))[2][-1]
    RX, RY = (
        _nearest_rotation(part.reshape(3, 3, order="F")) for part in (solution[:9], solution[9:])
    )
    if np.linalg.norm(G[0, :3, :3] @ RY - RX @ B[0, :3, :3]) > 1.0:
        RX, RY = (
            _nearest_rotation(-p.reshape(3, 3, order="F")) for p in (solution[:9], solution[9:])
        )
    A = np.concatenate([np.c_[np.broadcast_to(eye, (3, 3)), -g[:3, :3]] for g in G])
    b = np.concatenate([g[:3, 3] - RX @ h[:3, 3] for g, h in zip(G, B, strict=True)])
    t = np.linalg.lstsq(A, b, rcond=None)[0]
    X, Y = np.eye(4), np.eye(4)
    X[:3, :3], X[:3, 3], Y[:3, :3], Y[:3, 3] = RX, t[:3], RY, t[3:]
    return X, Y


def _nearest_rotation(M: np.ndarray) -> np.ndarray:
    sign = np.sign(np.linalg.det(M)) or 1.0
    U, _, V = np.linalg.svd(sign * M)
    return np.asarray(U @ np.diag([1, 1, np.linalg.det(U @ V)]) @ V)


def _check_turns(G: np.ndarray) -> None:
    """Raise unless the tool turned about two different axes."""
    turns = Rotation.from_matrix(G[1:, :3, :3] @ G[0, :3, :3].T).as_rotvec()
    spread = np.linalg.svd(turns, compute_uv=False) / np.sqrt(len(turns))
    if len(spread) < 2 or spread[1] < MIN_TURN:
        raise InputError(
            "the tool turned about one axis only (or hardly at all) between the views; tilt it about different axes by "
            "20 degrees and more, or part of the camera's pose stays unknown"
        )


def _project(T: np.ndarray, points: np.ndarray, K: np.ndarray) -> np.ndarray:
    p = points @ T[:3, :3].T + T[:3, 3]
    z = np.maximum(p[:, 2:], 1e-6)
    return np.asarray(p[:, :2] / z * [K[0, 0], K[1, 1]] + K[:2, 2])


def _to_vector(T: np.ndarray) -> np.ndarray:
    return np.concatenate([T[:3, 3], Rotation.from_matrix(T[:3, :3]).as_rotvec()])


def _from_vector(v: np.ndarray) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = Rotation.from_rotvec(v[3:]).as_matrix(), v[:3]
    return T
