"""`pointworld generate`: make a simulated tabletop data set."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pointworld.cli.common import console, parse, progress, stdout_json, write_run_json
from pointworld.data import DatasetSpec, TabletopConfig, generate_dataset, merged_summary
from pointworld.errors import InputError


@dataclass(frozen=True, kw_only=True)
class GenerateArgs:
    """Simulate clips: a robot arm among rigid, jointed and other things; rendered RGB-D and exact motion.

    Example: pointworld generate --clips 500 --workers 2 --seed 3 --tabletop.shapes test --out data/test
    Example: pointworld generate --robot ur5e_robotiq --tabletop.families tabletop=0.5 articulated=0.3 tool=0.2
    --out data/mixed
    Example: pointworld generate --clips 8000 --shard-clips 500 --ray auto --seed 1 --out data/train
    """

    out: Path
    """Folder of the data set; clips that it already holds are kept, so an interrupted run can be continued."""
    clips: int = 1000
    """Number of clips. A larger number later extends the same set."""
    workers: int = 2
    """Processes that simulate at the same time; 0: this one."""
    ray: str | None = None
    """Simulate on a Ray cluster: "local" starts one of --workers CPUs here, "auto" finds one; or host:port."""
    shards: int | None = None
    """Keep the clips in this many WebDataset tar files instead of single files."""
    shard_clips: int | None = None
    """The same, by clips per tar file: leave --shards out."""
    seed: int = 0
    """Clip i depends on (seed, i) and the settings, not on the number of workers."""
    robot: str = "fr3"
    """Robot name or URDF: fr3, panda_robotiq, ur5e_robotiq, or another arm with a gripper of one driven joint."""
    renderer: Literal["auto", "gl", "rays"] = "auto"
    """gl: MuJoCo through off-screen OpenGL; rays: ray casting, needs no GL; auto: what the set has, gl if it is new and
    this machine can. All clips of a set are drawn by the same one."""
    tabletop: TabletopConfig = field(default_factory=TabletopConfig)
    """Objects, motions, cameras."""
    profile: bool = False
    """Print the seconds per clip of every stage and what moves in each family."""
    json: bool = False
    """Print the summary as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(GenerateArgs, argv, prog="pointworld generate")
    spec = DatasetSpec(
        clips=args.clips,
        seed=args.seed,
        robot=args.robot,
        renderer=args.renderer,
        tabletop=args.tabletop,
    )
    start = time.perf_counter()
    with progress(args.clips, "clips") as advance:
        summary = generate_dataset(
            spec,
            args.out,
            workers=args.workers,
            ray_address=args.ray,
            shard_clips=clips_per_shard(args),
            advance=advance,
        )
    _record(args, summary, time.perf_counter() - start)
    if args.json:
        stdout_json(summary)
    else:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in summary["shares"].items())
        console.print(
            f"{summary['made']} new clips in {args.out} ({summary['clips_per_second']:.1f} a second, "
            f"{summary['bytes_mean'] / 1000:.0f} kB each; {shares})"
        )
        if summary["remade_clips"]:
            console.print(f"damaged clips, made again: {', '.join(summary['remade_clips'])}")
        if "shards" in summary:
            remade = ", ".join(summary["remade_shards"])
            console.print(
                f"{summary['shards']} shards"
                + (f"; missing or damaged, made again: {remade}" if remade else "")
            )
        if args.profile:
            _print_profile(summary)
    return 0


def _record(args: GenerateArgs, summary: dict[str, Any], seconds: float) -> None:
    """Write run.json, which tells of all runs that made clips of the set."""
    earlier = _earlier_run(args.out)
    if earlier is not None and summary["made"] == 0:
        return
    if earlier is not None and summary["made"] < args.clips:
        try:
            both = float(earlier["timings_s"]["generate"]) + seconds
            summary, seconds = merged_summary(earlier["summary"], summary), both
        except (KeyError, TypeError, ValueError, AttributeError):
            console.print(f"{args.out / 'run.json'} cannot be read: it tells of this run alone now")
    write_run_json(
        args.out,
        command="generate",
        config=args,
        seed=args.seed,
        timings={"generate": seconds},
        extra={"summary": summary},
    )


def _earlier_run(out: Path) -> dict[str, Any] | None:
    """What the run.json of an earlier run says, or None where there is none of this command."""
    path = out / "run.json"
    try:
        record = json.loads(path.read_text()) if path.is_file() else None
    except ValueError:
        return None
    if not isinstance(record, dict) or record.get("command") != "generate":
        return None
    return record if "summary" in record else None


def clips_per_shard(args: GenerateArgs) -> int | None:
    """Clips per shard that --shards or --shard-clips ask for; None for single files.

    Raises:
        InputError: both are given, or not even one shard.
    """
    if args.shards is None:
        return args.shard_clips
    if args.shard_clips is not None:
        raise InputError("give --shards or --shard-clips, not both")
    if args.shards < 1:
        raise InputError(f"--shards is {args.shards}, expected at least 1")
    return -(-args.clips // args.shards)


def _print_profile(summary: dict[str, Any]) -> None:
    for stage, seconds in summary["seconds_per_clip"].items():
        console.print(f"{stage:>10}  {1000 * seconds:7.1f} ms a clip and worker")
    for family, shares in summary["family_shares"].items():
        values = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        console.print(f"{family:>10}  {summary['families'][family]} clips: {values}")
