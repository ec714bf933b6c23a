"""`pointworld train gnn`: train the graph-network baseline that a world model is compared with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pointworld.cli.common import console, parse, plain, progress, stdout_json, write_run_json
from pointworld.data import require_disjoint
from pointworld.train import CachedSample, TrainConfig, build_cache, read_cache
from pointworld.train.cache import cache_folder
from pointworld.train.graph_model import GraphSpec, save_graph_model
from pointworld.train.graph_training import train_graph
from pointworld.train.preparation import Preparation


@dataclass(frozen=True, kw_only=True)
class TrainGnnArgs:
    """Train a small graph network on clips of `pointworld generate`: a learned baseline for `pointworld evaluate`.

    It sees the same samples, loss and augmentation as the world model. A run that was interrupted goes on where it
    stopped when the command is given again.

    Example: pointworld train gnn --data data/train --validation data/val --out runs/gnn --train.minutes 20
    """

    data: tuple[Path, ...]
    """Folders of training clips; several are one set."""
    validation: tuple[Path, ...]
    """Folders of validation clips."""
    out: Path
    """Folder for gnn.safetensors and run.json."""
    threads: int = 0
    """CPU threads; 0 = all."""
    workers: int = 2
    """Processes that turn clips into samples, once."""
    cache: Path | None = None
    """Where the samples are kept, as for `pointworld train`; a folder beside --data by default."""
    noisy: float = 0.5
    """Share of the training clips that are seen with a depth camera's errors, as for `pointworld train`."""
    gnn: GraphSpec = field(default_factory=GraphSpec)
    """Size of the network."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Budget, optimiser, loss, augmentation."""
    json: bool = False
    """Print the summary as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(TrainGnnArgs, argv, prog="pointworld train gnn")
    if args.threads:
        torch.set_num_threads(args.threads)
    start = time.perf_counter()
    require_disjoint({"training": args.data, "validation": args.validation})
    samples = _samples(args, args.data, args.noisy)
    validation = _samples(args, args.validation, 0.0)
    cached = time.perf_counter()
    with progress(100, f"training on {len(samples)} clips [% of the budget]") as advance:
        shown = 0

        def on_step(_: int, share: float) -> None:
            nonlocal shown
            advance(int(share * 100) - shown)
            shown = int(share * 100)

        model, result = train_graph(
            samples, validation, args.out, args.train, spec=args.gnn, on_step=on_step
        )
    summary = {
        "clips": len(samples),
        "parameters": sum(p.numel() for p in model.parameters()),
        **plain(result),
    }
    save_graph_model(model, args.out, training=summary)
    timings = {"cache": cached - start, "train": time.perf_counter() - cached}
    write_run_json(
        args.out,
        command="train gnn",
        config=args,
        seed=args.train.seed,
        timings=timings,
        extra={"summary": summary},
    )
    console.print(f"graph network in {args.out}: {summary}")
    if args.json:
        stdout_json(summary)
    return 0


def _samples(args: TrainGnnArgs, folders: Sequence[Path], noisy: float) -> list[CachedSample]:
    found: list[CachedSample] = []
    for data in folders:
        root = args.cache or data.parent / f"{data.name}_cache"
        folder = cache_folder(root, data, Preparation(), noisy)
        with progress(None, f"samples of {data}") as advance:
            build_cache(data, folder, workers=args.workers, noisy=noisy, on_progress=advance)
        found += read_cache(data, folder)
    return found
