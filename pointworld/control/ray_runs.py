"""Episodes of a task on a Ray cluster: the same results as one after another, whatever machine runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from pointworld.control.recording import holds_recording
from pointworld.control.task_runs import (
    RunConfig,
    episode_record,
    load_model,
    read_episode,
    recording_folder,
    run_one,
)
from pointworld.data.ray_generate import RETRIES, errors_for_people, ray_cluster
from pointworld.errors import InputError, PointWorldError
from pointworld.files import write_json


def run_on_ray(
    config: RunConfig,
    seeds: Sequence[int],
    *,
    address: str,
    workers: int,
    out: Path | None = None,
    record: Path | None = None,
    on_episode: Callable[[int, dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """See `run_many`. Episodes are reported as they end and returned in the order of their seeds.

    Args:
        address: "local", "auto" or where the head node listens. workers: of a cluster that is started here.
        record: a folder that all machines of the cluster see.

    Raises:
        InputError: no cluster answers, a file in `out` comes from other settings, or there are recordings already.
        PointWorldError: an episode whose worker died several times over.
    """
    known: dict[int, dict[str, Any]] = {}
    for seed in seeds:
        path = None if out is None else out / f"episode_{seed:05d}.json"
        if path is not None and path.exists():
            known[seed] = read_episode(path, config)
            if on_episode is not None:
                on_episode(seed, known[seed])
    missing = [seed for seed in seeds if seed not in known]
    for seed in missing:
        folder = recording_folder(record, seed, again=out is not None)
        if folder is not None and holds_recording(folder):
            raise InputError(f"{folder} holds a recording already; choose a new folder")
    if not missing:
        return [known[seed] for seed in seeds]
    with ray_cluster(address, workers) as ray, errors_for_people(ray):
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_episode)
        running = {task.remote(config, seed, record): seed for seed in missing}
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            seed = running.pop(done)
            try:
                known[seed] = ray.get(done)
            except ray.exceptions.WorkerCrashedError as error:
                raise PointWorldError(
                    f"episode {seed}: its worker died {RETRIES + 1} times. Is there memory enough for so many workers? "
                    "What has ended so far is kept; the same command goes on."
                ) from error
            if out is not None:
                write_json(out / f"episode_{seed:05d}.json", known[seed])
            if on_episode is not None:
                on_episode(seed, known[seed])
    return [known[seed] for seed in seeds]


@lru_cache(maxsize=1)
def _model(config: RunConfig) -> Any:
    """One per worker."""
    return load_model(config)


def _episode(config: RunConfig, seed: int, record: Path | None) -> dict[str, Any]:
    """Runs on the cluster."""
    torch.set_num_threads(1)
    # What is there is of a worker that died.
    folder = recording_folder(record, seed, again=True)
    result = run_one(config, seed, record=folder, model=_model(config))
    return episode_record(config, seed, result)
