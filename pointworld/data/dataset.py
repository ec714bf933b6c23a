"""Whole data sets of clips: made by several processes or machines, resumable, described by a manifest."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pointworld.data.clip import Clip, clip_path, write_clip
from pointworld.data.families import family_shares
from pointworld.data.generate import GENERATOR_VERSION, ClipGenerator
from pointworld.data.render import working_renderer
from pointworld.data.robot_tree import robot_tree
from pointworld.data.sample import moving_bodies
from pointworld.data.shards import local_folder
from pointworld.data.simulator import import_mujoco
from pointworld.data.tabletop import TabletopConfig
from pointworld.data.target import open_target, stored_renderer
from pointworld.errors import InputError
from pointworld.robot import RobotModel
from pointworld.workers import unordered

log = logging.getLogger(__name__)

#: What a clip of the default image size and number of cameras stays below [bytes], as docs/data.md promises.
CLIP_BYTES = 200_000


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


_GENERATOR: tuple[DatasetSpec, ClipGenerator] | None = None


def _start_worker() -> None:
    """Runs once in each process that makes clips, before MuJoCo is imported there.

    It makes no generator: where one cannot be made, the first clip's error says why, while one raised here would only
    look like a process that died.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ["LP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def dataset_generator(spec: DatasetSpec) -> ClipGenerator:
    """The clip generator of a data set."""
    robot = RobotModel.load(spec.robot)
    return ClipGenerator.create(robot_tree(robot), spec.robot, spec.tabletop, spec.renderer)


def make_clip_file(spec: DatasetSpec, index: int, path: Path) -> dict[str, Any]:
    """Make clip `index` of a data set as a file, with the generator that this process keeps for it.

    Returns:
        Facts about the clip: index, family, processor seconds per stage, bytes, what moves.
    """
    global _GENERATOR
    if _GENERATOR is None or _GENERATOR[0] != spec:
        _start_worker()
        _GENERATOR = spec, dataset_generator(spec)
    generator = _GENERATOR[1]
    before = dict(generator.timings)
    start = time.process_time()
    clip = generator.make(spec.seed, index)
    stage = time.process_time()
    write_clip(clip, path)
    end = time.process_time()
    laps = {name: value - before.get(name, 0.0) for name, value in generator.timings.items()}
    laps |= {"write": end - stage, "total": end - start}
    return {"index": index, "laps": laps, "bytes": path.stat().st_size, **clip_facts(clip)}


def _make_one(task: tuple[DatasetSpec, str, int]) -> dict[str, Any]:
    spec, folder, index = task
    return make_clip_file(spec, index, clip_path(folder, index))


def clip_facts(clip: Clip) -> dict[str, Any]:
    """Family; was anything touched, did anything move (> 1 cm within 5 cm of
    its middle; a tool in the hand does not count), did anything upright tip (> 30 degrees)."""
    objects = list(clip.bodies_of_kind("object"))
    held = {clip.body_names.index(name) for name in clip.info.get("held", ())}
    moved = set(moving_bodies(clip, threshold=0.01))
    upright = clip.body_transforms()[:, objects, 2, 2]
    round_ones = np.array(
        [name in ("sphere", "capsule", "rope") for name in clip.info["shapes"]], dtype=bool
    )
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
    ray_address: str | None = None,
    shard_clips: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Make the clips of `spec` that `folder` lacks and write `manifest.json`.

    Args:
        workers: processes on this machine (0: this process); with `ray_address` "local" the CPUs of the local cluster.
        ray_address: make the clips on this Ray cluster instead: "local" starts one here, "auto" finds a running one.
        shard_clips: keep the clips in shards of this many; None: as files, or as the folder has them.
        advance: called with the number of clips that are there at the start, then with 1 for each.

    Returns:
        A summary: counts, clips per second, seconds per stage and clip, mean bytes, shares of moving and tipped.

    All clips of a set are drawn by one renderer: "auto" is what the folder's clips were drawn by, in a new folder what
    works on this machine. A worker that cannot do it ends the run with an error.

    Raises:
        InputError: the folder holds a data set of another specification, or one of another version of the generator
            that lacks clips; the robot or the renderer cannot be used.
        MissingExtraError: the simulator or Ray is not installed.
    """
    root = local_folder(folder)
    os.environ.setdefault("MUJOCO_GL", "egl")
    import_mujoco()
    spec = _with_one_renderer(spec, root)
    target = open_target(
        root, {**asdict(spec), "generator": GENERATOR_VERSION}, shard_clips=shard_clips
    )
    # A robot that will not do is refused here, not in every worker.
    robot_tree(RobotModel.load(spec.robot))
    missing = target.start()
    if advance is not None:
        advance(spec.clips - len(missing))
    start = time.perf_counter()
    facts = []
    for fact in _make(spec, target.clips, missing, workers, ray_address):
        facts.append(fact)
        _warn_if_large(spec, target.clips, fact)
        target.made(fact["index"])
        if advance is not None:
            advance(1)
    wall = time.perf_counter() - start
    target.finish()
    return _summary(spec, facts, wall) | target.summary()


def _warn_if_large(spec: DatasetSpec, folder: Path, fact: Mapping[str, Any]) -> None:
    given, usual = spec.tabletop, TabletopConfig()
    pixels = given.height * given.width * given.max_cameras
    if fact["bytes"] > CLIP_BYTES and pixels <= usual.height * usual.width * usual.max_cameras:
        log.warning(
            "%s has %d bytes, at most %d were expected: is something in the scene a noise of fine detail?",
            clip_path(folder, fact["index"]),
            fact["bytes"],
            CLIP_BYTES,
        )


def _with_one_renderer(spec: DatasetSpec, root: Path) -> DatasetSpec:
    if spec.renderer != "auto":
        return spec
    size = spec.tabletop.height, spec.tabletop.width
    return replace(spec, renderer=stored_renderer(root) or working_renderer(*size))


def _make(
    spec: DatasetSpec, root: Path, missing: list[int], workers: int, ray_address: str | None
) -> Iterator[dict[str, Any]]:
    """Make clips into the folder `root`, in any order; yields the facts of each once it is there."""
    if not missing:
        return iter(())
    if ray_address is not None:
        from pointworld.data.ray_generate import make_on_ray

        return make_on_ray(spec, root, missing, address=ray_address, workers=workers)
    return _run_workers(spec, root, missing, workers)


def _run_workers(
    spec: DatasetSpec, root: Path, missing: list[int], workers: int
) -> Iterator[dict[str, Any]]:
    tasks = [(spec, str(root), i) for i in missing]
    yield from unordered(_make_one, tasks, workers, initializer=_start_worker)


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


def merged_summary(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs made in the same folder, as one summary; whatever else `later` says is kept.

    Raises:
        KeyError, TypeError, ValueError: `earlier` is not a summary of `generate_dataset`.
    """
    counts = int(earlier["made"]), int(later["made"])
    made, wall = sum(counts), earlier["wall_seconds"] + later["wall_seconds"]
    names = earlier["families"].keys() | later["families"].keys()
    of_family = {
        name: (earlier["families"].get(name, 0), later["families"].get(name, 0))
        for name in sorted(names)
    }
    bytes_mean = _merged_means(
        {"bytes": earlier["bytes_mean"]}, {"bytes": later["bytes_mean"]}, counts
    )["bytes"]
    return {
        **later,
        "made": made,
        "wall_seconds": wall,
        "clips_per_second": made / max(wall, 1e-9),
        "seconds_per_clip": _merged_means(
            earlier["seconds_per_clip"], later["seconds_per_clip"], counts
        ),
        "bytes_mean": bytes_mean,
        "bytes_max": max(earlier["bytes_max"], later["bytes_max"]),
        "families": {name: sum(pair) for name, pair in of_family.items()},
        "shares": _merged_means(earlier["shares"], later["shares"], counts),
        "family_shares": {
            name: _merged_means(
                earlier["family_shares"].get(name, {}), later["family_shares"].get(name, {}), pair
            )
            for name, pair in of_family.items()
        },
    }


def _merged_means(
    a: Mapping[str, float], b: Mapping[str, float], counts: tuple[int, int]
) -> dict[str, float]:
    """Means over `counts[0]` and `counts[1]` clips as means over all of them; absent ones are zero."""
    total = max(sum(counts), 1)
    return {
        name: (counts[0] * a.get(name, 0.0) + counts[1] * b.get(name, 0.0)) / total
        for name in {**a, **b}
    }


def _shares(facts: list[dict[str, Any]]) -> dict[str, float]:
    """Share of clips in which something is touched, moves and tips over."""
    return {
        name: sum(bool(fact[name]) for fact in facts) / max(len(facts), 1)
        for name in ("touched", "moved", "tipped")
    }
