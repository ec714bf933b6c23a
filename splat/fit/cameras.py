"""Corrections of the cameras that are fitted together with the scene: frames' poses and exposures.

What all frames share, such as where the colour camera sits, is found before (see `splat.fit.rig`).
"""

from __future__ import annotations

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
        frames: training frames.
        poses, exposure: what may change.
    """

    def __init__(self, frames: int, *, poses: bool, exposure: bool) -> None:
        super().__init__()
        self.poses = nn.Parameter(torch.zeros(frames, 6), requires_grad=poses)
        self.log_gain = nn.Parameter(torch.zeros(frames, 3), requires_grad=exposure)
        self.bias = nn.Parameter(torch.zeros(frames, 3), requires_grad=exposure)

    def viewmat(self, viewmat: Tensor, frame: int | None) -> Tensor:
        """(4, 4) T_cam_world; `frame` None for one that was not trained on."""
        return viewmat if frame is None else _moved(viewmat, self.poses[frame])

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
