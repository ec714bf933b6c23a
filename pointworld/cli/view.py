"""`pointworld view`: look at a predicted flow in a window, or write a picture or a video of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image

from pointworld.cli.common import console, parse, progress
from pointworld.errors import InputError
from pointworld.files import atomic_path
from pointworld.robot import RobotModel
from pointworld.view.geometry import ColorBy, FlowStyle
from pointworld.view.render import Canvas, render_step
from pointworld.view.replay import is_recording, read_replay
from pointworld.view.result import FlowResult, read_result
from pointworld.view.video import write_video
from pointworld.view.window import show


@dataclass(frozen=True, kw_only=True)
class ViewArgs:
    """Look at a predicted flow: scene points, trails, the robot, cameras, and the truth where it is known.

    Example:
        pointworld view result
        pointworld view result --screenshot flow.png --video flow.mp4
        pointworld view record/episode_00000 --video run.mp4

    The window has a time slider, play and pause, speed, and the style of the trails; space plays, left and right go one
    step, up and down change the speed.
    """

    result: Annotated[Path, tyro.conf.Positional]
    """Folder that pointworld predict or demo wrote, or the recording of an episode of pointworld mpc."""
    screenshot: Path | None = None
    """Write this PNG instead of opening a window."""
    video: Path | None = None
    """Write this MP4 instead of opening a window."""
    step: int = -1
    """Step of the screenshot; -1 = the last."""
    density: float = 0.35
    """Share of the moving points that get a trail."""
    thickness: float = 0.0022
    """Width of a trail [m]."""
    color_by: ColorBy = "magnitude"
    """What trails are coloured by."""
    width: int = 960
    height: int = 640
    fps: float = 5.0
    """Frames per second of the video; one frame is one step."""


def main(argv: list[str]) -> int:
    """Run the command."""
    args = parse(ViewArgs, argv, prog="pointworld view")
    if not 0 < args.density <= 1 or args.thickness <= 0 or min(args.width, args.height) < 64:
        raise InputError(
            "--density must be in (0, 1], --thickness > 0, and pictures at least 64 px"
        )
    result = read_replay(args.result) if is_recording(args.result) else read_result(args.result)
    if not -result.num_steps <= args.step < result.num_steps:
        raise InputError(
            f"--step {args.step} is outside the {result.num_steps} steps of the result"
        )
    style = FlowStyle(density=args.density, thickness=args.thickness, color_by=args.color_by)
    robot = None if result.robot is None else RobotModel.load(result.robot)
    if args.screenshot is None and args.video is None:
        require_display()
        show(result, style=style, robot=robot, width=args.width, height=args.height)
        return 0
    with Canvas(args.width, args.height) as canvas:
        if args.screenshot is not None:
            step = args.step % result.num_steps
            image = _beside(canvas, result, step, style, robot)
            with atomic_path(args.screenshot) as temporary:
                Image.fromarray(image).save(temporary, format="PNG")
            console.print(f"wrote {args.screenshot}")
        if args.video is not None:
            write_video(args.video, _frames(canvas, result, style, robot), fps=args.fps)
            console.print(f"wrote {args.video}")
    return 0


def require_display() -> None:
    """Raise InputError where no window can open (Open3D would end the process)."""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise InputError(
            "there is no display (DISPLAY is not set), so no window can open. "
            "Use --screenshot out.png or --video out.mp4."
        )


def _beside(
    canvas: Canvas, result: FlowResult, step: int, style: FlowStyle, robot: RobotModel | None
) -> np.ndarray:
    """The prediction, beside the truth where it is known."""
    sources = ["prediction"] + (["truth"] if result.truth is not None else [])
    views = [
        render_step(canvas, result, step, style=style, robot=robot, source=source)
        for source in sources
    ]
    return np.concatenate(views, axis=1)


def _frames(
    canvas: Canvas, result: FlowResult, style: FlowStyle, robot: RobotModel | None
) -> Iterator[np.ndarray]:
    with progress(result.num_steps, "drawing") as advance:
        for step in range(result.num_steps):
            yield _beside(canvas, result, step, style, robot)
            advance(1)
