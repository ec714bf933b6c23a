"""What the world model is meant to reach on the test split, and whether an evaluation reaches it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Result = Mapping[str, Any]

#: Mover error over no motion: families of free rigid objects, all clips, any single family.
RIGID, OVERALL, FAMILY = 0.28, 0.35, 0.60
#: Bodies that never move: mean [m], 99th percentile [m], share of points predicted to move > 1 cm.
REST_MEAN, REST_P99, FALSE_MOTION = 0.001, 0.005, 0.02
#: Rank correlation among movers; how far coverage may be from nominal.
SPEARMAN, COVERAGE = 0.5, 0.10
#: Baselines that know no more than a model could: the simulator is not one of them.
BASELINES = ("rigid_carry", "object_carry", "gnn")


@dataclass(frozen=True, kw_only=True)
class Target:
    """One target, what was measured, and whether it is met; an undefined measurement is a miss.

    off: by how much it is missed; empty where it is met or undefined.
    """

    name: str
    wanted: str
    measured: str
    met: bool
    off: str = ""

    @property
    def verdict(self) -> str:
        """Markdown: met, or missed and by how much."""
        return "met" if self.met else f"**missed**{f' by {self.off}' if self.off else ''}"


def at_most(
    name: str,
    value: float | None,
    limit: float,
    *,
    scale: float = 1.0,
    unit: str = "",
    wanted: str | None = None,
) -> Target:
    """A target that a value may not exceed.

    Args:
        scale, unit: of the text.
        wanted: text instead of "at most LIMIT".
    """
    digits = 3 if not unit else 2
    met = value is not None and value <= limit
    off = ""
    if value is not None and not met:
        off = f"{(value - limit) * scale:.{digits}f}{unit} ({100 * (value / limit - 1):.0f} %)"
    return Target(
        name=name,
        wanted=wanted or f"at most {limit * scale:g}{unit}",
        measured="–" if value is None else f"{value * scale:.{digits}f}{unit}",
        met=met,
        off=off,
    )


def _mean(group: Result, metric: str) -> float | None:
    found = group["metrics"].get("model", {}).get(metric)
    return None if found is None else found["mean"]


def best_baseline(group: Result) -> tuple[str, float] | None:
    """The baseline with the least mover error of a group of clips, and its ratio to no motion."""
    ratios = group["ratios_to_no_motion"]
    known = [(ratios[name], name) for name in BASELINES if ratios.get(name) is not None]
    if not known:
        return None
    ratio, name = min(known)
    return name, ratio


def targets(result: Result) -> list[Target]:
    """All targets against one evaluation (the JSON of `pointworld evaluate`)."""
    overall = result["overall"]
    found = [
        at_most(
            f"mover error / no motion, {name}", group["ratios_to_no_motion"].get("model"), limit
        )
        for name, group, limit in (
            ("families of rigid objects", result["rigid"], RIGID),
            ("all families", overall, OVERALL),
        )
    ]
    found += _family_targets(result["families"])
    percentile = overall["never_moving_p99"].get("model")
    false_motion = _mean(overall, "false_motion_share")
    found += [
        at_most(
            "bodies that never move, mean",
            _mean(overall, "l2_never_moving"),
            REST_MEAN,
            scale=1e3,
            unit=" mm",
        ),
        at_most(
            "bodies that never move, 99th percentile", percentile, REST_P99, scale=1e3, unit=" mm"
        ),
        at_most(
            "their points predicted to move > 1 cm",
            false_motion,
            FALSE_MOTION,
            scale=1e2,
            unit=" %",
        ),
    ]
    spearman = _mean(overall, "spearman_moved")
    found.append(
        Target(
            name="rank correlation of predicted spread and error among movers",
            wanted=f"at least {SPEARMAN:g}",
            measured="–" if spearman is None else f"{spearman:.2f}",
            met=spearman is not None and spearman >= SPEARMAN,
            off=f"{SPEARMAN - spearman:.2f}"
            if spearman is not None and spearman < SPEARMAN
            else "",
        )
    )
    return found + [
        _coverage_target(overall, percent, nominal, suffix, who)
        for suffix, who in (("_near", "points the network looks at"), ("_moved", "movers"))
        for percent, nominal in ((68, 0.6827), (95, 0.95))
    ]


def _family_targets(families: Mapping[str, Result]) -> list[Target]:
    """In every family that has movers: a limit, and the best baseline."""
    found = []
    for family, group in families.items():
        if group["ratios_to_no_motion"].get("no_motion") is None:
            continue
        ratio = group["ratios_to_no_motion"].get("model")
        best = best_baseline(group)
        limit = FAMILY if best is None else min(FAMILY, best[1])
        against = "" if best is None or best[1] > FAMILY else f" ({best[0].replace('_', ' ')})"
        found.append(
            at_most(
                f"mover error / no motion, {family}",
                ratio,
                limit,
                wanted=f"at most {limit:.3f}{against}",
            )
        )
    return found


def _coverage_target(group: Result, percent: int, nominal: float, suffix: str, who: str) -> Target:
    value = _mean(group, f"coverage_{percent}{suffix}")
    beyond = 0.0 if value is None else abs(value - nominal) - COVERAGE
    return Target(
        name=f"{percent} % coverage, {who}",
        wanted=f"{100 * (nominal - COVERAGE):.0f} to {min(100.0, 100 * (nominal + COVERAGE)):.0f} %",
        measured="–" if value is None else f"{100 * value:.1f} %",
        met=value is not None and beyond <= 0,
        off=f"{100 * beyond:.1f} points" if beyond > 0 else "",
    )
