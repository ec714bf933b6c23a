"""Resampling frames for an encoder."""

from __future__ import annotations

import numpy as np
import pytest

from pointworld.geometry import unproject
from pointworld.scene import fit_frame, view_of
from pointworld.scene.views import released_intrinsics
from pointworld.types import RGBDFrame


def ramp_frame(width: int, height: int) -> RGBDFrame:
    """Red grows with u, green with v (at pixel centres); depth is a slanted plane x + 2 z = 2 in camera axes."""
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rgb = (
        np.stack([255 * u / width, 255 * v / height, np.zeros_like(u)], -1).round().astype(np.uint8)
    )
    K = np.array([[500.0, 0.0, width / 2 + 3.0], [0.0, 480.0, height / 2 - 5.0], [0.0, 0.0, 1.0]])
    depth = (2.0 / ((u - K[0, 2]) / K[0, 0] + 2.0)).astype(np.float32)
    return RGBDFrame(
        rgb=rgb, depth=depth, valid=np.ones((height, width), bool), K=K, T_world_cam=np.eye(4)
    )


@pytest.mark.parametrize(("width", "height"), [(640, 480), (1280, 720), (213, 301), (640, 360)])
def test_fit_frame_keeps_rays(width: int, height: int) -> None:
    """After scaling and cropping, a pixel's ray meets the picture where it did before."""
    frame = ramp_frame(width, height)
    fitted = fit_frame(frame, 320, 180)
    assert (fitted.width, fitted.height) == (320, 180)
    u, v = np.meshgrid(np.arange(320) + 0.5, np.arange(180) + 0.5)
    x, y = (u - fitted.K[0, 2]) / fitted.K[0, 0], (v - fitted.K[1, 2]) / fitted.K[1, 1]
    before_u, before_v = x * frame.K[0, 0] + frame.K[0, 2], y * frame.K[1, 1] + frame.K[1, 2]
    inner = (slice(4, -4), slice(4, -4))
    assert np.abs(fitted.rgb[..., 0] - 255 * before_u / width)[inner].max() < 1.6
    assert np.abs(fitted.rgb[..., 1] - 255 * before_v / height)[inner].max() < 1.6
    points = unproject(fitted.depth, fitted.K)
    # Depth comes from the nearest pixel: the plane is met within half a source pixel.
    assert np.abs(points[..., 0] + 2 * points[..., 2] - 2.0).max() < 2.0 * 0.8 / 500.0 * max(
        1.0, 640 / width
    )


def test_right_size_is_unchanged() -> None:
    frame = ramp_frame(320, 180)
    assert fit_frame(frame, 320, 180) is frame
    view = view_of(frame, "centered")
    assert view.rgb is frame.rgb
    assert view.image_scale == (1.0, 1.0)


def test_centered_keeps_the_whole_image() -> None:
    """640x480 becomes 320x240 for the encoder, nothing is cropped, depth keeps its size."""
    view = view_of(ramp_frame(640, 480), "centered")
    assert view.rgb.shape == (240, 320, 3)
    assert view.depth.shape == (480, 640)
    assert view.image_scale == (0.5, 0.5)


def test_released_view_and_intrinsics() -> None:
    frame = ramp_frame(640, 480)
    view = view_of(frame, "released")
    assert view.rgb.shape == (180, 320, 3)
    assert view.depth.shape == (180, 320)
    assert view.K[0, 2] == pytest.approx(frame.K[0, 2] / 2)
    assert view.K[1, 2] == pytest.approx(frame.K[1, 2] / 2 - 30)
    assert released_intrinsics(view.K)[1, 2] == pytest.approx(frame.K[1, 2] / 2 - 30.5)
