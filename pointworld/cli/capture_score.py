"""`pointworld capture score`: how well checkpoints predict what happened in labelled recordings."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import tyro
from rich.table import Table

import pointworld
from pointworld.cli.common import console, parse, pick_device, progress, stdout_json
from pointworld.errors import InputError
from pointworld.model import ModelSpec
from pointworld.train import build_cache, read_cache
from pointworld.train.cache import cache_folder
from pointworld.train.labelled_score import LabelledScore, score_labelled
from pointworld.train.preparation import preparations_of


@dataclass(frozen=True, kw_only=True)
class CaptureScoreArgs:
    """Compare checkpoints on labelled recordings, by the points and steps that have a label.

    Give recordings that none of the checkpoints was trained on.

    Example: pointworld capture score my_val --checkpoints tiny runs/mine
    """

    data: tyro.conf.Positional[Path]
    """Folder of clips that pointworld capture label made."""
    checkpoints: tuple[str, ...] = ("tiny",)
    """Names of bundled checkpoints, or folders or files."""
    domain: str | None = None
    """Domain of the recordings, for checkpoints that know several; by default their only one."""
    cache: Path | None = None
    """Where samples are kept; a folder beside the data by default, the same as for training."""
    device: str = "cpu"
    """auto, cpu or cuda."""
    json: bool = False
    """Print the scores as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(CaptureScoreArgs, argv, prog="pointworld capture score")
    scores = {name: _score(args, name) for name in args.checkpoints}
    table = Table(title=f"{args.data}, {next(iter(scores.values())).clips} clips")
    for heading in ("checkpoint", "mover error [mm]", "/ no motion", "at rest [mm]"):
        table.add_column(heading, justify="left" if heading == "checkpoint" else "right")
    for name, score in scores.items():
        table.add_row(
            name, _cell(score.moved, 1e3), _cell(score.ratio, 1), _cell(score.at_rest, 1e3)
        )
    console.print(table)
    if args.json:
        stdout_json({name: asdict(s) | {"ratio": s.ratio} for name, s in scores.items()})
    return 0


def _score(args: CaptureScoreArgs, name: str) -> LabelledScore:
    model = pointworld.load(name, device=pick_device(args.device)).eval()
    row = domain_row(name, model.spec, args.domain)
    preparation = preparations_of(name, model.spec)[row]
    root = args.cache or args.data.parent / f"{args.data.name}_cache"
    folder = cache_folder(root, args.data, preparation, 0.0)
    with progress(None, f"samples of {args.data}") as advance:
        build_cache(args.data, folder, preparation=preparation, on_progress=advance)
    samples = read_cache(args.data, folder, domain=row)
    with progress(len(samples), name) as advance:
        return score_labelled(model, samples, on_clip=advance)


def domain_row(name: str, spec: ModelSpec, domain: str | None) -> int:
    """The normalisation row of a checkpoint's domain.

    Raises:
        InputError: the checkpoint has no such domain, or several and none is named.
    """
    if len(spec.domains) > 1 and domain is None:
        raise InputError(
            f"'{name}' knows the domains {', '.join(spec.domains)}: say with --domain which one the recordings are of"
        )
    # A checkpoint of one domain has but one way to see.
    return 0 if domain is None or len(spec.domains) == 1 else spec.domain_index(domain)


def _cell(value: float | None, scale: float) -> str:
    return "-" if value is None else f"{value * scale:.2f}"
