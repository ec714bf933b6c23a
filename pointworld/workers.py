"""Work for several processes. One that dies, in a driver of the graphics card say, costs its time and nothing else."""

from __future__ import annotations

import logging
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from pointworld.errors import PointWorldError

log = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")

#: A task during which processes have died this often is not tried again.
TRIES = 3
#: Tasks that wait in front of every process, so that none is idle.
_WAITING = 2


def unordered(
    work: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int,
    *,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
) -> Iterator[Result]:
    """Results of `work(task)` in any order, made by `workers` processes, or by this one where workers is 0.

    When a process dies, what it and its neighbours were at is done again by new ones. Processes are spawned: a forked
    one would inherit OpenMP's state and die at its first parallel region.

    Args:
        work, initializer: importable functions; the second one runs once in every process.

    Raises:
        PointWorldError: processes died `TRIES` times at the same task. What `work` raises.
    """
    if workers <= 0:
        yield from map(work, tasks)
        return
    count = min(workers, max(len(tasks), 1))
    queue = deque((task, 0) for task in tasks)
    while queue:
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(count, context, initializer, initargs)
        flying: dict[Future[Result], tuple[Task, int]] = {}
        try:
            while queue or flying:
                while queue and len(flying) < _WAITING * count:
                    flying[pool.submit(work, queue[0][0])] = queue[0]
                    queue.popleft()
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    del flying[future]
                    yield result
        except BrokenProcessPool:
            again = list(flying.values())
            log.warning("a process died; %d tasks are begun again", len(again))
            for task, tries in again:
                if tries + 1 >= TRIES:
                    raise PointWorldError(
                        f"processes died {TRIES} times while they were at {_short(task)}. Try again with fewer "
                        "workers, which need less memory; what is done already is kept"
                    ) from None
                queue.append((task, tries + 1))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _short(task: object) -> str:
    """Its beginning and its end."""
    words = str(task)
    return words if len(words) <= 160 else f"{words[:80]} ... {words[-80:]}"
