"""`pointworld shards check`: are the shards of a data set whole?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from pointworld.cli.common import console, parse, stdout_json
from pointworld.data.shards import read_manifest, shard_index, shard_problem
from pointworld.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ShardsCheckArgs:
    """Compare every shard with the manifest's checksum and look through its members; exit code 1 if one is bad.

    Example: pointworld shards check data/train_shards
    """

    data: tyro.conf.Positional[Path]
    """Folder of shards."""
    json: bool = False
    """Print the result as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(ShardsCheckArgs, argv, prog="pointworld shards check")
    manifest, entries = read_manifest(args.data)
    problems = {}
    for entry in entries:
        problem = shard_problem(args.data, entry) or _content_problem(args.data / entry.name)
        if problem is not None:
            problems[entry.name] = problem
            console.print(f"{entry.name} {problem}")
    clips = sum(entry.clips for entry in entries)
    state = "complete" if manifest.get("complete") else "not complete yet"
    console.print(
        f"{len(entries)} shards, {clips} clips, {state}; {len(problems)} missing or damaged"
    )
    if args.json:
        stdout_json({"shards": len(entries), "clips": clips, "problems": problems})
    return 1 if problems else 0


def _content_problem(path: Path) -> str | None:
    try:
        shard_index(path)
    except InputError as error:
        return f"is not usable: {error}"
    return None
