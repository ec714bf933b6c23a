"""Rotation vectors in torch, batched and differentiable, also at and near zero."""

from __future__ import annotations

import torch

Tensor = torch.Tensor
#: Angles below this use the series [rad].
SMALL = 1e-4


def skew(vectors: Tensor) -> Tensor:
    """(..., 3) to the matrices (..., 3, 3) of their cross products."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    rows = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1)
    return rows.reshape(*vectors.shape[:-1], 3, 3)


def rotation_exp(vectors: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3) [rad]."""
    square = vectors.square().sum(-1)[..., None, None]
    near = square < SMALL**2
    angle = torch.where(near, torch.ones_like(square), square).sqrt()
    first = torch.where(near, 1 - square / 6, angle.sin() / angle)
    second = torch.where(near, 0.5 - square / 24, (1 - angle.cos()) / angle.square())
    K = skew(vectors)
    eye = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    return eye + first * K + second * (K @ K)


def rotation_log(R: Tensor) -> Tensor:
    """Rotation vectors (..., 3) [rad] of rotation matrices, for angles below pi (accurate below 3.1)."""
    anti = R - R.transpose(-1, -2)
    sine_axis = 0.5 * torch.stack([anti[..., 2, 1], anti[..., 0, 2], anti[..., 1, 0]], -1)
    square = sine_axis.square().sum(-1, keepdim=True)
    cosine = (R.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - 1) / 2
    near = (square < SMALL**2) & (cosine > 0)
    sine = torch.where(near, torch.ones_like(square), square).sqrt()
    factor = torch.where(near, 1 + square / 6, torch.atan2(sine, cosine) / sine)
    return factor * sine_axis
