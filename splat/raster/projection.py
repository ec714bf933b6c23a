"""Projection of Gaussians to the image in plain PyTorch: the oracle's, and what the kernels are checked against.

Source: gsplat 1.5.3 (fully fused projection, pinhole), EWA splatting (Zwicker et al. 2001).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from splat.raster.protocol import ALPHA_MIN, EPS2D, EXTENT, JACOBIAN_MARGIN

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Projected:
    """Gaussians in one camera's image.

    means2d: (N, 2) [px]. depths: (N,) [m]. conics: (N, 3) inverse covariance (xx, xy, yy) [1/px^2].
    radii: (N, 2) [px], 0 = culled. visible: (N,) bool.
    """

    means2d: Tensor
    depths: Tensor
    conics: Tensor
    radii: Tensor
    visible: Tensor


def rotation_matrices(quats_wxyz: Tensor) -> Tensor:
    """(N, 3, 3) from quaternions of any length."""
    w, x, y, z = torch.nn.functional.normalize(quats_wxyz, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    ]
    return torch.stack(rows, -1).view(-1, 3, 3)


def project(
    means: Tensor,
    quats_wxyz: Tensor,
    scales: Tensor,
    opacities: Tensor,
    viewmat: Tensor,
    K: Tensor,
    width: int,
    height: int,
    *,
    near: float,
    far: float,
) -> Projected:
    """Project Gaussians into one camera."""
    R, t = viewmat[:3, :3], viewmat[:3, 3]
    centre = means @ R.T + t
    x, y, z = centre.unbind(-1)
    in_range = (z >= near) & (z <= far)
    z = torch.where(in_range, z, 1.0)
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    u, v = x / z, y / z
    margin_x, margin_y = JACOBIAN_MARGIN * 0.5 * width / fx, JACOBIAN_MARGIN * 0.5 * height / fy
    cu = torch.minimum(torch.maximum(u, -(cx / fx + margin_x)), (width - cx) / fx + margin_x)
    cv = torch.minimum(torch.maximum(v, -(cy / fy + margin_y)), (height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    J = torch.stack([fx / z, zero, -fx * cu / z, zero, fy / z, -fy * cv / z], -1).view(-1, 2, 3)
    B = J @ (R @ (rotation_matrices(quats_wxyz) * scales[:, None, :]))
    cov = B @ B.mT
    a, b, c = cov[:, 0, 0] + EPS2D, cov[:, 0, 1], cov[:, 1, 1] + EPS2D
    det = a * c - b * b
    safe = torch.where(det > 0, det, 1.0)
    conics = torch.stack([c / safe, -b / safe, a / safe], -1)
    means2d = torch.stack([fx * u + cx, fy * v + cy], -1)
    with torch.no_grad():
        seen = opacities >= ALPHA_MIN
        reach = (2 * (opacities.clamp_min(ALPHA_MIN) / ALPHA_MIN).log()).sqrt().clamp_max(EXTENT)
        radii = torch.stack([(reach * a.sqrt()).ceil(), (reach * c.sqrt()).ceil()], -1)
        size = means.new_tensor([width, height])
        inside = ((means2d + radii > 0) & (means2d - radii < size)).all(-1)
        visible = in_range & (det > 0) & seen & inside & (radii > 0).all(-1)
        radii = torch.where(visible[:, None], radii, 0.0)
    return Projected(
        means2d=means2d, depths=centre[:, 2], conics=conics, radii=radii, visible=visible
    )
