"""Every way a camera goes wrong has its reason."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pointworld.control.frames import FrameWatch
from pointworld.control.types import CameraFrame, Reason


def frame(k: int = 0, *, seed: int | None = None, **changes: object) -> CameraFrame:
    """A good frame: a table at 0.7 m with noise, 64 x 48."""
    rng = np.random.default_rng(k if seed is None else seed)
    depth = (0.7 + 0.002 * rng.standard_normal((48, 64))).astype(np.float32)
    depth[:4] = 0
    good = CameraFrame(
        camera="left",
        rgb=rng.integers(0, 255, (48, 64, 3), dtype=np.uint8),
        depth=depth,
        K=np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]),
        time=k / 10,
        sequence=k,
    )
    return dataclasses.replace(good, **changes)  # type: ignore[arg-type]


def judge(*frames: CameraFrame | None, late: float = 0.05) -> Reason:
    """Reason after a row of frames, each judged `late` s after its time."""
    watch, reason = FrameWatch(), Reason.NONE
    for k, one in enumerate(frames):
        watch, reason, message = watch.check(one, (one.time if one else k / 10) + late)
        assert (reason is Reason.NONE) == (message == "")
    return reason


def test_good_frames_pass() -> None:
    assert judge(*[frame(k) for k in range(20)]) is Reason.NONE
    same = frame(3)
    assert judge(same, same, same, same, same) is Reason.NONE, "asked for again, not frozen"


@pytest.mark.parametrize("seconds", [0.5, 5.0])
def test_drops(seconds: float) -> None:
    assert judge(frame(0), late=seconds) is Reason.CAMERA_STALE
    assert judge(frame(0), None) is Reason.CAMERA_STALE


def test_one_lost_frame_is_no_fault() -> None:
    assert judge(frame(0), frame(2)) is Reason.NONE


def test_a_frozen_picture_under_new_times() -> None:
    assert judge(*[frame(k, seed=1) for k in range(3)]) is Reason.NONE
    assert judge(*[frame(k, seed=1) for k in range(4)]) is Reason.CAMERA_FROZEN


BAD = {
    "all NaN": ({"depth": np.full((48, 64), np.nan, np.float32)}, Reason.CAMERA_INVALID),
    "all infinite": ({"depth": np.full((48, 64), np.inf, np.float32)}, Reason.CAMERA_INVALID),
    "all zero": ({"depth": np.zeros((48, 64), np.float32)}, Reason.CAMERA_INVALID),
    "millimetres": ({"depth": 1000 * frame(0).depth}, Reason.CAMERA_UNITS),
    "kilometres": ({"depth": frame(0).depth / 1000}, Reason.CAMERA_UNITS),
    "integers": ({"depth": np.full((48, 64), 700, np.uint16)}, Reason.CAMERA_INVALID),
    "another size": ({"depth": np.ones((24, 32), np.float32)}, Reason.CAMERA_INVALID),
    "swapped centre": (
        {"K": np.array([[60.0, 0, 24], [0, 60, 32], [0, 0, 1]])},
        Reason.CAMERA_CALIBRATION,
    ),
    "swapped focal lengths": (
        {"K": np.array([[40.0, 0, 32], [0, 60, 24], [0, 0, 1]])},
        Reason.CAMERA_CALIBRATION,
    ),
    "another resolution": (
        {"K": np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]])},
        Reason.CAMERA_CALIBRATION,
    ),
    "NaN intrinsics": ({"K": np.full((3, 3), np.nan)}, Reason.CAMERA_CALIBRATION),
    "an hour ahead": ({"time": 3600.0}, Reason.CAMERA_INVALID),
    "NaN time": ({"time": float("nan")}, Reason.CAMERA_INVALID),
}


@pytest.mark.rejects_input
@pytest.mark.parametrize("name", BAD)
def test_broken_frames(name: str) -> None:
    changes, reason = BAD[name]
    watch, first, _ = FrameWatch().check(frame(0), 0.05)
    assert first is Reason.NONE
    assert watch.check(frame(1, **changes), 0.15)[1] is reason


def test_half_the_depth_missing_is_no_fault() -> None:
    depth = frame(0).depth.copy()
    depth[::2] = 0
    assert judge(frame(0, depth=depth)) is Reason.NONE
