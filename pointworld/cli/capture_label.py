"""`pointworld capture label`: recordings and joint logs to training clips."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from pointworld.cli.common import console, parse, progress, stdout_json, write_run_json
from pointworld.data.recordings import LabelConfig, Recording, label_recordings, open_recording
from pointworld.data.recordings.build import windows_of
from pointworld.errors import InputError
from pointworld.robot import RobotModel


@dataclass(frozen=True, kw_only=True)
class CaptureLabelArgs:
    """Find out, from the images alone, where everything went while the robot moved, and keep it as training clips.

    A recording is a capture (docs/captures.md) of calibrated RGB-D frames over time, with joints.npz or joints.csv
    beside it or joint positions at every frame. What cannot be told for sure is left without a label.

    Example: pointworld capture label recordings/monday recordings/tuesday --robot fr3 --out my_clips
    Example: pointworld capture label day3 --joints log.csv --joints-start 12.4 --robot ur5e_robotiq --out my_val
    """

    recordings: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of recordings. One for training and another for validation: a recording is one scene."""
    out: Path
    """Folder of the clips; windows that it has already are kept."""
    robot: str = "fr3"
    """Robot name or URDF."""
    joints: Path | None = None
    """Joint log of the one recording given; by default joints.npz or joints.csv in its folder, or the frames' own."""
    joints_start: float | None = None
    """Time of the log's first row on the frames' clock [s]; by default that of the first frame."""
    base_pose: str | None = None
    """FILE, x,y,z,qw,qx,qy,qz or auto; by default what the capture says."""
    workers: int = 1
    """Processes."""
    label: LabelConfig = field(default_factory=LabelConfig)
    """Windows, workspace, thinning."""
    json: bool = False
    """Print the summary as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(CaptureLabelArgs, argv, prog="pointworld capture label")
    if not args.recordings:
        raise InputError("give at least one folder with a recording")
    if len(args.recordings) > 1 and (args.joints is not None or args.joints_start is not None):
        raise InputError("--joints and --joints-start are for one recording; label them one by one")
    start = time.perf_counter()
    robot = RobotModel.load(args.robot)
    opened = [
        open_recording(
            folder,
            robot,
            joints=args.joints,
            joints_start=args.joints_start,
            base_pose=args.base_pose,
        )
        for folder in args.recordings
    ]
    made = _label(args, opened)
    summary = summarise(made)
    write_run_json(
        args.out,
        command="capture label",
        config=args,
        seed=args.label.seed,
        timings={"label": time.perf_counter() - start},
        extra={"summary": summary, "clips": made},
    )
    moving = summary["moving_labelled"]
    console.print(
        f"{summary['clips']} new clips in {args.out}: {summary['labelled']:.0%} of scene points labelled; something "
        f"moves in {summary['clips_with_motion']}"
        + (
            ""
            if moving is None
            else f", where {moving:.0%} of the moving points' steps are labelled"
        )
    )
    if args.json:
        stdout_json(summary)
    return 0


def _label(args: CaptureLabelArgs, opened: list[Recording]) -> list[dict[str, Any]]:
    total = sum(len(windows_of(recording, args.label)) for recording in opened)
    with progress(total, "windows") as advance:
        return label_recordings(
            opened, args.out, args.robot, args.label, workers=args.workers, advance=advance
        )


def summarise(made: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts and mean shares over new clips."""
    moving = [clip["moving_labelled"] for clip in made if clip["moving_labelled"] is not None]
    return {
        "clips": len(made),
        "labelled": sum(clip["labelled"] for clip in made) / max(len(made), 1),
        "clips_with_motion": len(moving),
        "moving_labelled": sum(moving) / len(moving) if moving else None,
    }
