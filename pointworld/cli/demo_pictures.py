"""The pictures, the video and the page of `pointworld demo`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pointworld.cli.predict import PredictedCapture
from pointworld.types import RGBDFrame
from pointworld.view.geometry import FlowStyle, map_colors
from pointworld.view.render import (
    Canvas,
    default_viewpoint,
    render_step,
    robot_mesh,
    with_caption,
    with_color_bar,
)
from pointworld.view.report import Section, write_report
from pointworld.view.result import FlowResult
from pointworld.view.video import write_video

WIDTH, HEIGHT = 960, 640
#: The video shows the motion this many times, at this rate [frames/s].
REPEATS, FPS = 3, 5.0

Pictures = dict[str, tuple[Path, str]]


def make_pictures(result: FlowResult, made: PredictedCapture, out: Path) -> Pictures:
    """Draw everything into `out`.

    Returns:
        Per picture its file and caption, in the order of the page.
    """
    last = result.num_steps - 1
    viewpoint, style = default_viewpoint(result), FlowStyle()
    images: dict[str, tuple[np.ndarray, str]] = {
        "input": (input_picture(made.capture.frames), "Input: colour and depth of every camera")
    }
    with Canvas(WIDTH, HEIGHT) as canvas:
        scene = canvas.draw(viewpoint, points=result.points, colors=result.colors)
        images["scene"] = (with_caption(scene, "scene points"), "Scene points, robot removed")
        images["robot"] = (robot_picture(canvas, result, made), "Planned motion of the gripper")
        for source in ("prediction", "truth"):
            if source == "truth" and result.truth is None:
                continue
            drawn = render_step(
                canvas,
                result,
                last,
                style=style,
                robot=made.robot,
                viewpoint=viewpoint,
                source=source,
            )
            images[source] = (drawn, f"Flow of the scene: {source}")
        if result.truth is not None:
            images["error"] = (error_picture(canvas, result), "Where the prediction is wrong")
        frames = video_frames(canvas, result, made, style)
        write_video(out / "flow.mp4", frames * REPEATS, fps=FPS)
    pictures: Pictures = {}
    for name, (image, caption) in images.items():
        path = out / f"{name}.png"
        Image.fromarray(image).save(path, optimize=True)
        pictures[name] = (path, caption)
    return pictures


def input_picture(frames: Sequence[RGBDFrame]) -> np.ndarray:
    """Colour above depth, one column per frame."""
    columns = []
    for frame in frames:
        near, far = (
            np.percentile(frame.depth[frame.valid], [1, 99]) if frame.valid.any() else (0, 1)
        )
        depth = map_colors(frame.depth, float(near), float(far), name="viridis")
        depth = (np.where(frame.valid[..., None], depth, 0.15) * 255).astype(np.uint8)
        both = [
            Image.fromarray(x).resize((480, 480 * frame.height // frame.width))
            for x in (frame.rgb, depth)
        ]
        caption = f"{frame.name}   depth {near:.2f} to {far:.2f} m"
        columns.append(
            np.concatenate([np.asarray(both[0]), with_caption(np.asarray(both[1]), caption)])
        )
    height = min(len(column) for column in columns)
    return np.concatenate([column[:height] for column in columns], axis=1)


def robot_picture(canvas: Canvas, result: FlowResult, made: PredictedCapture) -> np.ndarray:
    """The scene in pale colours with the gripper's surface points from now (blue) to the end (red)."""
    flow = made.robot_flow.positions.cpu().numpy()
    steps = np.repeat(np.arange(len(flow)), flow.shape[1])
    colors = map_colors(steps, 0, len(flow) - 1, name="turbo")
    image = canvas.draw(
        default_viewpoint(result),
        points=np.concatenate([result.points, flow.reshape(-1, 3)]),
        colors=np.concatenate([0.5 + 0.5 * result.colors, colors]),
        meshes=[robot_mesh(made.robot, made.joint_positions[0])],
        point_size=3.0,
    )
    end = (len(flow) - 1) * result.step_dt
    image = with_color_bar(image, 0.0, end, "time [s]", colormap="turbo")
    return with_caption(image, "robot flow")


def error_picture(canvas: Canvas, result: FlowResult) -> np.ndarray:
    """Distance between predicted and true position of every point at the last step."""
    truth = result.displacements if result.truth is None else result.truth
    error = np.linalg.norm(result.displacements[-1] - truth[-1], axis=-1)
    high = max(float(np.percentile(error, 99.5)), 0.01)
    image = canvas.draw(
        default_viewpoint(result),
        points=result.points + truth[-1],
        colors=map_colors(error, 0.0, high, name="inferno"),
    )
    image = with_color_bar(image, 0.0, high, "error at the last step [m]", colormap="inferno")
    return with_caption(image, "error, drawn at the true positions")


def video_frames(
    canvas: Canvas, result: FlowResult, made: PredictedCapture, style: FlowStyle
) -> list[np.ndarray]:
    """One image per step: the prediction, beside the truth where it is known."""
    sources = ["prediction"] + (["truth"] if result.truth is not None else [])
    viewpoint = default_viewpoint(result)
    frames = []
    for step in range(result.num_steps):
        views = [
            render_step(
                canvas,
                result,
                step,
                style=style,
                robot=made.robot,
                viewpoint=viewpoint,
                source=source,
            )
            for source in sources
        ]
        frames.append(np.concatenate(views, axis=1))
    return frames


def table_rows(errors: Mapping[str, float]) -> Sequence[Sequence[str]]:
    """The error table of the report."""
    return [
        ["", "prediction", "no motion"],
        ["points that move [mm]", f"{errors['model_mm']:.1f}", f"{errors['no_motion_mm']:.1f}"],
        ["ratio", f"{errors['ratio']:.2f}", "1.00"],
        ["bodies at rest [mm]", f"{errors['never_moving_mm']:.2f}", "0.00"],
        [
            "points at rest predicted to move > 1 cm [%]",
            f"{errors['false_motion_percent']:.1f}",
            "0.0",
        ],
    ]


def write_page(
    out: Path,
    made: PredictedCapture,
    pictures: Pictures,
    errors: Mapping[str, float] | None,
    more: Sequence[Section] = (),
) -> None:
    """Write out/report.html. Args: more: sections that follow the prediction."""
    shown = [pictures[name] for name in ("prediction", "truth", "error") if name in pictures]
    sections = [
        Section(title="What the cameras see", pictures=[pictures["input"]]),
        Section(title="What the model gets", pictures=[pictures["scene"], pictures["robot"]]),
        Section(title="What it predicts", pictures=shown, video=out / "flow.mp4"),
    ]
    if errors is not None:
        text = "Mean distance to the simulator's true positions over all steps."
        sections.insert(0, Section(title="Error", text=text, table=table_rows(errors)))
    facts = {
        "capture": made.capture.source,
        "robot": made.robot.name,
        "scene points": str(len(made.scene)),
        "robot base": made.base_description,
        **{f"{name} [s]": f"{seconds:.2f}" for name, seconds in made.timings.items()},
    }
    write_report(
        out / "report.html",
        title="PointWorld demo",
        lead="A captured scene, a planned robot motion, and the predicted motion of every scene point.",
        sections=[*sections, *more],
        facts=facts,
    )
