"""`pointworld splat mesh`: a triangle mesh of a Gaussian scene, and collision geometry for simulators."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from pointworld.capture import list_capture, read_capture
from pointworld.cli.common import console, parse, progress, stdout_json, write_run_json
from pointworld.errors import InputError
from pointworld.types import Capture
from splat import io
from splat.collider import Collider, ColliderOptions, build_collider
from splat.collider_files import write_collider
from splat.mesh import MeshOptions, SplatMesh, fuse, poisson, write_mesh
from splat.mesh_views import Seen, View, capture_views, look, orbit_views
from splat.types import GaussianScene


@dataclass(frozen=True, kw_only=True)
class SplatMeshArgs:
    """A triangle mesh of a Gaussian scene (GLB, OBJ, PLY), and with --collider its convex parts (GLB, URDF, MJCF).

    Example: pointworld splat mesh results/desk/scene.safetensors --capture captures/desk --collider --out results/mesh
    """

    scene: tyro.conf.Positional[Path]
    """Gaussians: .safetensors, .ply, .splat or .spz."""
    out: Path
    """Folder for the mesh, the collider and run.json."""
    capture: Path | None = None
    """Capture the scene was fitted to: it is looked at from these cameras. Without it, from an orbit (z up)."""
    every: int = 4
    """Use every n-th camera of the capture."""
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
    concavity: float = 0.08
    """How much the convex parts may bridge, 0.01 to 1; smaller = more parts."""
    seed: int = 0
    """Of the plane fit and the convex decomposition."""
    json: bool = False
    """Print the summary as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(SplatMeshArgs, argv, prog="pointworld splat mesh")
    if args.every < 1 or args.views < 1:
        raise InputError(f"--every is {args.every} and --views {args.views}, expected 1 or more")
    marks = {"start": time.perf_counter()}
    scene = io.read(args.scene)
    capture = _read_capture(args)
    views = capture_views(capture) if capture else orbit_views(scene, count=args.views)
    marks["read"] = time.perf_counter()
    with progress(len(views), "rendering depth") as advance:
        seen = look(scene, views, advance=advance)
    marks["render"] = time.perf_counter()
    mesh = _mesh(args, scene, seen, views)
    files = list(write_mesh(mesh, args.out, up=args.up))
    marks["mesh"] = time.perf_counter()
    summary = _summary(scene, mesh, seen, capture)
    if args.collider:
        collider = _collider(args, scene, mesh, seen)
        files += [
            f"collider/{n}" for n in write_collider(collider, args.out / "collider", up=args.up)
        ]
        summary["collider"] = _collider_summary(collider)
        marks["collider"] = time.perf_counter()
    times = list(marks.values())
    timings = {name: b - a for name, a, b in zip(list(marks)[1:], times, times[1:], strict=False)}
    # ru_maxrss counts kilobytes on Linux and bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    summary |= {
        "seconds": round(times[-1] - times[0], 3),
        "peak_memory_mb": round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1),
        "files": files,
    }
    write_run_json(
        args.out,
        command="splat mesh",
        config=args,
        seed=args.seed,
        timings=timings,
        extra={"summary": summary},
    )
    if args.json:
        stdout_json({**summary, "out": str(args.out)})
    console.print(
        f"{summary['triangles']} triangles of {len(scene)} Gaussians written to {args.out}"
    )
    return 0


def _read_capture(args: SplatMeshArgs) -> Capture | None:
    if args.capture is None:
        return None
    wanted = range(0, len(list_capture(args.capture).entries), args.every)
    with progress(len(wanted), "reading cameras") as advance:
        return read_capture(args.capture, frames=wanted, advance=advance)


def _mesh(
    args: SplatMeshArgs, scene: GaussianScene, seen: list[Seen], views: list[View]
) -> SplatMesh:
    options = MeshOptions(voxel_size=args.voxel_size, triangles=args.triangles)
    if args.method == "poisson":
        return poisson(scene, np.stack([view.T_world_cam[:3, 3] for view in views]), options)
    return fuse(seen, options)


def _collider(
    args: SplatMeshArgs, scene: GaussianScene, mesh: SplatMesh, seen: list[Seen]
) -> Collider:
    options = ColliderOptions(concavity=args.concavity, seed=args.seed)
    with progress(None, "convex parts") as advance:
        return build_collider(mesh, seen, scene, options, advance=advance)


def _summary(
    scene: GaussianScene, mesh: SplatMesh, seen: list[Seen], capture: Capture | None
) -> dict[str, Any]:
    """What the JSON object says of scene and mesh. Colour is not compared here, so psnr and ssim are null."""
    return {
        "gaussians": len(scene),
        "psnr": None,
        "ssim": None,
        "depth_l1_m": None if capture is None else _depth_l1(seen, capture),
        "views": len(seen),
        "vertices": len(mesh.vertices),
        "triangles": len(mesh.triangles),
        "extent_m": np.ptp(mesh.vertices, axis=0).round(4).tolist(),
    }


def _depth_l1(seen: list[Seen], capture: Capture) -> float | None:
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
