"""Time for the loop: the machine's, or one that a test moves by hand."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds that never go back, from an arbitrary zero."""

    def now(self) -> float: ...

    def sleep_until(self, when: float) -> None: ...


class SystemClock:
    """CLOCK_MONOTONIC: the same for all processes of a machine, untouched by changes of the date."""

    def now(self) -> float:
        """Seconds."""
        return time.monotonic()

    def sleep_until(self, when: float) -> None:
        """Return at `when`, at once if it has passed."""
        rest = when - time.monotonic()
        if rest > 0:
            time.sleep(rest)


class ManualClock:
    """Stands still until it is moved; `sleep_until` moves it."""

    def __init__(self, start: float = 0.0) -> None:
        self.time = start

    def now(self) -> float:
        """Seconds."""
        return self.time

    def sleep_until(self, when: float) -> None:
        """Go there, never back."""
        self.time = max(self.time, when)
