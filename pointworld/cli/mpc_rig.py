"""The part of `pointworld mpc` that is about arms and goals of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointworld.cli.common import console
from pointworld.control.body import Space
from pointworld.control.rig_open import RigConfig, RobotName
from pointworld.control.rig_runs import RigRun, run_rig, take_look
from pointworld.control.task_runs import RunConfig, load_model
from pointworld.control.types import ControlError
from pointworld.plan.goal import read_goal
from pointworld.scene import Workspace


@dataclass(frozen=True, kw_only=True)
class Rigged:
    """See `MpcArgs` for the fields."""

    run: RunConfig
    goal: Path | None
    robot: RobotName
    host: str | None
    python: Path | None
    model: str
    cameras: tuple[str, ...]
    calibrations: tuple[Path, ...]
    workspace: str | None
    table: float
    speed: float
    tool_speed: float
    tolerance: float
    arm: bool

    def space(self) -> Space | None:
        """Where the tool may be; None for the usual box, or that of the simulated scene."""
        if self.workspace is None:
            return None if self.cameras == ("sim",) else Space(table=self.table)
        box = Workspace.parse(self.workspace)
        return Space(lower=box.lower, upper=box.upper, table=self.table)

    def what(self, *, look: bool = False) -> RigRun:
        """The run. Args: look: only to take pictures, which needs no goal.

        Raises:
            InputError: options that do not fit together.
        """
        rig = RigConfig(
            robot=self.robot,
            model=self.model,
            host=self.host,
            python=self.python,
            cameras=self.cameras,
            calibrations=self.calibrations,
            space=self.space(),
            speed=self.speed,
        )
        return RigRun(
            run=self.run,
            rig=rig,
            goal=None if self.goal is None else read_goal(self.goal),
            look_only=look,
            arm=self.arm,
            tolerance=self.tolerance,
            tool_speed=self.tool_speed,
        )

    def look(self, seed: int, folder: Path) -> int:
        """Write what the cameras see; returns the number of frames."""
        return take_look(self.what(look=True), seed, folder)


def run_rigged(
    rigged: Rigged,
    seeds: Sequence[int],
    *,
    record: Path | None,
    on_episode: Callable[[int, dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """Runs one after another, in the form of `run_many`. A fault ends them: somebody has to look first."""
    what = rigged.what()
    if rigged.robot != "sim" and not rigged.arm:
        console.print("not armed: nothing is sent to the arm. Add --arm when the way is free")
    model = load_model(rigged.run)
    episodes: list[dict[str, Any]] = []
    for seed in seeds:
        folder = None if record is None else record / f"episode_{seed:05d}"
        try:
            result = run_rig(what, seed, record=folder, model=model)
        except ControlError as error:
            result = refused(error)
        episodes.append({"seed": seed, "result": result})
        on_episode(seed, episodes[-1])
        if result["outcome"] == "fault" and rigged.robot != "sim":
            break
    return episodes


def refused(error: ControlError) -> dict[str, Any]:
    """A run that did not begin: an arm or camera that does not answer, or is not fit to be armed."""
    return {
        "outcome": "fault",
        "distance": None,
        "start_distance": None,
        "steps": 0,
        "plans": 0,
        "plan_seconds": 0.0,
        "reason": f"{error.reason.value}: {error}",
    }
