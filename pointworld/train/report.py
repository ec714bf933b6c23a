"""Tables of what `pointworld evaluate` measured, from its JSON alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pointworld.errors import InputError
from pointworld.train.targets import Result, targets

LABELS = {
    "no_motion": "no motion",
    "rigid_carry": "rigid carry, tuned radius",
    "object_carry": "whole-object carry, true segmentation",
    "gnn": "graph network, same data",
    "wrong_physics": "simulator, nominal friction and mass",
}
#: What the simulator does not know, in the order of its table.
PHYSICS = {
    "wrong_friction": "friction unknown",
    "wrong_mass": "mass unknown",
    "wrong_physics": "both unknown",
}
_COLUMNS = ("l2", "l2_moved", "l2_static", "l2_conf", "l2_moved_conf", "l2_static_conf")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def cell(group: Result, name: str, metric: str, scale: float = 1e3, digits: int = 1) -> str:
    """A metric's mean ± standard error; a dash where it is undefined."""
    summary = group["metrics"].get(name, {}).get(metric)
    if summary is None or summary["mean"] is None:
        return "–"
    mean, error = summary["mean"] * scale, summary["standard_error"] * scale
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def number(value: float | None, scale: float = 1.0, digits: int = 3) -> str:
    """A number; a dash where it is undefined."""
    return "–" if value is None else f"{value * scale:.{digits}f}"


def ratio_cell(group: Result, name: str) -> str:
    """Mover error over no motion."""
    return number(group["ratios_to_no_motion"].get(name))


def _mean(group: Result, name: str, metric: str) -> float | None:
    summary = group["metrics"].get(name, {}).get(metric)
    return None if summary is None else summary["mean"]


def rows_of(results: Mapping[str, Result]) -> list[tuple[str, Result, str]]:
    """Label, evaluation and predictor of every row: the baselines (first evaluation that has each), then the models."""
    rows: list[tuple[str, Result, str]] = []
    for name, label in LABELS.items():
        owner = next((r for r in results.values() if name in r["overall"]["metrics"]), None)
        if owner is not None:
            rows.append((label, owner, name))
    return rows + [(f"**{label}**", result, "model") for label, result in results.items()]


def targets_table(results: Mapping[str, Result]) -> str:
    """Markdown: every target against the first evaluation."""
    rows = [
        (t.name, t.wanted, t.measured, t.verdict) for t in targets(next(iter(results.values())))
    ]
    return markdown_table(("target", "wanted", "measured", ""), rows)


def main_table(results: Mapping[str, Result]) -> str:
    """Markdown: baselines and models, mean ± standard error over clips."""
    header = (
        "predictor",
        "mover error [mm]",
        "/ no motion",
        "movers at the last step [mm]",
        "all points [mm]",
        "never-moving bodies [mm]",
        "99th percentile [mm]",
        "of these > 1 cm [%]",
    )
    rows = []
    for label, result, name in rows_of(results):
        group = result["overall"]
        rows.append(
            (
                label,
                cell(group, name, "l2_moved"),
                ratio_cell(group, name),
                cell(group, name, "l2_moved_last"),
                cell(group, name, "l2", digits=2),
                cell(group, name, "l2_never_moving", digits=2),
                number(group["never_moving_p99"].get(name), 1e3, 1),
                cell(group, name, "false_motion_share", scale=1e2, digits=2),
            )
        )
    return markdown_table(header, rows)


def family_rows(first: Result, columns: Sequence[tuple[str, Result, str]]) -> list[list[str]]:
    """Cells of every family, of the families of rigid objects, and of all.

    Args:
        first: names the families and says what no motion is.
        columns: label, evaluation and predictor of what is compared.
    """

    def row(title: str, pick: Callable[[Result], Result | None]) -> list[str]:
        group = pick(first)
        movers = {} if group is None else group["metrics"].get("no_motion", {}).get("l2_moved", {})
        still = "–" if group is None else cell(group, "no_motion", "l2_moved")
        cells = [title, str(movers.get("count", 0)), still]
        for _, result, name in columns:
            found = pick(result)
            cells.append("–" if found is None else ratio_cell(found, name))
        return cells

    rows = [
        row(family, lambda result, family=family: result["families"].get(family))  # type: ignore[misc]
        for family in first["families"]
    ]
    rows.append(row("families of rigid objects", lambda result: result["rigid"]))
    rows.append(row("**all**", lambda result: result["overall"]))
    return rows


def family_table(results: Mapping[str, Result]) -> str:
    """Markdown: mover error over no motion per family of motion, and over the families of rigid objects."""
    first = next(iter(results.values()))
    others = [row for row in rows_of(results) if row[2] != "no_motion"]
    header = ("family", "clips with movers", "no motion [mm]", *(label for label, _, _ in others))
    return markdown_table(header, family_rows(first, others))


def physics_table(result: Result) -> str:
    """Markdown: what the simulator leaves of no motion when it does not know friction, mass or both, by family.

    Raises:
        InputError: the evaluation was made without the simulator, or by a version that knew fewer guesses.
    """
    if not set(PHYSICS) <= set(result["overall"]["metrics"]):
        raise InputError(
            f"the evaluation of {result['data']} has no simulator with wrong friction and mass. "
            "Make one: pointworld evaluate DATA --simulator --out FOLDER"
        )
    groups = {**result["families"], "**all**": result["overall"]}
    rows = []
    for title, group in groups.items():
        known = group["metrics"].get("wrong_physics", {}).get("l2_moved", {"count": 0})
        if known["count"]:
            ratios = [_ratio_with_error(group, name) for name in PHYSICS]
            rows.append([title, str(known["count"]), *ratios])
    return markdown_table(("family", "clips with movers", *PHYSICS.values()), rows)


def _ratio_with_error(group: Result, name: str) -> str:
    """Mover error over no motion on the same clips, ± its standard error over clips."""
    summary, ratio = group["metrics"][name]["l2_moved"], group["ratios_to_no_motion"][name]
    if not ratio:
        return number(ratio)
    return f"{ratio:.3f} ± {summary['standard_error'] * ratio / summary['mean']:.3f}"


def step_numbers(group: Result) -> list[int]:
    """The steps of an evaluation."""
    names = group["metrics"].get("no_motion", {})
    return sorted(int(name.split("@")[1]) for name in names if name.startswith("l2_moved@"))


def step_table(results: Mapping[str, Result]) -> str:
    """Markdown: error of the points that move in a step, over that of no motion, step by step."""
    first = next(iter(results.values()))["overall"]
    others = [row for row in rows_of(results) if row[2] != "no_motion"]
    rows = []
    for step in step_numbers(first):
        metric = f"l2_moved@{step}"
        cells = [str(step), cell(first, "no_motion", metric)]
        for _, result, name in others:
            cells.append(number(step_ratio(result["overall"], name, step)))
        rows.append(cells)
    header = ("step", "no motion [mm]", *(label for label, _, _ in others))
    return markdown_table(header, rows)


def step_ratio(group: Result, name: str, step: int) -> float | None:
    """Error of the points that move in `step` over that of no motion; None where nothing moves."""
    own, still = (_mean(group, n, f"l2_moved@{step}") for n in (name, "no_motion"))
    return None if own is None or not still else own / still


def rest_table(results: Mapping[str, Result]) -> str:
    """Markdown: bodies that have moved and lie still at the end, and tools fixed to the hand, reported apart."""
    rows = []
    for label, result, name in rows_of(results):
        group = result["overall"]
        own, still = (_mean(group, n, "l2_came_to_rest") for n in (name, "no_motion"))
        ratio = None if own is None or not still else own / still
        rows.append(
            (
                label,
                cell(group, name, "l2_came_to_rest"),
                number(ratio),
                cell(group, name, "l2_held"),
            )
        )
    header = ("predictor", "came to rest [mm]", "/ no motion", "tools held in the hand [mm]")
    return markdown_table(header, rows)


def spread_table(results: Mapping[str, Result]) -> str:
    """Markdown: how well the predicted spread describes the error."""
    columns = {"spearman_moved": "rank correlation among movers"}
    for suffix, who in (("_near", "points looked at"), ("_moved", "movers"), ("", "all points")):
        columns |= {f"coverage_{p}{suffix}": f"{p} % interval, {who}" for p in (68, 95)}
    rows = [
        (label, *(cell(result["overall"], name, metric, 1.0, 2) for metric in columns))
        for label, result, name in rows_of(results)
        if "spearman_moved" in result["overall"]["metrics"].get(name, {})
    ]
    return markdown_table(("model", *columns.values()), rows)


def released_table(results: Mapping[str, Result]) -> str:
    """Markdown: the columns of the release's own table, in both of its modes [mm]."""
    rows = [
        (
            label,
            mode,
            *(
                cell(result["overall"], "model", f"released/{mode}/{name}", digits=2)
                for name in _COLUMNS
            ),
        )
        for label, result in results.items()
        for mode in ("compat", "exact")
    ]
    return markdown_table(("model", "mode", *_COLUMNS), rows)


def _about(results: Mapping[str, Result]) -> str:
    first: Any = next(iter(results.values()))
    return f"{first['clips']} clips; the rigid-carry radius is {first['rigid_carry_radius_m'] * 1e3:g} mm."


#: What a page can ask for by name.
TABLES: Mapping[str, Callable[[Mapping[str, Result]], str]] = {
    "about": _about,
    "summary": main_table,
    "targets": targets_table,
    "families": family_table,
    "steps": step_table,
    "rest": rest_table,
    "spread": spread_table,
    "released": released_table,
}
_TITLES = {
    "targets": "Against the targets",
    "families": "Mover error over no motion, by kind of motion",
    "steps": "Mover error over no motion, step by step",
    "rest": "Bodies that come to rest, and held tools",
    "spread": "Predicted spread",
    "released": "The release's columns",
}


def report(results: Mapping[str, Result]) -> str:
    """All tables as markdown.

    Args:
        results: label to the JSON of `pointworld evaluate`; the shipped model first.
    """
    parts = []
    for name, table in TABLES.items():
        title = _TITLES.get(name)
        parts.append((f"### {title}\n\n" if title else "") + table(results))
    return "\n\n".join(parts)
