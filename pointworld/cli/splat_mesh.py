"""`pointworld splat mesh`: a triangle mesh of a Gaussian scene, and collision geometry for simulators."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from pointworld.capture import list_capture, read_capture
from pointworld.capture.depth import register_depth
from pointworld.cli.common import console, parse, progress, stdout_json, write_run_json
from pointworld.cli.splat_edit import object_plane
from pointworld.cli.splat_fit import check_scene_folder
from pointworld.cli.splat_query import view_of_camera
from pointworld.cli.splat_summary import held_out_quality, stable_summary
from pointworld.cli.splat_update import stored_rig
from pointworld.errors import InputError
from pointworld.geometry import invert, scale_intrinsics
from pointworld.types import Capture
from splat import io
from splat.collider import Collider, build_collider
from splat.collider_files import write_collider
from splat.collider_support import ColliderOptions
from splat.edit import members
from splat.io import NativeFile
from splat.mesh import MeshOptions, SplatMesh, fuse, poisson, write_mesh
from splat.mesh_views import (
    Seen,
    View,
    capture_views,
    look,
    near_measured,
    only_measured,
    orbit_views,
)
from splat.types import GaussianScene

#: Queries of queries that are followed back to their fit, at most.
MOST_QUERIES = 20
#: About so many cameras of a capture look.
CAMERAS = 30


@dataclass(frozen=True, kw_only=True)
class SplatMeshArgs:
    """A triangle mesh of a Gaussian scene (GLB, OBJ, PLY), and with --collider its convex parts (GLB, URDF, MJCF).

    Example: pointworld splat mesh out/desk --collider --out out/mesh
    Example: pointworld splat mesh out/cup --collider --object 0 --out out/mesh
    Example: pointworld splat mesh scene.ply --capture captures/desk --out out/mesh
    """

    scene: tyro.conf.Positional[Path]
    """Folder of splat fit, or Gaussians: .safetensors, .ply, .splat or .spz."""
    out: Path
    """Folder for the mesh, the collider and run.json."""
    capture: Path | None = None
    """Capture the scene was fitted to: it is looked at from these cameras, and there is no surface where none of them
    measured depth. By default that of the fit's folder, where it is still there; else an orbit (z up) looks."""
    every: int | None = None
    """Use every n-th camera of the capture; by default so that about 30 are used."""
    views: int = 24
    """Cameras of the orbit, where no capture is given."""
    method: Literal["tsdf", "poisson"] = "tsdf"
    """tsdf: fuse rendered depth. poisson: through the Gaussians' centres; closes small holes, slower."""
    voxel_size: float = 0.005
    """Edge of a voxel of the fusion [m]."""
    triangles: int = 200_000
    """At most, after decimation."""
    up: Literal["z", "y", "-y"] = "z"
    """Direction of the scene that is up in a GLB viewer."""
    collider: bool = False
    """Also write a support plane and every object on it as convex parts."""
    object: int | None = None
    """Number of an object of pointworld splat query: what it stands on is the support of --collider; by default the
    largest plane of the mesh."""
    concavity: float = 0.08
    """How much the convex parts may bridge, 0.01 to 1; smaller = more parts."""
    seed: int = 0
    """Of the plane fit and the convex decomposition."""
    json: bool = False
    """Print the summary as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(SplatMeshArgs, argv, prog="pointworld splat mesh")
    if (args.every is not None and args.every < 1) or args.views < 1:
        raise InputError(f"--every is {args.every} and --views {args.views}, expected 1 or more")
    marks = {"start": time.perf_counter()}
    stored = _read_scene(args.scene)
    scene = stored.scene
    capture = _read_capture(args, stored)
    views = orbit_views(scene, count=args.views)
    if capture is not None:
        capture, views = _corrected(capture, stored)
    marks["read"] = time.perf_counter()
    with progress(len(views), "rendering depth") as advance:
        seen = look(scene, views, advance=advance)
    if capture is not None:
        seen = only_measured(seen, capture.frames)
    marks["render"] = time.perf_counter()
    mesh = _mesh(args, scene, seen, views, capture)
    files = list(write_mesh(mesh, args.out, up=args.up))
    marks["mesh"] = time.perf_counter()
    about = _about(mesh, seen, capture)
    if args.collider:
        collider = _collider(args, stored, mesh, seen)
        files += [
            f"collider/{n}" for n in write_collider(collider, args.out / "collider", up=args.up)
        ]
        about["collider"] = _collider_summary(collider)
        marks["collider"] = time.perf_counter()
    times = list(marks.values())
    timings = {name: b - a for name, a, b in zip(list(marks)[1:], times, times[1:], strict=False)}
    summary = stable_summary(
        quality=held_out_quality(args.scene),
        gaussians=len(scene),
        seconds=times[-1] - times[0],
        out=args.out,
        **about,
        files=files,
    )
    write_run_json(
        args.out,
        command="splat mesh",
        config=args,
        seed=args.seed,
        timings=timings,
        extra={"summary": summary},
    )
    if args.json:
        stdout_json(summary)
    console.print(
        f"{summary['triangles']} triangles of {len(scene)} Gaussians written to {args.out}"
    )
    return 0


def _read_scene(path: Path) -> NativeFile:
    """The Gaussians at a path, with what a file of `splat fit` says of its cameras."""
    path = check_scene_folder(path) if path.is_dir() else path
    if path.suffix == ".safetensors":
        return io.read_native(path)
    return NativeFile(scene=io.read(path))


def capture_path(args: SplatMeshArgs) -> Path | None:
    """--capture, or the capture that `splat fit` wrote down beside the scene, where it is still there.

    A query changes nothing that is seen: the scene that it asked is looked at instead.
    """
    if args.capture is not None:
        return args.capture
    scene = args.scene
    for _ in range(MOST_QUERIES):
        folder = scene if scene.is_dir() else scene.parent
        try:
            record = json.loads((folder / "run.json").read_text())
        except (OSError, ValueError):
            return None
        config = record.get("config", {})
        if record.get("command") == "splat query" and config.get("scene"):
            scene = Path(config["scene"])
            continue
        source = config.get("capture")
        if record.get("command") != "splat fit" or source is None or not Path(source).is_dir():
            return None
        return Path(source)
    return None


def _read_capture(args: SplatMeshArgs, stored: NativeFile) -> Capture | None:
    """Some of the frames that the scene was fitted to; of all frames where its file does not name them."""
    path = capture_path(args)
    if path is None:
        return None
    entries = list_capture(path).entries
    names = set(json.loads(stored.metadata.get("cameras", "[]")))
    wanted = [i for i, entry in enumerate(entries) if entry.name in names] or range(len(entries))
    wanted = wanted[:: args.every or max(1, round(len(wanted) / CAMERAS))]
    with progress(len(wanted), "reading cameras") as advance:
        return read_capture(path, frames=wanted, advance=advance)


def _corrected(capture: Capture, stored: NativeFile) -> tuple[Capture, list[View]]:
    """The frames with depth as the colour camera sees it, and their cameras where the fit found them to be.

    Frames that the scene's file does not name stay as given.
    """
    names = json.loads(stored.metadata.get("cameras", "[]"))
    T_color_depth = stored_rig(stored, 0).T_color_depth
    frames, views = [], []
    for view, frame in zip(capture_views(capture), capture.frames, strict=True):
        if frame.name in names:
            viewmat, K, (width, height) = view_of_camera(stored, names.index(frame.name))
            size = frame.width / width, frame.height / height
            K_color = scale_intrinsics(K.double().numpy(), *size)
            T = invert(viewmat.double().numpy())
            view = View(K=K_color, T_world_cam=T, width=frame.width, height=frame.height)
            depth, valid = register_depth(
                frame.depth,
                frame.valid,
                K_depth=frame.K,
                K_color=K_color,
                T_color_depth=T_color_depth,
                size=(frame.height, frame.width),
            )
            frame = replace(frame, depth=depth, valid=valid)
        frames.append(frame)
        views.append(view)
    return replace(capture, frames=tuple(frames)), views


def _mesh(
    args: SplatMeshArgs,
    scene: GaussianScene,
    seen: list[Seen],
    views: list[View],
    capture: Capture | None,
) -> SplatMesh:
    options = MeshOptions(voxel_size=args.voxel_size, triangles=args.triangles)
    if args.method == "tsdf":
        return fuse(seen, options)
    if capture is not None:
        scene = scene.select(near_measured(scene, views, capture.frames))
    return poisson(scene, np.stack([view.T_world_cam[:3, 3] for view in views]), options)


def _collider(
    args: SplatMeshArgs, stored: NativeFile, mesh: SplatMesh, seen: list[Seen]
) -> Collider:
    options = ColliderOptions(concavity=args.concavity, seed=args.seed)
    if args.object is not None:
        plane = object_plane(stored, args.object)
        if plane is None:
            raise InputError(
                f"it is not known what object {args.object} stands on; find it with pointworld splat query"
            )
        middle = stored.scene.means[members(stored.scene, args.object)].double().mean(0)
        options = replace(options, support=plane, near=middle.numpy())
    with progress(None, "convex parts") as advance:
        return build_collider(mesh, seen, stored.scene, options, advance=advance)


def _about(mesh: SplatMesh, seen: list[Seen], capture: Capture | None) -> dict[str, Any]:
    """What the JSON object says of the mesh."""
    return {
        "depth_gap_m": None if capture is None else _depth_gap(seen, capture),
        "views": len(seen),
        "vertices": len(mesh.vertices),
        "triangles": len(mesh.triangles),
        "extent_m": np.ptp(mesh.vertices, axis=0).round(4).tolist(),
    }


def _depth_gap(seen: list[Seen], capture: Capture) -> float | None:
    """Mean absolute difference of rendered and measured depth, where both are known [m]."""
    total, count = 0.0, 0
    for one, frame in zip(seen, capture.frames, strict=True):
        times = one.depth.shape[0] // frame.height
        rendered = one.depth[times // 2 :: times, times // 2 :: times]
        both = frame.valid & (rendered > 0)
        total += float(np.abs(rendered - frame.depth)[both].sum(dtype=np.float64))
        count += int(both.sum())
    return total / count if count else None


def _collider_summary(collider: Collider) -> dict[str, Any]:
    return {
        "support_size_m": collider.support.size.round(4).tolist(),
        "support_normal": collider.support.normal.round(4).tolist(),
        "objects": [
            {
                "name": item.name,
                "id": item.id,
                "parts": len(item.parts),
                "size_m": np.ptp(item.visual.vertices, axis=0).round(4).tolist(),
            }
            for item in collider.objects
        ],
    }
