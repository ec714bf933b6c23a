"""`pointworld train`: train a world model on simulated clips."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pointworld.cli.common import console, parse, progress, stdout_json, write_run_json
from pointworld.errors import InputError
from pointworld.model import ModelSpec, save_checkpoint
from pointworld.ptv3 import PTv3Arch
from pointworld.train import TrainConfig, build_cache, plot_curve, read_cache, train
from pointworld.train.cache import SURFACE_POINTS

SIZES = {"tiny": PTv3Arch.tiny, "small": PTv3Arch.small}


@dataclass(frozen=True, kw_only=True)
class TrainArgs:
    """Train a world model (stable mode, relative features) on clips of `pointworld generate`.

    A run that was interrupted goes on where it stopped when the command is given again.

    Example: pointworld train --data data/train --validation data/val --out runs/tiny --train.minutes 60
    """

    data: Path
    """Folder of training clips."""
    validation: Path
    """Folder of validation clips."""
    out: Path
    """Run folder: model.safetensors + model.json (usable by name of the folder), curve.csv, curve.png, run.json."""
    size: str = "tiny"
    """Backbone: tiny or small."""
    robot: str = "fr3"
    """Robot of the clips."""
    encoder: str | None = None
    """Image encoder whose features every scene point gets (for example xfeat); none by default."""
    robot_tokens: int = 16
    """Robot points per step that become tokens; raw features always look at the whole surface."""
    context_points: int = 700
    """Scene points that the network looks at, those nearest to the robot's path; the others stay. 0 = all."""
    threads: int = 0
    """CPU threads; 0 = all."""
    workers: int = 2
    """Processes that turn clips into samples, once."""
    cache: Path | None = None
    """Where the samples are kept; a folder beside --data by default."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Budget, optimiser, loss, augmentation."""
    json: bool = False
    """Print the summary as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(TrainArgs, argv, prog="pointworld train")
    if args.size not in SIZES:
        raise InputError(f"--size is '{args.size}', expected one of {', '.join(SIZES)}")
    if args.threads:
        torch.set_num_threads(args.threads)
    start = time.perf_counter()
    samples, validation = (_samples(args, data) for data in (args.data, args.validation))
    cached = time.perf_counter()
    channels = samples[0].features.shape[1] if samples[0].features is not None else 0
    spec = ModelSpec(
        arch=SIZES[args.size](),
        image_channels=channels if args.encoder else 0,
        encoder=args.encoder,
        robot=args.robot,
        robot_tokens=args.robot_tokens,
        context_points=args.context_points,
        max_robot_points=SURFACE_POINTS,
    )
    with progress(100, f"training on {len(samples)} clips [% of the budget]") as advance:
        shown = 0

        def on_step(_: int, share: float) -> None:
            nonlocal shown
            advance(int(share * 100) - shown)
            shown = int(share * 100)

        model = train(spec, samples, validation, args.out, args.train, on_step=on_step)
    curve = plot_curve(args.out / "curve.csv", args.out / "curve.png")
    summary = {
        "clips": len(samples),
        "parameters": sum(p.numel() for p in model.parameters()),
        "last": curve[-1],
    }
    save_checkpoint(model, args.out, training=summary)
    timings = {"cache": cached - start, "train": time.perf_counter() - cached}
    write_run_json(
        args.out,
        command="train",
        config=args,
        seed=args.train.seed,
        timings=timings,
        extra={"summary": summary},
    )
    console.print(f"checkpoint in {args.out}: {summary['last']}")
    if args.json:
        stdout_json(summary)
    return 0


def _samples(args: TrainArgs, data: Path) -> list:
    root = args.cache or data.parent / f"{data.name}_cache"
    folder = root / f"{data.name}-{args.robot}-{args.encoder or 'plain'}"
    with progress(None, f"samples of {data}") as advance:
        build_cache(
            data,
            folder,
            encoder=args.encoder,
            robot=args.robot,
            workers=args.workers,
            on_progress=advance,
        )
    return list(read_cache(folder))
