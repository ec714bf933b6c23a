"""`pointworld splat fit`: turn an RGB-D capture into Gaussians."""

from __future__ import annotations

import json
import resource
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from PIL import Image

from pointworld.capture import read_capture
from pointworld.cli.common import console, parse, progress, stdout_json, write_run_json
from pointworld.cli.splat_features import Featured, add_features
from pointworld.cli.splat_summary import QUALITY
from pointworld.cli.splat_update import (
    Refitted,
    carried_over,
    measure_changed,
    refit,
    rig_tensors,
)
from pointworld.encoders import ImageEncoder, load_encoder
from pointworld.errors import InputError
from pointworld.files import atomic_path
from splat.features import ENCODER
from splat.fit import (
    FitConfig,
    Fitted,
    Lpips,
    Rig,
    Shown,
    corrected_views,
    find_rig,
    fit,
    mean_lpips,
    measure,
    read_lpips,
    show_views,
    split_views,
)
from splat.fit.rig import log_motion
from splat.fit.views import MIN_DEPTH, FitView
from splat.io import write_native

SCENE = "scene.safetensors"
SHEET_ROWS = 4


@dataclass(frozen=True, kw_only=True)
class SplatFitArgs:
    """Fit Gaussians to the frames of an RGB-D capture, and measure them on frames that were held out.

    Writes scene.safetensors (the Gaussians, cameras and their corrections), sheet.png (held-out images and depth beside
    what the scene shows), features.png with --features, run.json.

    Example: pointworld splat fit captures/desk --out out/desk
    Example: pointworld splat fit captures/desk --frames 0 4 8 --quick --holdout-every 0 --out out/desk
    Example: pointworld splat fit captures/desk --features jepa --out out/desk
    Example: pointworld splat fit captures/desk_later --update out/desk --out out/desk_later
    """

    capture: tyro.conf.Positional[Path]
    """Folder of the capture, in any supported layout."""
    out: Path
    """Folder for the results."""
    frames: tuple[int, ...] = ()
    """Frames to use; all by default."""
    holdout_every: int = 8
    """Hold out every n-th of the used frames, the first included; 0 = none."""
    holdout: tuple[int, ...] = ()
    """Hold out these of the used frames instead."""
    max_width: int = 320
    """Images are reduced to this width [px]."""
    min_depth: float = MIN_DEPTH
    """What is nearer to a camera is taken for what carries it, not for scene [m]."""
    calibrate: Literal["full", "rig", "no"] = "full"
    """Before the fit, find where the cameras really are from the training frames: what all frames share (rig), or also
    a small motion of each (full)."""
    update: Path | None = None
    """Folder of an earlier fit of the same place: only what the new frames show differently is fitted again."""
    update_iterations: int = 200
    """Iterations of an update."""
    quick: bool = False
    """A usable scene in seconds: 20,000 Gaussians, 120 iterations."""
    features: str | None = None
    """Give every Gaussian image features: jepa[:FOLDER], xfeat, dinov3:ID_OR_FOLDER, dinov2:..., vjepa2:..."""
    feature_channels: int = 32
    """Channels kept of the encoder's; the way back is kept in the file."""
    feature_iterations: int = 0
    """Gradient steps that refine the features after they were lifted; 0 = none."""
    lpips: Path | None = None
    """Folder with torchvision's AlexNet (alexnet*.pth) and LPIPS 0.1's linear layers (alex.pth), to report LPIPS."""
    threads: int = 0
    """CPU threads; 0 = all."""
    fit: FitConfig = field(default_factory=FitConfig)
    """Budget, rates, weights, and which camera corrections are learned together with the scene."""
    json: bool = False
    """Print the report as one JSON object on stdout."""


QUICK = {"gaussians": 20_000, "iterations": 120, "grow": 0.0}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Result:
    """A scene, the views as its cameras see them, the time of calibration [s], and what an update adds."""

    fitted: Fitted
    training: list[FitView]
    held: list[FitView]
    rig: Rig
    calibrating: float = 0.0
    refitted: Refitted | None = None


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(SplatFitArgs, argv, prog="pointworld splat fit")
    if args.threads:
        torch.set_num_threads(args.threads)
    config = FitConfig(**{**args.fit.__dict__, **QUICK}) if args.quick else args.fit
    encoder = feature_encoder(args)
    lpips = None if args.lpips is None else read_lpips(args.lpips)
    capture = read_capture(args.capture, frames=list(args.frames) or None)
    training, held = split_views(
        capture,
        max_width=args.max_width,
        holdout=list(args.holdout) if args.holdout else args.holdout_every,
        min_depth=args.min_depth,
    )
    done = _fitted(args, config, training, held)
    shown = show_views(done.fitted, done.held or done.training[:SHEET_ROWS], backend=config.backend)
    report = {"source": capture.source, **_report(done, shown, config.backend, lpips)}
    args.out.mkdir(parents=True, exist_ok=True)
    featured = None
    if encoder is not None:
        featured = add_features(
            encoder,
            done.fitted,
            done.training,
            done.held,
            channels=args.feature_channels,
            iterations=args.feature_iterations,
            backend=config.backend,
            picture=args.out / "features.png",
            seed=config.seed,
        )
        report |= featured.report
    _write_scene(args.out / SCENE, done, featured)
    write_sheet(args.out / "sheet.png", shown[:SHEET_ROWS])
    write_run_json(
        args.out,
        command="splat fit",
        config=args,
        seed=config.seed,
        timings={"calibrate": done.calibrating, "fit": done.fitted.seconds},
        extra={"report": report},
    )
    _describe(report, args.out)
    if args.json:
        # Keys that all splat commands share are null where nothing was held out.
        stdout_json({**dict.fromkeys(QUALITY), **report})
    return 0


def _fitted(
    args: SplatFitArgs, config: FitConfig, training: list[FitView], held: list[FitView]
) -> _Result:
    """Calibrate and fit, or update an earlier fit."""
    if args.update is not None:
        path = check_scene_folder(args.update)
        local = replace(config, iterations=args.update_iterations)
        done = refit(path, training, held, local)
        return _Result(
            fitted=done.fitted,
            training=done.training,
            held=done.held,
            rig=done.rig,
            refitted=done,
        )
    began = time.perf_counter()
    rig = Rig.none(len(training))
    if args.calibrate != "no" and not args.quick:
        rig = find_rig(training, poses=args.calibrate == "full", seed=config.seed)
        held = corrected_views(rig, held, of=training)
        training = corrected_views(rig, training)
    calibrating = time.perf_counter() - began
    with progress(config.iterations, f"fitting {len(training)} views") as advance:
        fitted = fit(training, config, on_step=lambda _: advance(1))
    return _Result(fitted=fitted, training=training, held=held, rig=rig, calibrating=calibrating)


def _report(done: _Result, shown: list[Shown], backend: str, lpips: Lpips | None) -> dict[str, Any]:
    view = done.training[0]
    report: dict[str, Any] = {
        "views": len(done.training),
        "held_out": len(done.held),
        "width": view.width,
        "height": view.height,
        "gaussians": len(done.fitted.scene),
        "iterations": done.fitted.iterations,
        "seconds": round(done.calibrating + done.fitted.seconds, 2),
        "cpu_seconds": round(time.process_time(), 2),
        # Linux counts in kB.
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "focal_scale": done.rig.focal,
        "color_offset": log_motion(done.rig.T_color_depth).tolist(),
        "depth_offset": log_motion(done.rig.T_rig).tolist(),
        **({**measure(shown), "lpips": mean_lpips(shown, lpips)} if done.held else {}),
    }
    if done.refitted is not None:
        report |= done.refitted.report
        if done.held:
            report["psnr_changed"] = measure_changed(done.refitted.stored, shown, backend)
    return report


def feature_encoder(args: SplatFitArgs) -> ImageEncoder | None:
    """The encoder of --features, or None.

    Raises:
        InputError: the options of features are out of range, or there is no such encoder.
    """
    if not 1 <= args.feature_channels <= 128 or args.feature_iterations < 0:
        raise InputError(
            f"--feature-channels {args.feature_channels} and --feature-iterations {args.feature_iterations}: expected "
            "1 to 128, and 0 or more"
        )
    return None if args.features is None else load_encoder(args.features)


def _write_scene(path: Path, done: _Result, featured: Featured | None) -> None:
    """The scene with its cameras: names, sizes, K and T_colorcam_world of every view, and what all of them share.

    With features, also their decoder and the encoder's name.
    """
    views = done.training + done.held
    tensors, metadata = ({}, {}) if done.refitted is None else carried_over(done.refitted.stored)
    write_native(
        done.fitted.scene if featured is None else featured.scene,
        path,
        tensors={
            **tensors,
            **rig_tensors(done.rig),
            "camera_K": torch.stack([v.K for v in views]),
            "camera_viewmats": torch.stack([v.viewmat for v in views]),
            **({} if featured is None else featured.basis.tensors()),
        },
        metadata={
            **metadata,
            "cameras": json.dumps([v.name for v in views]),
            "size": json.dumps([views[0].width, views[0].height]),
            **({} if featured is None else {ENCODER: str(featured.report["features"])}),
        },
    )


def write_sheet(path: Path, shown: list[Shown]) -> None:
    """Rows of: image, what the scene shows, depth, the scene's depth (nearer is brighter)."""
    rows = []
    for item in shown:
        valid = item.view.valid.numpy()
        far = float(np.percentile(item.view.depth.numpy()[valid], 98)) if valid.any() else 1.0
        measured = np.where(valid, 1 - np.clip(item.view.depth.numpy() / far, 0, 1) * 0.85, 0)
        covered = item.alpha.numpy() > 0.5
        rendered = np.where(covered, 1 - np.clip(item.depth.numpy() / far, 0, 1) * 0.85, 0)
        grey = [np.repeat(depth[..., None], 3, 2) for depth in (measured, rendered)]
        rows.append(np.concatenate([item.view.rgb.numpy(), item.image.numpy(), *grey], 1))
    sheet = Image.fromarray((np.concatenate(rows).clip(0, 1) * 255).round().astype(np.uint8))
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


def _describe(report: dict[str, Any], out: Path) -> None:
    console.print(
        f"{report['gaussians']:,} Gaussians from {report['views']} views of {report['width']}x{report['height']} "
        f"in {report['seconds']:.0f} s, {report['peak_memory_mb']:.0f} MB"
    )
    if "psnr" in report:
        console.print(
            f"held-out ({report['held_out']} views): {report['psnr']:.2f} dB, {report['psnr_depth_valid']:.2f} dB "
            f"where depth is valid, SSIM {report['ssim']:.3f}, depth L1 {report['depth_l1_m'] * 100:.2f} cm"
        )
    if "changed_share" in report:
        console.print(
            f"{100 * report['changed_share']:.1f} % of the pixels changed: {report['gaussians_refitted']:,} Gaussians "
            f"refitted, {report['gaussians_kept']:,} as they were"
        )
    if "features" in report:
        console.print(
            f"features of {report['features']}: {report['feature_channels']} channels keep "
            f"{100 * report['feature_explained']:.0f} % of the variance"
            + (
                f", cosine {report['feature_cosine']:.3f} with the encoder in held-out views"
                if "feature_cosine" in report
                else ""
            )
        )
    console.print(f"wrote {out / SCENE} and {out / 'sheet.png'}")


def check_scene_folder(folder: Path) -> Path:
    """The scene file of a `splat fit` folder, or the file itself.

    Raises:
        InputError: there is none.
    """
    path = folder / SCENE if folder.is_dir() else folder
    if not path.is_file():
        raise InputError(f"{path} does not exist. Give the --out folder of pointworld splat fit.")
    return path
