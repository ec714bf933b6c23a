"""Tables and a picture of what `pointworld evaluate` measured, from its JSON alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointworld.files import atomic_path

Result = Mapping[str, Any]

#: Aims for the first checkpoint: mover error over no motion, error [m] and false motion of bodies that never move.
MOVER_AIM, REST_AIM, FALSE_MOTION_AIM = 0.40, 0.0015, 0.03
BASELINES = {
    "no_motion": "no motion",
    "rigid_carry": "rigid carry, tuned radius",
    "object_carry": "whole-object carry, true segmentation",
}


@dataclass(frozen=True, kw_only=True)
class Aim:
    """One aim, what was measured, and whether it is met."""

    name: str
    wanted: str
    measured: str
    met: bool


def _metric(group: Result, predictor: str, metric: str) -> Mapping[str, Any]:
    return group["metrics"][predictor][metric]


def _mean(group: Result, predictor: str, metric: str) -> float | None:
    return _metric(group, predictor, metric)["mean"]


def _cell(summary: Mapping[str, Any], scale: float = 1e3, digits: int = 1) -> str:
    if summary["mean"] is None:
        return "–"
    mean, error = summary["mean"] * scale, summary["standard_error"] * scale
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def _ratio(group: Result, predictor: str) -> str:
    value = group["ratios_to_no_motion"][predictor]
    return "–" if value is None else f"{value:.3f}"


def aims(result: Result) -> list[Aim]:
    """The aims for the first checkpoint against one evaluation; an undefined measurement is a miss."""
    overall = result["overall"]
    ratios = overall["ratios_to_no_motion"]
    model = ratios["model"]
    rest = _mean(overall, "model", "l2_never_moving")
    false_motion = _mean(overall, "model", "false_motion_share")
    found = [
        Aim(
            name="mover error / no motion",
            wanted=f"at most {MOVER_AIM:.2f}",
            measured=_ratio(overall, "model"),
            met=model is not None and model <= MOVER_AIM,
        )
    ]
    for name, wanted in (("rigid_carry", "below"), ("object_carry", "no worse than")):
        other = ratios[name]
        met = model is not None and other is not None
        found.append(
            Aim(
                name=f"against {BASELINES[name]}",
                wanted=f"{wanted} {_ratio(overall, name)}",
                measured=_ratio(overall, "model"),
                met=met and (model < other if name == "rigid_carry" else model <= other),
            )
        )
    for name, value, aim, scale, unit in (
        ("bodies that never move, mean error", rest, REST_AIM, 1e3, "mm"),
        ("their points predicted to move > 1 cm", false_motion, FALSE_MOTION_AIM, 1e2, "%"),
    ):
        found.append(
            Aim(
                name=name,
                wanted=f"at most {aim * scale:g} {unit}",
                measured="–" if value is None else f"{value * scale:.2f} {unit}",
                met=value is not None and value <= aim,
            )
        )
    return found


def aims_table(result: Result) -> str:
    """Markdown: every aim, its measurement, met or missed."""
    rows = [
        f"| {a.name} | {a.wanted} | {a.measured} | {'met' if a.met else '**missed**'} |"
        for a in aims(result)
    ]
    return "\n".join(["| aim | wanted | measured | |", "|---|---|---|---|", *rows])


def main_table(results: Mapping[str, Result]) -> str:
    """Markdown: baselines (of the first result) and every named model, mean ± standard error over clips."""
    first = next(iter(results.values()))
    rows = [(label, first["overall"], name) for name, label in BASELINES.items()]
    rows += [(f"**{label}**", result["overall"], "model") for label, result in results.items()]
    lines = [
        "| predictor | mover error [mm] | / no motion | movers at the last step [mm] | all points [mm] "
        "| never-moving bodies [mm] | of these > 1 cm [%] |",
        "|---|---|---|---|---|---|---|",
    ]
    for label, group, name in rows:
        cells = [
            label,
            _cell(_metric(group, name, "l2_moved")),
            _ratio(group, name),
            _cell(_metric(group, name, "l2_moved_last")),
            _cell(_metric(group, name, "l2"), digits=2),
            _cell(_metric(group, name, "l2_never_moving"), digits=2),
            _cell(_metric(group, name, "false_motion_share"), scale=1e2, digits=2),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def family_table(results: Mapping[str, Result]) -> str:
    """Markdown: mover error over no motion per family of motion."""
    first = next(iter(results.values()))
    names = ["clips with movers", "no motion [mm]", "rigid carry", "object carry", *results]
    lines = ["| family | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for family, group in first["families"].items():
        movers = _metric(group, "no_motion", "l2_moved")
        cells = [family, str(movers["count"]), _cell(movers)]
        cells += [_ratio(group, name) for name in ("rigid_carry", "object_carry")]
        cells += [_ratio(result["families"][family], "model") for result in results.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread_table(results: Mapping[str, Result]) -> str:
    """Markdown: how well the predicted spread describes the error."""
    columns = {
        "spearman_moved": "rank correlation among movers",
        "coverage_68": "within 1 σ, all",
        "coverage_68_moved": "within 1 σ, movers",
        "coverage_95": "within 1.96 σ, all",
        "coverage_95_moved": "within 1.96 σ, movers",
    }
    lines = ["| model | " + " | ".join(columns.values()) + " |", "|---" * 6 + "|"]
    for label, result in results.items():
        cells = [_cell(_metric(result["overall"], "model", m), 1.0, 2) for m in columns]
        lines.append("| " + " | ".join([label, *cells]) + " |")
    return "\n".join(lines)


def report(results: Mapping[str, Result]) -> str:
    """All tables as markdown.

    Args:
        results: label to what `pointworld evaluate --json` printed; the shipped model first.
    """
    first = next(iter(results.values()))
    return "\n\n".join(
        [
            f"{first['clips']} clips; the rigid-carry radius is {first['rigid_carry_radius_m'] * 1e3:g} mm.",
            main_table(results),
            "### Against the aims\n\n" + aims_table(first),
            "### Mover error over no motion, by kind of motion\n\n" + family_table(results),
            "### Predicted spread\n\n" + spread_table(results),
        ]
    )


def plot_families(results: Mapping[str, Result], path: Path) -> None:
    """Bars of mover error over no motion, overall and per family."""
    from matplotlib.figure import Figure

    first = next(iter(results.values()))
    groups: Sequence[str] = ["overall", *first["families"]]

    def pick(result: Result, group: str) -> Result:
        return result["overall"] if group == "overall" else result["families"][group]

    series = [(BASELINES[n], first, n) for n in ("rigid_carry", "object_carry")]
    series += [(label, result, "model") for label, result in results.items()]
    shown = [g for g in groups if pick(first, g)["ratios_to_no_motion"]["no_motion"] is not None]
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(series)
    for index, (label, result, name) in enumerate(series):
        heights = [pick(result, g)["ratios_to_no_motion"][name] or 0.0 for g in shown]
        places = [x + (index - (len(series) - 1) / 2) * width for x in range(len(shown))]
        axes.bar(places, heights, width, label=label)
    axes.axhline(1.0, color="0.4", linewidth=0.8)
    axes.axhline(MOVER_AIM, color="0.4", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(shown)), shown)
    axes.set_ylabel("mover error / no motion")
    axes.legend(frameon=False, fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
