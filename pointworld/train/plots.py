"""Pictures of what `pointworld evaluate` measured, from its JSON alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pointworld.files import atomic_path
from pointworld.train.report import Result, rows_of, step_numbers, step_ratio
from pointworld.train.targets import OVERALL


def plot_families(results: Mapping[str, Result], path: Path) -> None:
    """Bars of mover error over no motion, overall and per family."""
    from matplotlib.figure import Figure

    first = next(iter(results.values()))

    def pick(result: Result, group: str) -> Result:
        found: Result = result["overall"] if group == "all" else result["families"].get(group, {})
        return found.get("ratios_to_no_motion", {})

    series = [row for row in rows_of(results) if row[2] != "no_motion"]
    groups = ["all", *first["families"]]
    shown = [g for g in groups if pick(first, g).get("no_motion") is not None]
    figure = Figure(figsize=(max(8.0, 1.1 * len(shown)), 3.6), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(series)
    for index, (label, result, name) in enumerate(series):
        heights = [pick(result, g).get(name) or 0.0 for g in shown]
        places = [x + (index - (len(series) - 1) / 2) * width for x in range(len(shown))]
        axes.bar(places, heights, width, label=label.strip("*"))
    axes.axhline(1.0, color="0.4", linewidth=0.8)
    axes.axhline(OVERALL, color="0.4", linewidth=0.8, linestyle=":")
    turn = 0 if len(shown) <= 8 else 30
    axes.set_xticks(range(len(shown)), shown, rotation=turn, ha="center" if not turn else "right")
    axes.set_ylabel("mover error / no motion")
    figure.legend(loc="outside upper center", frameon=False, fontsize=8, ncols=3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def plot_steps(results: Mapping[str, Result], path: Path) -> None:
    """Lines of mover error over no motion, step by step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    steps = step_numbers(next(iter(results.values()))["overall"])
    for label, result, name in rows_of(results):
        if name == "no_motion":
            continue
        values = [(s, step_ratio(result["overall"], name, s)) for s in steps]
        known = [(s, v) for s, v in values if v is not None]
        style = "-o" if name == "model" else "--"
        axes.plot(*zip(*known, strict=True), style, markersize=3, label=label.strip("*"))
    axes.set_xticks(steps)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("step")
    axes.set_ylabel("mover error / no motion")
    axes.legend(frameon=False, fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
