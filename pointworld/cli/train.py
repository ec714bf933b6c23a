"""`pointworld train`: train a world model on simulated clips, own recordings and released data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from pointworld.cli.common import (
    console,
    parse,
    pick_device,
    progress,
    stdout_json,
    write_run_json,
)
from pointworld.cli.train_released import (
    ReleasedDataArgs,
    as_in_release,
    check_domains,
    find_released,
    for_released,
    released_robot,
    robots_of,
    streamed,
)
from pointworld.data import require_disjoint
from pointworld.data.families import GROUPS, REGISTRY, is_named
from pointworld.encoders import ImageEncoder, load_encoder
from pointworld.errors import InputError
from pointworld.model import ModelSpec, WorldModel, load, save_checkpoint
from pointworld.model.released_encoder import provenance, stored_encoder_weights
from pointworld.ptv3 import PTv3Arch
from pointworld.train import (
    CachedSample,
    Ranks,
    TrainConfig,
    build_cache,
    joined_ranks,
    plot_curve,
    read_cache,
    read_statistics,
    train,
)
from pointworld.train.batches import Mix
from pointworld.train.cache import cache_folder, spread_out
from pointworld.train.corrections import with_corrections
from pointworld.train.preparation import (
    SURFACE_POINTS,
    Preparation,
    new_preparation,
    preparations_of,
)
from pointworld.train.source import Source

#: Validation samples on which the predicted spread and motions lost in it are corrected.
CORRECTION_CLIPS = 100
SIZES: dict[str, Callable[[], PTv3Arch]] = {
    "tiny": PTv3Arch.tiny,
    "small": PTv3Arch.small,
    "base": PTv3Arch.base,
    "large": PTv3Arch.large,
}


@dataclass(frozen=True, kw_only=True)
class TrainArgs(ReleasedDataArgs):
    """Train a world model (stable mode, relative features) on clips of `pointworld generate`, or on released data.

    A run that was interrupted goes on where it stopped when the command is given again.

    Example: pointworld train --data data/train --validation data/val --out runs/tiny --train.minutes 60
    Example: pointworld train --init tiny --data my_clips --validation my_val --out runs/mine --train.minutes 10
    Example: pointworld train --init small-droid --data my_clips --validation my_val --out runs/mine
    Example: pointworld train --init converted/droid --released wds/droid --out runs/tuned --train.optimiser adamw
    Example: torchrun --nproc-per-node 2 -m pointworld.cli.app train --data train --validation val --out runs/two
    """

    data: tuple[Path, ...] = ()
    """Folders of training clips; several of one domain are one set."""
    validation: tuple[Path, ...] = ()
    """Folders of validation clips."""
    validation_split: str = "test"
    """Split of --released to validate on."""
    out: Path
    """Run folder: model.safetensors + model.json (usable by name of the folder), curve.csv, curve.png, run.json."""
    without: tuple[str, ...] = ()
    """Families or groups of clips to leave out, for example articulated."""
    max_clips: int = 0
    """Train on this many clips only, drawn by the seed; 0 = all."""
    init: str | None = None
    """Checkpoint (name, folder or released .pt) to start from; its architecture, encoder and normalisation are kept."""
    domains: tuple[str, ...] = ()
    """Domain of each folder, whose normalisation it shares; "sim" for all of them by default. With --init names of the
    checkpoint's own domains, or as many others, in its order. Released data name their own, droid or behavior."""
    mix: Mix = "clips"
    """What is drawn equally often: every clip; every domain, as in the release; or sources: in every domain, clips of
    --data and of --released."""
    size: str = "tiny"
    """Backbone: tiny, or small, base, large as in the release."""
    mode: Literal["stable", "released"] = "stable"
    """Without --init: our conventions, or all that the release does (whole scenes, its raw features and tokens)."""
    robot: str = "fr3"
    """Robot of the first clips, which the checkpoint names; every clip knows its own."""
    device: str = "auto"
    """auto, cpu or cuda."""
    encoder: str | None = None
    """Image encoder whose features every scene point gets (for example xfeat); none by default."""
    noisy: float = 0.5
    """Share of the training clips that are seen with a depth camera's errors: noise, holes, calibration, lost views."""
    robot_tokens: int = 16
    """Robot points per step that become tokens; raw features always look at the whole surface."""
    context_points: int = 700
    """Scene points that the network looks at, those nearest to the robot's path; the others stay. 0 = all."""
    threads: int = 0
    """CPU threads; 0 = all."""
    workers: int = 2
    """Processes that turn clips into samples, once; threads that read released clips ahead of each step."""
    cache: Path | None = None
    """Where the samples are kept, beside --data by default; and the list of released clips, in --out by default."""
    statistics: Path | None = None
    """File of pointworld statistics with the normalisation; measured from --data and --released when absent."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Budget, optimiser, loss, augmentation."""
    json: bool = False
    """Print the summary as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(TrainArgs, argv, prog="pointworld train")
    if args.size not in SIZES:
        raise InputError(f"--size is '{args.size}', expected one of {', '.join(SIZES)}")
    if not args.released and not (args.data and args.validation):
        raise InputError(
            "there is nothing to train on: give --data with --validation, --released, or all of them"
        )
    if args.released and args.split == args.validation_split:
        raise InputError(f"--split and --validation-split are both '{args.split}'; name two splits")
    if args.mode == "released" and args.data and args.init is None:
        raise InputError(
            "--mode released learns from --released alone; own clips need a checkpoint to start from (--init)"
        )
    domains = domain_names(args)
    require_disjoint({"training": args.data, "validation": args.validation})
    if args.threads:
        torch.set_num_threads(args.threads)
    init = None if args.init is None else load(args.init)
    with joined_ranks(pick_device(args.device)) as ranks:
        _train(args, domains, init, ranks)
    return 0


def domain_names(args: TrainArgs) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The domain of every training folder and of every validation folder.

    Raises:
        InputError: domains are named, and not one for each training and validation folder.
    """
    if not args.domains:
        return ("sim",) * len(args.data), ("sim",) * len(args.validation)
    if not len(args.domains) == len(args.data) == len(args.validation):
        raise InputError(
            f"--domains names {len(args.domains)}, --data {len(args.data)} and --validation {len(args.validation)} "
            "folders; with named domains give one domain and one validation folder for each training folder"
        )
    return args.domains, args.domains


def _train(
    args: TrainArgs,
    domains: tuple[tuple[str, ...], tuple[str, ...]],
    init: WorldModel | None,
    ranks: Ranks,
) -> None:
    start = time.perf_counter()
    splits = (args.split, args.validation_split)
    found = find_released(args, splits, args.cache or args.out, args.workers, ranks)
    own = tuple(dict.fromkeys(domains[0]))
    names = tuple(dict.fromkeys((*own, *found.domains)))
    check_domains(found, args.init, None if init is None else init.spec)
    rows = domain_rows(names, args.init, None if init is None else init.spec)
    demanded = _preparations(args, init, own, rows)
    encoder = _encoder(args, init, ranks) if found.domains else None
    robots = robots_of(args, found.domains)

    def sources(
        folders: Sequence[Path], given: Sequence[str], split: str, noisy: float
    ) -> list[Source]:
        return [
            *read_samples(args, folders, given, rows, demanded, ranks, noisy=noisy),
            *streamed(found.by_split[split], robots, rows, encoder),
        ]

    samples = sources(args.data, domains[0], args.split, args.noisy)
    validation = sources(args.validation, domains[1], args.validation_split, 0.0)
    samples = chosen_samples(samples, args)
    cached = time.perf_counter()
    spec = (
        init.spec
        if init is not None
        else model_spec(args, names, found.domains, samples[0], encoder)
    )
    with _shown(ranks, len(samples)) as on_step:
        model = train(
            spec,
            samples,
            validation,
            args.out,
            args.train,
            init=init,
            statistics=None if args.statistics is None else read_statistics(args.statistics),
            ranks=ranks,
            mix=args.mix,
            readers=args.workers if found.domains else 0,
            on_step=on_step,
        )
    if ranks.leads:
        timings = {"cache": cached - start, "train": time.perf_counter() - cached}
        if model.spec.mode != "released":  # whose numbers mean what the release says of them
            model = with_corrections(model, spread_out(validation, CORRECTION_CLIPS))
        _finish(args, model, len(samples), timings)


def domain_rows(
    names: Sequence[str], checkpoint: str | None, spec: ModelSpec | None
) -> dict[str, int]:
    """The normalisation row of every named domain: in their order, or those of the checkpoint to start from.

    Raises:
        InputError: the names are neither domains of the checkpoint nor as many as it has.
    """
    if spec is not None and set(names) <= set(spec.domains):
        return {name: spec.domain_index(name) for name in names}
    if spec is not None and len(names) != len(spec.domains):
        raise InputError(
            f"'{checkpoint}' has the domains {', '.join(spec.domains)}, --domains says {', '.join(names)}: give one of "
            "those to every folder, or as many other names, in that order"
        )
    return {name: row for row, name in enumerate(names)}


def _preparations(
    args: TrainArgs, init: WorldModel | None, names: Sequence[str], rows: Mapping[str, int]
) -> dict[str, Preparation]:
    """How the clips of every named domain become samples."""
    if init is None or args.init is None:
        return dict.fromkeys(names, new_preparation(args.encoder))
    demanded = preparations_of(args.init, init.spec)
    return {name: demanded[rows[name]] for name in names}


def _encoder(args: TrainArgs, init: WorldModel | None, ranks: Ranks) -> ImageEncoder | None:
    """What gives released clips their image features, on this process's device."""
    if init is not None:
        return init.image_encoder(ranks.device)
    return None if args.encoder is None else load_encoder(args.encoder, device=ranks.device)


def chosen_samples(samples: list[Source], args: TrainArgs) -> list[Source]:
    """The samples that `--without` and `--max-clips` leave.

    Raises:
        InputError: an unknown family, or nothing is left.
    """
    known = {*GROUPS, *REGISTRY}
    if unknown := sorted(set(args.without) - known):
        raise InputError(f"--without names {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    left = [s for s in samples if not is_named(s.family, args.without)]
    if 0 < args.max_clips < len(left):
        order = torch.randperm(len(left), generator=torch.Generator().manual_seed(args.train.seed))
        left = [left[i] for i in sorted(order[: args.max_clips].tolist())]
    if not left:
        raise InputError(f"--without {' '.join(args.without)} leaves no clip to train on")
    return left


def model_spec(
    args: TrainArgs,
    domains: tuple[str, ...],
    released: Sequence[str],
    sample: Source,
    encoder: ImageEncoder | None = None,
) -> ModelSpec:
    """The model that these arguments ask for, for samples like this one.

    Args:
        released: those of `domains` that have released clips.
        encoder: of released clips.
    """
    channels = 0 if encoder is None else encoder.channels
    if isinstance(sample, CachedSample) and sample.features is not None:
        channels = sample.features.shape[1]
    spec = ModelSpec(
        arch=SIZES[args.size](),
        sliding=True,
        image_channels=channels if args.encoder else 0,
        encoder=args.encoder,
        domains=domains,
        robot=args.robot if args.data else released_robot(args, domains[0]),
        robot_tokens=args.robot_tokens,
        context_points=args.context_points,
        max_robot_points=SURFACE_POINTS,
    )
    if released:
        spec = for_released(spec, released)
    if args.mode == "stable":
        return spec
    return as_in_release(spec, encoder)


@contextmanager
def _shown(ranks: Ranks, clips: int) -> Iterator[Callable[[int, float], None] | None]:
    """A progress bar of the leading process."""
    if not ranks.leads:
        yield None
        return
    with progress(100, f"training on {clips} clips [% of the budget]") as advance:
        shown = 0

        def on_step(_: int, share: float) -> None:
            nonlocal shown
            advance(int(share * 100) - shown)
            shown = int(share * 100)

        yield on_step


def _finish(args: TrainArgs, model: WorldModel, clips: int, timings: dict[str, float]) -> None:
    curve = plot_curve(args.out / "curve.csv", args.out / "curve.png")
    summary = {
        "clips": clips,
        "parameters": sum(p.numel() for p in model.parameters()),
        # A mean of nothing is no number, and JSON knows none.
        "last": {k: v if math.isfinite(v) else None for k, v in curve[-1].items()},
    }
    save_checkpoint(
        model.cpu(),
        args.out,
        training=summary if args.init is None else {**summary, "init": _origin(args.init)},
        encoder_weights=None if args.init is None else stored_encoder_weights(args.init),
    )
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


def _origin(checkpoint: str) -> dict[str, Any]:
    """What the new checkpoint remembers of the one it started from; its licence binds this one too."""
    return {"checkpoint": Path(checkpoint).name, **provenance(checkpoint)}


def read_samples(
    args: TrainArgs,
    folders: Sequence[Path],
    domains: Sequence[str],
    rows: Mapping[str, int],
    preparations: Mapping[str, Preparation],
    ranks: Ranks,
    *,
    noisy: float,
) -> list[CachedSample]:
    """The samples of all folders, cached first where they are not yet.

    Args:
        domains: of each folder. rows, preparations: normalisation row of every domain, and what its samples are like.
    """
    samples: list[CachedSample] = []
    for data, name in zip(folders, domains, strict=True):
        root = args.cache or data.parent / f"{data.name}_cache"
        folder = cache_folder(root, data, preparations[name], noisy)
        if ranks.leads:
            with progress(None, f"samples of {data}") as advance:
                build_cache(
                    data,
                    folder,
                    preparation=preparations[name],
                    workers=args.workers,
                    noisy=noisy,
                    on_progress=advance,
                )
        ranks.wait()  # the others, until the cache is there
        samples += read_cache(data, folder, domain=rows[name])
    return samples
