"""`pointworld statistics`: measure what training data look like, per domain."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from pointworld.cli.common import console, parse, stdout_json
from pointworld.cli.train import (
    TrainArgs,
    domain_names,
    domain_rows,
    model_spec,
    read_samples,
)
from pointworld.cli.train_released import ReleasedDataArgs, find_released, robots_of, streamed
from pointworld.errors import InputError
from pointworld.train import Ranks, measure, write_statistics
from pointworld.train.preparation import Preparation
from pointworld.train.source import Source


@dataclass(frozen=True, kw_only=True)
class StatisticsArgs(ReleasedDataArgs):
    """Measure the normalisation statistics of training clips: real points only, padding never counted.

    `pointworld train` measures them itself; with --statistics it takes these, so that several runs share them.

    Example: pointworld statistics --data sim real --out statistics.json
    Example: pointworld statistics --released wds/droid --out statistics.json
    """

    data: tuple[Path, ...] = ()
    """Folders of training clips; several of one domain are one set."""
    out: Path
    """JSON file to write."""
    domains: tuple[str, ...] = ()
    """Domain of each folder, whose statistics it shares; "sim" for all of them by default."""
    robot: str = "fr3"
    """Robot of the clips."""
    workers: int = 2
    """Processes that turn clips into samples, once."""
    cache: Path | None = None
    """Where the samples are kept, beside --data by default; and the list of released clips, beside --out by default."""
    seed: int = 0
    """Draws the crops that are measured."""
    json: bool = False
    """Print them as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(StatisticsArgs, argv, prog="pointworld statistics")
    if not args.data and not args.released:
        raise InputError("there is nothing to measure: give --data, --released, or both")
    like = TrainArgs(
        **{field.name: getattr(args, field.name) for field in fields(ReleasedDataArgs)},
        data=args.data,
        validation=args.data,
        out=args.out,
        domains=args.domains,
        robot=args.robot,
        workers=args.workers,
        cache=args.cache,
    )
    domains, _ = domain_names(like)
    own, ranks = tuple(dict.fromkeys(domains)), Ranks()
    folder = args.cache or args.out.parent
    found = find_released(args, (args.split,), folder, args.workers, ranks)
    names = tuple(dict.fromkeys((*own, *found.domains)))
    rows, plain = domain_rows(names, None, None), dict.fromkeys(own, Preparation())
    samples: list[Source] = [
        *read_samples(like, args.data, domains, rows, plain, ranks, noisy=like.noisy),
        *streamed(found.by_split[args.split], robots_of(args, found.domains), rows, None),
    ]
    spec = model_spec(like, names, found.domains, samples[0])
    statistics = measure(spec, samples, seed=args.seed)
    write_statistics(args.out, statistics)
    for name, entry in statistics.items():
        last = entry.displacement_var[-1] ** 0.5 * 1e3
        console.print(
            f"{name}: {entry.clips} clips, movers {last:.1f} mm rms per axis at the last step"
        )
    console.print(f"wrote {args.out}")
    if args.json:
        stdout_json({name: entry.__dict__ for name, entry in statistics.items()})
    return 0
