"""Clips made on a Ray cluster: the same clips, whatever machine makes them and however many of those die."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pointworld.data.clip import clip_path
from pointworld.data.dataset import DatasetSpec, make_clip_file
from pointworld.errors import InputError, MissingExtraError, PointWorldError
from pointworld.files import atomic_path

#: A clip whose worker dies is made again this often, by another worker.
RETRIES = 5
#: Clips in the making per CPU: enough to keep every worker busy while results travel.
_AHEAD = 2
#: A clip is about 100 kB; this is the least that Ray accepts.
_OBJECT_STORE_BYTES = 80 * 1024 * 1024
_KEPT = "What is made so far is kept; the same command goes on."


def import_ray() -> Any:
    """The ray module.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "distributed", "Making clips on a Ray cluster") from error
    return ray


@contextmanager
def ray_cluster(address: str, workers: int) -> Iterator[Any]:
    """Connect to a cluster, or start a small one here and end it afterwards; yields the ray module.

    Args:
        address: "local", "auto", or where the head node listens ("host:port", "ray://host:port").
        workers: CPUs of a cluster that is started here.

    Raises:
        InputError: no cluster answers at this address.
        MissingExtraError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = import_ray()
    local: dict[str, Any] = {}
    if address == "local":
        local = {
            "num_cpus": max(1, workers),
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
            # Ray's own default would let its workers starve beside anything else that runs.
            "_system_config": {"worker_niceness": 0},
        }
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
            **local,
        )
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise InputError(
            f"--ray {address}: no Ray cluster answers there ({str(error).splitlines()[0]}). Start one with "
            "'ray start --head', or use --ray local."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def make_on_ray(
    spec: DatasetSpec, root: Path, missing: list[int], *, address: str, workers: int
) -> Iterator[dict[str, Any]]:
    """Make clips on a cluster and write them below `root` on this machine; yields the facts of each once it is there.

    A clip comes back as bytes, so the machines need no common disk. A worker that dies loses the clip it was making;
    Ray gives it to another one. A clip is written under its index, once.

    Raises:
        PointWorldError: a clip whose worker died `RETRIES` times over, a clip that cannot be made, or a cluster that
            fails.
    """
    with ray_cluster(address, workers) as ray, errors_for_people(ray):
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_make_bytes)
        waiting = list(reversed(missing))
        running: dict[Any, int] = {}
        settings = ray.put(spec)
        while waiting or running:
            room = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
            while waiting and len(running) < room:
                index = waiting.pop()
                running[task.remote(settings, index)] = index
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                yield _collect(ray, reference, running.pop(reference), root)


@contextmanager
def errors_for_people(ray: Any) -> Iterator[None]:
    """Whatever goes wrong in the cluster, as one of our errors: short, with what to do."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        # Ray's own text of it is the worker's traceback. What a clip's own code says of itself is written for people.
        if isinstance(error.cause, PointWorldError):
            raise error.cause from error
        raise PointWorldError(
            f"a worker of the Ray cluster failed ({_first_line(error.cause)}). Has every machine of it the same "
            f"version of this package, with the extra 'sim'? {_KEPT}"
        ) from error
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise PointWorldError(
            f"the Ray cluster failed ({type(error).__name__}: {_first_line(error)}). Look at it with 'ray status'. "
            f"{_KEPT}"
        ) from error


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _collect(ray: Any, reference: Any, index: int, root: Path) -> dict[str, Any]:
    try:
        data, fact = ray.get(reference)
    except ray.exceptions.WorkerCrashedError as error:
        raise PointWorldError(
            f"clip {index}: its worker died {RETRIES + 1} times. Is there memory enough for so many workers? {_KEPT}"
        ) from error
    with atomic_path(clip_path(root, index)) as temporary:
        temporary.write_bytes(data)
    return dict(fact)


def _make_bytes(spec: DatasetSpec, index: int) -> tuple[bytes, dict[str, Any]]:
    """Runs on the cluster."""
    with tempfile.TemporaryDirectory(prefix="pointworld-") as folder:
        path = Path(folder) / "clip.npz"
        fact = make_clip_file(spec, index, path)
        return path.read_bytes(), {**fact, "worker": os.getpid()}
