"""Videos and the contact sheet of `pointworld splat render`: colour, depth and features, what is predicted beside what
is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pointworld.files import atomic_path
from pointworld.types import RGBDFrame
from pointworld.view.render import with_caption
from pointworld.view.video import write_video
from splat.features import draw_features, feature_colors, feature_span
from splat.fit.optimise import COVERED, render
from splat.raster import Rasterizer
from splat.types import GaussianScene

Tensor = torch.Tensor

#: Columns of the contact sheet, and the widest it gets [px].
COLUMNS, SHEET_WIDTH = 5, 2400


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """A place to look from: T_cam_world (4, 4), K (3, 3) [px], (width, height)."""

    viewmat: Tensor
    K: Tensor
    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """What one camera shows: color (height, width, 3) in 0-1, depth (height, width) [m], NaN where nothing is, and the
    first channels of the features (height, width, 3), NaN where nothing is, or None."""

    color: np.ndarray
    depth: np.ndarray
    features: np.ndarray | None


@torch.no_grad()
def draw(scene: GaussianScene, look: Look, rasterizer: Rasterizer) -> Picture:
    """A scene from one place."""
    seen, alpha = render(rasterizer, scene, look.viewmat, look.K, look.size, "RGB+ED")
    image, empty = seen.numpy(), alpha.numpy() <= COVERED
    features = None
    if scene.features is not None:
        values = scene.features[:, :3].contiguous()
        shown, _ = draw_features(scene, values, look.viewmat, look.K, look.size, rasterizer)
        features = shown.numpy().copy()
        features[empty] = np.nan
    depth = image[..., 3].copy()
    depth[empty] = np.nan
    return Picture(color=image[..., :3].clip(0, 1), depth=depth, features=features)


def photograph(frame: RGBDFrame, size: tuple[int, int]) -> Picture:
    """A camera's own image at another size (width, height)."""
    color = Image.fromarray(frame.rgb).resize(size, Image.Resampling.BILINEAR)
    depth = np.where(frame.valid, frame.depth, np.nan).astype(np.float32)
    near = Image.fromarray(depth).resize(size, Image.Resampling.NEAREST)
    return Picture(color=np.asarray(color, np.float32) / 255, depth=np.asarray(near), features=None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """One column of a video: its caption, and its pictures [frame][camera]."""

    label: str
    pictures: list[list[Picture]]


def write_pictures(
    out: Path,
    panels: Sequence[Panel],
    captions: Sequence[str],
    *,
    fps: float,
    repeats: int = 1,
) -> list[str]:
    """color, depth and, where the scene has features, features: an MP4 where there are several frames, PNGs of the
    first panel's first and last, and sheet.png with all panels.

    Args:
        panels: side by side, of as many frames each; cameras are below each other. captions: of every frame.
        repeats: how often the videos show all frames.

    Returns:
        Names of the files.
    """
    shaded = {name: _shade(panels, name) for name in ("color", "depth", "features")}
    files, rows = [], []
    for name, columns in shaded.items():
        if not columns:
            continue
        frames = [
            np.concatenate(
                [with_caption(images[f], f"{label}  {text}") for label, images in columns.items()],
                1,
            )
            for f, text in enumerate(captions)
        ]
        if len(frames) > 1:
            write_video(out / f"{name}.mp4", frames * repeats, fps=fps)
            files.append(f"{name}.mp4")
        plain = next(iter(columns.values()))
        for label, frame in (("first", plain[0]), ("last", plain[-1])):
            files.append(f"{name}_{label}.png")
            _save(out / files[-1], frame)
        rows += [(f"{label}, {name}", images) for label, images in columns.items()]
    _save(out / "sheet.png", _sheet(rows, captions))
    return [*files, "sheet.png"]


def _shade(panels: Sequence[Panel], name: str) -> dict[str, list[np.ndarray]]:
    """Per panel that has this channel, its label and its frames as (height, width, 3) uint8, cameras stacked.

    One scale for all: the same depth or feature looks the same everywhere.
    """
    shown = [p for p in panels if getattr(p.pictures[0][0], name) is not None]
    if not shown:
        return {}
    known = [getattr(picture, name) for p in shown for frame in p.pictures for picture in frame]
    if name == "features":
        first = torch.from_numpy(known[0])
        span = feature_span(first[~first.isnan().any(-1)].reshape(-1, 3))
    finite = [values[np.isfinite(values)].ravel()[::7] for values in known if name == "depth"]
    low, high = np.percentile(np.concatenate(finite), [1, 99]) if finite else (0.0, 1.0)

    def paint(picture: Picture) -> np.ndarray:
        values: np.ndarray = getattr(picture, name)
        if name == "depth":
            values = 1 - 0.85 * np.clip((values - low) / max(high - low, 1e-6), 0, 1)
            values = np.repeat(values[..., None], 3, 2)
        elif name == "features":
            values = feature_colors(torch.from_numpy(values), span).numpy()
        return (np.nan_to_num(values).clip(0, 1) * 255).round().astype(np.uint8)

    return {
        p.label: [np.concatenate([paint(picture) for picture in frame]) for frame in p.pictures]
        for p in shown
    }


def _sheet(rows: Sequence[tuple[str, list[np.ndarray]]], captions: Sequence[str]) -> np.ndarray:
    """Rows of some frames each, the first and the last included."""
    count = len(captions)
    chosen = sorted({round(i * (count - 1) / (COLUMNS - 1)) for i in range(COLUMNS)})
    lines = []
    for label, images in rows:
        tiles = [with_caption(images[index], f"{label}  {captions[index]}") for index in chosen]
        lines.append(np.concatenate(tiles, 1))
    sheet = np.concatenate(lines)
    if sheet.shape[1] <= SHEET_WIDTH:
        return sheet
    height = round(sheet.shape[0] * SHEET_WIDTH / sheet.shape[1])
    return np.asarray(
        Image.fromarray(sheet).resize((SHEET_WIDTH, height), Image.Resampling.LANCZOS)
    )


def _save(path: Path, picture: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
