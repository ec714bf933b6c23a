"""`pointworld mpc`: plan with a world model and act, again and again, until the goal is reached; count successes."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch

from pointworld.cli.common import console, parse, pick_device, plain, progress, stdout_json
from pointworld.cli.mpc_rig import run_on_arm
from pointworld.control.body import Space
from pointworld.control.filming import export_capture
from pointworld.control.ray_runs import run_on_ray
from pointworld.control.recording import read_recording
from pointworld.control.rig_open import RigConfig, RobotName
from pointworld.control.rig_runs import RigRun, take_look
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
from pointworld.plan.goal import read_goal
from pointworld.scene import Workspace


@dataclass(frozen=True, kw_only=True)
class MpcArgs:
    """Close the loop: look, plan, act through the safety filter, look again, until the goal is reached.

    Without --goal the goal is the task's, and success is judged by the simulator: task points on average within 2 cm
    of their goals (soft things 3 cm, doors 8 degrees) for a second, with everything else moved by less than 2 cm.
    With --goal goal.json (see pointworld goal) things that you chose go where you said.

    An arm other than sim runs behind a robot-server process and a control process with the safety filter, and nothing
    is sent to it without --arm. THIS IS NOT A CERTIFIED SAFETY SYSTEM: read docs/bring_your_own_arm.md first.

    Example: pointworld mpc --task tissue_box --episodes 5 --out out/mpc
    Example: pointworld mpc --task drawer --dynamics oracle --perception true --json
    Example: pointworld mpc --look my_look && pointworld mpc --goal goal.json
    Example: pointworld mpc --robot franka --host 172.16.0.2 --camera realsense:1234 --calibration side.json
        --goal goal.json --record out/run --dry-run
    """

    task: Literal[
        "tissue_box", "book", "scarf", "pillow", "microwave", "drawer", "duster", "broom"
    ] = "tissue_box"
    """Family of scenes of simulated cameras."""
    goal: Path | None = None
    """goal.json: which things should go where, in place of the task's goal."""
    robot: RobotName = "sim"
    """The arm. sim: an FR3 in MuJoCo. fake: numbers behind the real processes. franka-sim: a simulated control box.
    own: yours, by --driver."""
    host: str | None = None
    """Address of the arm."""
    python: Path | None = None
    """Python of the environment that has the arm's SDK (for franka-sim: franky-control and franky-sim)."""
    driver: Path | None = None
    """Python file of your own whose make_robot(clock) returns the arm (--robot own); see docs/bring_your_own_arm.md."""
    model: str = ""
    """Description of the arm: a bundled robot or a URDF; by default the one that goes with --robot."""
    camera: tuple[str, ...] = ("sim",)
    """sim (a simulated scene that follows the arm), replay:DIR (a capture; dry run only), or realsense:SERIAL ..."""
    calibration: tuple[Path, ...] = ()
    """Calibration file of every real camera; --arm is refused where one does not see the arm in its place."""
    workspace: str | None = None
    """Where the tool of a real arm may be, in its base frame: x0,y0,z0,x1,y1,z1 [m]."""
    table: float = 0.0
    """Height of a real arm's table in its base frame [m]."""
    press: bool = False
    """The hand may press onto the table, to drag a cloth. A simulated scarf may be pressed without being asked."""
    speed: float = 0.3
    """Share of the arm's velocity and acceleration limits that may be used (not for sim)."""
    tool_speed: float = 0.1
    """Of planned motion [m/s] (not for sim)."""
    max_frame_age: float = 0.3
    """Oldest pictures from which one plans for an arm that stands [s] (not for sim); a moving one is never planned for
    from pictures older than 0.3 s."""
    tolerance: float = 0.02
    """With --goal: mean distance at which it counts as reached [m]."""
    arm: bool = False
    """Let an arm other than sim move. Without it nothing is sent: a dry run."""
    look: Path | None = None
    """Write what the cameras see now to this folder as a capture, for pointworld goal, and stop."""
    dynamics: DynamicsName = "model"
    """What predicts: the world model, the simulator itself (oracle), or nothing moves (none)."""
    planner: PlannerName = "mppi"
    """Search; open_loop (one chosen push, no second look); or a rule: straight (one uncorrected push) and random."""
    perception: Perception = "rgbd"
    """Where the target is: found in rendered depth images, or the simulator's truth (not with --goal)."""
    checkpoint: str = "tiny"
    """World model: a bundled name or a checkpoint folder."""
    uncertainty: float = 0.0
    """Weight of the variance that the world model predicts, beside squared distances to the goal."""
    episodes: int = 1
    """How many scenes."""
    seed: int = 0
    """Of the first scene; the next ones follow. The same seeds are the same scenes for all methods."""
    samples: int = 24
    """Candidates per iteration."""
    iterations: int = 1
    """Iterations of the search."""
    horizon: int = 10
    """Steps of 0.1 s that are planned ahead."""
    execute: int = 4
    """Steps of each plan that are carried out before the next look."""
    max_steps: int = 200
    """Steps of an episode."""
    budget: float = 0.0
    """Most seconds for a plan, and what up to 8 candidates take more: the best so far is carried out. 0 = no bound.

    With a bound, results depend on the speed of the machine.
    """
    renderer: Literal["auto", "gl", "rays"] = "auto"
    """How simulated cameras see."""
    out: Path | None = None
    """Folder with a file per episode; a run that was stopped goes on there."""
    record: Path | None = None
    """Folder for recordings: pictures, states, commands, plans, predictions, times; see docs/control.md."""
    dry_run: bool = False
    """Plan once and send nothing; what would be sent is recorded."""
    ray: str | None = None
    """Spread the episodes of --task over a Ray cluster: local, auto or an address."""
    workers: int = 2
    """Of --ray local."""
    threads: int = 1
    """Of PyTorch."""
    device: str = "auto"
    """Where the world model predicts: auto, cpu or cuda (with --ray always the CPU)."""
    json: bool = False
    """Print the summary as one JSON object on stdout."""

    def config(self) -> RunConfig:
        """What an episode depends on."""
        same = {f.name: getattr(self, f.name) for f in fields(RunConfig) if hasattr(self, f.name)}
        if self.planner in RULES:
            same["dynamics"] = "none"
        return RunConfig(**same, budget_s=self.budget)

    def rig_run(self) -> RigRun | None:
        """A goal of one's own or an arm other than the simulated one; None for plain episodes of a task.

        Raises:
            InputError: options that do not fit together.
        """
        if self.robot == "sim" and self.camera == ("sim",) and not (self.goal or self.look):
            if self.arm or self.host is not None or self.calibration:
                raise InputError("--arm, --host and --calibration are for arms other than sim")
            return None
        if self.ray is not None or self.out is not None:
            raise InputError("--ray and --out are for episodes of --task with --robot sim")
        if self.goal is not None and self.perception == "true":
            raise InputError(
                "--perception true is where the simulator has the target of --task; what --goal chose in a picture is "
                "followed by the cameras. Leave --perception out, or leave --goal out (as --dynamics oracle needs)"
            )
        rig = RigConfig(
            robot=self.robot,
            model=self.model,
            host=self.host,
            python=self.python,
            driver=self.driver,
            cameras=self.camera,
            calibrations=self.calibration,
            space=self.space(),
            speed=self.speed,
            max_frame_age=self.max_frame_age,
        )
        return RigRun(
            run=self.config(),
            rig=rig,
            goal=None if self.goal is None else read_goal(self.goal),
            look_only=self.look is not None,
            arm=self.arm,
            tolerance=self.tolerance,
            tool_speed=self.tool_speed,
        )

    def space(self) -> Space | None:
        """Where the tool may be; None for the usual box, or that of the simulated scene."""
        if self.workspace is None:
            if self.camera == ("sim",):
                return None
            space = Space(table=self.table)
        else:
            box = Workspace.parse(self.workspace)
            space = Space(lower=box.lower, upper=box.upper, table=self.table)
        return replace(space, table_clearance=0.0) if self.press else space


def main(argv: list[str]) -> int:
    """Run the command; 2 when an arm's run ended in a fault."""
    args = parse(MpcArgs, argv, prog="pointworld mpc")
    if args.episodes < 1 or args.threads < 1 or args.workers < 1:
        raise InputError("--episodes, --threads and --workers must be at least 1")
    torch.set_num_threads(args.threads)
    seeds = range(args.seed, args.seed + args.episodes)
    rigged = args.rig_run()
    if rigged is not None and args.look is not None:
        frames = take_look(rigged, args.seed, args.look)
        console.print(f"{frames} frames written to {args.look}; choose with pointworld goal")
        return 0
    label = args.task if args.goal is None else args.goal.stem
    with progress(args.episodes, f"{label} episodes") as advance:

        def show(seed: int, episode: dict[str, Any]) -> None:
            advance(1)
            console.print(line(seed, episode["result"]), soft_wrap=True)

        if rigged is not None:
            episodes = run_on_arm(
                rigged,
                seeds,
                record=args.record,
                on_episode=show,
                device=pick_device(args.device),
            )
        else:
            episodes = _simulate(args, seeds, show)
    summary = {"config": plain(rigged or args.config()), **summarise(episodes)}
    if args.out is not None:
        write_json(args.out / "summary.json", summary)
    low, high = summary["interval_95"]
    console.print(
        f"{summary['successes']} of {summary['episodes']} episodes succeeded "
        f"({100 * summary['success_rate']:.0f} %, 95 % interval {100 * low:.0f} to {100 * high:.0f} %)"
    )
    if args.json:
        stdout_json(summary)
    return 2 if rigged is not None and summary["faults"] else 0


def _simulate(args: MpcArgs, seeds: range, show: Any) -> list[dict[str, Any]]:
    """Episodes of a task, here or on a cluster; recordings also get a capture for training."""
    options: dict[str, Any] = {"out": args.out, "record": args.record, "on_episode": show}
    if args.ray is None:
        episodes = run_many(args.config(), seeds, device=pick_device(args.device), **options)
    else:
        episodes = run_on_ray(
            args.config(), seeds, address=args.ray, workers=args.workers, **options
        )
    if args.record is not None:
        for folder in sorted(args.record.glob("episode_*")):
            if (folder / "frame-000000.npz").is_file() and not (folder / "capture").exists():
                export_capture(read_recording(folder), folder / "capture")
    return episodes


def line(seed: int, result: dict[str, Any]) -> str:
    """One episode in words."""
    start, end = (
        "?" if result[key] is None else f"{100 * result[key]:.1f}"
        for key in ("start_distance", "distance")
    )
    text = (
        f"seed {seed}: {result['outcome']}, {start} cm from the goal before, {end} cm after {result['steps']} steps, "
        f"{result['plan_seconds']:.2f} s a plan"
    )
    return f"{text} ({result['reason']})" if result["reason"] else text
