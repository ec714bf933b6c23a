"""What fails beside a pause is tried again, what fails without one is not."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

from tests.control.pauses import SHORTEST_WATCHDOG, TRIES, Pauses

CONFTEST = """
from tests.control.pauses import run_despite_pauses
def pytest_runtest_protocol(item, nextitem):
    return run_despite_pauses(item, nextitem)
"""
CASES = """
import ctypes, pathlib
import pytest
RUNS = pathlib.Path(__file__).parent
def count(name):
    with (RUNS / name).open("a") as file:
        file.write("x")
    return len((RUNS / name).read_text())
def stand_still():
    ctypes.PyDLL(None).usleep(200_000)  # keeps the interpreter's lock
@pytest.fixture
def place():
    count("fixture")
    yield 1
    count("left")
def test_paused_once(place):
    if count("once") == 1:
        stand_still()
        raise AssertionError
def test_paused_always(place):
    count("always")
    stand_still()
    raise AssertionError
def test_wrong(place):
    count("wrong")
    raise AssertionError
def test_right(place):
    count("right")
    stand_still()
"""


def hold_up(seconds: float) -> None:
    """Stand still, all threads of this process."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def test_a_pause_is_measured() -> None:
    with Pauses() as pauses:
        hold_up(3 * SHORTEST_WATCHDOG)
    assert pauses.longest > 2 * SHORTEST_WATCHDOG


def test_only_what_fails_beside_a_pause_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_cases.py").write_text(CASES)
    root = Path(__file__).parents[2]
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *words], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert "2 failed, 2 passed" in done.stdout, done.stdout
    assert "FAILED" in done.stdout and "test_wrong" in done.stdout
    runs = {
        name: len((tmp_path / name).read_text()) for name in ("once", "always", "wrong", "right")
    }
    assert runs == {"once": 2, "always": TRIES, "wrong": 1, "right": 1}
    assert (
        (tmp_path / "fixture").read_text()
        == (tmp_path / "left").read_text()
        == "x" * sum(runs.values())
    )
