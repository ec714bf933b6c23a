"""A planner that fails or takes far too long ends the run with a reason, whatever happens to its own process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from pointworld.control.clock import Clock
from pointworld.control.types import ControlError, Reason

#: A plan that takes this many times its deadline is a fault, also when the chunk before it still runs.
FAR_TOO_LONG = 10.0


class Stoppable(Protocol):
    """A `ControlLoop` or a `RemoteController`."""

    def stop(self, reason: Reason = ..., message: str = ...) -> object: ...


@contextmanager
def planning(controller: Stoppable, clock: Clock, *, deadline: float) -> Iterator[None]:
    """Run the planner inside: `with planning(loop, clock, deadline=0.5): ...`.

    An exception stops the arm with PLANNER_ERROR and goes on to the caller; a plan that took ten times `deadline` [s]
    stops it with PLANNER_LATE. What the controller itself refused (ControlError) is the caller's to judge.
    """
    begun = clock.now()
    try:
        yield
    except ControlError:
        raise
    except BaseException as error:
        controller.stop(
            Reason.PLANNER_ERROR, f"the planner failed: {type(error).__name__}: {error}"
        )
        raise
    spent = clock.now() - begun
    if spent > FAR_TOO_LONG * deadline:
        controller.stop(
            Reason.PLANNER_LATE, f"a plan took {spent:.2f} s, {deadline} s were allowed"
        )
