"""`pointworld splat render`: pictures and videos of a Gaussian scene, still or moved by a predicted flow."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from pointworld.cli.common import console, parse, progress, stdout_json, write_run_json
from pointworld.cli.splat_fit import check_scene_folder
from pointworld.cli.splat_future import (
    Futures,
    RobotMode,
    make_futures,
    read_prediction,
    true_frames,
)
from pointworld.cli.splat_pictures import Look, Panel, draw, photograph, write_pictures
from pointworld.cli.splat_query import camera_index, view_of_camera
from pointworld.cli.splat_summary import held_out_quality, stable_summary, without_nan
from pointworld.errors import InputError
from pointworld.types import RGBDFrame
from splat.features import draw_features
from splat.fit.optimise import NEAR
from splat.fit.views import view_of
from splat.future import TrueFrame, changed_pixels, compare_futures
from splat.io import NativeFile, read_native
from splat.raster import Rasterizer, get_rasterizer
from splat.types import GaussianScene

Tensor = torch.Tensor

#: A pixel shows the robot where its Gaussians are this much of what is seen.
ROBOT_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class SplatRenderArgs:
    """Render a scene of `pointworld splat fit`: colour, depth and features, from its cameras or an orbit.

    With --flow, the Gaussians follow the flow that `pointworld predict` or `demo` found in the same capture, and the
    predicted future becomes videos, beside the true one where that is known. Writes color.mp4, depth.mp4, features.mp4
    (for scenes with features), PNGs of their first and last frame, sheet.png with all of it, run.json.

    Example: pointworld splat render out/desk --orbit 48 --out out/desk_orbit
    Example: pointworld splat render out/desk --flow out/push --camera 0 1 --out out/future
    """

    scene: tyro.conf.Positional[Path]
    """Folder of splat fit, query or edit, or its scene.safetensors."""
    out: Path
    """Folder for the results."""
    flow: Path | None = None
    """Folder of a prediction in the same capture."""
    truth: Path | None = None
    """Capture with later frames of the same cameras, standing still; that of the prediction by default."""
    camera: tuple[str, ...] = ("0",)
    """Which of the scene's cameras look, by name or number; several are shown below each other."""
    orbit: int = 0
    """Frames of an orbit round what the first camera looks at, instead of standing still; 0 = none."""
    orbit_degrees: float = 25.0
    """How far the orbit swings to each side [degrees]."""
    repeats: int = 3
    """How often the predicted future is shown."""
    fps: float = 10.0
    """Frames per second of the videos."""
    scale: float = 2.0
    """Size of the pictures against the fitted images."""
    robot: RobotMode = "auto"
    """scene: the cameras saw the robot, and its Gaussians follow its path; add: they did not, and an imagined one is
    drawn; none: the robot stays out. auto: as the capture of the prediction says."""
    fill: bool = True
    """Make up what no camera saw of the surface that things stand on, from what lies round it: it comes into view when
    they move."""
    backend: str = "auto"
    """Rasteriser: auto, cpu, gsplat, reference."""
    json: bool = False
    """Print the summary as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(SplatRenderArgs, argv, prog="pointworld splat render")
    start = time.perf_counter()
    stored = read_native(check_scene_folder(args.scene))
    cameras = [camera_index(stored, name) for name in args.camera]
    if args.scale <= 0 or args.repeats < 1 or not cameras:
        raise InputError(
            f"--scale {args.scale}, --repeats {args.repeats}, {len(cameras)} cameras: expected more than 0, and 1 or "
            "more of the others"
        )
    futures, later = None, {}
    if args.flow is not None:
        prediction = read_prediction(args.flow)
        looks = [scene_look(stored, i, 1.0) for i in range(len(stored.tensors["camera_K"]))]
        futures = make_futures(
            stored.scene,
            prediction,
            looks=looks,
            rasterizer=get_rasterizer(args.backend),
            robot=args.robot,
            fill=args.fill,
        )
        source = args.truth or prediction.capture
        if source is not None:
            later = later_frames(stored, source, cameras, futures)
    args.out.mkdir(parents=True, exist_ok=True)
    drawn = draw_everything(args, stored, cameras, futures, later)
    rasterizer = get_rasterizer(args.backend)
    scores = None if futures is None else score(stored, futures, later, rasterizer)
    scene = stored.scene if futures is None else futures.predicted[-1]
    summary: dict[str, Any] = stable_summary(
        quality=held_out_quality(args.scene),
        gaussians=len(stored.scene),
        seconds=time.perf_counter() - start,
        out=args.out,
        frames=drawn.frames,
        width=drawn.size[0],
        height=drawn.size[1],
        cameras=[json.loads(stored.metadata["cameras"])[index] for index in cameras],
        moving_gaussians=0 if scene.moving is None else int(scene.moving.sum()),
        robot=None if futures is None else futures.robot,
        robot_gaussians=0 if futures is None else int((futures.owner >= 0).sum()),
        future=scores,
        files=drawn.files,
    )
    write_run_json(
        args.out,
        command="splat render",
        config=args,
        seed=0,
        timings={"render": summary["seconds"]},
        extra={"summary": summary},
    )
    _describe(summary)
    if args.json:
        stdout_json(summary)
    return 0


def _describe(summary: dict[str, Any]) -> None:
    console.print(
        f"{summary['frames']} frames of {summary['width']}x{summary['height']} in {summary['seconds']:.0f} s, "
        f"{summary['moving_gaussians']:,} Gaussians move; see {Path(summary['out']) / 'sheet.png'}"
    )
    if summary["future"] is not None:
        words = ", ".join(
            f"{name.replace('_', ' ')} {row['psnr']:.1f}"
            + ("" if row["psnr_moving"] is None else f" ({row['psnr_moving']:.1f})")
            for name, row in summary["future"].items()
        )
        console.print(f"against true later frames, all (moving) pixels, dB: {words}")


@dataclass(frozen=True, kw_only=True)
class DrawnFiles:
    """What was drawn: distinct frames shown, size of one picture (width, height) and names of the files."""

    frames: int
    size: tuple[int, int]
    files: list[str]


def draw_everything(
    args: SplatRenderArgs,
    stored: NativeFile,
    cameras: Sequence[int],
    futures: Futures | None,
    later: dict[int, dict[int, RGBDFrame]],
) -> DrawnFiles:
    """Render all panels from all cameras and write pictures and videos."""
    looks = [scene_look(stored, index, args.scale) for index in cameras]
    scenes = [stored.scene] if futures is None else futures.predicted
    moved = [list(looks)]
    if args.orbit > 1:
        poses = orbit_poses(looks[0].viewmat, stored.scene, args.orbit, args.orbit_degrees)
        moved = [[Look(viewmat=pose, K=looks[0].K, size=looks[0].size)] for pose in poses]
    still = len(moved) == 1
    repeats = args.repeats if len(scenes) > 1 else 1
    frames = len(scenes) if still else max(len(moved), len(scenes) * repeats)
    true = futures.true if futures is not None else None
    rasterizer = get_rasterizer(args.backend)
    with progress(frames * (1 if true is None else 2), "rendering") as advance:

        def panel(label: str, steps: Sequence[GaussianScene]) -> Panel:
            pictures = []
            for f in range(frames):
                scene = steps[f % len(steps)]
                pictures.append([draw(scene, look, rasterizer) for look in moved[f % len(moved)]])
                advance(1)
            return Panel(label=label, pictures=pictures)

        panels = [panel("predicted" if futures is not None else "scene", scenes)]
        if still and len(later) == len(cameras) and later:
            panels.append(photographs(later, cameras, frames, looks[0].size))
        if true is not None:
            panels.append(panel("true motion", true))
    captions = [""] * frames
    if futures is not None:
        captions = [f"{(f % len(scenes)) * futures.step_dt:.1f} s" for f in range(frames)]
    files = write_pictures(
        args.out, panels, captions, fps=args.fps, repeats=repeats if still else 1
    )
    return DrawnFiles(frames=frames * repeats if still else frames, size=looks[0].size, files=files)


def photographs(
    later: dict[int, dict[int, RGBDFrame]],
    cameras: Sequence[int],
    frames: int,
    size: tuple[int, int],
) -> Panel:
    """The true later frames as a panel; a step without one shows the last before it."""
    pictures = []
    for step in range(frames):
        shown = [later[index][max(s for s in later[index] if s <= step)] for index in cameras]
        pictures.append([photograph(frame, size) for frame in shown])
    return Panel(label="camera", pictures=pictures)


def later_frames(
    stored: NativeFile, source: Path, cameras: Sequence[int], futures: Futures
) -> dict[int, dict[int, RGBDFrame]]:
    """By camera, then step: frames of a recording; cameras without any are left out."""
    names = json.loads(stored.metadata["cameras"])
    steps = len(futures.predicted)
    found = {
        index: true_frames(source, names[index], steps=steps, step_dt=futures.step_dt)
        for index in cameras
    }
    return {index: frames for index, frames in found.items() if frames}


def score(
    stored: NativeFile,
    futures: Futures,
    later: dict[int, dict[int, RGBDFrame]],
    rasterizer: Rasterizer,
) -> dict[str, dict[str, float | None]] | None:
    """PSNR of rendered futures against true later frames; None where there are none.

    Moving are pixels that changed since step 0 and show no robot, then or now.
    """
    frames = []
    for index, by_step in later.items():
        viewmat, K, size = view_of_camera(stored, index)
        seen = {s: view_of(f, size[0], min_depth=0.0, position=0) for s, f in by_step.items()}
        robot = {
            step: robot_pixels(futures, step, Look(viewmat=viewmat, K=K, size=size), rasterizer)
            for step in seen
        }
        frames += [
            TrueFrame(
                step=step,
                rgb=view.rgb,
                viewmat=viewmat,
                K=K,
                moving=changed_pixels(
                    (seen[0].rgb, view.rgb),
                    (seen[0].depth, view.depth),
                    robot[0] | robot[step],
                ),
            )
            for step, view in seen.items()
            if step > 0
        ]
    if not frames:
        return None
    compared = {"predicted": futures.predicted, "no_motion": futures.still}
    if futures.true is not None:
        compared["true_motion"] = futures.true
    found = compare_futures(compared, frames, rasterizer)
    return {name: without_nan(row) for name, row in found.items()}


@torch.no_grad()
def robot_pixels(futures: Futures, step: int, look: Look, rasterizer: Rasterizer) -> Tensor:
    """(height, width) bool: pixels that the robot's Gaussians show, or border on."""
    mine = (futures.owner >= 0).float()[:, None]
    share, _ = draw_features(futures.still[step], mine, look.viewmat, look.K, look.size, rasterizer)
    shown = (share[..., 0] > ROBOT_SHARE).float()
    grown = torch.nn.functional.max_pool2d(shown[None, None], 5, stride=1, padding=2)
    return grown[0, 0] > 0


def scene_look(stored: NativeFile, index: int, scale: float) -> Look:
    """One of the scene's cameras, with pictures `scale` times as large as the fitted ones."""
    viewmat, K, (width, height) = view_of_camera(stored, index)
    K = K.clone()
    K[:2] *= scale
    return Look(viewmat=viewmat, K=K, size=(round(width * scale), round(height * scale)))


def orbit_poses(viewmat: Tensor, scene: GaussianScene, frames: int, degrees: float) -> list[Tensor]:
    """Views that swing to and fro round the middle of what the camera sees."""
    swing = math.radians(degrees)
    local = scene.means @ viewmat[:3, :3].T + viewmat[:3, 3]
    ahead = local[:, 2] > NEAR
    depth = float(local[ahead, 2].median()) if bool(ahead.any()) else 1.0
    target = torch.tensor([0.0, 0.0, depth])
    poses = []
    for index in range(frames):
        phase = 2 * math.pi * index / frames
        yaw, pitch = swing * math.sin(phase), 0.3 * swing * math.cos(phase)
        cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
        turn = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]) @ torch.tensor(
            [[1, 0, 0], [0, cp, -sp], [0, sp, cp]]
        )
        change = torch.eye(4)
        change[:3, :3] = turn
        change[:3, 3] = target - turn @ target
        poses.append(change @ viewmat)
    return poses
