"""Work for several processes, some of which die."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pointworld.errors import InputError, PointWorldError
from pointworld.workers import TRIES, unordered


def square(number: int) -> int:
    return number * number


def die_once(task: tuple[int, str]) -> int:
    number, folder = task
    mark = Path(folder) / f"{number}"
    if number % 5 == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refuse(number: int) -> int:
    raise InputError(f"not {number}")


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_task_is_done_once(workers: int) -> None:
    assert sorted(unordered(square, range(20), workers)) == [n * n for n in range(20)]
    assert list(unordered(square, [], workers)) == []


def test_what_a_dead_process_was_at_is_done_again(tmp_path: Path) -> None:
    tasks = [(n, str(tmp_path)) for n in range(12)]
    assert sorted(unordered(die_once, tasks, 2)) == list(range(12))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["3", "8"], "two processes died"


def test_a_task_that_kills_every_process_is_named() -> None:
    with pytest.raises(
        PointWorldError, match=rf"died {TRIES} times .* at \d. Try again with fewer"
    ):
        list(unordered(die, range(8), 2))


def test_errors_of_a_task_are_the_callers() -> None:
    with pytest.raises(InputError, match="not 0"):
        list(unordered(refuse, [0], 2))
