"""Corrections of the cameras that are fitted together with the scene.

Depth poses are taken as they are; what is corrected is where the colour camera sits relative to the depth camera, its
focal length, every training frame's pose, and every frame's exposure.
"""

from __future__ import annotations

import math

import torch
from torch import nn

Tensor = torch.Tensor


def rotation_exp(vector: Tensor) -> Tensor:
    """(..., 3, 3) rotation of a rotation vector (..., 3) [rad]; differentiable at zero."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1)
    return torch.linalg.matrix_exp(skew.view(*vector.shape[:-1], 3, 3))


class CameraCorrections(nn.Module):
    """Learned corrections, all starting at none.

    Args:
        frames: training frames, for poses and exposures.
        focal, offset, poses, exposure: what may change.
    """

    def __init__(
        self, frames: int, *, focal: bool, offset: bool, poses: bool, exposure: bool
    ) -> None:
        super().__init__()
        self.log_focal = nn.Parameter(torch.zeros(()), requires_grad=focal)
        self.offset = nn.Parameter(torch.zeros(6), requires_grad=offset)
        self.poses = nn.Parameter(torch.zeros(frames, 6), requires_grad=poses)
        self.log_gain = nn.Parameter(torch.zeros(frames, 3), requires_grad=exposure)
        self.bias = nn.Parameter(torch.zeros(frames, 3), requires_grad=exposure)

    @torch.no_grad()
    def begin_with(self, focal: float, offset: tuple[float, float]) -> None:
        """Start from a colour camera with `focal` times the focal length, and `offset` (x, y) [m] between cameras."""
        self.log_focal.fill_(math.log(focal))
        self.offset[3:5] = torch.tensor(offset)

    def depth_viewmat(self, viewmat: Tensor, frame: int | None) -> Tensor:
        """(4, 4) T_depthcam_world; `frame` None for one that was not trained on."""
        return viewmat if frame is None else _moved(viewmat, self.poses[frame])

    def color_viewmat(self, viewmat: Tensor, frame: int | None) -> Tensor:
        """(4, 4) T_colorcam_world, its first two rows times s: with the same K, a focal length s times as long."""
        moved = _moved(self.depth_viewmat(viewmat, frame), self.offset)
        scale = self.log_focal.exp()
        one = torch.ones_like(scale)
        return torch.stack([scale, scale, one, one])[:, None] * moved

    def expose(self, image: Tensor, frame: int | None) -> Tensor:
        """The image (height, width, 3) as the frame's exposure shows it."""
        if frame is None:
            return image
        return image * self.log_gain[frame].exp() + self.bias[frame]

    def expose_between(self, image: Tensor, positions: Tensor, position: int) -> Tensor:
        """The image as a frame that was not trained on shows it: exposure between that of its trained neighbours.

        Args:
            positions: (frames,) ascending, of the training frames. position: of this frame.
        """
        after = int((positions < position).sum().clamp(0, len(positions) - 1))
        before = max(after - 1, 0)
        span = float(positions[after] - positions[before])
        share = 0.0 if span == 0 else (position - float(positions[before])) / span
        share = min(max(share, 0.0), 1.0)
        gain, bias = (
            torch.lerp(values[before], values[after], share)
            for values in (self.log_gain, self.bias)
        )
        return image * gain.exp() + bias


def _moved(viewmat: Tensor, change: Tensor) -> Tensor:
    """A small motion of the camera, in its own axes, after `viewmat`."""
    R, t = rotation_exp(change[:3]), change[3:]
    top = torch.cat([R @ viewmat[:3, :3], (R @ viewmat[:3, 3] + t)[:, None]], 1)
    return torch.cat([top, viewmat[3:]])


def fit_exposure(image: Tensor, target: Tensor) -> Tensor:
    """The image with the gain and bias per channel that bring it nearest to the target (least squares)."""
    flat, wanted = image.reshape(-1, 3), target.reshape(-1, 3)
    mean, wanted_mean = flat.mean(0), wanted.mean(0)
    centred = flat - mean
    gain = (centred * (wanted - wanted_mean)).sum(0) / centred.square().sum(0).clamp_min(1e-9)
    return ((flat - mean) * gain + wanted_mean).view_as(image)
