"""`pointworld evaluate --released`: the release's metrics on its own data sets."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from rich.table import Table

import pointworld
from pointworld.cli.common import (
    console,
    parse,
    pick_device,
    progress,
    stdout_json,
    write_run_json,
)
from pointworld.data.released import (
    ReleasedSample,
    decode_clip,
    evaluation_sample,
    read_confidence,
    read_manifest,
)
from pointworld.data.released.wds import MIN_SHARD_BYTES
from pointworld.errors import InputError
from pointworld.files import write_json
from pointworld.model import WorldModel
from pointworld.robot import RobotModel
from pointworld.train.released_data import chain_settings
from pointworld.train.released_evaluation import compare_released, released_clips

_COLUMNS = ("l2", "l2_moved", "l2_static", "l2_moved_conf", "filtered_l2", "filtered_l2_moved")


@dataclass(frozen=True, kw_only=True)
class ReleasedArgs:
    """Measure a checkpoint on released DROID or BEHAVIOR clips, by the release's own definitions, beside no motion.

    Both modes are given: `compat` is what the released code computes, `exact` what was meant (docs/released_data.md).

    Example: pointworld evaluate --released droid_h5 --checkpoint converted/droid --confidence
    expert_confidence-seed=42.h5 --manifest manifest.json --out out/droid
    """

    released: Path
    """Folder of H5 files, one H5 file, or the root of shards <folder>/<split>/*.tar."""
    checkpoint: str
    """Folder of a converted released checkpoint (`pointworld checkpoint convert`), or another of the same domains."""
    split: str = "test"
    """Split of shards, and of --manifest."""
    manifest: Path | None = None
    """The paper's list of clips (wds_manifest.v1): only those of the split are evaluated."""
    confidence: Path | None = None
    """The expert's low-confidence voxels, for the filtered columns of DROID."""
    droid_robot: str = "panda_robotiq"
    """Robot of DROID: name or URDF."""
    behavior_robot: str | None = None
    """URDF of BEHAVIOR's R1 Pro."""
    min_shard_bytes: int = MIN_SHARD_BYTES
    """Shards below this size are left out, as the release does."""
    limit: int | None = None
    """Evaluate only the first clips."""
    device: str = "cpu"
    """auto, cpu or cuda."""
    out: Path | None = None
    """Folder for released.json and run.json."""
    json: bool = False
    """Print the table as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(ReleasedArgs, argv, prog="pointworld evaluate")
    if args.limit is not None and args.limit < 1:
        raise InputError(f"--limit is {args.limit}, expected at least 1")
    for path in (args.confidence, args.manifest):
        if path is not None and not path.is_file():
            raise InputError(f"{path}: no such file")
    start = time.perf_counter()
    model = pointworld.load(args.checkpoint, device=pick_device(args.device))
    with progress(args.limit, "clips") as advance:

        def counted() -> Iterator[ReleasedSample]:
            for sample in samples(args, model):
                yield sample
                advance(1)

        tables = compare_released(
            model,
            counted(),
            low=None if args.confidence is None else partial(read_confidence, args.confidence),
            split=args.split,
        )
    rows = {
        row: {
            mode: {name: value for name, value in table.items() if math.isfinite(value)}
            for mode, table in modes.items()
        }
        for row, modes in tables.items()
    }
    result = {"data": str(args.released), "checkpoint": args.checkpoint, "rows": rows}
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        write_json(args.out / "released.json", result)
        timings = {"evaluate": time.perf_counter() - start}
        write_run_json(args.out, command="evaluate", config=args, seed=None, timings=timings)
    show(result, args.split)
    if args.json:
        stdout_json(result)
    return 0


def samples(args: ReleasedArgs, model: WorldModel) -> Iterator[ReleasedSample]:
    """What the model sees of every clip, with the image features it was made for."""
    encoder = model.image_encoder(model.device)
    spec = model.spec
    settings = chain_settings(spec)
    robots: dict[str, RobotModel] = {}
    names = {"droid": args.droid_robot, "behavior": args.behavior_robot}
    manifest = None if args.manifest is None else read_manifest(args.manifest)
    clips = released_clips(
        args.released, split=args.split, manifest=manifest, min_shard_bytes=args.min_shard_bytes
    )
    for raw in islice(clips, args.limit):
        clip = decode_clip(raw)
        if clip.domain not in robots:
            name = names[clip.domain]
            if name is None:
                raise InputError(
                    "BEHAVIOR clips need the URDF of the R1 Pro: --behavior-robot r1pro.urdf"
                )
            robots[clip.domain] = RobotModel.load(name)
        sample = evaluation_sample(clip, robots[clip.domain], settings)
        if encoder is not None:
            sample = sample.with_features(
                encoder, sampling=spec.sampling, depth_threshold=spec.depth_threshold
            )
        yield sample


def show(result: dict[str, Any], split: str) -> None:
    """Print the headline columns for people [mm]."""
    prefix = f"full_eval/{split}/"
    table = Table(title=f"{result['checkpoint']} on {result['data']} [mm]")
    table.add_column("")
    table.add_column("mode")
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for row, modes in result["rows"].items():
        for mode, values in modes.items():
            cells = [values.get(f"{prefix}{name}/mean") for name in _COLUMNS]
            table.add_row(row, mode, *("-" if v is None else f"{v * 1e3:.2f}" for v in cells))
    console.print(table)
