"""Intel RealSense depth cameras. A thread reads; nobody who asks for a frame waits for the driver.

Tested through the SDK's software device. Not yet tried on hardware.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from typing import Any

import numpy as np

from pointworld.control.clock import Clock
from pointworld.control.types import CameraFrame, ControlError, Reason
from pointworld.errors import MissingExtraError


class RealSenseCamera:
    """See `Camera`. Depth is aligned to colour by the SDK; its filters stay off, because they invent or smear depth."""

    def __init__(
        self,
        *,
        clock: Clock,
        serial: str | None = None,
        size: tuple[int, int] = (640, 480),
        rate: int = 30,
        name: str | None = None,
        device: Any = None,
    ) -> None:
        """Args: serial: which camera, None for the only one. size: (width, height) [px]. rate: [1/s].

        device: an opened SDK device in place of one found by serial (a software device, a recording).
        """
        self._clock, self._serial, self._size, self._rate = clock, serial, size, rate
        self._name = name or serial or "realsense"
        self._device = device
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._news = threading.Condition()
        self._frame: CameraFrame | None = None
        self._read, self._failure = -1, "no frame yet"

    @property
    def name(self) -> str:
        return self._name

    @property
    def is_connected(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def connect(self) -> None:
        """See `Camera`."""
        if self.is_connected:
            return
        source = self._open()
        self._over.clear()
        self._thread = threading.Thread(target=self._listen, args=(source,), daemon=True)
        self._thread.start()
        try:
            self.read(5.0)
        except ControlError:
            self.disconnect()
            raise
        self._read = -1

    def _open(self) -> Any:
        """Something with wait(ms) that gives a depth and a colour frame."""
        rs = import_realsense()
        if self._device is not None:
            return _Syncer(rs, self._device)
        pipeline, config = rs.pipeline(), rs.config()
        if self._serial is not None:
            config.enable_device(self._serial)
        width, height = self._size
        config.enable_stream(rs.stream.depth, width, height, rs.format.z16, self._rate)
        config.enable_stream(rs.stream.color, width, height, rs.format.rgb8, self._rate)
        try:
            pipeline.start(config)
        except RuntimeError as error:
            raise ControlError(
                Reason.CAMERA_STALE,
                f"RealSense {self._serial or ''}: {error}. Is it plugged into USB 3 and free?",
            ) from error
        return _Pipeline(rs, pipeline)

    def disconnect(self) -> None:
        """See `Camera`."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(2.0)
        self._thread = None

    def _listen(self, source: Any) -> None:
        try:
            while not self._over.is_set():
                pair = source.wait(200)
                if pair is None:
                    continue
                depth, color = pair
                frame = _convert(self._name, depth, color, self._clock.now())
                with self._news:
                    self._frame = frame
                    self._news.notify_all()
        except RuntimeError as error:
            self._failure = str(error)
        finally:
            with contextlib.suppress(RuntimeError):
                source.close()

    def read(self, timeout_s: float = 1.0) -> CameraFrame:
        """See `Camera`."""
        with self._news:
            fresh = self._news.wait_for(
                lambda: self._frame is not None and self._frame.sequence != self._read, timeout_s
            )
            if not fresh or self._frame is None:
                raise ControlError(
                    Reason.CAMERA_STALE,
                    f"camera '{self._name}' gave no frame for {timeout_s} s ({self._failure})",
                )
            self._read = self._frame.sequence
            return self._frame

    def read_latest(self, max_age_s: float = 0.3) -> CameraFrame:
        """See `Camera`."""
        frame = self._frame
        age = np.inf if frame is None else self._clock.now() - frame.time
        if frame is None or age > max_age_s:
            raise ControlError(
                Reason.CAMERA_STALE,
                f"camera '{self._name}': the newest frame is {age:.3f} s old ({self._failure})",
            )
        return frame


class _Pipeline:
    """Frames of a real camera."""

    def __init__(self, rs: Any, pipeline: Any) -> None:
        self._pipeline, self._align = pipeline, rs.align(rs.stream.color)

    def wait(self, milliseconds: int) -> tuple[Any, Any] | None:
        """A depth frame aligned to its colour frame, or None."""
        found, frames = self._pipeline.try_wait_for_frames(milliseconds)
        if not found:
            return None
        aligned = self._align.process(frames)
        depth, color = aligned.get_depth_frame(), aligned.get_color_frame()
        return (depth, color) if depth and color else None

    def close(self) -> None:
        self._pipeline.stop()


class _Syncer:
    """Frames of a device whose sensors have been opened and started by its owner."""

    def __init__(self, rs: Any, device: Any) -> None:
        self._sync = rs.syncer()
        self._align = rs.align(rs.stream.color)
        for sensor in device.query_sensors():
            sensor.open(sensor.get_stream_profiles()[0])
            sensor.start(self._sync)

    def wait(self, milliseconds: int) -> tuple[Any, Any] | None:
        """A depth frame aligned to its colour frame, or None."""
        found, frames = self._sync.try_wait_for_frames(milliseconds)
        if not found or frames.size() < 2:
            return None
        aligned = self._align.process(frames)
        depth, color = aligned.get_depth_frame(), aligned.get_color_frame()
        return (depth, color) if depth and color else None

    def close(self) -> None:
        """The owner closes the device."""


def _convert(name: str, depth: Any, color: Any, now: float) -> CameraFrame:
    metres = np.asanyarray(depth.get_data()).astype(np.float32) * np.float32(depth.get_units())
    lens = color.profile.as_video_stream_profile().intrinsics
    # The SDK puts pixel centres at integers.
    K = np.array([[lens.fx, 0, lens.ppx + 0.5], [0, lens.fy, lens.ppy + 0.5], [0, 0, 1]])
    return CameraFrame(
        camera=name,
        rgb=np.asanyarray(color.get_data()).astype(np.uint8).copy(),
        depth=metres,
        K=K,
        time=now,
        sequence=int(color.get_frame_number()),
    )


def import_realsense() -> Any:
    """The SDK.

    Raises:
        MissingExtraError: it is not installed (or the system lacks libusb-1.0).
    """
    try:
        return importlib.import_module("pyrealsense2")
    except ImportError as error:
        raise MissingExtraError(
            "pyrealsense2", "realsense", "Reading a RealSense camera"
        ) from error
