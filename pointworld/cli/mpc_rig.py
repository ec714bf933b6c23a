"""Runs of `pointworld mpc` with a goal of one's own, or an arm other than the simulated one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from pointworld.cli.common import console
from pointworld.control.rig_runs import RigRun, run_rig
from pointworld.control.task_runs import load_model
from pointworld.control.types import ControlError
from pointworld.errors import InputError

#: Arms that stand in a room.
REAL = ("franka", "ur", "xarm", "own")


def run_on_arm(
    what: RigRun,
    seeds: Sequence[int],
    *,
    record: Path | None,
    on_episode: Callable[[int, dict[str, Any]], None],
    device: torch.device,
) -> list[dict[str, Any]]:
    """Runs one after another, in the form of `run_many`. A fault ends them: somebody has to look first."""
    if what.rig.robot != "sim" and not what.arm:
        console.print("not armed: nothing is sent to the arm. Add --arm when the way is free")
    if what.arm and what.rig.robot in REAL and len(seeds) > 1:
        raise InputError(
            f"--episodes is {len(seeds)}: before every episode of a real arm somebody has to set the scene again and "
            "see that the way is free. Run the command once for each"
        )
    model = load_model(what.run, device)
    episodes: list[dict[str, Any]] = []
    for seed in seeds:
        folder = None if record is None else record / f"episode_{seed:05d}"
        try:
            result = run_rig(what, seed, record=folder, model=model)
        except ControlError as error:
            result = refused("fault", f"{error.reason.value}: {error}")
        except InputError as error:
            if not episodes:
                raise
            # What was chosen in the first scene is not in this one.
            result = refused("lost", str(error))
        episodes.append({"seed": seed, "result": result})
        on_episode(seed, episodes[-1])
        if result["outcome"] == "fault" and what.rig.robot != "sim":
            break
    return episodes


def refused(outcome: str, reason: str) -> dict[str, Any]:
    """A run that did not begin: an arm or camera that does not answer, or is not fit to be armed."""
    return {
        "outcome": outcome,
        "distance": None,
        "start_distance": None,
        "steps": 0,
        "plans": 0,
        "plan_seconds": 0.0,
        "reason": reason,
    }
