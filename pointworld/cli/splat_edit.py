"""`pointworld splat edit`: take an object of a Gaussian scene away, move, copy or recolour it, or keep it alone."""

from __future__ import annotations

import json
import math
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from PIL import Image

from pointworld.cli.common import console, parse, stdout_json, write_run_json
from pointworld.cli.splat_fit import SCENE, check_scene_folder
from pointworld.cli.splat_query import PLANES, camera_index, view_of_camera
from pointworld.errors import InputError
from pointworld.files import atomic_path
from splat.edit import (
    duplicate,
    extract,
    hidden_by,
    hole_mask,
    members,
    move,
    recolor,
    remove,
)
from splat.features import draw_features
from splat.fit.cameras import rotation_exp
from splat.fit.optimise import render
from splat.io import NativeFile, read_native, write_native
from splat.query import Plane
from splat.raster import get_rasterizer
from splat.types import GaussianScene

Tensor = torch.Tensor

#: Cameras that are asked what they saw behind the object, and those that are shown.
HIDING_CAMERAS, SHOWN_CAMERAS = 32, 4


@dataclass(frozen=True, kw_only=True)
class SplatEditArgs:
    """Change one object of a scene: remove, move, duplicate, recolor, extract.

    Objects are numbered by pointworld splat query. Writes scene.safetensors, edit.png (rows of cameras: before, after,
    hole), holes/NAME.png (white where nothing was ever seen behind what is gone), run.json.

    Example: pointworld splat edit out/cup remove --object 0 --out out/no_cup
    Example: pointworld splat edit out/cup move --object 0 --by 0.1 0 0 --turn 45 --out out/moved
    Example: pointworld splat edit out/cup recolor --object 0 --color 0.8 0.1 0.1 --out out/red
    """

    scene: tyro.conf.Positional[Path]
    """Folder of splat query, or its scene.safetensors."""
    operation: tyro.conf.Positional[Literal["remove", "move", "duplicate", "recolor", "extract"]]
    """What is done."""
    out: Path
    """Folder for the results."""
    object: int
    """Number of the object."""
    by: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Of move and duplicate: how far, in the scene's axes [m]."""
    turn: float = 0.0
    """Of move and duplicate: rotation about the object's middle, round the normal of what it stands on [degrees]."""
    color: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Of recolor: red, green, blue in 0-1; light and shade are kept."""
    keep_hidden: bool = False
    """Of remove and move: keep what no camera saw behind the object; its colours mean nothing."""
    cameras: tuple[str, ...] = ()
    """Cameras (name or number) that are rendered; by default the four that see the object best."""
    backend: str = "auto"
    """Rasteriser: auto, cpu, gsplat, reference."""
    json: bool = False
    """Print the summary as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(SplatEditArgs, argv, prog="pointworld splat edit")
    began = time.perf_counter()
    stored = read_native(check_scene_folder(args.scene))
    mask = members(stored.scene, args.object)
    plane = object_plane(stored, args.object)
    best = best_cameras(stored, mask, args.backend)
    hidden = torch.zeros_like(mask)
    if args.operation in ("remove", "move") and not args.keep_hidden:
        seen = [view_of_camera(stored, index) for index in best[:HIDING_CAMERAS]]
        hidden = hidden_by(stored.scene, mask, seen, get_rasterizer(args.backend))
    kept = stored.scene.select(~hidden)
    edited, number = apply(args, kept, mask[~hidden], plane)
    done = time.perf_counter()
    cameras = [camera_index(stored, name) for name in args.cameras] or best[:SHOWN_CAMERAS]
    args.out.mkdir(parents=True, exist_ok=True)
    write_native(edited, args.out / SCENE, tensors=stored.tensors, metadata=stored.metadata)
    holes = write_edit_pictures(args.out, stored, edited, plane, cameras, args.backend)
    summary: dict[str, Any] = {
        "operation": args.operation,
        "object": args.object,
        "new_object": number,
        "object_gaussians": int(mask.sum()),
        "hidden_gaussians": int(hidden.sum()),
        "gaussians_before": len(stored.scene),
        "gaussians": len(edited),
        "hole_pixels": holes,
        "edit_seconds": round(done - began, 3),
        "seconds": round(time.perf_counter() - began, 2),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    write_run_json(
        args.out,
        command="splat edit",
        config=args,
        seed=0,
        timings={"edit": summary["edit_seconds"]},
        extra={"summary": summary},
    )
    console.print(
        f"{args.operation} object {args.object} ({summary['object_gaussians']:,} Gaussians): {len(stored.scene):,} "
        f"became {len(edited):,} in {args.out / SCENE}; see edit.png"
    )
    if args.json:
        stdout_json(summary)
    return 0


def object_plane(stored: NativeFile, number: int) -> Plane | None:
    """What the object stands on, as the query found it."""
    values = json.loads(stored.metadata.get(PLANES, "{}")).get(str(number))
    if values is None:
        return None
    return Plane(normal=np.array(values[:3]), offset=float(values[3]), band=float(values[4]))


def apply(
    args: SplatEditArgs, scene: GaussianScene, mask: Tensor, plane: Plane | None
) -> tuple[GaussianScene, int | None]:
    """The edited scene, and the number of a new object."""
    if args.operation == "remove":
        return remove(scene, mask), None
    if args.operation == "extract":
        return extract(scene, mask), None
    if args.operation == "recolor":
        return recolor(scene, mask, torch.tensor(args.color)), None
    T = object_motion(scene.means[mask], args.by, args.turn, plane)
    if args.operation == "move":
        return move(scene, mask, T), None
    return duplicate(scene, mask, T)


def object_motion(
    points: Tensor, by: tuple[float, float, float], turn: float, plane: Plane | None
) -> Tensor:
    """(4, 4) rotation by `turn` degrees about the middle of points (n, 3), then a shift; round z without a plane."""
    if by == (0.0, 0.0, 0.0) and turn == 0:
        raise InputError("nothing moves: give --by X Y Z [m] and/or --turn DEGREES")
    axis = np.array([0.0, 0.0, 1.0]) if plane is None else plane.normal
    T = torch.eye(4, dtype=torch.float64)
    T[:3, :3] = rotation_exp(torch.from_numpy(axis * math.radians(turn)))
    middle = ((points.min(0).values + points.max(0).values) / 2).double()
    T[:3, 3] = middle - T[:3, :3] @ middle + torch.tensor(by, dtype=torch.float64)
    return T


@torch.no_grad()
def best_cameras(stored: NativeFile, mask: Tensor, backend: str) -> list[int]:
    """The cameras that see the object, those in which it covers most pixels first; one at least."""
    if "camera_viewmats" not in stored.tensors:
        raise InputError("the scene file holds no cameras; make it with pointworld splat fit")
    rasterizer = get_rasterizer(backend)
    pixels = []
    for index in range(len(stored.tensors["camera_viewmats"])):
        viewmat, K, size = view_of_camera(stored, index)
        share, alpha = draw_features(
            stored.scene, mask.float()[:, None], viewmat, K, size, rasterizer
        )
        pixels.append(int(((share[..., 0] > 0.5) & (alpha > 0.5)).sum()))
    order = sorted(range(len(pixels)), key=lambda i: -pixels[i])
    return [i for i in order if pixels[i] > 0] or order[:1]


@torch.no_grad()
def write_edit_pictures(
    out: Path,
    stored: NativeFile,
    edited: GaussianScene,
    plane: Plane | None,
    cameras: list[int],
    backend: str,
) -> dict[str, int]:
    """edit.png and one mask per camera; returns the pixels of every hole."""
    rasterizer = get_rasterizer(backend)
    names = json.loads(stored.metadata["cameras"])
    rows, counts = [], {}
    for index in cameras:
        viewmat, K, size = view_of_camera(stored, index)
        tiles = [
            render(rasterizer, scene, viewmat, K, size, "RGB")[0].clamp(0, 1)
            for scene in (stored.scene, edited)
        ]
        hole = hole_mask(stored.scene, edited, viewmat, K, size, rasterizer, plane=plane)
        white = hole.float()[..., None].expand(-1, -1, 3)
        rows.append(torch.cat([*tiles, white], 1))
        counts[names[index]] = int(hole.sum())
        _save(out / "holes" / f"{names[index]}.png", hole.float())
    _save(out / "edit.png", torch.cat(rows))
    return counts


def _save(path: Path, image: Tensor) -> None:
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
