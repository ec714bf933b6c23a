"""Is a camera's frame fit to plan from? Drops, freezes, broken depth and swapped calibrations, each with its reason."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from pointworld.control.types import CameraFrame, Reason


@dataclass(frozen=True, kw_only=True)
class FrameRules:
    """What a frame must be like.

    age: oldest when planning starts [s]. still: frames in a row that may be equal to the last bit; a sensor has noise,
    so a live camera never repeats one. nearest, farthest: where the median depth may lie [m]. valid: least share of
    pixels with depth. focal: range of focal length over image width. centre: most between principal point and image
    centre, as a share of the width.
    """

    age: float = 0.3
    still: int = 2
    nearest: float = 0.1
    farthest: float = 5.0
    valid: float = 0.2
    focal: tuple[float, float] = (0.4, 3.0)
    centre: float = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameWatch:
    """Remembers what a camera delivered last. Pure: `check` returns the next watch."""

    rules: FrameRules = field(default_factory=FrameRules)
    last: CameraFrame | None = None
    repeats: int = 0

    def check(self, frame: CameraFrame | None, now: float) -> tuple[FrameWatch, Reason, str]:
        """Judge a frame at the time planning starts; None = the camera gave none."""
        if frame is None:
            return self, Reason.CAMERA_STALE, "the camera gives no frame"
        name = f"camera '{frame.camera}'"
        reason, message = _check_make(frame)
        if reason is not Reason.NONE:
            return self, reason, f"{name}: {message}"
        if not np.isfinite(frame.time) or frame.time > now + 0.05:
            return (
                self,
                Reason.CAMERA_INVALID,
                f"{name}: a frame from {frame.time - now:.3f} s ahead",
            )
        if now - frame.time > self.rules.age:
            age = now - frame.time
            return self, Reason.CAMERA_STALE, f"{name}: the newest frame is {age:.3f} s old"
        repeats = self._count(frame)
        watch = dataclasses.replace(self, last=frame, repeats=repeats)
        if repeats > self.rules.still:
            return (
                watch,
                Reason.CAMERA_FROZEN,
                f"{name}: {repeats + 1} frames in a row are the same",
            )
        reason, message = self._check_depth(frame)
        if reason is Reason.NONE:
            reason, message = self._check_intrinsics(frame)
        return watch, reason, f"{name}: {message}" if message else ""

    def _count(self, frame: CameraFrame) -> int:
        """Repeats of one picture under new numbers or times; asking twice for the same frame is no repeat."""
        last = self.last
        if last is None or frame.depth.shape != last.depth.shape:
            return 0
        if frame.sequence == last.sequence and frame.time == last.time:
            return self.repeats
        same = np.array_equal(frame.rgb, last.rgb) and np.array_equal(
            frame.depth, last.depth, equal_nan=True
        )
        return self.repeats + 1 if same else 0

    def _check_depth(self, frame: CameraFrame) -> tuple[Reason, str]:
        known = np.isfinite(frame.depth) & (frame.depth > 0)
        share = float(known.mean())
        if share < self.rules.valid:
            return Reason.CAMERA_INVALID, f"only {share:.0%} of the pixels have depth"
        middle = float(np.median(frame.depth[known]))
        if not self.rules.nearest <= middle <= self.rules.farthest:
            return (
                Reason.CAMERA_UNITS,
                f"the median depth is {middle:.4g} m; are the units millimetres, or the scale wrong?",
            )
        return Reason.NONE, ""

    def _check_intrinsics(self, frame: CameraFrame) -> tuple[Reason, str]:
        height, width = frame.depth.shape
        K = frame.K
        low, high = self.rules.focal
        off = np.abs([K[0, 2] - width / 2, K[1, 2] - height / 2]).max() / width
        ratio = K[0, 0] / K[1, 1]
        if not (low <= K[0, 0] / width <= high and 0.8 <= ratio <= 1.25) or off > self.rules.centre:
            return (
                Reason.CAMERA_CALIBRATION,
                f"the intrinsics {np.round(K, 2).tolist()} do not fit an image of {width} x {height}; are they of "
                "another camera or resolution, or are rows and columns swapped?",
            )
        return Reason.NONE, ""


def _check_make(frame: CameraFrame) -> tuple[Reason, str]:
    rgb, depth, K = frame.rgb, frame.depth, frame.K
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or depth.shape != rgb.shape[:2]:
        return Reason.CAMERA_INVALID, f"colour {rgb.shape} {rgb.dtype} with depth {depth.shape}"
    if depth.size == 0 or not np.issubdtype(depth.dtype, np.floating):
        return Reason.CAMERA_INVALID, f"depth of {depth.dtype}, expected metres as float32"
    if K.shape != (3, 3) or not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0:
        return Reason.CAMERA_CALIBRATION, f"the intrinsics are {K.tolist()}"
    return Reason.NONE, ""
