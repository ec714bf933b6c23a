"""`pointworld capture record`: pictures of an arm and its joints as a capture; the arm is not moved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from pointworld.cli.common import console, parse, progress, stdout_json
from pointworld.control.rig_open import RigConfig, RobotName
from pointworld.control.rig_runs import RigRun, record_moments
from pointworld.control.task_runs import RunConfig
from pointworld.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CaptureRecordArgs:
    """Record what cameras see, with the joints of the arm at that moment, as a capture (docs/captures.md).

    The arm is not moved: guide it by hand, or let another program move it. For a calibration give --shots: a picture
    is taken each time Enter is pressed. Cameras without --calibration count as standing in the arm's base frame, which
    is what pointworld calibrate wants and nothing else.

    Example: pointworld capture record board --robot franka --host 172.16.0.2 --camera realsense:1234 --shots 20
    Example: pointworld capture record day --robot franka --host 172.16.0.2 --camera realsense:1234
        --calibration side.json --seconds 20
    """

    out: tyro.conf.Positional[Path]
    """Folder of the capture."""
    robot: RobotName = "sim"
    """The arm, as for pointworld mpc."""
    host: str | None = None
    """Address of the arm."""
    python: Path | None = None
    """Python of the environment that has the arm's SDK."""
    driver: Path | None = None
    """Python file that makes an arm of your own (--robot own)."""
    model: str = ""
    """Description of the arm: a bundled robot or a URDF; by default the one that goes with --robot."""
    camera: tuple[str, ...] = ("sim",)
    """sim, or realsense:SERIAL ..."""
    calibration: tuple[Path, ...] = ()
    """Calibration files of the cameras."""
    seconds: float = 5.0
    """How long to record."""
    every: float = 0.1
    """Time between two moments [s]."""
    shots: int = 0
    """Take this many moments, each when Enter is pressed, instead of recording for a time."""
    seed: int = 0
    """Of the scene of simulated cameras."""
    json: bool = False
    """Print a summary as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command."""
    args = parse(CaptureRecordArgs, argv, prog="pointworld capture record")
    if args.shots < 0 or args.every <= 0 or args.seconds <= 0:
        raise InputError("--shots must be at least 0, and --every and --seconds above 0")
    if (args.out / "capture.json").exists():
        raise InputError(f"{args.out} holds a recording already. Choose another folder.")
    rig = RigConfig(
        robot=args.robot,
        host=args.host,
        python=args.python,
        driver=args.driver,
        model=args.model,
        cameras=args.camera,
        calibrations=args.calibration,
        anywhere=True,
    )
    if rig.kind == "replay":
        raise InputError("there is nothing to record of a replayed capture")
    what = RigRun(
        run=RunConfig(task="tissue_box", dynamics="none", planner="straight"),
        rig=rig,
        look_only=True,
    )
    count = args.shots or max(1, round(args.seconds / args.every))
    with progress(count, "moments") as advance:

        def before(number: int) -> None:
            if args.shots:
                console.input(f"[{number + 1}/{count}] the arm stands still: press Enter ")
            advance(1)

        every = 0.0 if args.shots else args.every
        frames = record_moments(what, args.seed, args.out, count=count, every=every, before=before)
    console.print(f"{frames} frames of {count} moments written to {args.out}")
    if args.json:
        stdout_json({"capture": str(args.out), "frames": frames, "moments": count})
    return 0
