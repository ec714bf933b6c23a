"""Success of closing the loop: task families x methods on the same scenes, resumable, as a table with intervals.

    python benchmarks/mpc_success.py --out out/mpc --stages 5 10 20 --page docs/planning.md
    python benchmarks/mpc_success.py --out out/mpc --tasks tissue_box drawer --methods straight oracle --stages 5
    python benchmarks/mpc_success.py --out out/mpc --study ablations --tasks drawer microwave --page docs/planning.md

Every episode is a file in OUT/TASK/METHOD; run it again to go on. Every family and method gets its first episodes (a
stage) before any gets more. A family is admitted when a straight push succeeds in at most half of its scenes and the
oracle in at least 85 % (soft things 70 %).
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pointworld.control.ray_runs import run_on_ray
from pointworld.control.task_runs import RunConfig, run_many, summarise
from pointworld.errors import InputError
from pointworld.files import write_json, write_text
from pointworld.plan.tasks import TASKS
from pointworld.train.page import fill_page

#: Episodes of a configuration with given seeds.
Run = Callable[..., list[dict[str, Any]]]

SOFT = ("scarf", "pillow")
#: Highest rate of the straight push and lowest of the oracle at which a family tells planners apart.
STRAIGHT_MOST, ORACLE_LEAST, ORACLE_LEAST_SOFT = 0.5, 0.85, 0.7
METHODS = ("model", "model_true", "oracle", "open_loop", "push_again", "straight", "random")
#: What is changed of `model`, one thing at a time. The planners make as many predictions as `model`, in three rounds of
#: eight, so that each can learn from what it has tried. The gradient planner takes eight steps from three starts; its
#: backward passes come on top.
ABLATIONS: dict[str, dict[str, Any]] = {
    **{
        f"{planner}_3x8": {"planner": planner, "samples": 8, "iterations": 3}
        for planner in ("mppi", "cem", "icem", "nevergrad")
    },
    "gradient_3x8": {"planner": "gradient"},
    "horizon_5": {"horizon": 5},
    "horizon_15": {"horizon": 15},
    "samples_8": {"samples": 8},
    "samples_64": {"samples": 64},
    # Three axes: with it the expected squared distance is minimised.
    "uncertainty": {"uncertainty": 3.0},
}
#: Methods and the part of the page of a study.
STUDIES = {
    "success": (METHODS, "mpc-success"),
    "ablations": (("model", *ABLATIONS, "model_true"), "mpc-ablations"),
}
#: Steps of 0.1 s after which an episode ends; a single push has ended by the second, which random motion gets too.
MOST_STEPS, MOST_STEPS_RULE = 400, 80


def method_config(method: str, task: str, base: RunConfig) -> RunConfig:
    """Settings of a method.

    model: the world model through cameras; model_true: with true places of the target; open_loop: one
    push, chosen by the world model two seconds ahead and carried out without a second look; push_again: pushes by
    rule, aimed anew at every look, without any prediction; straight and random: see `pointworld mpc`.
    """
    base = replace(base, task=task, max_steps=MOST_STEPS)
    if task in SOFT:
        # Cloth and pillows are slow to simulate.
        base = replace(base, samples=max(8, base.samples // 2))
    if method == "model" or method in ABLATIONS:
        return replace(base, dynamics="model", perception="rgbd", **ABLATIONS.get(method, {}))
    if method == "model_true":
        return replace(base, dynamics="model", perception="true")
    if method == "open_loop":
        first = replace(base, dynamics="model", perception="rgbd")
        return replace(first, planner="open_loop", horizon=20, execute=8, max_steps=MOST_STEPS_RULE)
    if method == "oracle":
        return replace(base, dynamics="oracle", perception="true")
    if method == "push_again":
        return replace(base, dynamics="none", perception="true")
    planner: Any = method
    rule = replace(base, dynamics="none", planner=planner, perception="true", execute=8)
    return replace(rule, max_steps=MOST_STEPS_RULE)


def admitted(task: str, rates: Mapping[str, float]) -> str:
    """yes, no with the reason, or open where a method has not run."""
    if "straight" not in rates or "oracle" not in rates:
        return "open"
    least = ORACLE_LEAST_SOFT if task in SOFT else ORACLE_LEAST
    if rates["straight"] > STRAIGHT_MOST:
        return f"no: straight push {100 * rates['straight']:.0f} %"
    if rates["oracle"] < least:
        return f"no: oracle {100 * rates['oracle']:.0f} %"
    return "yes"


def table(results: Mapping[str, Mapping[str, Mapping[str, Any]]], methods: list[str]) -> str:
    """Markdown: a row per task, a column per method, with 95 % intervals, and means over the families of a kind."""
    head = ["task", *methods, "admitted"]
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for task, by_method in results.items():
        cells = [f"`{task}`", *(_cell(by_method.get(method)) for method in methods)]
        rates = {m: s["success_rate"] for m, s in by_method.items()}
        rows.append("| " + " | ".join([*cells, admitted(task, rates)]) + " |")
    for name, tasks in (
        ("mean of rigid and articulated", [t for t in results if t not in SOFT]),
        ("mean of deformable", [t for t in results if t in SOFT]),
    ):
        cells = [_mean([results[t].get(m) for t in tasks]) for m in methods]
        rows.append("| " + " | ".join([name, *cells, ""]) + " |")
    return "\n".join(rows) + "\n"


def ablation_table(
    results: Mapping[str, Mapping[str, Mapping[str, Any]]], methods: list[str]
) -> str:
    """Markdown: a row per method; per task successes, seeds won and lost against `model`, steps of successes."""
    tasks = list(results)
    head = ["", *(f"`{t}` | won, lost | steps" for t in tasks)]
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * (1 + 3 * len(tasks))]
    for method in methods:
        cells = []
        for task in tasks:
            found, plain = results[task].get(method), results[task].get("model")
            paired = "" if method == "model" else _paired(found, plain)
            steps = None if found is None else found["mean_steps_of_successes"]
            cells += [_cell(found), paired, "" if steps is None else f"{steps:.0f}"]
        rows.append("| " + " | ".join([f"`{method}`", *cells]) + " |")
    return "\n".join(rows) + "\n"


def _paired(found: Mapping[str, Any] | None, plain: Mapping[str, Any] | None) -> str:
    """Scenes in which only this method succeeds, and in which only `model` does."""
    if found is None or plain is None:
        return ""
    mine, theirs = (
        {o["seed"]: o["outcome"] == "success" for o in f["outcomes"]} for f in (found, plain)
    )
    both = mine.keys() & theirs.keys()
    won, lost = (sum(a[s] > b[s] for s in both) for a, b in ((mine, theirs), (theirs, mine)))
    return f"+{won} \N{MINUS SIGN}{lost}"


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "not run"
    low, high = (100 * v for v in found["interval_95"])
    faults = len(found["faults"])
    said = f"{found['successes']}/{found['episodes']} ({low:.0f} to {high:.0f} %)"
    return f"{said}, {faults} fault{'s' if faults > 1 else ''}" if faults else said


def _mean(found: list[Mapping[str, Any] | None]) -> str:
    """Mean rate over families, each counting the same."""
    rates = [100 * f["success_rate"] for f in found if f is not None]
    if not rates:
        return "not run"
    missing = f" of {len(rates)}/{len(found)} families" if len(rates) < len(found) else ""
    return f"{sum(rates) / len(rates):.0f} %{missing}"


def main(argv: list[str] | None = None) -> int:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("out/mpc"))
    parser.add_argument("--study", default="success", choices=list(STUDIES))
    parser.add_argument(
        "--page", type=Path, help="page with generated parts: the study's is filled"
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument(
        "--methods", nargs="+", choices=[*METHODS, *ABLATIONS], help="default: all of the study"
    )
    parser.add_argument("--stages", nargs="+", type=int, default=[5, 10, 20], help="episodes each")
    parser.add_argument("--soft-episodes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--iterations", type=int, default=1)
    parser.add_argument("--checkpoint", default="tiny")
    parser.add_argument(
        "--ray", help="spread episodes over a Ray cluster: local, auto or an address"
    )
    parser.add_argument("--workers", type=int, default=2, help="of --ray local")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    run: Run = run_many
    if args.ray is not None:
        run = partial(run_on_ray, address=args.ray, workers=args.workers)
    known, part = STUDIES[args.study]
    methods = args.methods or list(known)
    tabulate = table if args.study == "success" else ablation_table
    base = RunConfig(
        task="book", samples=args.samples, iterations=args.iterations, checkpoint=args.checkpoint
    )
    results: dict[str, dict[str, Any]] = {task: {} for task in args.tasks}
    for stage in args.stages:
        for task, method in itertools.product(args.tasks, methods):
            count = min(stage, args.soft_episodes) if task in SOFT else stage
            try:
                config = method_config(method, task, base)
            except InputError as error:
                sys.stderr.write(f"{task} {method}: {error}\n")
                continue
            seeds = range(args.seed, args.seed + count)
            episodes = run(config, seeds, out=args.out / task / method)
            results[task][method] = summarise(episodes)
            write_json(args.out / f"{part}.json", results)
            write_text(args.out / f"{part}.md", tabulate(results, methods))
            if args.page is not None:
                page = args.page.read_text(encoding="utf-8")
                write_text(args.page, fill_page(page, {part: tabulate(results, methods)}))
    sys.stdout.write(tabulate(results, methods))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
