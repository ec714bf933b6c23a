"""Where the cameras really are: corrections that all frames share, and a small one of each frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from pointworld.capture.depth import register_depth
from pointworld.geometry import invert, make_transform
from splat.fit.views import FitView

Array = np.ndarray

#: Parameters before the frames' own: depth cameras, colour against depth, focal length.
RIG = 13
#: Expected size of a frame's own motion [rad, m]: the part shared with frames near by, and the part that is not.
SIGMA_SHARED, SIGMA_OWN = 6e-3, 1e-3
#: Frames whose view differs by this much (see `view_distance`) have little of their motion in common.
LIKENESS = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Rig:
    """Corrections of the cameras.

    T_rig: (4, 4) motion of all depth cameras, in their axes. T_color_depth: (4, 4) depth camera to colour camera.
    focal: factor on the colour camera's focal length. Ts_frame: (frames, 4, 4) motion of every frame, after T_rig.
    cost: mean robust disagreement of brightness and depth; before: as given.
    """

    T_rig: Array
    T_color_depth: Array
    focal: float
    Ts_frame: Array
    cost: float = 0.0
    before: float = 0.0

    @staticmethod
    def none(frames: int) -> Rig:
        """No correction at all."""
        eye = np.eye(4)
        return Rig(T_rig=eye, T_color_depth=eye, focal=1.0, Ts_frame=np.tile(eye, (frames, 1, 1)))

    def depth_viewmat(self, viewmat: Array, frame: int) -> Array:
        """(4, 4) T_depthcam_world of a frame whose given pose is `viewmat`."""
        return self.Ts_frame[frame] @ self.T_rig @ viewmat

    def parameters(self) -> Array:
        """(RIG + 6 frames,) rotation vectors, translations and the logarithmic focal length."""
        rows = [log_motion(self.T_rig), log_motion(self.T_color_depth), [np.log(self.focal)]]
        return np.concatenate([*rows, *(log_motion(T) for T in self.Ts_frame)])

    def moved(self, step: Array) -> Rig:
        """After a small change of the parameters."""
        frames = step[RIG:].reshape(-1, 6)
        return Rig(
            T_rig=exp_motion(step[:6]) @ self.T_rig,
            T_color_depth=exp_motion(step[6:12]) @ self.T_color_depth,
            focal=float(self.focal * np.exp(step[12])),
            Ts_frame=np.stack(
                [exp_motion(s) @ T for s, T in zip(frames, self.Ts_frame, strict=True)]
            ),
        )


def exp_motion(vector: Array) -> Array:
    """(4, 4) of a rotation vector [rad] and a translation [m]."""
    return make_transform(Rotation.from_rotvec(vector[:3]).as_matrix(), vector[3:])


def log_motion(T: Array) -> Array:
    """(6,) rotation vector [rad] and translation [m] of a rigid motion."""
    return np.concatenate([Rotation.from_matrix(T[:3, :3]).as_rotvec(), T[:3, 3]])


def corrected_views(
    rig: Rig, views: Sequence[FitView], *, of: Sequence[FitView] | None = None
) -> list[FitView]:
    """The views as the colour camera sees them: with its pose and focal length, and depth moved into it.

    Args:
        of: views that the rig was found with, where `views` are others; their own motions follow from those near by.
    """
    if of is not None:
        rig = replace(rig, Ts_frame=motions_between(rig, of, views))
    return [_corrected(rig, view, index) for index, view in enumerate(views)]


def _corrected(rig: Rig, view: FitView, frame: int) -> FitView:
    K = view.K.numpy().astype(np.float64)
    K_color = K.copy()
    K_color[[0, 1], [0, 1]] *= rig.focal
    depth, valid = register_depth(
        view.depth.numpy(),
        view.valid.numpy(),
        K_depth=K,
        K_color=K_color,
        T_color_depth=rig.T_color_depth,
        size=(view.height, view.width),
    )
    pose = rig.T_color_depth @ rig.depth_viewmat(view.viewmat.numpy().astype(np.float64), frame)
    return replace(
        view,
        K=torch.from_numpy(K_color).float(),
        viewmat=torch.from_numpy(pose).float(),
        depth=torch.from_numpy(depth),
        valid=torch.from_numpy(valid) & view.shows_scene,
    )


def motions_between(rig: Rig, views: Sequence[FitView], others: Sequence[FitView]) -> Array:
    """(others, 4, 4) motions of frames that were not looked at, from those of `views` near by (a Gaussian process)."""
    if not others:
        return np.zeros((0, 4, 4))
    known = likeness(views, views) + (SIGMA_OWN / SIGMA_SHARED) ** 2 * np.eye(len(views))
    weights = likeness(others, views) @ np.linalg.inv(known)
    logs = np.stack([log_motion(T) for T in rig.Ts_frame])
    return np.stack([exp_motion(row) for row in weights @ logs])


def likeness(first: Sequence[FitView], second: Sequence[FitView]) -> Array:
    """(first, second) correlation of the motions of two frames."""
    return np.exp(-0.5 * (view_distance(first, second) / LIKENESS) ** 2)


def view_distance(first: Sequence[FitView], second: Sequence[FitView]) -> Array:
    """(first, second) root of the squares of the angle between the cameras [rad] and of their distance as a share of
    that of the scene; both as distances in a vector space, so that `likeness` is a covariance."""
    a, b = (
        np.stack([invert(v.viewmat.numpy().astype(np.float64)) for v in x]) for x in (first, second)
    )
    # |R - S| is 2 sqrt(2) sin(angle / 2).
    turned = np.square(a[:, None, :3, :3] - b[None, :, :3, :3]).sum((-1, -2)) / 2
    depths = [float(v.depth[v.valid].median()) for v in second if bool(v.valid.any())]
    scene = float(np.median(depths)) if depths else 1.0
    apart = np.square(a[:, None, :3, 3] - b[None, :, :3, 3]).sum(-1) / scene**2
    return np.asarray(np.sqrt(turned + apart))
