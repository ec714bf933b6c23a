"""`pointworld evaluate`: measure a world model against baselines on simulated clips."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import tyro
from rich.table import Table

import pointworld
from pointworld.cli import evaluate_released, evaluate_report
from pointworld.cli.common import (
    console,
    from_mapping,
    parse,
    pick_device,
    progress,
    stdout_json,
    write_run_json,
)
from pointworld.data import (
    ClipGenerator,
    DatasetSpec,
    SensorConfig,
    dataset_generator,
    require_disjoint,
)
from pointworld.errors import InputError
from pointworld.files import write_json, write_text
from pointworld.model import WorldModel
from pointworld.model.spread import SpreadMap
from pointworld.train import PREDICTORS, evaluate, tune_radius
from pointworld.train.evaluation_clip import EvaluationClip
from pointworld.train.evaluator import clip_paths, read_clips, tune_spread
from pointworld.train.graph_model import load_graph_model
from pointworld.train.plots import plot_families, plot_steps
from pointworld.train.predictors import (
    Predictor,
    carry_predictors,
    graph_predictor,
    model_predictor,
    simulator_predictors,
)
from pointworld.train.preparation import Preparation, preparations_of
from pointworld.train.report import report

#: Validation clips on which the rigid-carry radius and the correction of the spread are tuned.
TUNING_CLIPS = 100


@dataclass(frozen=True, kw_only=True)
class EvaluateArgs:
    """Measure a checkpoint on clips of `pointworld generate`, through their rendered RGB-D.

    Baselines: no motion; rigid carry (points near the hand move with it, radius tuned on --validation); whole-object
    carry (objects known by true segmentation move with the hand once it touches them); a graph network (--gnn); the
    simulator with nominal friction, mass, and both (--simulator).

    `pointworld evaluate --report` makes tables of several evaluations; `pointworld evaluate --released` evaluates on
    the released data sets. Each has its own --help.

    Example: pointworld evaluate data/test --checkpoint tiny --validation data/val --json
    Example: pointworld evaluate data/test --validation data/val --gnn runs/gnn --simulator --out runs/tiny/test
    """

    data: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of clips."""
    checkpoint: str = "tiny"
    """Name of a bundled checkpoint, or a folder or file."""
    domain: str | None = None
    """Domain of the clips, for a model of several; its first by default."""
    validation: tuple[Path, ...] = ()
    """Folders of clips for tuning the rigid-carry radius, of other scenes than the data; without them it is 3 cm."""
    gnn: Path | None = None
    """Folder of `pointworld train gnn`, for its row."""
    simulator: bool = False
    """Add the simulator with nominal friction, mass, and both; needs clips made by this version."""
    spread: Path | None = None
    """Correct the predicted spread with this file, written by --fit-spread."""
    fit_spread: bool = False
    """Fit a correction of the predicted spread on --validation, apply it, and write it to --out as spread.json."""
    out: Path | None = None
    """Folder for evaluation.json, tables and pictures of it (evaluation.md, families.png, steps.png), and run.json."""
    noisy: bool = False
    """See the clips with a depth camera's errors: noise, holes, calibration up to 1 cm and 1 degree, lost views."""
    limit: int | None = None
    """Evaluate only so many clips, evenly spread."""
    device: str = "cpu"
    """auto, cpu or cuda."""
    json: bool = False
    """Print the table as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    if "--released" in argv:
        # Help needs no folder after --released.
        return evaluate_released.main(["--help"] if {"-h", "--help"} & set(argv) else argv)
    if "--report" in argv:
        return evaluate_report.main(argv)
    args = parse(EvaluateArgs, argv, prog="pointworld evaluate")
    if not args.data:
        raise InputError("give at least one folder of clips to evaluate on")
    if args.fit_spread and (not args.validation or args.spread is not None):
        raise InputError("--fit-spread needs --validation, and takes no --spread")
    start = time.perf_counter()
    if args.validation:
        # What is fitted on validation scenes must be measured on others.
        require_disjoint({"test": args.data, "validation": args.validation})
    model = pointworld.load(args.checkpoint, device=pick_device(args.device))
    radius, spread = _tuned(args, model)
    tuned = time.perf_counter()
    count = len(clip_paths(args.data, limit=args.limit))
    with progress(count, "clips") as advance:
        table = evaluate(
            args.data,
            _predictors(args, model, radius, spread),
            preparation=_preparation(args, model),
            limit=args.limit,
            sensor=SensorConfig() if args.noisy else None,
            on_clip=advance,
        )
    result = {
        "data": " ".join(map(str, args.data)),
        "checkpoint": args.checkpoint,
        "noisy": args.noisy,
        "parameters": sum(p.numel() for p in model.parameters()),
        "rigid_carry_radius_m": radius,
        "spread": None if spread is None else spread.to_json(),
        **table,
    }
    if args.out is not None:
        timings = {"tune": tuned - start, "evaluate": time.perf_counter() - tuned}
        _write(args, args.out, result, timings)
    show(result)
    if args.json:
        stdout_json(result)
    return 0


def _write(
    args: EvaluateArgs, out: Path, result: dict[str, Any], timings: dict[str, float]
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "evaluation.json", result)
    if args.fit_spread:
        write_json(out / "spread.json", result["spread"])
    labelled = {Path(args.checkpoint).name: result}
    write_text(out / "evaluation.md", report(labelled) + "\n")
    plot_families(labelled, out / "families.png")
    plot_steps(labelled, out / "steps.png")
    write_run_json(out, command="evaluate", config=args, seed=None, timings=timings)


def _predictors(
    args: EvaluateArgs, model: WorldModel, radius: float, spread: SpreadMap | None
) -> dict[str, Predictor]:
    found = {"model": model_predictor(model, domain=args.domain, spread=spread)}
    found |= carry_predictors(radius)
    if args.gnn is not None:
        found["gnn"] = graph_predictor(load_graph_model(args.gnn))
    if args.simulator:
        found |= simulator_predictors([clip_generator(folder) for folder in args.data])
    return found


def clip_generator(data: Path) -> tuple[DatasetSpec, ClipGenerator]:
    """What a data set is, and the generator that made it, from its manifest.

    Raises:
        InputError: there is no manifest, or not one of a simulated data set.
    """
    path = data / "manifest.json"
    if not path.is_file():
        raise InputError(
            f"{path} does not exist; the simulator is a baseline only for data sets of `pointworld generate`"
        )
    values = json.loads(path.read_text())
    known = {field.name for field in fields(DatasetSpec)}
    given = {name: value for name, value in values.items() if name in known}
    # The simulator needs no pictures: it works also where those of the set could not be drawn.
    spec = replace(from_mapping(DatasetSpec, given, str(path)), renderer="auto")
    return spec, dataset_generator(spec)


def _preparation(args: EvaluateArgs, model: WorldModel) -> Preparation:
    row = 0 if args.domain is None else model.spec.domain_index(args.domain)
    return preparations_of(args.checkpoint, model.spec)[row]


def _tuned(args: EvaluateArgs, model: WorldModel) -> tuple[float, SpreadMap | None]:
    """Radius of rigid carry [m] and correction of the spread."""
    spread = None if args.spread is None else read_spread(args.spread)
    if not args.validation:
        return 0.03, spread
    seen = _preparation(args, model)
    if not args.fit_spread:
        seen = replace(seen, encoder=None, stored_in=None)  # the radius needs no image features
    clips: list[EvaluationClip] = []
    count = len(clip_paths(args.validation, limit=TUNING_CLIPS))
    with progress(count, "validation clips") as advance:
        for clip in read_clips(args.validation, preparation=seen, limit=TUNING_CLIPS):
            clips.append(clip)
            advance(1)
    if args.fit_spread:
        spread = tune_spread(model_predictor(model, domain=args.domain), clips)
    return tune_radius(clips), spread


def read_spread(path: Path) -> SpreadMap:
    """A correction written by --fit-spread.

    Raises:
        InputError: no such file, or no correction in it.
    """
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} holds no correction of the spread ({error})") from error
    return SpreadMap.from_json(values)


def show(result: dict[str, Any]) -> None:
    """Print the table for people."""
    table = Table(title=f"{result['checkpoint']} on {result['data']}, {result['clips']} clips")
    for heading in (
        "",
        "predictor",
        "mover error [mm]",
        "/ no motion",
        "never moving [mm]",
        "99 % [mm]",
        "false motion [%]",
    ):
        table.add_column(heading, justify="left" if heading in ("", "predictor") else "right")
    for group, scores in {"overall": result["overall"], **result["families"]}.items():
        for name in PREDICTORS:
            if name not in scores["metrics"]:
                continue
            metrics = scores["metrics"][name]
            table.add_row(
                group,
                name,
                _cell(metrics["l2_moved"], 1e3, "{:.1f} ± {:.1f}"),
                _number(scores["ratios_to_no_motion"][name], 1.0, "{:.3f}"),
                _number(metrics["l2_never_moving"]["mean"], 1e3, "{:.2f}"),
                _number(scores["never_moving_p99"][name], 1e3, "{:.1f}"),
                _number(metrics["false_motion_share"]["mean"], 1e2, "{:.2f}"),
            )
            group = ""
        table.add_section()
    console.print(table)


def _cell(summary: dict, scale: float, form: str) -> str:
    if summary["mean"] is None:
        return "-"
    return form.format(summary["mean"] * scale, summary["standard_error"] * scale)


def _number(value: float | None, scale: float, form: str) -> str:
    return "-" if value is None else form.format(value * scale)
