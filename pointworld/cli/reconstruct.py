"""`pointworld reconstruct`: fuse a capture into coloured points and a mesh."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from pointworld.capture import diagnose, list_capture, read_capture
from pointworld.cli.common import console, parse, progress, stdout_json, write_run_json
from pointworld.errors import InputError
from pointworld.files import write_json
from pointworld.view.reconstruct import reconstruct, write_reconstruction


@dataclass(frozen=True, kw_only=True)
class ReconstructArgs:
    """Fuse a capture into coloured points and a mesh (PLY, GLB), with the residual report beside them.

    Example: pointworld reconstruct captures/kitchen --out results/kitchen --voxel-size 0.008
    """

    capture: tyro.conf.Positional[Path]
    """Folder of the capture."""
    out: Path
    """Folder for points.ply, mesh.ply, mesh.glb, residuals.json and run.json."""
    voxel_size: float | None = None
    """Edge of a voxel [m]; by default three times the spacing of depth pixels, between 2 and 20 mm."""
    max_depth: float = 6.0
    """Leave out depth beyond this [m]."""
    every: int = 1
    """Use every n-th frame."""
    seed: int = 0
    """Of the sampling in the residual report."""
    json: bool = False
    """Print the summary and the residual report as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(ReconstructArgs, argv, prog="pointworld reconstruct")
    if args.every < 1:
        raise InputError(f"--every is {args.every}, expected 1 or more")
    marks = [time.perf_counter()]
    wanted = range(0, len(list_capture(args.capture).entries), args.every)
    with progress(len(wanted), "reading frames") as advance:
        capture = read_capture(args.capture, frames=wanted, advance=advance)
    marks.append(time.perf_counter())
    with progress(len(wanted), "fusing frames") as advance:
        result = reconstruct(
            capture, voxel_size=args.voxel_size, max_depth=args.max_depth, advance=advance
        )
    marks.append(time.perf_counter())
    with progress(len(wanted) - 1, "comparing views") as advance:
        report = diagnose(capture, seed=args.seed, advance=advance)
    marks.append(time.perf_counter())
    files = write_reconstruction(result, args.out)
    write_json(args.out / "residuals.json", report.as_json())
    marks.append(time.perf_counter())
    summary = {
        "points": len(result.points),
        "vertices": len(result.vertices),
        "triangles": len(result.triangles),
        "voxel_size_m": result.voxel_size,
        "files": list(files),
    }
    steps = ("read", "fuse", "residuals", "write")
    timings = {step: marks[i + 1] - marks[i] for i, step in enumerate(steps)}
    write_run_json(
        args.out,
        command="reconstruct",
        config=args,
        seed=args.seed,
        timings=timings,
        extra={"summary": summary},
    )
    if args.json:
        stdout_json({**summary, "out": str(args.out), "residuals": report.as_json()})
    console.print(
        f"{summary['points']} points and {summary['triangles']} triangles (voxels of "
        f"{result.voxel_size * 1000:.1f} mm) written to {args.out}"
    )
    for finding in report.findings:
        console.print(f"[bold red]calibration, {finding.kind}[/]: {finding.message}")
    return 0
