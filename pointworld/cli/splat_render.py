"""`pointworld splat render`: pictures and a video of a Gaussian scene, still or moved by a predicted flow."""

from __future__ import annotations

import json
import math
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image

from pointworld.cli.common import console, parse, progress, stdout_json, write_run_json
from pointworld.cli.splat_fit import check_scene_folder
from pointworld.errors import InputError
from pointworld.files import atomic_path
from pointworld.geometry import transform_points
from pointworld.view.result import read_result
from pointworld.view.video import write_video
from splat.fit.optimise import COVERED, NEAR, render
from splat.io import NativeFile, read_native
from splat.motion import bind, move_steps
from splat.raster import get_rasterizer
from splat.types import GaussianScene

Tensor = torch.Tensor


@dataclass(frozen=True, kw_only=True)
class SplatRenderArgs:
    """Render a scene of `pointworld splat fit`: colour and depth, from its cameras or an orbit.

    With --flow, the Gaussians follow the flow that `pointworld predict` or `demo` found in the same capture, and the
    predicted future becomes a video.

    Example: pointworld splat render out/desk --orbit 48 --out out/desk_orbit
    Example: pointworld splat render out/desk --flow out/push --camera 0 --out out/future
    """

    scene: tyro.conf.Positional[Path]
    """Folder of splat fit, or its scene.safetensors."""
    out: Path
    """Folder for color.mp4, depth.mp4, PNGs of the first and last frame, run.json."""
    flow: Path | None = None
    """Folder of a prediction in the same capture."""
    camera: int = 0
    """Which of the scene's cameras looks."""
    orbit: int = 0
    """Frames of an orbit round what the camera looks at, instead of standing still; 0 = none."""
    orbit_degrees: float = 25.0
    """How far the orbit swings to each side [degrees]."""
    repeats: int = 3
    """How often the predicted future is shown."""
    fps: float = 10.0
    """Frames per second of the videos."""
    scale: float = 2.0
    """Size of the pictures against the fitted images."""
    backend: str = "auto"
    """Rasteriser: auto, cpu, gsplat, reference."""
    json: bool = False
    """Print the summary as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(SplatRenderArgs, argv, prog="pointworld splat render")
    start = time.perf_counter()
    stored = read_native(check_scene_folder(args.scene))
    K, viewmat, width, height = scene_camera(stored, args.camera, args.scale)
    scenes = [stored.scene] if args.flow is None else moved_scenes(stored.scene, args.flow)
    poses = orbit_poses(viewmat, stored.scene, args.orbit, math.radians(args.orbit_degrees))
    frames = max(len(poses), len(scenes) * (args.repeats if len(scenes) > 1 else 1))
    args.out.mkdir(parents=True, exist_ok=True)
    colors, depths = [], []
    rasterizer = get_rasterizer(args.backend)
    with progress(frames, "rendering") as advance, torch.no_grad():
        for index in range(frames):
            scene, pose = scenes[index % len(scenes)], poses[index % len(poses)]
            seen, alpha = render(rasterizer, scene, pose, K, (width, height), "RGB+ED")
            image = seen.numpy()
            colors.append((image[..., :3].clip(0, 1) * 255).round().astype(np.uint8))
            depths.append(np.where(alpha.numpy() > COVERED, image[..., 3], np.nan))
            advance(1)
    last = len(scenes) - 1 if len(scenes) > 1 else frames - 1
    for name, pictures in (("color", colors), ("depth", _shaded(depths))):
        _write_pictures(args.out, name, pictures, last=last, fps=args.fps)
    summary: dict[str, Any] = {
        "gaussians": len(stored.scene),
        "frames": frames,
        "width": width,
        "height": height,
        "moving_gaussians": 0 if scenes[-1].moving is None else int(scenes[-1].moving.sum()),
        "seconds": round(time.perf_counter() - start, 2),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    write_run_json(
        args.out,
        command="splat render",
        config=args,
        seed=0,
        timings={"render": summary["seconds"]},
        extra={"summary": summary},
    )
    console.print(
        f"{frames} frames of {width}x{height} in {summary['seconds']:.0f} s, "
        f"{summary['moving_gaussians']:,} Gaussians move; in {args.out}"
    )
    if args.json:
        stdout_json(summary)
    return 0


def _write_pictures(
    out: Path, name: str, pictures: list[np.ndarray], *, last: int, fps: float
) -> None:
    """The first picture and that at `last` as PNG, all of them as MP4 where there are several."""
    if len(pictures) > 1:
        write_video(out / f"{name}.mp4", pictures, fps=fps)
    for label, picture in (("first", pictures[0]), ("last", pictures[last])):
        with atomic_path(out / f"{name}_{label}.png") as temporary:
            Image.fromarray(picture).save(temporary, format="PNG")


def scene_camera(stored: NativeFile, index: int, scale: float) -> tuple[Tensor, Tensor, int, int]:
    """K, T_cam_world, width and height of one of the scene's cameras, `scale` times as large.

    Raises:
        InputError: the file holds no cameras, or not this one.
    """
    missing = {"camera_K", "camera_viewmats"} - set(stored.tensors)
    if missing or "size" not in stored.metadata:
        raise InputError("the scene file holds no cameras; make it with pointworld splat fit")
    count = len(stored.tensors["camera_K"])
    if not 0 <= index < count:
        raise InputError(f"--camera {index}: the scene has the cameras 0 to {count - 1}")
    width, height = json.loads(stored.metadata["size"])
    K = stored.tensors["camera_K"][index].clone()
    K[:2] *= scale
    viewmat = stored.tensors["camera_viewmats"][index]
    return K, viewmat, round(width * scale), round(height * scale)


def moved_scenes(scene: GaussianScene, folder: Path) -> list[GaussianScene]:
    """The scene at every step of a prediction, brought from the robot's base frame into the scene's world.

    Raises:
        InputError: the prediction does not say where the robot's base stands.
    """
    result = read_result(folder)
    run = folder / "run.json"
    summary = json.loads(run.read_text()).get("summary", {}) if run.is_file() else {}
    if "T_world_base" not in summary:
        raise InputError(f"{run} does not say where the robot stands; run pointworld predict again")
    T = np.array(summary["T_world_base"], np.float64)
    points = transform_points(T, result.points.astype(np.float64))
    displacements = result.displacements.astype(np.float64) @ T[:3, :3].T
    binding = bind(scene, torch.from_numpy(points).float())
    return move_steps(binding, torch.from_numpy(displacements).float())


def orbit_poses(viewmat: Tensor, scene: GaussianScene, frames: int, swing: float) -> list[Tensor]:
    """Views that swing to and fro round the middle of what the camera sees; the camera alone for no frames."""
    if frames <= 1:
        return [viewmat]
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


def _shaded(depths: list[np.ndarray]) -> list[np.ndarray]:
    """Depth as grey, nearer brighter, with one scale for all; black where there is nothing."""
    known = np.concatenate([d[np.isfinite(d)].ravel() for d in depths])
    low, high = np.percentile(known, [1, 99]) if len(known) else (0.0, 1.0)
    pictures = []
    for depth in depths:
        share = np.clip((depth - low) / max(high - low, 1e-6), 0, 1)
        grey = np.where(np.isfinite(depth), 255 * (1 - 0.85 * share), 0).astype(np.uint8)
        pictures.append(np.repeat(grey[..., None], 3, 2))
    return pictures
