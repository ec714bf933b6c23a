"""The RealSense driver, fed by the SDK's software device."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from pointworld.control.backends.realsense import RealSenseCamera
from pointworld.control.clock import SystemClock
from pointworld.control.protocols import Camera
from pointworld.control.types import ControlError, Reason

rs = pytest.importorskip("pyrealsense2")
WIDTH, HEIGHT = 64, 48


class Device:
    """A software device with a depth and a colour stream that runs until it is told to stop."""

    def __init__(self) -> None:
        self.device = rs.software_device()
        depth = self._sensor("depth", rs.stream.depth, rs.format.z16, 2)
        color = self._sensor("color", rs.stream.color, rs.format.rgb8, 3)
        depth[0].add_read_only_option(rs.option.depth_units, 0.001)
        still = rs.extrinsics()
        still.rotation, still.translation = [1, 0, 0, 0, 1, 0, 0, 0, 1], [0, 0, 0]
        depth[1].register_extrinsics_to(color[1], still)
        self.device.create_matcher(rs.matchers.default)
        self.streams = (depth, color)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._feed)

    def _sensor(self, name: str, stream: Any, form: Any, size: int) -> tuple[Any, Any, int]:
        sensor, video, lens = self.device.add_sensor(name), rs.video_stream(), rs.intrinsics()
        lens.width, lens.height, lens.fx, lens.fy = WIDTH, HEIGHT, 60.0, 60.0
        lens.ppx, lens.ppy, lens.model = 31.5, 23.5, rs.distortion.none
        video.type, video.index, video.uid, video.fps = stream, 0, size, 30
        video.width, video.height, video.bpp, video.fmt = WIDTH, HEIGHT, size, form
        video.intrinsics = lens
        return sensor, sensor.add_video_stream(video), size

    def _feed(self) -> None:
        number = 0
        while not self.over.is_set():
            number += 1
            for sensor, profile, size in self.streams:
                frame = rs.software_video_frame()
                frame.stride, frame.bpp = WIDTH * size, size
                frame.timestamp, frame.domain = number * 33.0, rs.timestamp_domain.hardware_clock
                frame.frame_number, frame.profile = number, profile.as_video_stream_profile()
                if size == 2:
                    frame.pixels = np.full((HEIGHT, WIDTH), 700, np.uint16)
                    frame.depth_units = 0.001
                else:
                    frame.pixels = np.full((HEIGHT, WIDTH, 3), number % 255, np.uint8)
                sensor.on_video_frame(frame)
            time.sleep(0.03)


def test_frames_come_in_metres_and_an_unplugged_camera_is_stale() -> None:
    source = Device()
    camera = RealSenseCamera(clock=SystemClock(), device=source.device, name="wrist")
    assert isinstance(camera, Camera) and not camera.is_connected
    source.thread.start()
    try:
        camera.connect()
        first, second = camera.read(2.0), camera.read(2.0)
        assert second.sequence > first.sequence and second.time >= first.time
        assert second.depth.dtype == np.float32 and second.depth[20, 20] == pytest.approx(0.7)
        assert second.K[0, 2] == 32.0 and second.K[1, 2] == 24.0
        assert camera.read_latest(1.0).camera == "wrist"
    finally:
        source.over.set()
        source.thread.join()
    time.sleep(0.4)
    for call in (lambda: camera.read_latest(0.3), lambda: camera.read(0.2)):
        with pytest.raises(ControlError) as caught:
            call()
            call()
        assert caught.value.reason is Reason.CAMERA_STALE
    camera.disconnect()
    camera.disconnect()
    assert not camera.is_connected
