"""`pointworld doctor capture`: check a capture's calibration, depth and poses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from pointworld.capture import CaptureReport, diagnose, list_capture, read_capture
from pointworld.cli.common import console, parse, progress, stdout_json
from pointworld.errors import InputError


@dataclass(frozen=True, kw_only=True)
class DoctorArgs:
    """Check a capture: do neighbouring views agree, and if not, what is the likely mistake?

    Exit code 0 when the capture is good (or holds nothing to compare), 2 when it is not.

    Example: pointworld doctor capture captures/kitchen --json
    """

    capture: tyro.conf.Positional[Path]
    """Folder of the capture."""
    every: int = 1
    """Look at every n-th frame only."""
    seed: int = 0
    """Of the sampling of pixels."""
    json: bool = False
    """Print the report as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(DoctorArgs, argv, prog="pointworld doctor capture")
    if args.every < 1:
        raise InputError(f"--every is {args.every}, expected 1 or more")
    try:
        report = _examine(args)
    except InputError as error:
        if args.json:
            finding = {"kind": "unreadable", "message": str(error), "estimate": None}
            source = str(args.capture)
            stdout_json({"source": source, "verdict": "unreadable", "findings": [finding]})
        raise
    if args.json:
        stdout_json(report.as_json())
    _describe(report)
    return 2 if report.verdict == "bad" else 0


def _examine(args: DoctorArgs) -> CaptureReport:
    wanted = range(0, len(list_capture(args.capture).entries), args.every)
    with progress(len(wanted), "reading frames") as advance:
        capture = read_capture(args.capture, frames=wanted, check_unit=False, advance=advance)
    with progress(len(wanted) - 1, "comparing views") as advance:
        return diagnose(capture, seed=args.seed, advance=advance)


def _describe(report: CaptureReport) -> None:
    """The report for people, on stderr."""
    width, height = report.image_size
    console.print(f"{report.source}: {report.format}, {report.frames} frames of {width}x{height}")
    if report.depth_range is not None:
        low, high = report.depth_range
        console.print(
            f"depth {low:.3g} to {high:.3g} m (median {report.median_depth:.3g} m); "
            f"{report.valid_share:.0%} of pixels carry depth, {report.holes:.0%} holes"
        )
    if report.geometric_residual is not None and report.relative_residual is not None:
        shade = report.photometric_residual
        colors = "" if shade is None else f"; colours differ by {shade:.1f} of 255"
        console.print(
            f"neighbouring views: depths differ by {report.geometric_residual * 1000:.2f} mm "
            f"({report.relative_residual:.2%}){colors}"
        )
    for finding in report.findings:
        console.print(f"[bold red]{finding.kind}[/]: {finding.message}", markup=True)
    words = {
        "good": "[bold green]good[/]",
        "bad": "[bold red]bad[/]",
        "unknown": "[bold yellow]unknown[/] (no two frames overlap, so nothing could be compared)",
    }
    console.print(f"verdict: {words[report.verdict]}")
