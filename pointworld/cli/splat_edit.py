"""`pointworld splat edit`: take an object of a Gaussian scene away, move, copy or recolour it, or keep it alone."""

from __future__ import annotations

import json
import math
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
from pointworld.cli.splat_summary import stable_summary
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
from splat.fill import fill_support, seen_weights
from splat.fit.cameras import rotation_exp
from splat.fit.optimise import render
from splat.io import NativeFile, read_native, write_native
from splat.query import Plane
from splat.raster import get_rasterizer
from splat.types import GaussianScene

Tensor = torch.Tensor

#: Cameras that are asked what they saw behind the object, and those that are shown.
HIDING_CAMERAS, SHOWN_CAMERAS = 32, 4
#: So far round the object its support is filled [m].
FILL_MARGIN = 0.03
#: A hole is hatched in this colour, with stripes of this width [px].
HATCH, STRIPE = (1.0, 0.0, 0.8), 3


@dataclass(frozen=True, kw_only=True)
class SplatEditArgs:
    """Change one object of a scene: remove, move, duplicate, recolor, extract.

    Objects are numbered by pointworld splat query. Writes scene.safetensors, edit.png (rows of cameras: before, after,
    after with the hole hatched), holes/NAME.png (white where nothing was ever seen behind what is gone), run.json.

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
    fill: bool = False
    """Of remove and move: make up what no camera saw of the support under the object, from what lies round it. The
    hole masks stay."""
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
    bare, added = edited, 0
    if args.fill:
        cameras_of = [view_of_camera(stored, index) for index in best[:HIDING_CAMERAS]]
        edited, added = fill_hole(args, kept, mask[~hidden], edited, plane, cameras_of)
    done = time.perf_counter()
    cameras = [camera_index(stored, name) for name in args.cameras] or best[:SHOWN_CAMERAS]
    args.out.mkdir(parents=True, exist_ok=True)
    write_native(edited, args.out / SCENE, tensors=stored.tensors, metadata=stored.metadata)
    holes = write_edit_pictures(args.out, stored, (bare, edited), plane, cameras, args.backend)
    summary: dict[str, Any] = stable_summary(
        # The fit's measurements do not hold any more.
        quality=None,
        gaussians=len(edited),
        seconds=time.perf_counter() - began,
        out=args.out,
        operation=args.operation,
        object=args.object,
        new_object=number,
        object_gaussians=int(mask.sum()),
        hidden_gaussians=int(hidden.sum()),
        filled_gaussians=added,
        gaussians_before=len(stored.scene),
        hole_pixels=holes,
        edit_seconds=round(done - began, 3),
    )
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


def fill_hole(
    args: SplatEditArgs,
    before: GaussianScene,
    mask: Tensor,
    edited: GaussianScene,
    plane: Plane | None,
    cameras: list[tuple[Tensor, Tensor, tuple[int, int]]],
) -> tuple[GaussianScene, int]:
    """The edited scene with the support that the object (N,) stood on filled in, and how many Gaussians that took.

    Raises:
        InputError: nothing was moved away, or what the object stood on is not known.
    """
    if args.operation not in ("remove", "move") or plane is None:
        why = "only remove and move leave a hole" if plane is not None else "it stands on no plane"
        raise InputError(f"--fill does not fit {args.operation} of object {args.object}: {why}")
    seen = seen_weights(before, cameras, get_rasterizer(args.backend))
    if args.operation == "remove":
        seen = seen[~mask]
    region = before.means[mask].double().cpu().numpy()
    filled = fill_support(edited, plane, region, seen=seen, margin=FILL_MARGIN)
    return filled.scene, filled.added


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
    edits: tuple[GaussianScene, GaussianScene],
    plane: Plane | None,
    cameras: list[int],
    backend: str,
) -> dict[str, int]:
    """edit.png and one mask per camera; returns the pixels of every hole.

    Args:
        edits: the edited scene without and with what was filled in; holes are those of the first.
    """
    bare, edited = edits
    rasterizer = get_rasterizer(backend)
    names = json.loads(stored.metadata["cameras"])
    rows, counts = [], {}
    for index in cameras:
        viewmat, K, size = view_of_camera(stored, index)
        tiles = [
            render(rasterizer, scene, viewmat, K, size, "RGB")[0].clamp(0, 1)
            for scene in (stored.scene, edited)
        ]
        hole = hole_mask(stored.scene, bare, viewmat, K, size, rasterizer, plane=plane)
        rows.append(torch.cat([*tiles, hatched(tiles[-1], hole)], 1))
        counts[names[index]] = int(hole.sum())
        _save(out / "holes" / f"{names[index]}.png", hole.float())
    _save(out / "edit.png", torch.cat(rows))
    return counts


def hatched(image: Tensor, mask: Tensor) -> Tensor:
    """The image (height, width, 3) with slanted stripes where the mask (height, width) is."""
    rows, columns = torch.meshgrid(*map(torch.arange, mask.shape), indexing="ij")
    stripes = mask & ((rows + columns) // STRIPE % 2 == 0)
    return torch.where(stripes[..., None], torch.tensor(HATCH), image)


def _save(path: Path, image: Tensor) -> None:
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
