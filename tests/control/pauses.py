"""A test with real clocks is run again where the machine stood still meanwhile, and only there.

Watchdogs of tenths of a second fire, rightly, when a machine pauses. Waiting longer would prove less, so a failure
counts unless this process was held up for as long as the shortest of them; then the test has two more tries.
"""

from __future__ import annotations

import threading
import time

import pytest
from _pytest.runner import runtestprotocol

SHORTEST_WATCHDOG = 0.1  # s
TRIES = 3


class Pauses:
    """Context that measures how long this process was held up at most, in `longest` [s]."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._over.wait(0.01):
            now = time.monotonic()
            self.longest = max(self.longest, now - before)
            before = now

    def __enter__(self) -> Pauses:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def run_despite_pauses(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Run a test as pytest does, and again if it failed beside a pause: for the hook `pytest_runtest_protocol`."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for attempt in range(1, TRIES + 1):
        with Pauses() as pauses:
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
        held_up = f"try {attempt}: this process was held up for {pauses.longest:.2f} s at most"
        if not any(report.failed for report in reports):
            break
        for report in reports:
            report.sections.append(("pauses", held_up))
        if pauses.longest < SHORTEST_WATCHDOG or attempt == TRIES:
            break
        item.config.get_terminal_writer().line(f"\n{item.nodeid}: {held_up}; again")
        item._initrequest()  # type: ignore[attr-defined]
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
