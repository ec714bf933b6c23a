"""`pointworld ablate`: what each part of the training recipe is worth."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from pointworld.cli.common import console, parse, pick_device, stdout_json, write_run_json
from pointworld.cli.evaluate_report import read_page
from pointworld.cli.train import SIZES
from pointworld.data import require_disjoint
from pointworld.encoders import load_encoder
from pointworld.errors import InputError
from pointworld.files import write_text
from pointworld.train import TrainConfig
from pointworld.train.ablation import ENCODERS, STUDIES
from pointworld.train.ablation_report import plot_scaling, study_table
from pointworld.train.ablation_run import Setup, run_study
from pointworld.train.page import fill_page


@dataclass(frozen=True, kw_only=True)
class AblateArgs:
    """Train and measure models that differ in one thing, with one budget each.

    loss: weight of points at rest, weighting by variance, the release's loss. features: colour and image features.
    cameras: fewer views in training and test. data: parts of the training clips. size: a larger backbone.
    rollout: ten steps at once or one after the other. tokens: our lattice and raw features or the release's.
    guesses: with and without how things slide over a table, offered as a guess.
    all: every study.

    An interrupted study continues when the command is given again; variants that are done are not trained again, and
    the recipe as it is ("ours") is trained once for all studies of one --out.

    Example: pointworld ablate loss --data data/train --validation data/val --test data/test --out runs/ablation
    --train.minutes 15
    Example: pointworld ablate all --data data/train --validation data/val --test data/test --out runs/ablation
    --train.minutes 0 --train.steps 2000 --page docs/world_quality.md --pictures docs/images
    """

    study: tyro.conf.Positional[
        Literal[
            "loss", "features", "cameras", "data", "size", "rollout", "tokens", "guesses", "all"
        ]
    ]
    """What is varied."""
    data: tuple[Path, ...]
    """Folders of training clips; several are one set."""
    validation: tuple[Path, ...]
    """Folders of validation clips."""
    test: Path
    """Folder of test clips."""
    out: Path
    """Folder with one sub-folder per variant, STUDY.json and STUDY.md per study, scaling.png and run.json."""
    cache: Path | None = None
    """Where the samples are kept, as for `pointworld train`; `samples` in --out by default."""
    size: str = "tiny"
    """Backbone: tiny or small."""
    robot: str = "fr3"
    """Robot that the checkpoints name; every clip knows its own."""
    encoders: tuple[str, ...] = ENCODERS
    """Image encoders of the study `features`, any that `pointworld train --encoder` takes."""
    robot_tokens: int = 16
    """Robot points per step that become tokens."""
    context_points: int = 700
    """Scene points that the network looks at."""
    limit: int | None = None
    """Measure on so many test clips only, evenly spread over all of them."""
    device: str = "cpu"
    """Where the models are trained: auto, cpu or cuda."""
    threads: int = 0
    """CPU threads; 0 = all."""
    workers: int = 2
    """Processes that turn clips into samples, once."""
    noisy: float = 0.5
    """Share of the training clips that are seen with a depth camera's errors."""
    page: Path | None = None
    """Markdown page whose parts ablation-STUDY are filled with the tables."""
    pictures: Path | None = None
    """Folder for a copy of the scaling curve, scaling.png."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Budget of every variant, optimiser, loss, augmentation."""
    json: bool = False
    """Print the studies as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(AblateArgs, argv, prog="pointworld ablate")
    if args.size not in SIZES:
        raise InputError(f"--size is '{args.size}', expected one of {', '.join(SIZES)}")
    require_disjoint({"training": args.data, "validation": args.validation, "test": [args.test]})
    if args.threads:
        torch.set_num_threads(args.threads)
    start = time.perf_counter()
    names = list(STUDIES) if args.study == "all" else [args.study]
    if "features" in names:
        # One that is not there is better known now than after hours of training.
        for encoder in args.encoders:
            load_encoder(encoder)
    args.out.mkdir(parents=True, exist_ok=True)
    studies = {name: _run(name, args) for name in names}
    if args.page is not None:
        tables = {f"ablation-{name}": study_table(study) for name, study in studies.items()}
        write_text(args.page, fill_page(read_page(args.page), tables))
    timings = {"ablate": time.perf_counter() - start}
    write_run_json(args.out, command="ablate", config=args, seed=args.train.seed, timings=timings)
    if args.json:
        stdout_json(studies)
    return 0


def _run(name: str, args: AblateArgs) -> dict[str, Any]:
    setup = Setup(
        data=args.data,
        validation=args.validation,
        test=args.test,
        out=args.out,
        cache=args.cache or args.out / "samples",
        arch=SIZES[args.size](),
        robot=args.robot,
        robot_tokens=args.robot_tokens,
        context_points=args.context_points,
        workers=args.workers,
        noisy=args.noisy,
        limit=args.limit,
        device=pick_device(args.device),
        config=args.train,
    )
    study = run_study(
        name,
        setup,
        encoders=args.encoders,
        on_progress=lambda label, what: console.print(f"{name}: {label}: {what}"),
    )
    table = study_table(study)
    write_text(args.out / f"{name}.md", table + "\n")
    console.print(table, markup=False, soft_wrap=True)
    if name == "data":
        for folder in {args.out, args.pictures or args.out}:
            folder.mkdir(parents=True, exist_ok=True)
            plot_scaling(study, folder / "scaling.png")
    return study
