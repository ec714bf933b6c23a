"""Whole data sets of clips: made by several processes, resumable, described by a manifest."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pointworld.data.clip import Clip, clip_path, write_clip
from pointworld.data.families import family_shares
from pointworld.data.generate import ClipGenerator
from pointworld.data.robot_tree import robot_tree
from pointworld.data.sample import moving_bodies
from pointworld.data.simulator import import_mujoco
from pointworld.data.tabletop import TabletopConfig
from pointworld.errors import InputError
from pointworld.files import write_json
from pointworld.robot import RobotModel


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One data set: how many clips, from which seed, of what."""

    clips: int
    seed: int
    robot: str = "fr3"
    renderer: str = "auto"
    tabletop: TabletopConfig = field(default_factory=TabletopConfig)

    def __post_init__(self) -> None:
        if self.clips < 1:
            raise InputError(f"clips is {self.clips}, expected at least 1")
        family_shares(self.tabletop)
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}, expected a number that is not negative")


_GENERATOR: ClipGenerator | None = None


def _start_worker(spec: DatasetSpec) -> None:
    """Runs once in each spawned worker, before MuJoCo is imported there."""
    global _GENERATOR
    os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ["LP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    _GENERATOR = dataset_generator(spec)


def dataset_generator(spec: DatasetSpec) -> ClipGenerator:
    """The clip generator of a data set."""
    robot = RobotModel.load(spec.robot)
    return ClipGenerator.create(robot_tree(robot), spec.robot, spec.tabletop, spec.renderer)


def _make_one(task: tuple[str, int, int]) -> dict[str, Any]:
    folder, seed, index = task
    assert _GENERATOR is not None
    before = dict(_GENERATOR.timings)
    start = time.perf_counter()
    clip = _GENERATOR.make(seed, index)
    stage = time.perf_counter()
    path = clip_path(folder, index)
    write_clip(clip, path)
    end = time.perf_counter()
    laps = {name: value - before.get(name, 0.0) for name, value in _GENERATOR.timings.items()}
    laps |= {"write": end - stage, "total": end - start}
    return {"index": index, "laps": laps, "bytes": path.stat().st_size, **clip_facts(clip)}


def clip_facts(clip: Clip) -> dict[str, Any]:
    """Family; was anything touched, did anything move (> 1 cm within 5 cm of
    its middle; a tool in the hand does not count), did anything upright tip (> 30 degrees)."""
    objects = list(clip.bodies_of_kind("object"))
    held = {clip.body_names.index(name) for name in clip.info.get("held", ())}
    moved = set(moving_bodies(clip, threshold=0.01))
    upright = clip.body_transforms()[:, objects, 2, 2]
    round_ones = np.array([name in ("sphere", "capsule", "rope") for name in clip.info["shapes"]])
    tipped = (upright[0] > 0.95) & (upright.min(0) < np.cos(np.radians(30))) & ~round_ones
    return {
        "family": clip.family,
        "touched": bool(clip.info.get("touched", False)),
        "moved": bool(moved - held),
        "tipped": bool(tipped.any()),
    }


def generate_dataset(
    spec: DatasetSpec,
    folder: str | Path,
    *,
    workers: int = 2,
    advance: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Make the clips of `spec` that `folder` lacks, in spawned workers, and write `manifest.json`.

    Returns:
        A summary: counts, clips per second, seconds per stage and clip, mean bytes, shares of moving and tipped.

    Raises:
        InputError: the folder holds a data set of another specification, or the robot cannot be used.
        MissingExtraError: the simulator is not installed.
    """
    root = Path(folder)
    _check_manifest(root, spec)
    import_mujoco()
    robot_tree(
        RobotModel.load(spec.robot)
    )  # a robot that will not do is refused here, not in every worker
    missing = [i for i in range(spec.clips) if not clip_path(root, i).is_file()]
    write_json(root / "manifest.json", _manifest(spec, complete=not missing))
    if advance is not None:
        advance(spec.clips - len(missing))
    start = time.perf_counter()
    facts = _run_workers(spec, root, missing, workers, advance)
    wall = time.perf_counter() - start
    write_json(root / "manifest.json", _manifest(spec, complete=True))
    return _summary(spec, facts, wall)


def _run_workers(
    spec: DatasetSpec,
    root: Path,
    missing: list[int],
    workers: int,
    advance: Callable[[int], None] | None,
) -> list[dict[str, Any]]:
    if not missing:
        return []
    facts = []
    context = multiprocessing.get_context("spawn")
    tasks = [(str(root), spec.seed, i) for i in missing]
    with context.Pool(max(1, min(workers, len(missing))), _start_worker, (spec,)) as pool:
        for fact in pool.imap_unordered(_make_one, tasks, chunksize=1):
            facts.append(fact)
            if advance is not None:
                advance(1)
    return facts


def _manifest(spec: DatasetSpec, *, complete: bool) -> dict[str, Any]:
    return {"format": "pointworld-clips-1", "complete": complete, **asdict(spec)}


def _check_manifest(root: Path, spec: DatasetSpec) -> None:
    path = root / "manifest.json"
    if not path.is_file():
        return
    old = json.loads(path.read_text())
    new = json.loads(json.dumps(_manifest(spec, complete=False)))
    # Settings that were added since then had their defaults.
    defaults = json.loads(json.dumps(asdict(TabletopConfig())))
    old["tabletop"] = defaults | old.get("tabletop", {})
    different = [
        name
        for name in new
        if name not in ("complete", "clips", "renderer") and old.get(name) != new[name]
    ]
    if different:
        raise InputError(
            f"{root} holds a data set made with another {', '.join(different)}. Choose another --out, or remove it."
        )


def _summary(spec: DatasetSpec, facts: list[dict[str, Any]], wall: float) -> dict[str, Any]:
    count = max(len(facts), 1)
    stages: dict[str, float] = {}
    families: dict[str, list[dict[str, Any]]] = {}
    for fact in facts:
        families.setdefault(fact["family"], []).append(fact)
        for stage, seconds in fact["laps"].items():
            stages[stage] = stages.get(stage, 0.0) + seconds / count
    return {
        "clips": spec.clips,
        "made": len(facts),
        "wall_seconds": wall,
        "clips_per_second": len(facts) / max(wall, 1e-9),
        "seconds_per_clip": stages,
        "bytes_mean": sum(f["bytes"] for f in facts) / count,
        "bytes_max": max((f["bytes"] for f in facts), default=0),
        "families": {name: len(of) for name, of in families.items()},
        "shares": _shares(facts),
        "family_shares": {name: _shares(of) for name, of in families.items()},
    }


def _shares(facts: list[dict[str, Any]]) -> dict[str, float]:
    """Share of clips in which something is touched, moves and tips over."""
    return {
        name: sum(bool(fact[name]) for fact in facts) / max(len(facts), 1)
        for name in ("touched", "moved", "tipped")
    }
