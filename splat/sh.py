"""Real spherical harmonics up to degree 3 as colour, with the constants and signs of 3D Gaussian splatting files.

Source: the basis of Kerbl et al. 2023 (Condon-Shortley phase included), as gsplat 1.5.3 evaluates it.
"""

from __future__ import annotations

import torch

Tensor = torch.Tensor

C0 = 0.28209479177387814
C1 = 0.4886025119029199
C2 = (
    1.0925484305920792,
    -1.0925484305920792,
    0.31539156525252005,
    -1.0925484305920792,
    0.5462742152960396,
)
C3 = (
    -0.5900435899266435,
    2.890611442640554,
    -0.4570457994644658,
    0.3731763325901154,
    -0.4570457994644658,
    1.445305721320277,
    -0.5900435899266435,
)


def sh_basis(directions: Tensor, count: int) -> Tensor:
    """(N, count) values of the first `count` (1, 4, 9 or 16) basis functions at `directions` (N, 3), of any length."""
    length = directions.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(directions.dtype).tiny)
    x, y, z = (directions / length).unbind(-1)
    rows = [torch.full_like(x, C0)]
    if count > 1:
        rows += [-C1 * y, C1 * z, -C1 * x]
    if count > 4:
        xx, yy, zz = x * x, y * y, z * z
        rows += [
            C2[0] * x * y,
            C2[1] * y * z,
            C2[2] * (2 * zz - xx - yy),
            C2[3] * x * z,
            C2[4] * (xx - yy),
        ]
        if count > 9:
            rows += [
                C3[0] * y * (3 * xx - yy),
                C3[1] * x * y * z,
                C3[2] * y * (4 * zz - xx - yy),
                C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
                C3[4] * x * (4 * zz - xx - yy),
                C3[5] * z * (xx - yy),
                C3[6] * x * (xx - 3 * yy),
            ]
    return torch.stack(rows, -1)


def evaluate_sh(sh: Tensor, directions: Tensor) -> Tensor:
    """(N, 3) colours max(0, 0.5 + sum of coefficients times basis).

    Args:
        sh: (N, K, 3). directions: (N, 3) from the camera to the Gaussian, of any length.
    """
    basis = sh_basis(directions, sh.shape[1])
    return (0.5 + (basis[..., None] * sh).sum(1)).clamp_min(0.0)


def colors_to_sh(colors: Tensor) -> Tensor:
    """(N, 1, 3) degree-0 coefficients of plain colours (N, 3)."""
    return ((colors - 0.5) / C0)[:, None]
