"""The Gaussians of a scene."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from pointworld.errors import InputError
from splat.sh import evaluate_sh

Tensor = torch.Tensor

#: Spherical-harmonic coefficients per channel at degree 0, 1, 2, 3.
SH_COUNTS = (1, 4, 9, 16)


@dataclass(frozen=True, kw_only=True, eq=False)
class GaussianScene:
    """A scene of N Gaussians in one frame (the world, or a robot's base).

    means: (N, 3) [m].
    quats_wxyz: (N, 4), of any length but zero; the Gaussian's axes in the scene's frame.
    log_scales: (N, 3) natural logarithm of the standard deviation along each axis [m].
    opacity_logits: (N,).
    sh: (N, K, 3) spherical-harmonic colour, K in 1, 4, 9, 16; colour = 0.5 + their sum (see `splat.sh`).
    features: (N, F) of any meaning, or None.
    ids: (N,) int64 object of every Gaussian, -1 = none; or None.
    moving: (N,) bool; or None.
    background: (3,) colour in 0-1 of what no Gaussian covers; None = black.
    """

    means: Tensor
    quats_wxyz: Tensor
    log_scales: Tensor
    opacity_logits: Tensor
    sh: Tensor
    features: Tensor | None = None
    ids: Tensor | None = None
    moving: Tensor | None = None
    background: Tensor | None = None

    def __post_init__(self) -> None:
        n = self.means.shape[0] if self.means.ndim else 0
        coefficients = self.sh.shape[1] if self.sh.ndim == 3 else 0
        if coefficients not in SH_COUNTS:
            raise InputError(
                f"GaussianScene: sh is {tuple(self.sh.shape)}, expected (N, K, 3) with K one of {SH_COUNTS}"
            )
        wanted: dict[str, tuple[int, ...]] = {
            "means": (n, 3),
            "quats_wxyz": (n, 4),
            "log_scales": (n, 3),
            "opacity_logits": (n,),
            "sh": (n, coefficients, 3),
            "ids": (n,),
            "moving": (n,),
            "background": (3,),
        }
        for name, shape in wanted.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise InputError(f"GaussianScene: {name} is {tuple(value.shape)}, expected {shape}")
        if self.features is not None and (self.features.ndim != 2 or len(self.features) != n):
            raise InputError(
                f"GaussianScene: features is {tuple(self.features.shape)}, expected ({n}, F)"
            )

    def __len__(self) -> int:
        return int(self.means.shape[0])

    @property
    def scales(self) -> Tensor:
        """(N, 3) standard deviations [m]."""
        return self.log_scales.exp()

    @property
    def opacities(self) -> Tensor:
        """(N,) in 0-1."""
        return self.opacity_logits.sigmoid()

    @property
    def sh_degree(self) -> int:
        """0 to 3."""
        return SH_COUNTS.index(self.sh.shape[1])

    def colors_from(self, camera_centre: Tensor) -> Tensor:
        """(N, 3) colour, not below 0, of every Gaussian as seen from `camera_centre` (3,) [m]."""
        if self.sh.shape[1] == 1:
            return evaluate_sh(self.sh, torch.zeros_like(self.means))
        return evaluate_sh(self.sh, self.means - camera_centre)

    def select(self, index: Tensor) -> GaussianScene:
        """The Gaussians at `index` (indices or a mask)."""
        chosen = replace(self, background=None)._each(lambda value: value[index])
        return replace(chosen, background=self.background)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> GaussianScene:
        """Copy to a device and/or floating type (ids and masks keep theirs)."""
        return self._each(
            lambda v: v.to(device=device, dtype=dtype if v.is_floating_point() else None)
        )

    def detach(self) -> GaussianScene:
        """The same values without gradient history."""
        return self._each(lambda value: value.detach())

    def _each(self, change: Any) -> GaussianScene:
        values: dict[str, Any] = {
            field.name: None
            if getattr(self, field.name) is None
            else change(getattr(self, field.name))
            for field in fields(self)
        }
        return GaussianScene(**values)


def concatenate(scenes: list[GaussianScene]) -> GaussianScene:
    """All Gaussians of several scenes; optional fields are kept where every scene has them, the background is that of
    the first scene with one.

    Raises:
        InputError: no scene, or different spherical-harmonic degrees.
    """
    if not scenes:
        raise InputError("concatenate was given no scenes")
    if len({scene.sh.shape[1] for scene in scenes}) > 1:
        raise InputError(
            f"the scenes have different spherical-harmonic degrees {[s.sh_degree for s in scenes]}"
        )
    joined: dict[str, Any] = {}
    for field in fields(GaussianScene):
        values = [getattr(scene, field.name) for scene in scenes]
        if field.name == "background":
            joined[field.name] = next((v for v in values if v is not None), None)
            continue
        joined[field.name] = None if any(v is None for v in values) else torch.cat(values)
    return GaussianScene(**joined)
