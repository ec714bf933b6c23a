"""Cells of a benchmark: kept, not measured twice, and failing alone."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "cells.py"


@pytest.fixture(scope="module")
def cells() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_cells", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_run_goes_on_where_it_ended(
    cells: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, log = tmp_path / "out" / "cells.json", tmp_path / "log"
    code = f"open({str(log)!r}, 'a').write('x'); print('words'); print('{{\"gb\": 1.5}}')"
    commands = {"good": ["-c", code], "bad": ["-c", "raise MemoryError('too much')"]}
    first = cells.run_cells(commands, file, minutes=1)
    assert first == {"good": {"gb": 1.5}, "bad": {"failed": "MemoryError: too much"}}
    assert json.loads(file.read_text()) == first
    capsys.readouterr()
    again = cells.run_cells(commands | {"new": ["-c", "print('{}')"]}, file, minutes=1)
    assert again == first | {"new": {}} and log.read_text() == "x"
    assert capsys.readouterr().out.count(": known") == 2


def test_what_takes_too_long_or_too_much_fails_alone(cells: ModuleType, tmp_path: Path) -> None:
    slow = cells.measure(["-c", "import time; time.sleep(60)"], minutes=0.01)
    assert slow == {"failed": "more than 0.01 minutes"}
    load = f"import sys; sys.path.insert(0, {str(BENCHMARK.parent)!r}); import cells; "
    take = "cells.limit_memory({}); block = bytearray(10**9); print('{{}}')"
    assert cells.measure(["-c", load + take.format(4)], minutes=1) == {}
    assert cells.measure(["-c", load + take.format(0.5)], minutes=1) == {"failed": "MemoryError"}


def test_a_child_does_not_count_what_its_parent_held(cells: ModuleType) -> None:
    load = f"import sys; sys.path.insert(0, {str(BENCHMARK.parent)!r}); import cells, json; "
    child = load + "own = bytearray(b'x' * 10**8); print(json.dumps({'gb': cells.peak_memory()}))"
    held = bytearray(b"x" * 6 * 10**8)
    assert 0.1 < cells.measure(["-c", child], minutes=1)["gb"] < 0.5 < len(held) / 1e9
