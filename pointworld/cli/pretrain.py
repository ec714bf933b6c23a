"""`pointworld pretrain`: teach a small vision transformer to see, from pictures alone (LeJEPA)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pointworld.cli.common import (
    console,
    parse,
    pick_device,
    progress,
    stdout_json,
    write_run_json,
)
from pointworld.encoders.lejepa import save_lejepa
from pointworld.errors import InputError
from pointworld.files import atomic_path
from pointworld.train.jepa import PretrainConfig, pretrain, read_images


@dataclass(frozen=True, kw_only=True)
class PretrainArgs:
    """Pretrain an image encoder with LeJEPA on the pictures of simulated clips. No labels are used.

    Views of one image must have the same embedding, and embeddings must be an isotropic Gaussian (SIGReg). Writes
    config.json and model.safetensors (--encoder jepa:FOLDER wherever an encoder is asked for), curve.csv, curve.png,
    run.json and state.safetensors, from which the command goes on when it is given again.

    Example: pointworld pretrain --data data/train --out runs/jepa --pretrain.minutes 45
    """

    data: Path
    """Folder of clips (pointworld generate)."""
    out: Path
    """Run folder."""
    images: int = 6000
    """Pictures to use at most; 0 = all."""
    device: str = "auto"
    """auto, cpu or cuda."""
    threads: int = 0
    """CPU threads; 0 = all."""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """Budget, optimiser, loss, crops, network."""
    json: bool = False
    """Print the summary as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(PretrainArgs, argv, prog="pointworld pretrain")
    if args.images < 0:
        raise InputError(f"--images is {args.images}, expected 0 or more")
    if args.threads:
        torch.set_num_threads(args.threads)
    began = time.perf_counter()
    with progress(None, "reading clips") as advance:
        images = read_images(args.data, limit=args.images, seed=args.pretrain.seed, on_clip=advance)
    read = time.perf_counter()
    with progress(100, f"pretraining on {len(images)} images [% of the budget]") as advance:
        shown = 0

        def on_step(_: int, share: float) -> None:
            nonlocal shown
            advance(int(share * 100) - shown)
            shown = int(share * 100)

        device = pick_device(args.device)
        network, curve = pretrain(images, args.out, args.pretrain, device=device, on_step=on_step)
    summary = {
        "images": len(images),
        "parameters": sum(p.numel() for p in network.parameters()),
        "last": curve[-1],
    }
    save_lejepa(network, args.out, training=summary)
    plot_pretraining(curve, args.out / "curve.png")
    write_run_json(
        args.out,
        command="pretrain",
        config=args,
        seed=args.pretrain.seed,
        timings={"read": read - began, "pretrain": time.perf_counter() - read},
        extra={"summary": summary},
    )
    console.print(
        f"{summary['parameters']:,} parameters after {curve[-1]['step']:.0f} steps: invariance "
        f"{curve[-1]['invariance']:.3f}, spread {curve[-1]['spread']:.2f} (0 = collapsed); in {args.out}"
    )
    if args.json:
        stdout_json(summary)
    return 0


def plot_pretraining(curve: list[dict[str, float]], path: Path) -> None:
    """Draw both parts of both losses, and the spread of embeddings, over minutes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    minutes = [row["minutes"] for row in curve]
    figure = Figure(figsize=(11, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    for axes, name in zip(panels[:2], ("invariance", "sigreg"), strict=True):
        for key, color in ((name, "#2c3e50"), (f"{name}_patches", "#c0392b")):
            if key in curve[0]:
                label = "patches" if key.endswith("patches") else "whole crops"
                axes.plot(minutes, [row[key] for row in curve], color=color, label=label)
        axes.set(xlabel="minutes", ylabel=name, yscale="log")
        axes.legend()
    panels[2].plot(minutes, [row["spread"] for row in curve], color="#2c3e50")
    panels[2].set(xlabel="minutes", ylabel="spread of embeddings (0 = collapsed)", ylim=(0, None))
    for axes in panels:
        axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
