"""The end of `pointworld demo`: plan, act, look again, in simulation; plan, prediction and outcome side by side."""

from __future__ import annotations

import importlib.util
import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pointworld.control.recording import Recording, read_recording
from pointworld.control.task_runs import RunConfig, load_model, run_one
from pointworld.control.tasks import EpisodeResult
from pointworld.files import atomic_path
from pointworld.geometry import invert, project, transform_points
from pointworld.types import RGBDFrame
from pointworld.view.render import with_caption
from pointworld.view.replay import is_recording
from pointworld.view.report import Section

#: A scene in which little has to be planned, and a search that is small enough for a laptop.
TASK, SEED, SAMPLES, ITERATIONS, MOST_STEPS = "tissue_box", 5, 24, 1, 400
_SIZE = (640, 360)
_GOAL, _PREDICTED, _SEEN = (230, 0, 190), (255, 140, 0), (0, 190, 255)
#: Points that are drawn of a surface, and how large [px].
_DRAWN, _DOT = 260, 2
#: A point is hidden when its depth differs from the picture's by more than this [m].
_HIDDEN = 0.02


@dataclass(frozen=True, kw_only=True)
class LoopDemo:
    """picture: plan, prediction and outcome. sentence: how the episode went. summary: numbers for demo.json."""

    picture: Path
    sentence: str
    summary: dict[str, Any]

    def section(self) -> Section:
        """Of the page."""
        caption = (
            "Above: one plan of the episode, what the world model predicted for it, and what the cameras saw then. "
            "Below: the whole episode; magenta is the goal."
        )
        return Section(
            title="Plan, act, look again",
            text=f"A simulated arm pushes a box to a goal; the world model judges every plan. {self.sentence} "
            "The recording in the folder loop can be replayed with pointworld view.",
            pictures=[(self.picture, caption)],
        )


def close_loop(out: Path, checkpoint: str) -> LoopDemo | None:
    """Run one episode through cameras, planner, safety filter and arm, and draw it.

    The recording goes to out/loop; `pointworld view` replays it. None without MuJoCo (extra 'sim').
    """
    if importlib.util.find_spec("mujoco") is None:
        return None
    folder = out / "loop"
    if is_recording(folder):
        shutil.rmtree(folder)
    config = RunConfig(
        task=TASK,
        samples=SAMPLES,
        iterations=ITERATIONS,
        max_steps=MOST_STEPS,
        checkpoint=checkpoint,
    )
    result = run_one(config, SEED, record=folder, model=load_model(config))
    recording = read_recording(folder)
    image, shown = draw_run(recording)
    path = out / "loop.png"
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        Image.fromarray(image).save(file, format="PNG", optimize=True)
    summary = {
        "outcome": result.outcome,
        "start_cm": round(100 * result.start_distance, 1),
        "end_cm": round(100 * result.distance, 1),
        "steps": result.steps,
        "plans": result.plans,
        "plan_seconds": round(result.plan_seconds, 2),
        **shown,
    }
    return LoopDemo(picture=path, sentence=describe(result), summary=summary)


def describe(result: EpisodeResult) -> str:
    """An episode in a sentence."""
    return (
        f"The box was {100 * result.start_distance:.1f} cm from its goal before and {100 * result.distance:.1f} cm "
        f"after {result.steps / 10:.1f} s of motion in {result.plans} plans: {result.outcome}."
    )


def draw_run(recording: Recording) -> tuple[np.ndarray, dict[str, float]]:
    """Two rows of three pictures: a plan, what it predicts, what came of it; the start, the middle, the end.

    Returns:
        The picture, and predicted and seen motion of the target in the plan that is shown, and their difference [mm].
    """
    looks = list(recording.plans())
    frames = list(recording.frames())
    chosen = busiest(looks)
    now, then = looks[chosen], looks[chosen + 1]
    camera = best_camera(frames, (now, then, looks[-1]))
    film = [frame for frame in frames if frame.camera == camera]
    before, after = (_frame_at(film, float(look["time"])) for look in (now, then))
    steps = (float(then["time"]) - float(now["time"])) / float(now["step_dt"])
    predicted = predicted_target(now, steps)
    moved = np.linalg.norm(then["target"] - now["target"], axis=-1).mean()
    foreseen = np.linalg.norm(predicted - now["target"], axis=-1).mean()
    gap = np.linalg.norm(predicted - then["target"], axis=-1).mean()
    top = [
        _captioned(_plan_picture(before, now), "plan: path of the hand, goal in magenta"),
        _captioned(
            _arrows(before, now["target"], predicted),
            f"prediction: the box moves by {1e3 * foreseen:.0f} mm in {steps / 10:.1f} s",
        ),
        _captioned(
            _dots(
                _dots(_canvas(after), after, then["target"], _SEEN), after, predicted, _PREDICTED
            ),
            f"outcome: {1e3 * moved:.0f} mm (blue), prediction (orange) off by {1e3 * gap:.0f} mm",
        ),
    ]
    below = []
    for name, number in (("start", 0), ("half way", len(looks) // 2), ("end", len(looks) - 1)):
        look = looks[number]
        frame = _frame_at(film, float(look["time"]))
        words = f"{name}: {100 * float(look['error']):.1f} cm from the goal"
        below.append(_captioned(_dots(_canvas(frame), frame, look["places"], _GOAL), words))
    image = np.concatenate([np.concatenate(top, axis=1), np.concatenate(below, axis=1)])
    values = {"predicted_mm": foreseen, "seen_mm": moved, "difference_mm": gap}
    return image, {key: round(1e3 * float(value), 1) for key, value in values.items()}


def busiest(looks: Sequence[dict[str, np.ndarray]]) -> int:
    """Number of the plan with the most motion of the target, both predicted and seen at the next look."""
    moved = []
    for now, then in itertools.pairwise(looks):
        seen = float(np.linalg.norm(then["target"] - now["target"], axis=-1).mean())
        if "predicted" not in now:
            moved.append(-1.0)
            continue
        steps = (float(then["time"]) - float(now["time"])) / float(now["step_dt"])
        foreseen = predicted_target(now, steps) - now["target"]
        moved.append(min(float(np.linalg.norm(foreseen, axis=-1).mean()), seen) + 1e-3 * seen)
    return int(np.argmax(moved))


def predicted_target(look: dict[str, np.ndarray], steps: float) -> np.ndarray:
    """(samples, 3) where the target's surface should be after `steps`: the flow of the scene points nearest to it."""
    flow, low = look["predicted"], min(int(steps), len(look["predicted"]) - 2)
    share = min(steps - low, 1.0)
    now = (1 - share) * flow[low] + share * flow[low + 1]
    target, points = look["target"], look["points"]
    nearest = np.linalg.norm(target[:, None] - points[None], axis=-1).argmin(1)
    return np.asarray(target + now[nearest])


def best_camera(frames: Sequence[RGBDFrame], looks: Sequence[dict[str, np.ndarray]]) -> str:
    """The camera that sees most of the target at those times, largest and with the hand least in its way."""
    scores: dict[str, float] = {}
    for camera in sorted({frame.camera for frame in frames}):
        film = [frame for frame in frames if frame.camera == camera]
        scores[camera] = sum(
            _sight(_frame_at(film, float(look["time"])), look["target"]) for look in looks
        )
    return max(scores, key=lambda name: scores[name])


def _sight(frame: RGBDFrame, points: np.ndarray) -> float:
    """Share of points (points, 3) that a frame sees, times their extent in it [px]."""
    uv, z = project(transform_points(invert(frame.T_world_cam), points.astype(np.float64)), frame.K)
    inside = (z > 0.05) & (uv >= 0).all(-1) & (uv < [frame.width, frame.height]).all(-1)
    column, row = uv[inside].astype(np.int64).T
    seen = np.abs(frame.depth[row, column] - z[inside]) < _HIDDEN
    size = float(np.ptp(uv[inside], axis=0).sum()) if inside.any() else 0.0
    return float(seen.sum()) / len(points) * size


def _frame_at(film: Sequence[RGBDFrame], time: float) -> RGBDFrame:
    return min(film, key=lambda frame: abs(frame.timestamp - time))


def _captioned(image: Image.Image, text: str) -> np.ndarray:
    return with_caption(np.asarray(image), text)


def _canvas(frame: RGBDFrame) -> Image.Image:
    return Image.fromarray(frame.rgb).resize(_SIZE)


def _pixels(frame: RGBDFrame, points: np.ndarray) -> np.ndarray:
    """(points, 2) on the canvas; NaN behind the camera."""
    uv, z = project(transform_points(invert(frame.T_world_cam), points.astype(np.float64)), frame.K)
    scaled = uv * [_SIZE[0] / frame.width, _SIZE[1] / frame.height]
    return np.where(z[:, None] > 0.05, scaled, np.nan)


def _some(points: np.ndarray) -> np.ndarray:
    return np.linspace(0, len(points) - 1, min(_DRAWN, len(points))).astype(np.int64)


def _dots(
    image: Image.Image, frame: RGBDFrame, points: np.ndarray, color: tuple[int, int, int]
) -> Image.Image:
    draw = ImageDraw.Draw(image)
    for u, v in _pixels(frame, points[_some(points)]):
        if np.isfinite(u):
            draw.ellipse((u - _DOT, v - _DOT, u + _DOT, v + _DOT), fill=color)
    return image


def _plan_picture(frame: RGBDFrame, look: dict[str, np.ndarray]) -> Image.Image:
    """The tool's way from white to red, its fingertips' places as beads, and the goal."""
    image = _dots(_canvas(frame), frame, look["places"], _GOAL)
    draw = ImageDraw.Draw(image)
    path = _pixels(frame, look["tool"])
    for k, (a, b) in enumerate(itertools.pairwise(path)):
        if np.isfinite([a, b]).all():
            shade = 1 - (k + 1) / len(path)
            color = (255, int(235 * shade), int(235 * shade))
            draw.line([*a, *b], fill=color, width=5)
            draw.ellipse((b[0] - 5, b[1] - 5, b[0] + 5, b[1] + 5), fill=color)
    return image


def _arrows(frame: RGBDFrame, start: np.ndarray, end: np.ndarray) -> Image.Image:
    image = Image.blend(_canvas(frame), Image.new("RGB", _SIZE, (255, 255, 255)), 0.35)
    draw = ImageDraw.Draw(image)
    chosen = _some(start)[::2]
    for a, b in zip(_pixels(frame, start[chosen]), _pixels(frame, end[chosen]), strict=True):
        if np.isfinite([a, b]).all():
            draw.line([*a, *b], fill=_PREDICTED, width=2)
            draw.ellipse((b[0] - 2, b[1] - 2, b[0] + 2, b[1] + 2), fill=(200, 60, 0))
    return image
