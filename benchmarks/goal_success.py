"""Success with goals of one's own: things chosen in a picture, nothing else taken from the simulator.

    python benchmarks/goal_success.py --out out/goals --episodes 10 --page docs/planning.md

Scenes and goals are those of `mpc_success.py`, the run is what `pointworld mpc --goal goal.json` does: every thing is a
mask in the picture that shows most of it, with the pose it should take. Its surface is what the cameras see of it. The
simulator judges; a goal counts as reached where 2 cm (soft things 3 cm) are, also for doors and drawers.
Every episode is a file in OUT/TASK; run it again to go on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pointworld import load
from pointworld.control.rig_open import RigConfig
from pointworld.control.rig_runs import RigRun, run_rig
from pointworld.control.task_runs import RULES_VERSION, RunConfig, scene_renderer, wilson
from pointworld.data.render import RenderedView
from pointworld.data.robot_tree import robot_tree
from pointworld.data.sample import tabletop_workspace
from pointworld.errors import InputError
from pointworld.files import write_json, write_text
from pointworld.geometry import matrix_to_quat_wxyz, transform_points
from pointworld.plan.goal import Goal, MaskSelection, PointSet, PoseGoal, write_goal
from pointworld.plan.goal_points import resolve_goal
from pointworld.plan.tasks import TASKS, Task, make_task
from pointworld.plan.tasks.task import STILL, TOLERANCE
from pointworld.robot import RobotModel
from pointworld.scene import build_scene
from pointworld.train.page import fill_page
from pointworld.types import Capture, RGBDFrame

#: A person who chooses things in pictures cannot say what the hand holds.
WITHOUT_TOOL = tuple(task for task in TASKS if task not in ("broom", "duster"))
STEPS = 400


def choose(task: Task, folder: Path) -> Goal:
    """The task's goal as goal.json with masks in `folder`.

    Raises:
        InputError: no camera sees one of the things.
    """
    views = scene_renderer("auto", *task.image).render(task.model, task.restart(), task.cameras)
    sets = []
    for number, target in enumerate(task.targets):
        seen = [(view.segmentation == target.body + 1) & (view.depth > 0) for view in views]
        best = int(np.argmax([mask.sum() for mask in seen]))
        if not seen[best].any():
            raise InputError(f"{task.name}/{task.seed}: no camera sees thing {number}")
        name = f"thing{number}.png"
        Image.fromarray(255 * seen[best].astype(np.uint8)).save(folder / name)
        turn = PoseGoal(
            vector=(0.0, 0.0, 0.0),
            quat_wxyz=tuple(matrix_to_quat_wxyz(target.motion[:3, :3]).tolist()),
        )
        sets.append(
            PointSet(
                name=f"thing{number}",
                camera=f"cam{best}",
                frame="first",
                select=MaskSelection(file=name),
                goal=turn,
            )
        )
    chosen = Goal(sets=tuple(sets), folder=folder)
    ways = zip(task.targets, _centres(task, views, chosen), strict=True)
    vectors = [transform_points(t.motion, centre[None])[0] - centre for t, centre in ways]
    goal = Goal(
        sets=tuple(
            replace(item, goal=replace(item.goal, vector=tuple(vector.tolist())))
            for item, vector in zip(sets, vectors, strict=True)
        ),
        folder=folder,
    )
    write_goal(goal, folder / "goal.json")
    return goal


def _centres(task: Task, views: Sequence[RenderedView], goal: Goal) -> list[np.ndarray]:
    """(3,) of every set, about which it turns [m]."""
    frames = tuple(
        RGBDFrame(
            rgb=view.rgb,
            depth=view.depth,
            valid=view.depth > 0,
            K=camera.K,
            T_world_cam=camera.T_world_cam,
            name=f"cam{number}-first",
            camera=f"cam{number}",
        )
        for number, (camera, view) in enumerate(zip(task.cameras, views, strict=True))
    )
    capture = Capture(frames=frames, source="the simulated scene", T_world_base=np.eye(4))
    # In one capture no two frames have the same name.
    named = replace(
        goal, sets=tuple(replace(item, frame=f"{item.camera}-first") for item in goal.sets)
    )
    scene = build_scene(frames, T_world_base=np.eye(4), workspace=tabletop_workspace())
    sets = resolve_goal(named, scene, capture).sets
    return [scene.points[item.index].double().numpy().mean(0) for item in sets]


def episode(task: Task, folder: Path, checkpoint: str, model: Any) -> dict[str, Any]:
    """One run, as `pointworld mpc --goal` makes it; see `run_rig`."""
    folder.mkdir(parents=True, exist_ok=True)
    tolerance = TOLERANCE["deformable" if task.kind == "deformable" else "rigid"]
    what = RigRun(
        run=RunConfig(task=task.name, checkpoint=checkpoint, max_steps=STEPS),
        rig=RigConfig(),
        arm=True,
        tolerance=tolerance,
    )
    try:
        found = run_rig(replace(what, goal=choose(task, folder)), task.seed, model=model)
    except InputError as error:
        return {"outcome": "lost", "reason": str(error), "error": None}
    truth = found["truth"]
    good = truth["error"] <= tolerance and truth["moved"] < STILL
    ended = found["outcome"] in ("success", "missed", "disturbed")
    outcome = ("success" if good else "missed") if ended else found["outcome"]
    return {
        "outcome": outcome,
        "taken_for": found["outcome"],
        "error": truth["error"],
        "moved": truth["moved"],
        "steps": found["steps"],
        "reason": found["reason"],
    }


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a row per task with Wilson's interval."""
    rows = ["| task | reached | lost or fault |", "|---|---|---|"]
    for task, found in results.items():
        good = sum(r["outcome"] == "success" for r in found)
        low, high = wilson(good, len(found))
        other = sum(r["outcome"] in ("lost", "fault") for r in found)
        rows.append(
            f"| `{task}` | {good}/{len(found)} ({100 * low:.0f} to {100 * high:.0f} %) | {other} |"
        )
    return "\n".join(rows) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("out/goals"))
    parser.add_argument("--page", type=Path, help="page whose part `goal-success` is filled")
    parser.add_argument(
        "--tasks", nargs="+", default=list(WITHOUT_TOOL), choices=list(WITHOUT_TOOL)
    )
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--checkpoint", default="tiny")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    model, tree = load(args.checkpoint), robot_tree(RobotModel.load("fr3"))
    results: dict[str, list[dict[str, Any]]] = {}
    for name in args.tasks:
        results[name] = []
        for seed in range(args.episodes):
            folder = args.out / name / f"{seed:05d}"
            path = folder / "result.json"
            settings = {"rules": RULES_VERSION, "checkpoint": args.checkpoint}
            if not path.is_file():
                found = episode(make_task(name, seed, tree), folder, args.checkpoint, model)
                write_json(path, {**settings, **found})
            known = json.loads(path.read_text(encoding="utf-8"))
            if {key: known.get(key) for key in settings} != settings:
                raise InputError(
                    f"{path} was made with other settings or rules; choose another folder or remove it"
                )
            results[name].append(known)
            sys.stderr.write(f"{name} {seed}: {results[name][-1]}\n")
    if args.page is not None:
        page = args.page.read_text(encoding="utf-8")
        write_text(args.page, fill_page(page, {"goal-success": table(results)}))
    sys.stdout.write(table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
