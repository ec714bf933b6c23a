"""Push episodes on a simulated Franka control box that enforces the real one's limits, resumable, every fault listed.

    python -m venv franka
    franka/bin/pip install franka-sim franky-control && franka/bin/pip install --no-deps franky-sim
    python benchmarks/franka_push.py --python franka/bin/python --out out/franka_push --episodes 50

franka-sim speaks libfranka's protocol at 1 kHz and, as started here, stops with a reflex when a command breaks the
FR3's limits of position, velocity, acceleration or jerk, or when 20 command cycles in a row are lost. (franky-sim only
lends its description of the arm; without it, set FR3_MJCF.) Every episode has a fresh box, robot server and
controller. Our MuJoCo scene follows the joints that the box measures, renders the cameras, and judges success (a
twin). The planner has one thread.

Box and robot server each have a loop of 1 kHz. On a machine that is too small or too busy for them, let the box's time
run slower with `--rate`: half of it needs half the processor, and gives every answer twice the time. The arm's and the
tool's speed are scaled by it, and an episode gets that many more steps. Where one may (as root), box, robot server and
controller go before the planner, in the real-time class.

An episode is a file in OUT; run it again to go on. Communication losses are counted as failures, not left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import torch

from pointworld.control.backends.franka_sim import HOST, listening
from pointworld.control.processes import end_process, start_tied
from pointworld.control.rig_open import RigConfig
from pointworld.control.rig_runs import RigRun, run_rig
from pointworld.control.task_runs import RULES_VERSION, DynamicsName, RunConfig, load_model, wilson
from pointworld.control.types import ControlError, Reason
from pointworld.errors import InputError, PointWorldError
from pointworld.files import write_json, write_text
from pointworld.plan.tasks import TASKS

#: What the box's log calls its reflexes.
REFLEX = re.compile(r"\b[A-Za-z_]+_(?:violation|discontinuity|reflex)\b")
COMMUNICATION = "communication_constraints_violation"
LOST = re.compile(r"(\d+) consecutive lost command cycles")
#: What libfranka says of the last command cycles when a motion ends.
RATE = re.compile(r"control_command_success_rate: ([01](?:\.\d+)?)")
#: How fast the box's physics runs, which it says every five seconds when it is slow.
RUNNING = re.compile(r"simulation running at (\d+(?:\.\d+)?)x real time")
#: It says so when its physics begins, after it listens.
BEGUN = "simulation loop"
#: Slower than this, a fault is the box's.
IN_TIME = 0.95
#: Our own reasons that mean: something came too late, or not at all, on the way between two processes.
LATE = (
    Reason.STATE_STALE,
    Reason.ROBOT_LINK,
    Reason.PLANNER_LINK,
    Reason.COMMAND_TIMEOUT,
    Reason.WATCHDOG,
)
#: The box must listen within this [s].
PATIENCE = 60.0
#: Priority that processes with a clock have over the planner.
FIRST = 5
#: The box in slow motion: what paces its loops, and measures the client's time to answer, sees a slower clock.
SLOW_BOX = """
import sys, time
rate = float(sys.argv.pop(1))

class SlowTime:
    def __getattr__(self, name):
        return getattr(time, name)

    def perf_counter(self):
        return rate * time.perf_counter()

    def sleep(self, seconds):
        time.sleep(seconds / rate)

from franka_sim import mujoco_franka_sim
from franka_sim.run_server import main
from franka_sim.server import motion_session, state_stream

for module in (mujoco_franka_sim, motion_session, state_stream):
    module.time = SlowTime()
sys.exit(main())
"""


def arm_description(python: Path, folder: Path) -> dict[str, str]:
    """Environment that tells franka-sim where its arm's description is: FR3_MJCF, or that of franky-sim beside it.

    Raises:
        InputError: there is neither.
    """
    if "FR3_MJCF" in os.environ:
        return {}
    # Not resolved: the interpreter of a virtual environment is a link to another place.
    root = python.absolute().parent.parent
    found = sorted(root.glob("lib/python*/site-packages/franky_sim/assets/fr3.xml"))
    if not found:
        raise InputError(
            f"{root} has no franky-sim, whose description of the arm is used: pip install --no-deps franky-sim there, "
            "or set FR3_MJCF to an MJCF of the FR3"
        )
    (folder / "fr3.xml").write_text(found[0].read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "assets").symlink_to(found[0].parent / "meshes")
    return {"FR3_MJCF": str(folder / "fr3.xml")}


@contextmanager
def control_box(python: Path, log: Path, rate: float = 1.0) -> Iterator[None]:
    """A box with all limits enforced, at a share of real time; its words go to `log`.

    Raises:
        InputError: that environment has no franka-sim, or another box runs. ControlError: the box does not start.
    """
    program = python.with_name("run-franka-sim-server")
    if not program.is_file():
        raise InputError(f"{program} does not exist: pip install franka-sim there")
    if listening(HOST):
        raise InputError(f"something answers at {HOST}:1337 already; end it")
    starts = [str(program)] if rate == 1 else [str(python), "-c", SLOW_BOX, str(rate)]
    with tempfile.TemporaryDirectory() as folder, log.open("w", encoding="utf-8") as words:
        process = start_tied(
            [*starts, "--enforce-comm-constraints", "--enforce-motion-limits"],
            env=arm_description(python, Path(folder)),
            log=words,
        )
        try:
            end = time.monotonic() + PATIENCE
            while BEGUN not in log.read_text(encoding="utf-8", errors="replace"):
                if process.poll() is not None or time.monotonic() > end:
                    raise ControlError(Reason.ROBOT_LINK, f"franka-sim did not start; see {log}")
                time.sleep(0.2)
            yield
        finally:
            end_process(process)


def read_log(log: Path) -> dict[str, Any]:
    """What the box complained of: reflexes with how often they are named, the longest row of lost cycles, and the
    slowest that it ran, as a share of real time.
    """
    reflexes: Counter[str] = Counter()
    longest, slowest = 0, 1.0
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        slowest = min([slowest, *(float(rate) for rate in RUNNING.findall(line))])
        if " WARNING " in line or " ERROR " in line:
            reflexes.update(set(REFLEX.findall(line)))
            longest = max([longest, *(int(n) for n in LOST.findall(line))])
    return {"reflexes": dict(reflexes), "longest_loss": longest, "slowest": slowest}


@contextmanager
def served_first() -> Iterator[None]:
    """Meanwhile all processes that this one starts go before it, as far as the system lets them."""
    over, mine = threading.Event(), os.getpriority(os.PRIO_PROCESS, 0)

    def watch() -> None:
        known: set[int] = set()
        while not over.wait(0.5):
            for thread in _threads_below(os.getpid()) - known:
                known.add(thread)
                with contextlib.suppress(OSError):
                    _put_first(thread, mine)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _put_first(thread: int, mine: int) -> None:
    """Into the real-time class, as on a robot's own computer, unless it is there; else by its niceness."""
    if os.sched_getscheduler(thread) == os.SCHED_OTHER:
        os.setpriority(os.PRIO_PROCESS, thread, max(mine - FIRST, -20))
        os.sched_setscheduler(thread, os.SCHED_RR, os.sched_param(1))


def _threads_below(pid: int) -> set[int]:
    """Numbers of all threads of processes that a process has started, and that these have."""
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in (int(word) for word in path.read_text(encoding="utf-8").split()):
                threads = Path(f"/proc/{child}/task").glob("*")
                found |= {int(thread.name) for thread in threads} | _threads_below(child)
    return found


def at_rate(run: RigRun, rate: float) -> RigRun:
    """A run for a box at that share of real time: slower, and with as many more steps."""
    speed = max(run.rig.speed * rate, 0.01)
    return replace(
        run,
        rig=replace(run.rig, speed=speed),
        run=replace(run.run, max_steps=round(run.run.max_steps / max(rate, 0.2))),
        tool_speed=max(run.tool_speed * rate, 0.01),
    )


def cause(result: dict[str, Any], box: dict[str, Any]) -> str:
    """Why an episode ended in a fault: a communication loss, a box slower than real time, one of its reflexes by name,
    or our own reason.
    """
    if result["outcome"] != "fault":
        return ""
    limits = ", ".join(sorted(set(box["reflexes"]) - {COMMUNICATION}))
    rates = [float(rate) for rate in RATE.findall(str(result["reason"]))]
    if limits and min(rates, default=1.0) < 1:
        # In a lost cycle the box holds the last torque, and the arm runs away from its reference.
        return f"communication: {limits} after lost cycles, {min(rates):.2f} of them arrived"
    if limits and box["slowest"] < IN_TIME:
        # What we send at our limits, it sees at more than them.
        return f"slow box: {limits} at {box['slowest']:.2f} of real time"
    if limits:
        return "reflex: " + limits
    if COMMUNICATION in box["reflexes"]:
        return "communication: " + COMMUNICATION
    reason = str(result["reason"])
    late = any(code.value in reason for code in LATE)
    return ("communication: " if late else "ours: ") + " ".join(reason.split())


def run_episode(run: RigRun, seed: int, out: Path, model: Any, rate: float) -> dict[str, Any]:
    """One episode on a fresh box. A rig that does not come up is a fault of the episode."""
    log = out / f"box_{seed:05d}.log"
    assert run.rig.python is not None
    began = time.perf_counter()
    try:
        with served_first(), control_box(run.rig.python, log, rate):
            result = run_rig(at_rate(run, rate), seed, model=model)
    except ControlError as error:
        result = {"outcome": "fault", "reason": f"{error.reason.value}: {error}", "steps": 0}
    box = read_log(log)
    result["seconds"] = round(time.perf_counter() - began, 2)
    return {
        "rules": RULES_VERSION,
        "seed": seed,
        "config": asdict(run.run),
        "speed": run.rig.speed,
        "tool_speed": run.tool_speed,
        "rate": rate,
        "result": result,
        "box": box,
        "cause": cause(result, box),
    }


def summarise(episodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Success rate with its interval, faults by cause, and what the box complained of."""
    good = sum(e["result"]["outcome"] == "success" for e in episodes)
    causes = Counter(e["cause"].split(":")[0] for e in episodes if e["cause"])
    return {
        "episodes": len(episodes),
        "successes": good,
        "interval_95": list(wilson(good, len(episodes))),
        "outcomes": dict(Counter(e["result"]["outcome"] for e in episodes)),
        "faults": dict(Counter(e["cause"] for e in episodes if e["cause"])),
        "reflexes_of_ours": causes["reflex"],
        "communication_losses": causes["communication"],
        "faults_of_a_slow_box": causes["slow box"],
        "ours": causes["ours"],
        "slowest_box": min((e["box"].get("slowest", 1.0) for e in episodes), default=1.0),
        "longest_loss": max((e["box"]["longest_loss"] for e in episodes), default=0),
    }


def table(summary: dict[str, Any], episodes: Sequence[dict[str, Any]]) -> str:
    """Markdown: the totals, then a row per episode that did not succeed."""
    low, high = (100 * v for v in summary["interval_95"])
    rows = [
        f"{summary['successes']} of {summary['episodes']} episodes succeeded ({low:.0f} to {high:.0f} %); reflexes of "
        f"limits: {summary['reflexes_of_ours']}, communication losses: {summary['communication_losses']}, faults of a "
        f"box slower than real time: {summary['faults_of_a_slow_box']}, our own: {summary['ours']}; longest row lost: "
        f"{summary['longest_loss']} cycles, slowest box: {summary['slowest_box']:.2f} of real time",
        "",
        "| seed | outcome | distance at the start, at the end [m] | cause |",
        "|---|---|---|---|",
    ]
    for e in episodes:
        r = e["result"]
        if r["outcome"] != "success":
            ends = [r.get("start_distance"), (r.get("truth") or {}).get("error")]
            shown = ", ".join("-" if v is None else f"{v:.3f}" for v in ends)
            rows.append(f"| {e['seed']} | {r['outcome']} | {shown} | {e['cause']} |")
    return "\n".join(rows) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Run what is missing; write results.json and table.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--python", type=Path, required=True, help="of the box's environment")
    parser.add_argument("--out", type=Path, default=Path("out/franka_push"))
    parser.add_argument("--task", default="tissue_box", choices=list(TASKS))
    parser.add_argument("--dynamics", default="model", choices=("model", "none"))
    parser.add_argument("--perception", default="rgbd", choices=("rgbd", "true"))
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument(
        "--execute", type=int, default=8, help="steps of each plan that are carried out"
    )
    parser.add_argument("--max-steps", type=int, default=200)
    parser.add_argument(
        "--rate", type=float, default=0.5, help="of the box's time to real time, at most 1"
    )
    parser.add_argument(
        "--speed", type=float, default=0.6, help="share of the arm's limits, in the box's time"
    )
    parser.add_argument(
        "--tool-speed", type=float, default=0.4, help="of planned paths, in the box's time [m/s]"
    )
    args = parser.parse_args(argv)
    assert args.dynamics in get_args(DynamicsName)
    if not 0.1 <= args.rate <= 1:
        parser.error("--rate must be from 0.1 to 1")
    torch.set_num_threads(1)
    # Ended from outside: the box and the robot's processes end too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config = RunConfig(
        task=args.task,
        dynamics=args.dynamics,
        perception=args.perception,
        samples=args.samples,
        execute=args.execute,
        max_steps=args.max_steps,
    )
    rig = RigConfig(robot="franka-sim", host=HOST, python=args.python, speed=args.speed)
    run = RigRun(run=config, rig=rig, arm=True, tool_speed=args.tool_speed)
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        return _run_all(run, range(args.seed, args.seed + args.episodes), args.out, args.rate)
    except PointWorldError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def _run_all(run: RigRun, seeds: Sequence[int], out: Path, rate: float) -> int:
    """Run and write what is missing, and print the table."""
    episodes, model = [], load_model(run.run)
    for seed in seeds:
        path = out / f"episode_{seed:05d}.json"
        if path.is_file():
            episode = json.loads(path.read_text(encoding="utf-8"))
            same = {
                "rules": RULES_VERSION,
                "config": asdict(run.run),
                "rate": rate,
                "speed": run.rig.speed,
                "tool_speed": run.tool_speed,
            }
            if any(episode.get(key) != value for key, value in same.items()):
                raise InputError(f"{path} was made with other settings; choose another folder")
        else:
            episode = run_episode(run, seed, out, model, rate)
            write_json(path, episode)
        episodes.append(episode)
        summary = summarise(episodes)
        write_json(out / "results.json", {**summary, "each": episodes})
        write_text(out / "table.md", table(summary, episodes))
        outcome = episode["result"]["outcome"]
        sys.stderr.write(f"seed {seed}: {outcome} {episode['cause']}\n")
    sys.stdout.write(table(summarise(episodes), episodes))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
