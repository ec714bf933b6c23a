"""`pointworld mpc`: plan with a world model and act, again and again, until the goal is reached; count successes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from pointworld.cli.common import console, parse, plain, progress, stdout_json
from pointworld.control.task_runs import (
    RULES,
    DynamicsName,
    Perception,
    PlannerName,
    RunConfig,
    run_many,
    summarise,
)
from pointworld.errors import InputError
from pointworld.files import write_json


@dataclass(frozen=True, kw_only=True)
class MpcArgs:
    """Close the loop in simulation: look, plan, act through the safety filter, look again.

    Success is judged by the simulator: task points on average within 2 cm of their goals (soft things 3 cm, doors 8
    degrees) for a second, with everything else moved by less than 2 cm.

    Example: pointworld mpc --task tissue_box --episodes 5 --out out/mpc
    Example: pointworld mpc --task drawer --dynamics oracle --perception true --json
    Example: pointworld mpc --task book --planner straight --perception true
    """

    task: Literal[
        "tissue_box", "book", "scarf", "pillow", "microwave", "drawer", "duster", "broom"
    ] = "tissue_box"
    """Family of scenes."""
    robot: Literal["sim"] = "sim"
    """The arm: an FR3 in MuJoCo. For your own see docs/bring_your_own_arm.md."""
    dynamics: DynamicsName = "model"
    """What predicts: the world model, the simulator itself (oracle), or nothing moves (none)."""
    planner: PlannerName = "mppi"
    """Search, or a rule: straight (one uncorrected push) and random."""
    perception: Perception = "rgbd"
    """Where the target is: found in rendered depth images, or the simulator's truth."""
    checkpoint: str = "tiny"
    """World model: a bundled name or a checkpoint folder."""
    episodes: int = 1
    """How many scenes."""
    seed: int = 0
    """Of the first scene; the next ones follow. The same seeds are the same scenes for all methods."""
    samples: int = 32
    """Candidates per iteration."""
    iterations: int = 2
    """Iterations of the search."""
    horizon: int = 10
    """Steps of 0.1 s that are planned ahead."""
    execute: int = 4
    """Steps of each plan that are carried out before the next look."""
    max_steps: int = 100
    """Steps of an episode."""
    budget: float = 0.0
    """Most seconds for a plan; 0 = no bound. With a bound, results depend on the speed of the machine."""
    renderer: Literal["auto", "gl", "rays"] = "auto"
    """How cameras see."""
    out: Path | None = None
    """Folder with a file per episode; a run that was stopped goes on there."""
    record: Path | None = None
    """Folder for recordings: states, commands, chunks, events, first and last picture."""
    dry_run: bool = False
    """Plan once and send nothing; what would be sent is recorded."""
    threads: int = 1
    """Of PyTorch."""
    json: bool = False
    """Print the summary as one JSON object on stdout."""

    def config(self) -> RunConfig:
        """What an episode depends on."""
        return RunConfig(
            task=self.task,
            dynamics="none" if self.planner in RULES else self.dynamics,
            planner=self.planner,
            perception=self.perception,
            samples=self.samples,
            iterations=self.iterations,
            horizon=self.horizon,
            execute=self.execute,
            max_steps=self.max_steps,
            budget_s=self.budget,
            checkpoint=self.checkpoint,
            renderer=self.renderer,
            dry_run=self.dry_run,
        )


def main(argv: list[str]) -> int:
    """Run the command."""
    args = parse(MpcArgs, argv, prog="pointworld mpc")
    if args.episodes < 1 or args.threads < 1:
        raise InputError("--episodes and --threads must be at least 1")
    torch.set_num_threads(args.threads)
    seeds = range(args.seed, args.seed + args.episodes)
    with progress(args.episodes, f"{args.task} episodes") as advance:

        def show(seed: int, episode: dict[str, Any]) -> None:
            advance(1)
            console.print(line(seed, episode["result"]), soft_wrap=True)

        episodes = run_many(args.config(), seeds, out=args.out, record=args.record, on_episode=show)
    summary = {"config": plain(args.config()), **summarise(episodes)}
    if args.out is not None:
        write_json(args.out / "summary.json", summary)
    low, high = summary["interval_95"]
    console.print(
        f"{summary['successes']} of {summary['episodes']} episodes succeeded "
        f"({100 * summary['success_rate']:.0f} %, 95 % interval {100 * low:.0f} to {100 * high:.0f} %)"
    )
    if args.json:
        stdout_json(summary)
    return 0


def line(seed: int, result: dict[str, Any]) -> str:
    """One episode in words."""
    text = (
        f"seed {seed}: {result['outcome']}, {100 * result['start_distance']:.1f} cm from the goal before, "
        f"{100 * result['distance']:.1f} cm after {result['steps']} steps, {result['plan_seconds']:.2f} s a plan"
    )
    return f"{text} ({result['reason']})" if result["reason"] else text
