"""Rotations of Gaussians: guarded rigid fits, quaternions, and spherical harmonics."""

from __future__ import annotations

import math

import torch

from pointworld.geometry import fit_rigid, make_transform, matrix_to_quat_wxyz
from splat.sh import sh_basis

Tensor = torch.Tensor

#: Neighbours whose second spread is below this share of the first (as variances) count as lying on a line.
LINE_SHARE = 1e-4
#: Neighbours closer together than this count as one point [m].
POINT_SPREAD = 1e-6
#: Gaussians whose harmonics are turned at a time; bounds the memory of it.
SH_CHUNK = 8192


def fit_guarded(source: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Weighted rigid transforms target ~ T source that stay defined when the points do not determine a rotation.

    Points that span a plane or more: the Kabsch fit, determinant +1. Points on a line: the smallest rotation that
    takes the line's direction to its new one. Points in one place, or a single one: a translation. The weighted
    centre always goes to the weighted centre.

    Args:
        source, target: (M, K, 3) float64 [m]. weights: (M, K), at least one positive in each row.

    Returns:
        (M, 4, 4).
    """
    T = fit_rigid(source, target, weights)
    share = weights / weights.sum(-1, keepdim=True)
    center = (share[..., None] * source).sum(-2)
    a = source - center[:, None]
    spread, axes = torch.linalg.eigh((share[..., None] * a).transpose(-1, -2) @ a)
    flat = spread[:, 1] <= LINE_SHARE * spread[:, 2]
    if not bool(flat.any()):
        return T
    rows = torch.nonzero(flat)[:, 0]
    direction, share, a = axes[rows, :, 2], share[rows], a[rows]
    target_center = (share[..., None] * target[rows]).sum(-2)
    b = target[rows] - target_center[:, None]
    along = share * (a * direction[:, None]).sum(-1)
    turned = (along[..., None] * b).sum(-2)
    usable = (spread[rows, 2] > POINT_SPREAD**2) & (turned.norm(dim=-1) > POINT_SPREAD**2)
    eye = torch.eye(3, dtype=T.dtype, device=T.device)
    R = torch.where(usable[:, None, None], smallest_rotation(direction, turned), eye)
    T = T.clone()
    T[rows] = make_transform(R, target_center - (R @ center[rows][..., None])[..., 0])
    return T


def smallest_rotation(a: Tensor, b: Tensor) -> Tensor:
    """(M, 3, 3) rotations by the smallest angle that take direction `a` (M, 3) to direction `b` (M, 3).

    For opposite directions, a half turn about one of the axes at right angles.
    """
    a = torch.nn.functional.normalize(a, dim=-1)
    b = torch.nn.functional.normalize(b, dim=-1)
    # The half-way direction h gives R = (2 h h^T - I)(2 a a^T - I): two half turns, exact and never singular
    # except where b = -a.
    side = torch.zeros_like(a).scatter(-1, a.abs().argmin(-1, keepdim=True), 1.0)
    side = torch.nn.functional.normalize(side - (side * a).sum(-1, keepdim=True) * a, dim=-1)
    middle = a + b
    opposite = middle.norm(dim=-1, keepdim=True) < 1e-9
    h = torch.nn.functional.normalize(torch.where(opposite, side, middle), dim=-1)
    eye = torch.eye(3, dtype=a.dtype, device=a.device)
    turn = 2 * h[..., :, None] * h[..., None, :] - eye
    return turn @ (2 * a[..., :, None] * a[..., None, :] - eye)


def compose_quats(R: Tensor, quats_wxyz: Tensor) -> Tensor:
    """Quaternions (M, 4) of R times the rotation of `quats_wxyz`; their length is kept."""
    aw, ax, ay, az = matrix_to_quat_wxyz(R).to(quats_wxyz.dtype).unbind(-1)
    bw, bx, by, bz = quats_wxyz.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        -1,
    )


def rotate_sh(sh: Tensor, R: Tensor) -> Tensor:
    """Coefficients (M, K, 3) of colours that turn with R (M, 3, 3): colour'(d) = colour(R^T d) for all d.

    Rotated harmonics of a degree are combinations of the same degree, so that fitting them on more directions than
    there are coefficients is exact.
    """
    count = sh.shape[1]
    if count == 1 or len(sh) == 0:
        return sh
    directions = _sphere(2 * count).to(R)
    inverse = torch.linalg.pinv(sh_basis(directions, count))
    parts = []
    for start in range(0, len(sh), SH_CHUNK):
        rows = slice(start, start + SH_CHUNK)
        turned = directions @ R[rows]  # row i is R^T d_i
        basis = sh_basis(turned.reshape(-1, 3), count).reshape(len(turned), len(directions), count)
        parts.append((inverse @ basis @ sh[rows].to(R.dtype)).to(sh.dtype))
    return torch.cat(parts)


def _sphere(count: int) -> Tensor:
    """(count, 3) directions spread evenly (a Fibonacci lattice)."""
    i = torch.arange(count, dtype=torch.float64)
    z = 1 - (2 * i + 1) / count
    angle = i * math.pi * (3 - math.sqrt(5))
    r = (1 - z * z).sqrt()
    return torch.stack([r * torch.cos(angle), r * torch.sin(angle), z], -1)
