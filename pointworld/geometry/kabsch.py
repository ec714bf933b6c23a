"""Best rigid motion between matched point sets."""

from __future__ import annotations

import torch

from pointworld.geometry.se3 import make_transform


def fit_rigid(
    source: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Weighted least-squares rigid transform T with target ~ T source.

    Where the points do not span a plane (fewer than three, or collinear) the rotation is not determined; the
    smallest consistent rotation is not guessed: it is the identity there. The determinant is always +1.

    Args:
        source: (*batch, points, 3) [m]. target: same shape.
        weights: (*batch, points) non-negative, or None for equal weights.

    Returns:
        (*batch, 4, 4).

    Source: Kabsch, Acta Cryst. A32 (1976) 922; Umeyama, PAMI 13 (1991) 376 for the determinant.
    """
    if weights is None:
        weights = torch.ones(source.shape[:-1], dtype=source.dtype, device=source.device)
    share = weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(source.dtype).tiny)
    source_mean = (share[..., None] * source).sum(-2)
    target_mean = (share[..., None] * target).sum(-2)
    a = source - source_mean[..., None, :]
    b = target - target_mean[..., None, :]
    U, S, Vt = torch.linalg.svd((share[..., None] * a).transpose(-1, -2) @ b)
    V = Vt.transpose(-1, -2)
    sign = torch.det(V @ U.transpose(-1, -2)).sign()
    flip = torch.ones_like(S)
    flip[..., 2] = torch.where(sign == 0, torch.ones_like(sign), sign)
    R = V @ torch.diag_embed(flip) @ U.transpose(-1, -2)
    # Rank below two: one spread direction only, the twist about it is free.
    determined = S[..., 1] > 1e-6 * S[..., 0].clamp_min(1e-20)
    eye = torch.eye(3, dtype=source.dtype, device=source.device).expand_as(R)
    R = torch.where(determined[..., None, None], R, eye)
    t = target_mean - (R @ source_mean[..., None])[..., 0]
    return make_transform(R, t)
