"""Cells of a table, each measured by a process of its own and kept in a JSON file, so that a run can be continued.

A process of its own has a peak memory of its own, and one that takes too much time or memory ends alone.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pointworld.files import write_json


def read_cells(path: Path | None) -> dict[str, dict[str, Any]]:
    """Name to result of every cell that was measured before."""
    return json.loads(path.read_text()) if path is not None and path.is_file() else {}


def run_cells(
    commands: Mapping[str, Sequence[str]], path: Path | None, *, minutes: float
) -> dict[str, dict[str, Any]]:
    """Measure the cells that the file lacks, one after the other; all results, in the order of `commands`.

    Args:
        commands: name of a cell to the arguments of Python whose last line on stdout is its result, one JSON object.
        path: file that is written after every cell; None keeps nothing.
        minutes: a cell that takes longer is ended and counts as failed. A failed cell is not tried again; for that,
            remove it from the file.
    """
    known = read_cells(path)
    for number, (name, command) in enumerate(commands.items(), start=1):
        if name in known:
            print(f"[{number}/{len(commands)}] {name}: known", flush=True)
            continue
        print(f"[{number}/{len(commands)}] {name}: measuring", flush=True)
        start = time.perf_counter()
        known[name] = measure(command, minutes)
        took = time.perf_counter() - start
        print(f"    {json.dumps(known[name])}, {took:.0f} s in all", flush=True)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, known)
    return {name: known[name] for name in commands}


def measure(command: Sequence[str], minutes: float) -> dict[str, Any]:
    """The result of one cell, or why it `failed`."""
    whole = [sys.executable, *command]
    try:
        done = subprocess.run(
            whole, capture_output=True, text=True, timeout=60 * minutes, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"more than {minutes:g} minutes"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return {"failed": lines[-1][:200]}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def limit_memory(gigabytes: float) -> None:
    """Let this process fail, and no other one suffer, where it asks for more."""
    limit = int(gigabytes * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def peak_memory() -> float:
    """Most memory that this process has held so far [GB], of which torch itself takes about a third of one.

    Not `ru_maxrss`: that of a child begins with what its parent held.
    """
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e9
