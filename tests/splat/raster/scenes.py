"""Random Gaussians and cameras."""

from __future__ import annotations

from typing import Any

import torch

Tensor = torch.Tensor
#: Arguments of a rasteriser that have gradients.
LEARNED = ("means", "quats_wxyz", "scales", "opacities", "colors", "viewmats", "backgrounds")


def random_case(
    seed: int,
    *,
    count: int = 60,
    cameras: int = 2,
    channels: int = 3,
    width: int = 45,
    height: int = 37,
    spread: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Any]:
    """Arguments of a rasteriser: Gaussians before and round the cameras, of all sizes."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    means = normal(count, 3) * torch.tensor([spread, spread, 0.7]) + torch.tensor([0.0, 0.0, 2.5])
    turn = 0.15 * normal(cameras, 3)
    skew = torch.zeros(cameras, 3, 3, dtype=torch.float64)
    for (row, column), axis in (((2, 1), 0), ((0, 2), 1), ((1, 0), 2)):
        skew[:, row, column], skew[:, column, row] = turn[:, axis], -turn[:, axis]
    viewmats = torch.eye(4, dtype=torch.float64).repeat(cameras, 1, 1)
    viewmats[:, :3, :3] = torch.linalg.matrix_exp(skew)
    viewmats[:, :3, 3] = 0.1 * normal(cameras, 3)
    K = torch.tensor([[40.0, 0, width / 2 + 1.3], [0, 43.0, height / 2 - 0.7], [0, 0, 1]])
    case: dict[str, Any] = {
        "means": means,
        "quats_wxyz": normal(count, 4),
        "scales": (0.6 * normal(count, 3) - 2.2).exp(),
        "opacities": uniform(count) * 0.98 + 0.01,
        "colors": uniform(count, channels),
        "viewmats": viewmats,
        "Ks": K.repeat(cameras, 1, 1),
        "backgrounds": uniform(cameras, channels),
    }
    case = {name: value.to(dtype) for name, value in case.items()}
    return {**case, "width": width, "height": height}


def gradients(
    rasterizer: Any, case: dict[str, Any], mode: str, *, top_ids: bool = True
) -> tuple[Any, dict[str, Tensor]]:
    """The output and the gradient of a random linear function of it."""
    learned = {k: v.clone().requires_grad_(True) for k, v in case.items() if k in LEARNED}
    output = rasterizer(**{**case, **learned}, render_mode=mode, top_ids=top_ids)
    generator = torch.Generator().manual_seed(7)
    total = sum(
        (image * torch.rand(image.shape, generator=generator, dtype=torch.float64).to(image)).sum()
        for image in (output.colors, output.alphas)
    )
    total.backward()
    zero = {k: torch.zeros_like(v) for k, v in learned.items()}
    return output, {k: zero[k] if v.grad is None else v.grad for k, v in learned.items()}


def case_for(mode: str, seed: int, **options: Any) -> dict[str, Any]:
    """`random_case` without a background where the mode has none."""
    case = random_case(seed, **options)
    if not mode.startswith("RGB"):
        case.pop("backgrounds")
    return case
