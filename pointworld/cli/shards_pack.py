"""`pointworld shards pack`: a folder of clip files as WebDataset shards."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from pointworld.cli.common import console, parse, progress, stdout_json, write_run_json
from pointworld.data import list_clips
from pointworld.data.target import pack_clips


@dataclass(frozen=True, kw_only=True)
class ShardsPackArgs:
    """Copy clips (simulated or labelled recordings) into tar files with a checksummed manifest.

    Example: pointworld shards pack data/train --out data/train_shards --shard-clips 500
    """

    data: tyro.conf.Positional[Path]
    """Folder of clips; it is left as it is."""
    out: Path
    """Folder of the shards: new or empty."""
    shard_clips: int = 500
    """Clips per shard."""
    json: bool = False
    """Print the summary as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(ShardsPackArgs, argv, prog="pointworld shards pack")
    start = time.perf_counter()
    with progress(len(list_clips(args.data)), "clips") as advance:
        entries = pack_clips(args.data, args.out, shard_clips=args.shard_clips, advance=advance)
    summary = {
        "shards": len(entries),
        "clips": sum(entry.clips for entry in entries),
        "bytes": sum(entry.bytes for entry in entries),
    }
    write_run_json(
        args.out,
        command="shards pack",
        config=args,
        seed=None,
        timings={"pack": time.perf_counter() - start},
        extra={"summary": summary},
    )
    console.print(f"{summary['clips']} clips in {summary['shards']} shards in {args.out}")
    if args.json:
        stdout_json(summary)
    return 0
