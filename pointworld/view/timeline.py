"""Which step of a flow is shown, and how it moves on: play, pause, scrub, speed. No window in here."""

from __future__ import annotations

import numpy as np

SLOWEST, FASTEST = 0.125, 8.0


class Timeline:
    """The shown step of a flow.

    Args:
        num_steps: steps of the flow, now included.
        step_dt: seconds between them.
    """

    def __init__(self, num_steps: int, step_dt: float) -> None:
        self.num_steps, self.step_dt = num_steps, step_dt
        self.step, self.playing, self.speed = 0, True, 1.0
        self._next = 0.0

    def scrub(self, by: int) -> None:
        """Stop and go `by` steps on, round the ends."""
        self.go_to((self.step + by) % self.num_steps)

    def go_to(self, step: int) -> None:
        """Stop at `step`."""
        self.playing = False
        self.step = int(np.clip(step, 0, self.num_steps - 1))

    def change_speed(self, factor: float) -> None:
        """Play faster or slower, within 1/8 and 8 times real time."""
        self.speed = float(np.clip(self.speed * factor, SLOWEST, FASTEST))

    def tick(self, now: float) -> bool:
        """Go on at time `now` [s]; True when another step is to be shown."""
        if not self.playing or now < self._next:
            return False
        self._next = now + self.step_dt / self.speed
        self.step = (self.step + 1) % self.num_steps
        return True

    @property
    def label(self) -> str:
        """What the panel says about it."""
        return f"t = {self.step * self.step_dt:.2f} s   step {self.step} of {self.num_steps - 1}"
