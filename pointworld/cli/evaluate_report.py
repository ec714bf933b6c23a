"""`pointworld evaluate --report`: tables and pictures of several evaluations, alone or inside a page."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointworld.cli.common import console, parse
from pointworld.errors import InputError
from pointworld.files import write_text
from pointworld.train.page import fill_page
from pointworld.train.plots import plot_families, plot_steps
from pointworld.train.report import TABLES, report


@dataclass(frozen=True, kw_only=True)
class ReportArgs:
    """Tables of evaluations made by `pointworld evaluate --out`; several checkpoints share one table.

    With --page, the parts of a Markdown page between <!-- generated: NAME --> and <!-- end: NAME --> are replaced;
    NAME is about, summary, targets, families, steps, rest, spread or released. The rest of the page stays. Without it
    all tables go to stdout.

    Example: pointworld evaluate --report "tiny (shipped)=runs/tiny/test" "with images=runs/xfeat/test"
    --page docs/world_quality.md --pictures docs/images
    """

    report: tuple[str, ...]
    """LABEL=FOLDER or LABEL=FILE.json each, the shipped model first; without LABEL= it is the checkpoint's name."""
    page: Path | None = None
    """Markdown page to fill."""
    pictures: Path | None = None
    """Folder for world_quality.png (families) and world_quality_steps.png."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(ReportArgs, argv, prog="pointworld evaluate")
    results = read_results(args.report)
    if args.page is None:
        sys.stdout.write(report(results) + "\n")
    else:
        blocks = {name: table(results) for name, table in TABLES.items()}
        write_text(args.page, fill_page(read_page(args.page), blocks))
        console.print(f"filled {args.page}")
    if args.pictures is not None:
        args.pictures.mkdir(parents=True, exist_ok=True)
        plot_families(results, args.pictures / "world_quality.png")
        plot_steps(results, args.pictures / "world_quality_steps.png")
    return 0


def read_page(path: Path) -> str:
    """A Markdown page.

    Raises:
        InputError: there is no such file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such page")
    return path.read_text(encoding="utf-8")


def read_results(named: tuple[str, ...]) -> dict[str, Any]:
    """Label to evaluation.

    Raises:
        InputError: no evaluation there, an old one, two of one label, or of different clips.
    """
    results: dict[str, Any] = {}
    for entry in named:
        label, _, place = entry.rpartition("=")
        path = Path(place) / "evaluation.json" if Path(place).is_dir() else Path(place)
        try:
            result = json.loads(path.read_text())
            known = {"overall", "rigid", "families", "checkpoint"} <= set(result)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{path} holds no evaluation ({error})") from error
        if not known:
            raise InputError(
                f"{path} holds no evaluation of this version. Make one: pointworld evaluate DATA --out {path.parent}"
            )
        label = label or Path(result["checkpoint"]).name
        if label in results:
            raise InputError(f"two evaluations are called '{label}'; name them: LABEL={place}")
        results[label] = result
    _check_same_clips(results)
    return results


def _check_same_clips(results: dict[str, Any]) -> None:
    """No motion has the same error wherever the clips are the same."""
    still = {
        label: result["overall"]["metrics"]["no_motion"]["l2_moved"]["mean"]
        for label, result in results.items()
    }
    first = next(iter(still.values()))
    for label, value in still.items():
        if not math.isclose(value or 0.0, first or 0.0, rel_tol=1e-6):
            raise InputError(
                f"'{label}' was measured on other clips than '{next(iter(still))}'; one table needs the same for all"
            )
