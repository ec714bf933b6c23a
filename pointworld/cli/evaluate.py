"""`pointworld evaluate`: measure a world model against baselines on simulated clips."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import tyro
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
from pointworld.data import list_clips, read_clip
from pointworld.files import write_json, write_text
from pointworld.robot import RobotModel
from pointworld.train import PREDICTORS, evaluate, read_evaluation_clip, tune_radius
from pointworld.train.report import plot_families, report

#: Validation clips on which the rigid-carry radius is tuned.
TUNING_CLIPS = 100


@dataclass(frozen=True, kw_only=True)
class EvaluateArgs:
    """Measure a checkpoint on clips of `pointworld generate`, through their rendered RGB-D.

    Baselines: no motion; rigid carry (points near the hand move with it, radius tuned on --validation); whole-object
    carry (objects known by true segmentation move with the hand once it touches them).

    Example: pointworld evaluate data/test --checkpoint tiny --validation data/val --json
    """

    data: tyro.conf.Positional[Path]
    """Folder of clips."""
    checkpoint: str = "tiny"
    """Name of a bundled checkpoint, or a folder or file."""
    validation: Path | None = None
    """Clips for tuning the rigid-carry radius; without them it is 3 cm."""
    out: Path | None = None
    """Folder for evaluation.json, the same as tables and a picture (evaluation.md, evaluation.png), and run.json."""
    limit: int | None = None
    """Evaluate only the first clips."""
    device: str = "cpu"
    """auto, cpu or cuda."""
    json: bool = False
    """Print the table as one JSON object on stdout."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(EvaluateArgs, argv, prog="pointworld evaluate")
    start = time.perf_counter()
    model = pointworld.load(args.checkpoint, device=pick_device(args.device))
    robot = RobotModel.load(model.spec.robot)
    radius = 0.03 if args.validation is None else _tuned_radius(args.validation, robot)
    tuned = time.perf_counter()
    count = len(list_clips(args.data)[: args.limit])
    with progress(count, "clips") as advance:
        table = evaluate(
            args.data,
            model,
            robot,
            radius=radius,
            encoder=model.image_encoder(),
            limit=args.limit,
            on_clip=advance,
        )
    result = {"data": str(args.data), "checkpoint": args.checkpoint, **table}
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        write_json(args.out / "evaluation.json", result)
        label = Path(args.checkpoint).name
        write_text(args.out / "evaluation.md", report({label: result}) + "\n")
        plot_families({label: result}, args.out / "evaluation.png")
        timings = {"tune": tuned - start, "evaluate": time.perf_counter() - tuned}
        write_run_json(args.out, command="evaluate", config=args, seed=None, timings=timings)
    show(result)
    if args.json:
        stdout_json(result)
    return 0


def _tuned_radius(validation: Path, robot: RobotModel) -> float:
    clips = [
        read_evaluation_clip(read_clip(path), robot)
        for path in list_clips(validation)[:TUNING_CLIPS]
    ]
    return tune_radius(clips)


def show(result: dict) -> None:
    """Print the table for people."""
    table = Table(title=f"{result['checkpoint']} on {result['data']}, {result['clips']} clips")
    for heading in (
        "",
        "predictor",
        "mover error [mm]",
        "/ no motion",
        "never moving [mm]",
        "false motion [%]",
    ):
        table.add_column(heading, justify="left" if heading in ("", "predictor") else "right")
    for group, scores in {"overall": result["overall"], **result["families"]}.items():
        for name in PREDICTORS:
            metrics = scores["metrics"][name]
            table.add_row(
                group,
                name,
                _cell(metrics["l2_moved"], 1e3, "{:.1f} ± {:.1f}"),
                _number(scores["ratios_to_no_motion"][name], 1.0, "{:.3f}"),
                _number(metrics["l2_never_moving"]["mean"], 1e3, "{:.2f}"),
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
