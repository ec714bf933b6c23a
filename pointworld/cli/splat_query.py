"""`pointworld splat query`: which Gaussians are the object at a pixel, in a box, or like an example."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image

from pointworld.cli.common import console, parse, stdout_json, write_run_json
from pointworld.cli.splat_fit import SCENE, check_scene_folder
from pointworld.cli.splat_summary import held_out_quality, stable_summary
from pointworld.encoders import frame_to_tensor, load_encoder
from pointworld.errors import InputError
from pointworld.files import atomic_path
from splat.features import ENCODER, draw_features, read_basis
from splat.fit.optimise import render
from splat.io import NativeFile, read_native, write_native
from splat.query import (
    QueryConfig,
    Selection,
    assign_object,
    seed_from_similarity,
    seeds_from_box,
    seeds_from_pixels,
    select_object,
    vector_similarity,
)
from splat.raster import get_rasterizer

Tensor = torch.Tensor

#: Where a scene file keeps what every object stands on: {id: [nx, ny, nz, offset, band]}.
PLANES = "object_planes"
#: Cameras in the picture besides the one that was asked.
MORE_CAMERAS = 3


@dataclass(frozen=True, kw_only=True)
class SplatQueryArgs:
    """Find the object at a pixel, in a box, or most like an example picture or a feature vector, and give it an id.

    Writes scene.safetensors (the scene with the object's id), query.png (rows of cameras: picture, the object in it,
    similarity), query.json, run.json. Pixels are those of the fitted images.

    Example: pointworld splat query out/desk --camera frame-000240 --pixel 120 163 --out out/cup
    Example: pointworld splat query out/desk --camera 3 --box 80 60 120 110 --out out/box
    Example: pointworld splat query out/desk --example cup.png --out out/like
    """

    scene: tyro.conf.Positional[Path]
    """Folder of splat fit, query or edit, or its scene.safetensors."""
    out: Path
    """Folder for the results."""
    camera: str = "0"
    """Name or number of the scene's camera that --pixel and --box belong to."""
    pixel: tuple[int, int] | None = None
    """Column and row of a pixel on the object."""
    box: tuple[int, int, int, int] | None = None
    """Left, top, right, bottom of a box round the object [px]; the last two are not included."""
    example: Path | None = None
    """Picture of such an object, cut out; needs the features of splat fit --features."""
    vector: Path | None = None
    """JSON list of numbers: a feature vector of the scene's encoder, or of its kept channels."""
    encoder: str | None = None
    """Encoder for --example; the one that the scene's features come from by default."""
    query: QueryConfig = field(default_factory=QueryConfig)
    """Reach, graph, diffusion, plane."""
    backend: str = "auto"
    """Rasteriser: auto, cpu, gsplat, reference."""
    json: bool = False
    """Print the summary as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(SplatQueryArgs, argv, prog="pointworld splat query")
    asked = [name for name in ("pixel", "box", "example", "vector") if getattr(args, name)]
    if len(asked) != 1:
        raise InputError(
            f"give exactly one of --pixel, --box, --example, --vector; got {', '.join(asked) or 'none'}"
        )
    began = time.perf_counter()
    stored = read_native(check_scene_folder(args.scene))
    camera = camera_index(stored, args.camera)
    selection = answer(args, stored, camera)
    scene, number = assign_object(stored.scene, selection)
    found = time.perf_counter()
    planes = json.loads(stored.metadata.get(PLANES, "{}"))
    if selection.plane is not None:
        plane = selection.plane
        planes[str(number)] = [*(float(v) for v in plane.normal), plane.offset, plane.band]
    args.out.mkdir(parents=True, exist_ok=True)
    write_native(
        scene,
        args.out / SCENE,
        tensors=stored.tensors,
        metadata={**stored.metadata, PLANES: json.dumps(planes)},
    )
    shown = write_query_picture(args.out / "query.png", stored, selection, camera, args.backend)
    means = scene.means[selection.mask]
    summary: dict[str, Any] = stable_summary(
        quality=held_out_quality(args.scene),
        gaussians=len(scene),
        seconds=time.perf_counter() - began,
        out=args.out,
        object=number,
        by=asked[0],
        object_gaussians=int(selection.mask.sum()),
        low=means.min(0).values.tolist(),
        high=means.max(0).values.tolist(),
        on_plane=selection.plane is not None,
        pixels=shown,
        query_seconds=round(found - began, 3),
    )
    write_run_json(
        args.out,
        command="splat query",
        config=args,
        seed=args.query.seed,
        timings={"query": summary["query_seconds"]},
        extra={"summary": summary},
    )
    console.print(
        f"object {number}: {summary['object_gaussians']:,} Gaussians by {asked[0]} in "
        f"{summary['query_seconds']:.2f} s; wrote {args.out / SCENE} and query.png"
    )
    if args.json:
        stdout_json(summary)
    return 0


def camera_index(stored: NativeFile, camera: str) -> int:
    """Number of the scene's camera of this name or number.

    Raises:
        InputError: the file holds no cameras, or not this one.
    """
    if "cameras" not in stored.metadata or "camera_viewmats" not in stored.tensors:
        raise InputError("the scene file holds no cameras; make it with pointworld splat fit")
    names = json.loads(stored.metadata["cameras"])
    if camera in names:
        return int(names.index(camera))
    if camera.isdigit() and int(camera) < len(names):
        return int(camera)
    raise InputError(
        f"the scene has no camera '{camera}': expected 0 to {len(names) - 1} or a name such as '{names[0]}'"
    )


def view_of_camera(stored: NativeFile, index: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """T_cam_world (4, 4), K (3, 3) [px] and (width, height) of the scene's camera."""
    width, height = json.loads(stored.metadata["size"])
    return (
        stored.tensors["camera_viewmats"][index],
        stored.tensors["camera_K"][index],
        (width, height),
    )


def answer(args: SplatQueryArgs, stored: NativeFile, camera: int) -> Selection:
    """What the query asks for."""
    scene, rasterizer = stored.scene, get_rasterizer(args.backend)
    viewmat, K, (width, height) = view_of_camera(stored, camera)
    eye = torch.linalg.inv(viewmat)[:3, 3]
    if args.pixel is not None:
        x, y = args.pixel
        if not (0 <= x < width and 0 <= y < height):
            raise InputError(f"--pixel {x} {y} is outside the image of {width} x {height} pixels")
        mask = torch.zeros(height, width)
        mask[y, x] = 1
        seeds = seeds_from_pixels(scene, mask, viewmat, K, rasterizer)
        return select_object(scene, seeds, args.query, eye=eye)
    if args.box is not None:
        seeds, outside = seeds_from_box(scene, args.box, (width, height), viewmat, K, rasterizer)
        return select_object(scene, seeds, args.query, eye=eye, excluded=outside)
    vector = example_vector(args, stored) if args.example is not None else read_vector(args, stored)
    seeds = seed_from_similarity(scene, vector_similarity(scene, vector))
    return select_object(scene, seeds, args.query, eye=eye)


def example_vector(args: SplatQueryArgs, stored: NativeFile) -> Tensor:
    """Mean features of the example picture, in the scene's basis."""
    assert args.example is not None
    basis = read_basis(stored.tensors)
    spec = args.encoder or stored.metadata.get(ENCODER)
    if spec is None:
        raise InputError("the scene does not say which encoder made its features; give --encoder")
    encoder = load_encoder(spec)
    try:
        with Image.open(args.example) as image:
            pixels = frame_to_tensor(np.asarray(image.convert("RGB")))
    except OSError as error:
        raise InputError(f"--example {args.example} is no readable picture ({error})") from error
    mean = encoder.encode(pixels[None])[0].mean((1, 2))
    if mean.shape != basis.mean.shape:
        raise InputError(
            f"'{spec}' has {len(mean)} channels, the scene's features {len(basis.mean)}; use the encoder of the fit"
        )
    return basis.encode(mean)


def read_vector(args: SplatQueryArgs, stored: NativeFile) -> Tensor:
    """The vector of --vector in the scene's basis."""
    assert args.vector is not None
    basis = read_basis(stored.tensors)
    try:
        vector = torch.tensor(json.loads(args.vector.read_text()), dtype=torch.float32)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"--vector {args.vector} is no JSON list of numbers ({error})") from error
    if vector.shape == basis.mean.shape:
        vector = basis.encode(vector)
    if vector.shape != (len(basis.components),) or not bool(torch.isfinite(vector).all()):
        raise InputError(
            f"--vector has {tuple(vector.shape)} entries, expected {len(basis.mean)} of the encoder or "
            f"{len(basis.components)} of the scene, all finite"
        )
    return vector


@torch.no_grad()
def write_query_picture(
    path: Path, stored: NativeFile, selection: Selection, camera: int, backend: str
) -> dict[str, int]:
    """Rows of picture, object, similarity; the asked camera first. Returns the object's pixels per camera."""
    rasterizer, scene = get_rasterizer(backend), stored.scene
    names = json.loads(stored.metadata["cameras"])
    values = torch.stack([selection.mask.float(), selection.similarity], 1)
    rows, pixels = [], []
    for index in range(len(names)):
        viewmat, K, size = view_of_camera(stored, index)
        shares, alpha = draw_features(scene, values, viewmat, K, size, rasterizer)
        marked = (shares[..., 0] > 0.5) & (alpha > 0.5)
        pixels.append(int(marked.sum()))
        rows.append((viewmat, K, size, shares[..., 1] * (alpha > 0.5), marked))
    order = sorted(range(len(names)), key=lambda i: (i != camera, -pixels[i]))
    tiles = []
    for index in order[: 1 + MORE_CAMERAS]:
        viewmat, K, size, similarity, marked = rows[index]
        image = render(rasterizer, scene, viewmat, K, size, "RGB")[0].clamp(0, 1)
        painted = 0.5 * image
        painted[marked] = 0.5 * image[marked] + torch.tensor([0.0, 0.5, 0.0])
        heat = torch.stack([similarity, similarity.square(), 0.3 * (1 - similarity)], -1)
        tiles.append(torch.cat([image, painted, heat], 1))
    picture = (torch.cat(tiles).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
    return {names[i]: pixels[i] for i in order[: 1 + MORE_CAMERAS]}
