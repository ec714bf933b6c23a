"""`pointworld evaluate --report`: tables and pictures of several evaluations, alone or inside a page."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pointworld.cli.common import console, parse
from pointworld.errors import InputError
from pointworld.files import write_text
from pointworld.train.page import fill_page
from pointworld.train.plots import plot_families, plot_steps
from pointworld.train.report import TABLES, physics_table, report
from pointworld.train.zero_shot import ZeroShot, zero_shot_blocks


@dataclass(frozen=True, kw_only=True)
class ReportArgs:
    """Tables of evaluations made by `pointworld evaluate --out`; several checkpoints share one table.

    With --page, the parts of a Markdown page between <!-- generated: NAME --> and <!-- end: NAME --> are replaced;
    NAME is about, summary, targets, families, steps, rest, spread or released; physics with --physics; zero-shot or
    second-arm with --zero-shot. The rest of the page stays. Without it all tables go to stdout.

    Example: pointworld evaluate --report "tiny (shipped)=runs/tiny/test" "with images=runs/xfeat/test"
    --page docs/world_quality.md --pictures docs/images
    Example: pointworld evaluate --report runs/tiny/test --zero-shot families=out/a families_trained=out/b arm=out/c
    arm_trained=out/d arm_tuned=out/e
    """

    report: tuple[str, ...]
    """LABEL=FOLDER or LABEL=FILE.json each, the shipped model first; without LABEL= it is the checkpoint's name."""
    physics: Path | None = None
    """Evaluation made with --simulator (folder or file), for the table of wrong friction and mass."""
    zero_shot: tuple[str, ...] = ()
    """ROLE=FOLDER or ROLE=FILE.json each, of a second model that was trained without some families and one arm:
    families (on clips of those families), arm (on clips of that arm), arm_tuned (these again, after fine-tuning); and
    families_trained and arm_trained, the first model of --report on such clips."""
    left_out: tuple[str, ...] = ("articulated",)
    """Families or groups that the second model was trained without."""
    page: Path | None = None
    """Markdown page to fill."""
    pictures: Path | None = None
    """Folder for world_quality.png (families) and world_quality_steps.png."""


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(ReportArgs, argv, prog="pointworld evaluate")
    results = read_results(args.report)
    extra = _more_blocks(args, next(iter(results)))
    if args.page is None:
        sys.stdout.write("\n\n".join([report(results), *extra.values()]) + "\n")
    else:
        blocks = {name: table(results) for name, table in TABLES.items()} | extra
        write_text(args.page, fill_page(read_page(args.page), blocks))
        console.print(f"filled {args.page}")
    if args.pictures is not None:
        args.pictures.mkdir(parents=True, exist_ok=True)
        plot_families(results, args.pictures / "world_quality.png")
        plot_steps(results, args.pictures / "world_quality_steps.png")
    return 0


def _more_blocks(args: ReportArgs, label: str) -> dict[str, str]:
    """What --physics and --zero-shot fill; `label` is the shipped model's."""
    blocks: dict[str, str] = {}
    if args.physics is not None:
        blocks["physics"] = physics_table(read_result(args.physics))
    if args.zero_shot:
        blocks |= zero_shot_blocks(read_zero_shot(args.zero_shot, args.left_out), label)
    return blocks


def read_zero_shot(named: tuple[str, ...], left_out: tuple[str, ...]) -> ZeroShot:
    """The evaluations of --zero-shot.

    Raises:
        InputError: a role is unknown, missing or given twice, no evaluation there, or those of the arm are of
            different clips.
    """
    pairs = [entry.split("=", 1) for entry in named]
    roles = [field.name for field in fields(ZeroShot) if field.name != "left_out"]
    given = [pair[0] for pair in pairs]
    if sorted(given) != sorted(roles) or any(len(pair) == 1 for pair in pairs):
        raise InputError(
            f"--zero-shot needs ROLE=FOLDER once for each of {', '.join(roles)}; got {' '.join(named)}"
        )
    results = {role: read_result(Path(place)) for role, place in pairs}
    _check_same_clips({role: r for role, r in results.items() if role.startswith("arm")})
    return ZeroShot(**results, left_out=left_out)


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
        result = read_result(Path(place))
        label = label or Path(result["checkpoint"]).name
        if label in results:
            raise InputError(f"two evaluations are called '{label}'; name them: LABEL={place}")
        results[label] = result
    _check_same_clips(results)
    return results


def read_result(place: Path) -> dict[str, Any]:
    """One evaluation, from its folder or file.

    Raises:
        InputError: no evaluation there, or an old one.
    """
    path = place / "evaluation.json" if place.is_dir() else place
    try:
        result = json.loads(path.read_text())
        known = {"overall", "rigid", "families", "checkpoint"} <= set(result)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} holds no evaluation ({error})") from error
    if not known:
        raise InputError(
            f"{path} holds no evaluation of this version. Make one: pointworld evaluate DATA --out {path.parent}"
        )
    return dict(result)


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
