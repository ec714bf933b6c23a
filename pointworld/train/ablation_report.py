"""Tables and a curve of what `pointworld ablate` measured, from its JSON alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pointworld.files import atomic_path

Study = Mapping[str, Any]
_TICKS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0)

TITLES: dict[str, str] = {
    "loss": "loss",
    "features": "what a point shows",
    "cameras": "cameras",
    "data": "training clips",
    "size": "backbone",
    "rollout": "steps",
    "tokens": "tokens and features",
}


def ratio(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """Mover error over no motion of a variant, and its standard error over clips; None without movers."""
    overall = row["evaluation"]["overall"]
    value = overall["ratios_to_no_motion"].get("model")
    error = overall["metrics"]["model"]["l2_moved"]["standard_error"]
    still = overall["metrics"]["no_motion"]["l2_moved"]["mean"]
    if value is None or error is None or not still:
        return None
    return value, error / still


def _value(row: Mapping[str, Any], metric: str, scale: float, digits: int) -> str:
    summary = row["evaluation"]["overall"]["metrics"]["model"].get(metric)
    if summary is None or summary["mean"] is None:
        return "–"
    return f"{summary['mean'] * scale:.{digits}f}"


def study_table(study: Study) -> str:
    """Markdown: one row per variant; ± is the standard error over test clips, not over training runs."""
    header = (
        TITLES.get(study["study"], str(study["study"])),
        "mover error / no motion",
        "never-moving bodies [mm]",
        "of these > 1 cm [%]",
        "rank correlation",
        "training samples",
        "steps",
        "parameters",
    )
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for row in study["rows"]:
        found = ratio(row)
        cells = (
            row["label"],
            "–" if found is None else f"{found[0]:.3f} ± {found[1]:.3f}",
            _value(row, "l2_never_moving", 1e3, 2),
            _value(row, "false_motion_share", 1e2, 2),
            _value(row, "spearman_moved", 1.0, 2),
            f"{row['training']['train_samples']:.0f}",
            f"{row['training']['step']:.0f}",
            f"{row['training']['parameters'] / 1e6:.1f} M",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot_scaling(study: Study, path: Path) -> None:
    """Mover error over no motion against the number of training clips, both on logarithmic axes, with a power law."""
    from matplotlib.figure import Figure

    points = sorted(
        (float(row["training"]["train_samples"]), *found)
        for row in study["rows"]
        if (found := ratio(row)) is not None
    )
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    clips, values, errors = zip(*points, strict=True)
    axes.errorbar(clips, values, yerr=errors, fmt="o-", capsize=3)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(clips, [f"{c:.0f}" for c in clips])
    axes.minorticks_off()
    shown = [v for v in _TICKS if _within(v, values)]
    axes.set_yticks(shown, [f"{v:g}" for v in shown])
    axes.set_xlabel("training clips")
    axes.set_ylabel("mover error / no motion")
    axes.set_title(f"error ~ clips^{_exponent(points):.2f}", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _within(value: float, values: tuple[float, ...]) -> bool:
    return 0.8 * min(values) <= value <= 1.25 * max(values)


def _exponent(points: list[tuple[float, float, float]]) -> float:
    """Slope of a line through the logarithms of clips and error."""
    if len({p[0] for p in points}) < 2:
        return math.nan
    x, y = ([math.log(p[i]) for p in points] for i in (0, 1))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)
