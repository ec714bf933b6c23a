"""What drivers of real arms share: numbering of measurements, and the memory of a stop."""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np

from pointworld.control.clock import Clock
from pointworld.control.types import ControlError, JointCommand, Observation, Reason, RobotState
from pointworld.errors import MissingExtraError


def import_sdk(module: str, package: str, purpose: str) -> ModuleType:
    """An SDK's module.

    Raises:
        MissingExtraError: it is not installed. SDKs are installed by hand, best into an environment of the server's.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(package, "robots", purpose) from error


class VendorArm:
    """Base of drivers. A measurement counts as new only when the arm's own clock has moved on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stopped = False
        self._stamp: float | None = None
        self._sequence, self._seen = 0, 0.0

    def _fresh(self, stamp: float) -> tuple[float, int]:
        """Time on our clock and number of the measurement that the arm stamped with its own time."""
        if stamp != self._stamp:
            self._stamp, self._seen = stamp, self._clock.now()
            self._sequence += 1
        return self._seen, self._sequence

    def get_state(self) -> RobotState:
        """See `Robot`."""
        raise ControlError(Reason.ROBOT_LINK, "not connected")

    def get_observation(self) -> Observation:
        """See `Robot`."""
        return Observation(state=self.get_state())

    def _refuse_if_stopped(self) -> None:
        if self._stopped:
            raise ControlError(Reason.ROBOT_ERROR, "the arm is stopped; recover it first")


def check_command(command: JointCommand, count: int) -> np.ndarray:
    """Joint positions (count,) of a command.

    Raises:
        ControlError: COMMAND_INVALID for another shape, NaN or infinity.
    """
    q = np.asarray(command.joint_positions, dtype=np.float64)
    if q.shape != (count,) or not np.isfinite(q).all():
        raise ControlError(Reason.COMMAND_INVALID, f"a command of {q}, expected {count} numbers")
    return q
