"""What drivers of real arms share: numbering of measurements, versions, and the memory of a stop."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
from collections.abc import Callable
from types import ModuleType

import numpy as np

from pointworld.control.clock import Clock
from pointworld.control.types import ControlError, JointCommand, Observation, Reason, RobotState
from pointworld.errors import MissingExtraError

#: An arm that says that it is faster moves; within 0.1 s its encoders cannot but change [rad/s].
_MOVES = 0.01


def import_sdk(module: str, package: str, purpose: str) -> ModuleType:
    """An SDK's module.

    Raises:
        MissingExtraError: it is not installed. SDKs are installed by hand, best into an environment of the server's.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(package, "robots", purpose) from error


def sdk_version(package: str) -> str:
    """Version of an installed package; "unknown" for a module that was installed in another way."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


class VendorArm:
    """Base of drivers. A measurement counts as new only when the arm's own clock has moved on (`_fresh`).

    For SDKs that give no such time there is `_answered`, which cannot tell a frozen arm in every case.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stopped = False
        self._stamp: float | None = None
        self._sequence, self._seen = 0, 0.0
        self._last: tuple[np.ndarray, np.ndarray] | None = None
        self._versions: dict[str, str] = {}

    def _fresh(self, stamp: float) -> tuple[float, int]:
        """Time on our clock and number of the measurement that the arm stamped with its own time."""
        if stamp != self._stamp:
            self._stamp, self._seen = stamp, self._clock.now()
            self._sequence += 1
        return self._seen, self._sequence

    def _answered(self, asked: float, q: np.ndarray, v: np.ndarray) -> tuple[float, int]:
        """Time on our clock and number of a measurement that the arm has not stamped with a time of its own.

        The same numbers again from an arm that moves by its own word are a copy, which keeps its time and number, and
        so grows too old to act on. From an arm that stands they count as new: encoders without noise say the same
        again and again, and an arm that may not stand could not be armed. Such a copy is noticed only when the arm is
        sent elsewhere and seems not to follow (`SafetyConfig.tracking`).

        Args:
            asked: when the question was asked, not when the answer came: a slow one must not seem young [s].
            q, v: (joints,) measured [rad, rad/s].
        """
        moving = bool(np.abs(v).max() > _MOVES)
        last, self._last = self._last, (q, v)
        if last is None or not moving or not all(map(np.array_equal, last, (q, v))):
            self._seen = asked
            self._sequence += 1
        return self._seen, self._sequence

    def _note_versions(self, package: str, **told: Callable[[], object]) -> None:
        """Remember the SDK's version, and what devices tell of their own, by name.

        One that cannot be asked, or tells nothing, is left out: versions are good to know, and no arm waits for them.
        """
        self._versions = {package: sdk_version(package)}
        for name, ask in told.items():
            with contextlib.suppress(Exception):
                if version := ask():
                    self._versions[name] = str(version)

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
