"""Success of closing the loop: task families x methods on the same scenes, resumable, as a table with intervals.

    python benchmarks/mpc_success.py --out out/mpc --episodes 20
    python benchmarks/mpc_success.py --out out/mpc --tasks tissue_box drawer --methods straight oracle --episodes 5

Every episode is a file in OUT/TASK/METHOD; run it again to go on. A family is admitted when a straight push succeeds
in at most half of its scenes and the oracle in at least 85 % (soft things 70 %).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pointworld.control.task_runs import RunConfig, run_many, summarise
from pointworld.errors import InputError
from pointworld.files import write_json, write_text
from pointworld.plan.tasks import TASKS

SOFT = ("scarf", "pillow")
#: Highest rate of the straight push and lowest of the oracle at which a family tells planners apart.
STRAIGHT_MOST, ORACLE_LEAST, ORACLE_LEAST_SOFT = 0.5, 0.85, 0.7
METHODS = ("model", "model_true", "oracle", "open_loop", "push_again", "straight", "random")


def method_config(method: str, task: str, base: RunConfig) -> RunConfig:
    """Settings of a method.

    model: the world model through cameras; model_true: with true places of the target; open_loop: the world model's
    first plan, three seconds long, carried out without a second look; push_again: pushes by rule, aimed anew at
    every look, without any prediction; straight and random: see `pointworld mpc`.
    """
    base = replace(base, task=task)
    if task in SOFT:
        # Cloth and pillows are slow to simulate.
        base = replace(base, samples=max(8, base.samples // 2))
    if method == "model":
        return replace(base, dynamics="model", perception="rgbd")
    if method == "model_true":
        return replace(base, dynamics="model", perception="true")
    if method == "open_loop":
        whole = {"horizon": 30, "execute": 30, "max_steps": 30}
        return replace(base, dynamics="model", perception="rgbd", **whole)
    if method == "oracle":
        return replace(base, dynamics="oracle", perception="true")
    if method == "push_again":
        return replace(base, dynamics="none", perception="true")
    planner: Any = method
    rule = replace(base, dynamics="none", planner=planner, perception="true", execute=8)
    # A single push has ended by then.
    return replace(rule, max_steps=80)


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
    """Markdown: a row per task, a column per method, with 95 % intervals."""
    head = ["task", *methods, "admitted"]
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for task, by_method in results.items():
        cells = [task]
        for method in methods:
            found = by_method.get(method)
            if found is None:
                cells.append("not run")
                continue
            low, high = (100 * v for v in found["interval_95"])
            good, total = found["successes"], found["episodes"]
            cells.append(f"{good}/{total} ({low:.0f} to {high:.0f} %)")
        rates = {m: s["success_rate"] for m, s in by_method.items()}
        rows.append("| " + " | ".join([*cells, admitted(task, rates)]) + " |")
    return "\n".join(rows) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("out/mpc"))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--soft-episodes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--iterations", type=int, default=1)
    parser.add_argument("--checkpoint", default="tiny")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    base = RunConfig(
        task="book", samples=args.samples, iterations=args.iterations, checkpoint=args.checkpoint
    )
    results: dict[str, dict[str, Any]] = {}
    for task in args.tasks:
        results[task] = {}
        count = min(args.episodes, args.soft_episodes) if task in SOFT else args.episodes
        for method in args.methods:
            try:
                config = method_config(method, task, base)
            except InputError as error:
                sys.stderr.write(f"{task} {method}: {error}\n")
                continue
            seeds = range(args.seed, args.seed + count)
            episodes = run_many(config, seeds, out=args.out / task / method)
            results[task][method] = summarise(episodes)
            write_json(args.out / "results.json", results)
            write_text(args.out / "table.md", table(results, args.methods))
    sys.stdout.write(table(results, args.methods))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
