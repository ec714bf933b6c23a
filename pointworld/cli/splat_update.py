"""`splat fit --update`: bring a fitted scene up to date with frames in which something moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pointworld.errors import InputError
from splat.fit import FitConfig, Fitted, Rig, Shown, corrected_views, psnr, update
from splat.fit.cameras import CameraCorrections
from splat.fit.update import changed_pixels
from splat.fit.views import FitView
from splat.io import read_native
from splat.io.native import NativeFile
from splat.raster import get_rasterizer

#: Of the scene file: what all cameras had in common, for frames that are taken later.
RIG_MOTIONS, RIG_FOCAL = "rig_motions", "rig_focal"
#: What belongs to the frames of a fit, not to its Gaussians.
OF_FRAMES = ("camera_K", "camera_viewmats", "cameras", "size")


@dataclass(frozen=True, kw_only=True, eq=False)
class Refitted:
    """A scene after an update, the views as its cameras see them, and what else its file held."""

    fitted: Fitted
    training: list[FitView]
    held: list[FitView]
    rig: Rig
    stored: NativeFile
    report: dict[str, Any]


def rig_tensors(rig: Rig) -> dict[str, torch.Tensor]:
    """What all frames share of a rig, for the scene file."""
    return {
        RIG_MOTIONS: torch.stack([torch.from_numpy(T) for T in (rig.T_rig, rig.T_color_depth)]),
        RIG_FOCAL: torch.tensor(rig.focal, dtype=torch.float64),
    }


def stored_rig(stored: NativeFile, frames: int) -> Rig:
    """The rig of a scene file, for so many new frames; none where the file has none.

    Raises:
        InputError: the file's tensors are no rig.
    """
    rig = Rig.none(frames)
    if RIG_MOTIONS not in stored.tensors:
        return rig
    motions, focal = stored.tensors[RIG_MOTIONS], stored.tensors.get(RIG_FOCAL, torch.ones(()))
    if motions.shape != (2, 4, 4) or focal.shape != () or not float(focal) > 0:
        raise InputError(
            f"{RIG_MOTIONS} and {RIG_FOCAL} are {tuple(motions.shape)} and {tuple(focal.shape)}, expected (2, 4, 4) "
            "and a positive number"
        )
    T_rig, T_color_depth = motions.double().numpy()
    return replace(rig, T_rig=T_rig, T_color_depth=T_color_depth, focal=float(focal))


def refit(
    path: Path, training: Sequence[FitView], held: Sequence[FitView], config: FitConfig
) -> Refitted:
    """Update the scene file at `path` with new views.

    Raises:
        InputError: the file is no scene.
    """
    stored = read_native(path)
    rig = stored_rig(stored, len(training))
    seen = corrected_views(rig, training)
    others = corrected_views(stored_rig(stored, len(held)), held)
    done = update(stored.scene, seen, config)
    positions = torch.tensor([view.position for view in training])
    nothing = Fitted(
        scene=done.scene,
        cameras=CameraCorrections(len(training), poses=False, exposure=False),
        seconds=0.0,
        iterations=0,
        loss=0.0,
        positions=positions,
    )
    fitted = nothing if done.fitted is None else replace(done.fitted, scene=done.scene)
    share = float(torch.stack(done.changed).float().mean())
    return Refitted(
        fitted=fitted,
        training=seen,
        held=others,
        rig=rig,
        stored=stored,
        report={
            "updated_from": str(path),
            "changed_share": share,
            "gaussians_kept": len(done.kept),
            "gaussians_refitted": len(done.scene) - len(done.kept),
        },
    )


def measure_changed(before: NativeFile, shown: Sequence[Shown], backend: str) -> float | None:
    """Mean PSNR [dB] over views that changed, of the pixels where they disagree with the scene before."""
    rasterizer = get_rasterizer(backend)
    values = []
    for item in shown:
        mask = changed_pixels(rasterizer, before.scene, item.view)
        if bool(mask.any()):
            values.append(psnr(item.image, item.view.rgb, mask))
    return sum(values) / len(values) if values else None


def carried_over(stored: NativeFile) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and text of a scene file that still hold after an update, such as the decoder of its features."""
    return (
        {name: value for name, value in stored.tensors.items() if name not in OF_FRAMES},
        {name: value for name, value in stored.metadata.items() if name not in OF_FRAMES},
    )
