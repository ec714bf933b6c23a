"""What cameras share for which nothing has to be opened: simulated and replayed ones."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pointworld.control.types import CameraFrame, ControlError, Reason


class PluggedCamera(ABC):
    """Base of a `Camera`; a subclass gives the frames. A camera that is not connected gives none."""

    def __init__(self, name: str) -> None:
        self._name, self._connected = name, False

    @property
    def name(self) -> str:
        return self._name

    @property
    def is_connected(self) -> bool:
        return self._connected

    def connect(self) -> None:
        """See `Camera`."""
        self._connected = True

    def disconnect(self) -> None:
        """See `Camera`."""
        self._connected = False

    def read(self, timeout_s: float = 1.0) -> CameraFrame:
        """See `Camera`."""
        return self.read_latest()

    def read_latest(self, max_age_s: float = 0.3) -> CameraFrame:
        """See `Camera`."""
        if not self._connected:
            raise ControlError(Reason.CAMERA_STALE, f"camera '{self.name}' is not connected")
        return self._newest(max_age_s)

    @abstractmethod
    def _newest(self, max_age_s: float) -> CameraFrame:
        """The newest frame, which may be `max_age_s` old."""
