"""`pointworld capture simulate`: recordings as a robot with cameras would make them, to try things without one."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pointworld.cli.common import console, parse, progress, write_run_json
from pointworld.data import DatasetSpec, SensorConfig, TabletopConfig, dataset_generator
from pointworld.data.recordings.simulated import simulate_recording, write_recording
from pointworld.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CaptureSimulateArgs:
    """Film simulated motions: frames of every camera at every step, and the log of the joints.

    The folders are ordinary recordings for pointworld capture label. truth.npz beside the frames is the clip with the
    true motion of every body, which labelling does not read.

    Example: pointworld capture simulate --recordings 8 --seed 50 --noise --out recordings
    """

    out: Path
    """Folder in which recordings are put, one folder each."""
    recordings: int = 4
    """How many; each is one second."""
    seed: int = 0
    """Recording i depends on (seed, i) and the settings."""
    noise: bool = False
    """Depth noise, holes and miscalibrated cameras (up to 1 cm and 1 degree), as real ones have."""
    robot: str = "fr3"
    """Robot name or URDF."""
    renderer: Literal["auto", "gl", "rays"] = "auto"
    """As for pointworld generate."""
    tabletop: TabletopConfig = field(default_factory=TabletopConfig)
    """Objects, motions, cameras."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(CaptureSimulateArgs, argv, prog="pointworld capture simulate")
    if args.recordings < 1:
        raise InputError(f"--recordings is {args.recordings}, expected at least 1")
    spec = DatasetSpec(
        clips=args.recordings,
        seed=args.seed,
        robot=args.robot,
        renderer=args.renderer,
        tabletop=args.tabletop,
    )
    os.environ.setdefault("MUJOCO_GL", "egl")
    generator = dataset_generator(spec)
    sensor = SensorConfig(min_cameras=2) if args.noise else None
    start = time.perf_counter()
    with progress(args.recordings, "recordings") as advance:
        for index in range(args.recordings):
            folder = args.out / f"{args.seed:03d}-{index:04d}"
            if not (folder / "capture.json").is_file():
                made = simulate_recording(generator, args.seed, index, sensor=sensor)
                write_recording(made, folder)
            advance(1)
    write_run_json(
        args.out,
        command="capture simulate",
        config=args,
        seed=args.seed,
        timings={"simulate": time.perf_counter() - start},
    )
    console.print(f"{args.recordings} recordings in {args.out}")
    return 0
