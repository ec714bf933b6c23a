"""Rasterisers behind one call: `reference` (oracle), `cpu` (Numba, all cores), `gsplat` (CUDA)."""

from __future__ import annotations

import torch

from pointworld.errors import InputError
from splat.raster.protocol import Rasterizer as Rasterizer
from splat.raster.protocol import RasterOutput as RasterOutput
from splat.raster.protocol import RenderMode as RenderMode

BACKENDS = ("auto", "cpu", "gsplat", "reference")


def get_rasterizer(
    backend: str = "auto", *, device: torch.device | str | None = None
) -> Rasterizer:
    """A rasteriser by name.

    Args:
        backend: one of BACKENDS; auto = gsplat for a CUDA `device`, else cpu.

    Raises:
        InputError: no such backend, or CUDA asked for and absent.
        MissingExtraError: what the backend needs is not installed.
    """
    if backend not in BACKENDS:
        raise InputError(f"rasteriser '{backend}', expected one of {', '.join(BACKENDS)}")
    if backend == "auto":
        backend = "gsplat" if device is not None and torch.device(device).type == "cuda" else "cpu"
    if backend == "gsplat":
        from splat.raster.gsplat_backend import GsplatRasterizer

        return GsplatRasterizer()
    if backend == "reference":
        from splat.raster.reference import ReferenceRasterizer

        return ReferenceRasterizer()
    from splat.raster.cpu import CpuRasterizer

    return CpuRasterizer()
