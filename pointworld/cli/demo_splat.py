"""The Gaussian part of `pointworld demo`: the predicted future as a video, its feature-coloured twin, one query."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pointworld.capture import list_capture
from pointworld.cli import splat_fit, splat_query, splat_render
from pointworld.cli.common import console
from pointworld.cli.predict import PredictedCapture
from pointworld.errors import InputError
from pointworld.geometry import invert, project, transform_points
from pointworld.types import RGBDFrame
from pointworld.view.report import Section

#: The fitted images are at most this wide [px]; the videos are larger by SCALE.
WIDTH, SCALE = 320, 2.0
#: A predicted point counts as moving from here [m]; it is seen where the camera's depth is within SEEN of it [m].
MOVING, SEEN = 0.01, 0.015


@dataclass(frozen=True, kw_only=True)
class SplatDemo:
    """future, query: folders of the pictures; query is None where nothing that moves is in sight. summary: numbers for
    demo.json."""

    future: Path
    query: Path | None
    summary: dict[str, Any]

    def sections(self) -> list[Section]:
        """Of the page."""
        sections = [
            Section(
                title="The future as a camera will see it",
                text="Gaussians fitted to the capture, moved by the predicted flow; the robot by its commanded motion. "
                "Beside it the same Gaussians moved by the true flow, where that is known.",
                video=self.future / "color.mp4",
            ),
            Section(
                title="The same future in image features",
                text="Every Gaussian carries features of the bundled image encoder; their main directions are shown as "
                "colours. They move along.",
                video=self.future / "features.mp4",
                pictures=[(self.future / "sheet.png", "Colour, depth and features over time")],
            ),
        ]
        if self.query is not None:
            caption = "One click on what will move: picture, the object found, similarity"
            pictures = [(self.query / "query.png", caption)]
            sections.append(Section(title="Which Gaussians are that object?", pictures=pictures))
        return sections


def splat_demo(out: Path, made: PredictedCapture, capture: Path) -> SplatDemo | None:
    """Fit, render and query, through the commands a user would type; results in out/splat.

    None without Numba (extra 'splat').

    Args:
        out: folder of the demo, with its prediction. capture: where its frames were read from.
    """
    if importlib.util.find_spec("numba") is None:
        console.print("no Gaussian scene: install the extra 'splat'")
        return None
    folder = out / "splat"
    indices = frame_indices(capture, [frame.name for frame in made.capture.frames])
    frames = ["--frames", *map(str, indices), "--holdout-every", "0", "--max-width", str(WIDTH)]
    splat_fit.main([str(capture), "--quick", *frames, "--features", "jepa", "--out", str(folder)])
    frame, pixel = best_view(made)
    looked = ["--camera", frame.name, "--scale", str(SCALE), "--fps", "5"]
    future = folder / "future"
    splat_render.main([str(folder), "--flow", str(out), *looked, "--out", str(future)])
    query = folder / "query"
    found = pixel is not None and _ask(folder, frame.name, pixel, query)
    return SplatDemo(
        future=future,
        query=query if found else None,
        summary={
            "render": _summary(future),
            "query": _summary(query) if found else None,
        },
    )


def _summary(folder: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((folder / "run.json").read_text())["summary"]
    return summary


def _ask(scene: Path, camera: str, pixel: tuple[int, int], out: Path) -> bool:
    """Whether a click finds an object; what stands on nothing and the support itself are refused."""
    place = ["--camera", camera, "--pixel", str(pixel[0]), str(pixel[1])]
    try:
        splat_query.main([str(scene), *place, "--out", str(out)])
    except InputError as error:
        console.print(f"no query: {error}")
        return False
    return True


def frame_indices(capture: Path, names: list[str]) -> list[int]:
    """Where in a capture the frames of these names are."""
    known = [entry.name for entry in list_capture(capture).entries]
    return [known.index(name) for name in names]


def best_view(made: PredictedCapture) -> tuple[RGBDFrame, tuple[int, int] | None]:
    """The frame that sees most of what will move, and a pixel on it in the fitted image; None where nothing moves."""
    displacement = made.prediction.displacements[-1].norm(dim=-1).cpu().numpy()
    points = made.scene.points.cpu().numpy().astype(np.float64)[displacement > MOVING]
    world = transform_points(made.T_world_base, points)
    best: tuple[int, RGBDFrame, np.ndarray] = (0, made.capture.frames[0], np.zeros((0, 2)))
    for frame in made.capture.frames:
        uv, z = project(transform_points(invert(frame.T_world_cam), world), frame.K)
        inside = (z > 0) & (uv >= 0).all(1) & (uv < (frame.width, frame.height)).all(1)
        uv, z = uv[inside], z[inside]
        column, row = np.floor(uv).astype(int).T
        seen = frame.valid[row, column] & (np.abs(frame.depth[row, column] - z) < SEEN)
        if seen.sum() > best[0]:
            best = (int(seen.sum()), frame, uv[seen])
    count, frame, uv = best
    if count == 0:
        return frame, None
    middle = uv[np.linalg.norm(uv - np.median(uv, axis=0), axis=1).argmin()]
    column, row = (middle * min(1.0, WIDTH / frame.width)).astype(int)
    return frame, (int(column), int(row))
