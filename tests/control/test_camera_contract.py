"""The same contract for every camera: simulated, replayed, and a RealSense (the SDK's software device)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from pointworld.control.backends.realsense import RealSenseCamera
from pointworld.control.cameras import ReplayCamera
from pointworld.control.clock import Clock, ManualClock, SystemClock
from pointworld.control.frames import FrameWatch
from pointworld.control.protocols import Camera
from pointworld.control.types import CameraFrame, ControlError, Reason
from tests.control.simulated import simulated_cameras
from tests.control.test_cameras import frame


class Bench:
    """A camera that is not connected yet, its clock, and how time goes on.

    unplug: ends what delivers frames, None where they are made when asked for. again: it may be connected again.
    """

    def __init__(
        self,
        camera: Camera,
        clock: Clock,
        advance: Callable[[float], None],
        *,
        unplug: Callable[[], None] | None = None,
        again: bool = True,
    ) -> None:
        self.camera, self.clock, self.advance = camera, clock, advance
        self.unplug, self.again = unplug, again

    def refuses(self, call: Callable[[], CameraFrame]) -> None:
        """The call says that there is no frame."""
        with pytest.raises(ControlError) as caught:
            call()
        assert caught.value.reason is Reason.CAMERA_STALE


def _by_hand(clock: ManualClock) -> Callable[[float], None]:
    return lambda seconds: setattr(clock, "time", clock.time + seconds)


def _simulated() -> Bench:
    clock = ManualClock(5.0)
    return Bench(simulated_cameras(clock)[0], clock, _by_hand(clock))


def _replayed() -> Bench:
    clock = ManualClock(5.0)
    camera = ReplayCamera([frame("side", k, 60 + k) for k in range(12)], clock)
    return Bench(camera, clock, _by_hand(clock))


def _realsense() -> Bench:
    # Skips where the SDK is not installed.
    from tests.control.test_realsense import Device

    source = Device()
    camera = RealSenseCamera(clock=SystemClock(), device=source.device, name="side")
    source.thread.start()

    def unplug() -> None:
        source.over.set()
        source.thread.join()

    # A software device belongs to the test: the driver cannot open it a second time.
    return Bench(camera, SystemClock(), time.sleep, unplug=unplug, again=False)


MAKERS = {"simulated": _simulated, "replayed": _replayed, "realsense": _realsense}


@pytest.fixture(params=MAKERS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = MAKERS[request.param]()
    yield made
    made.camera.disconnect()
    if made.unplug is not None:
        made.unplug()


def test_it_has_the_shape_of_a_camera(bench: Bench) -> None:
    assert isinstance(bench.camera, Camera) and not bench.camera.is_connected
    bench.camera.connect()
    assert bench.camera.is_connected and bench.camera.name


def test_without_a_connection_there_are_no_frames(bench: Bench) -> None:
    bench.refuses(lambda: bench.camera.read(0.1))
    bench.refuses(lambda: bench.camera.read_latest(1.0))


def test_disconnecting_twice_is_fine_and_ends_the_frames(bench: Bench) -> None:
    bench.camera.disconnect()
    bench.camera.connect()
    bench.camera.read(5.0)
    bench.camera.disconnect()
    bench.camera.disconnect()
    assert not bench.camera.is_connected
    bench.advance(0.4)
    bench.refuses(lambda: bench.camera.read_latest(0.3))
    if bench.again:
        bench.camera.connect()
        bench.camera.connect()
        assert bench.camera.is_connected
        bench.camera.read(5.0)


def test_frames_are_colours_and_metres_of_one_size(bench: Bench) -> None:
    bench.camera.connect()
    seen = bench.camera.read(5.0)
    height, width = seen.depth.shape
    assert seen.camera == bench.camera.name
    assert seen.rgb.shape == (height, width, 3) and seen.rgb.dtype == np.uint8
    assert seen.depth.dtype == np.float32 and np.isfinite(seen.depth).all()
    known = seen.depth[seen.depth > 0]
    assert known.size > seen.depth.size / 2 and 0.1 < float(np.median(known)) < 5.0
    assert seen.K.shape == (3, 3) and seen.K[2].tolist() == [0, 0, 1]
    assert 0 < seen.K[0, 2] < width and 0 < seen.K[1, 2] < height and seen.K[0, 0] > 0
    assert seen.time <= bench.clock.now()
    _, reason, message = FrameWatch().check(seen, bench.clock.now())
    assert reason is Reason.NONE, message


def test_numbers_and_times_of_frames_grow(bench: Bench) -> None:
    bench.camera.connect()
    frames = []
    for _ in range(5):
        bench.advance(0.05)
        frames.append(bench.camera.read(5.0))
    assert (np.diff([f.sequence for f in frames]) > 0).all()
    assert (np.diff([f.time for f in frames]) > 0).all()
    latest = bench.camera.read_latest(5.0)
    assert latest.sequence >= frames[-1].sequence


def test_the_latest_frame_is_never_older_than_asked_for(bench: Bench) -> None:
    bench.camera.connect()
    first = bench.camera.read_latest(5.0)
    bench.advance(0.6)
    second = bench.camera.read_latest(0.5)
    assert bench.clock.now() - second.time <= 0.5 and second.time > first.time


def test_a_camera_that_is_unplugged_is_stale(bench: Bench) -> None:
    if bench.unplug is None:
        pytest.skip("this camera makes its frames when it is asked")
    bench.camera.connect()
    bench.camera.read(5.0)
    bench.unplug()
    bench.advance(0.4)
    bench.refuses(lambda: bench.camera.read_latest(0.3))


def test_cameras_of_a_simulated_look_share_a_moment_no_older_than_asked_for() -> None:
    clock = ManualClock(5.0)
    left, right = simulated_cameras(clock)[:2]
    left.connect()
    right.connect()
    first = left.read_latest(0.3)
    clock.time += 0.2
    assert right.read_latest(0.3).sequence == first.sequence, "of the same look"
    clock.time += 0.2
    late = right.read_latest(0.3)
    assert late.sequence > first.sequence and clock.now() - late.time <= 0.3
