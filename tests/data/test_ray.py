"""Clips made on a real local Ray cluster: the same bytes, also when a worker is killed in mid-run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from pointworld.data import DatasetSpec, TabletopConfig, generate_dataset, list_clips
from pointworld.errors import InputError, PointWorldError

pytest.importorskip("ray", reason="Ray is an extra: pip install 'pointworld-open[distributed]'")
pytest.importorskip(
    "mujoco", reason="the simulator is an extra: pip install 'pointworld-open[sim]'"
)

from ray import exceptions

from pointworld.data.ray_generate import make_on_ray, ray_cluster

#: Of the run whose worker is killed: four are under way at once, so some are still to be begun then.
CLIPS = 6


def spec(clips: int) -> DatasetSpec:
    small = TabletopConfig(height=36, width=64, max_cameras=2)
    return DatasetSpec(clips=clips, seed=21, renderer="rays", tabletop=small)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in list_clips(folder)}


def running(pid: int) -> bool:
    """Whether the process lives (a zombie does not)."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_a_cluster_makes_the_same_clips(tmp_path: Path) -> None:
    generate_dataset(spec(2), tmp_path / "here", workers=0)
    summary = generate_dataset(spec(2), tmp_path / "ray", workers=1, ray_address="local")
    assert summary["made"] == 2
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")


def test_nothing_is_lost_or_doubled_when_a_worker_is_killed(tmp_path: Path) -> None:
    wanted, folder = spec(CLIPS), tmp_path / "ray"
    facts, killed = [], None
    for fact in make_on_ray(wanted, folder, list(range(CLIPS)), address="local", workers=2):
        facts.append(fact)
        if killed is None:
            # Four clips are under way, so this worker is making one.
            killed = int(fact["worker"])
            os.kill(killed, signal.SIGKILL)
    assert killed is not None and not running(killed)
    assert sorted(fact["index"] for fact in facts) == list(range(CLIPS))
    workers = {fact["worker"] for fact in facts}
    assert len(workers) >= 2 and facts[-1]["worker"] != killed
    deadline = time.monotonic() + 30
    while any(running(pid) for pid in workers):
        assert time.monotonic() < deadline, "the cluster was left running"
        time.sleep(0.1)
    generate_dataset(wanted, tmp_path / "here", workers=0)
    assert contents(folder) == contents(tmp_path / "here")
    assert generate_dataset(wanted, folder, workers=0)["made"] == 0


@pytest.mark.rejects_input
def test_no_cluster_is_said_so() -> None:
    with pytest.raises(InputError, match="no Ray cluster answers"), ray_cluster("auto", 1):
        pass


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (exceptions.WorkerCrashedError(), "clip 0: its worker died 6 times"),
        (exceptions.OutOfMemoryError("too much\nand more"), r"OutOfMemoryError: too much\)\. Look"),
        (exceptions.ObjectLostError("ab" * 28, "here", ""), "cluster failed .ObjectLostError"),
        (exceptions.RayTaskError("make", "Traceback", InputError("no GL")), "^no GL$"),
        (exceptions.RayTaskError("make", "Traceback", KeyError("x")), "worker .* failed .'x'"),
    ],
)
def test_what_goes_wrong_in_a_cluster_is_said_shortly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    """Of the cluster only its interface: the errors are Ray's own."""

    class Cluster:
        exceptions = exceptions

        def put(self, value: object) -> object:
            return value

        def remote(self, **options: object) -> Callable[[object], SimpleNamespace]:
            return lambda work: SimpleNamespace(remote=lambda settings, index: index)

        def cluster_resources(self) -> dict[str, int]:
            return {"CPU": 1}

        def wait(self, running: list[int], num_returns: int) -> tuple[list[int], list[int]]:
            return running[:1], running[1:]

        def get(self, reference: int) -> None:
            raise error

    @contextmanager
    def cluster(address: str, workers: int) -> Iterator[Cluster]:
        yield Cluster()

    monkeypatch.setattr("pointworld.data.ray_generate.ray_cluster", cluster)
    with pytest.raises(PointWorldError, match=message):
        list(make_on_ray(spec(1), tmp_path, [0], address="auto", workers=1))
