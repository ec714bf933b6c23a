"""`pointworld capture convert`: read any supported capture and write it in our layout."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from pointworld.capture import list_capture, read_capture, write_capture
from pointworld.cli.common import console, parse, progress, stdout_json, write_run_json
from pointworld.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ConvertArgs:
    """Read a capture in any supported layout and write it in ours, with depth registered to colour.

    Example: pointworld capture convert recordings/kitchen --out captures/kitchen --every 10
    """

    capture: tyro.conf.Positional[Path]
    """Folder: our own layout, 7-Scenes, TUM RGB-D, Open3D/Redwood, ScanNet, nerfstudio or apc-vision-toolbox."""
    out: Path
    """Folder to write capture.json and its images into."""
    every: int = 1
    """Keep every n-th frame."""
    depth_format: Literal["png", "npy"] = "png"
    """png rounds depth to 0.1 mm (1 mm beyond 6.5 m); npy keeps every bit."""
    json: bool = False
    """Print a summary as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(ConvertArgs, argv, prog="pointworld capture convert")
    if args.every < 1:
        raise InputError(f"--every is {args.every}, expected 1 or more")
    if args.out.exists() and args.capture.exists() and args.out.samefile(args.capture):
        raise InputError(f"--out {args.out} is the capture itself; give another folder")
    start = time.perf_counter()
    wanted = range(0, len(list_capture(args.capture).entries), args.every)
    with progress(len(wanted), "reading frames") as advance:
        capture = read_capture(args.capture, frames=wanted, advance=advance)
    read = time.perf_counter()
    with progress(len(wanted), "writing frames") as advance:
        write_capture(capture, args.out, depth_format=args.depth_format, advance=advance)
    timings = {"read": read - start, "write": time.perf_counter() - read}
    summary = {"format": capture.format, "frames": len(capture.frames), "out": str(args.out)}
    write_run_json(
        args.out,
        command="capture convert",
        config=args,
        seed=None,
        timings=timings,
        extra={"summary": summary},
    )
    if args.json:
        stdout_json(summary)
    console.print(f"{len(capture.frames)} frames ({capture.format}) written to {args.out}")
    return 0
