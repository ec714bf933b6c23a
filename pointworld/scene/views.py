"""Frames resampled for an image encoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from pointworld.geometry import crop_intrinsics, scale_intrinsics
from pointworld.types import RGBDFrame

ENCODER_WIDTH = 320
ENCODER_HEIGHT = 180


@dataclass(eq=False)
class View:
    """One frame as an encoder and the feature lookup see it.

    rgb: (h, w, 3) uint8, what is encoded.
    depth: (height, width) float32 [m], 0 = unknown, and valid, K (pixel centres at + 0.5): for the visibility check.
    image_scale: (2,) factors (x, y) from pixels of `K` to pixels of `rgb`.
    T_world_cam: (4, 4).
    features: (channels, rows, columns) once encoded.
    """

    rgb: np.ndarray
    depth: np.ndarray
    valid: np.ndarray
    K: np.ndarray
    T_world_cam: np.ndarray
    image_scale: tuple[float, float] = (1.0, 1.0)
    features: torch.Tensor | None = None


def view_of(frame: RGBDFrame, sampling: str) -> View:
    """Resample a frame for the encoder, so that it sees the world at the scale it is trained at, 320x180.

    "centered": the image is scaled to cover 320x180 and kept whole, so no point loses its features to a crop; depth
    and K stay as they are. "released": image, depth (nearest) and K are scaled to cover 320x180 and centre-cropped,
    as the published models need exactly this size.
    """
    if sampling == "released":
        fitted = fit_frame(frame, ENCODER_WIDTH, ENCODER_HEIGHT)
        return View(fitted.rgb, fitted.depth, fitted.valid, fitted.K, fitted.T_world_cam)
    width, height = _cover_size(frame, ENCODER_WIDTH, ENCODER_HEIGHT)
    scale = (width / frame.width, height / frame.height)
    return View(
        resize_rgb(frame.rgb, width, height),
        frame.depth,
        frame.valid,
        frame.K,
        frame.T_world_cam,
        scale,
    )


def fit_frame(frame: RGBDFrame, width: int, height: int) -> RGBDFrame:
    """Scale a frame to cover `width` x `height` and crop its centre; K follows, depth is taken from the nearest pixel.

    A frame of that size already is returned unchanged.
    """
    if (frame.width, frame.height) == (width, height):
        return frame
    cover_width, cover_height = _cover_size(frame, width, height)
    sx, sy = cover_width / frame.width, cover_height / frame.height
    x0, y0 = (cover_width - width) // 2, (cover_height - height) // 2
    rgb = resize_rgb(frame.rgb, cover_width, cover_height)[y0 : y0 + height, x0 : x0 + width]
    columns = np.minimum(((np.arange(width) + x0 + 0.5) / sx).astype(np.int64), frame.width - 1)
    rows = np.minimum(((np.arange(height) + y0 + 0.5) / sy).astype(np.int64), frame.height - 1)
    return RGBDFrame(
        rgb=np.ascontiguousarray(rgb),
        depth=frame.depth[np.ix_(rows, columns)],
        valid=frame.valid[np.ix_(rows, columns)],
        K=crop_intrinsics(scale_intrinsics(frame.K, sx, sy), x0, y0),
        T_world_cam=frame.T_world_cam,
        timestamp=frame.timestamp,
        name=frame.name,
        camera=frame.camera,
        joint_positions=frame.joint_positions,
    )


def released_intrinsics(K: np.ndarray) -> np.ndarray:
    """K in the released models' convention: pixel centres at integers, half a pixel less than ours."""
    return crop_intrinsics(K, 0.5, 0.5)


def resize_rgb(rgb: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize a uint8 image (h, w, 3), bilinear with antialiasing; unchanged where the size is right already."""
    if rgb.shape[:2] == (height, width):
        return rgb
    pixels = torch.tensor(rgb).permute(2, 0, 1)[None].float()
    resized = F.interpolate(
        pixels, size=(height, width), mode="bilinear", antialias=True, align_corners=False
    )
    return resized[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()


def _cover_size(frame: RGBDFrame, width: int, height: int) -> tuple[int, int]:
    scale = max(width / frame.width, height / frame.height)
    return max(width, round(frame.width * scale)), max(height, round(frame.height * scale))
