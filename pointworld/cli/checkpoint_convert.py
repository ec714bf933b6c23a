"""`pointworld checkpoint convert`: a released `.pt` to safetensors and JSON."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pointworld.cli.common import console, parse, stdout_json, write_run_json
from pointworld.errors import InputError
from pointworld.model import convert_released
from pointworld.model.checkpoint_io import inspect_checkpoint


@dataclass(frozen=True, kw_only=True)
class ConvertArgs:
    """Turn a released .pt into a checkpoint folder: safetensors weights, image encoder, JSON description.

    The optimizer state is left out, so the 13 GB file becomes about 5.2 GB. Nothing inside the file is executed.

    Example:
        pointworld checkpoint convert model-best.pt --out small-droid
    """

    file: Annotated[Path, tyro.conf.Positional]
    """Released .pt file."""
    out: Path
    """Folder to write."""
    json: bool = False
    """Print one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command."""
    args = parse(ConvertArgs, argv, prog="pointworld checkpoint convert")
    if not args.file.is_file():
        raise InputError(f"{args.file}: no such file. Expected a released .pt")
    start = time.perf_counter()
    checkpoint = convert_released(args.file, args.out)
    seconds = time.perf_counter() - start
    write_run_json(
        args.out,
        command="checkpoint convert",
        config=args,
        seed=None,
        timings={"convert": seconds},
    )
    report = inspect_checkpoint(args.out)
    console.print(
        f"{args.file} ({checkpoint.path.stat().st_size / 1e9:.2f} GB) -> {args.out} "
        f"({report['bytes'] / 1e9:.2f} GB) in {seconds:.1f} s"
    )
    if args.json:
        stdout_json(report)
    return 0
