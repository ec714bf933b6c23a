"""MP4 files from images."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pointworld.errors import InputError, MissingExtraError
from pointworld.files import atomic_path


def import_av() -> Any:
    """PyAV, or an error that names the extra that brings it."""
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("av", "viewer", "Writing videos") from error
    return av


def write_video(path: str | Path, images: Iterable[np.ndarray], *, fps: float = 10.0) -> int:
    """Write images (height, width, 3) uint8, all alike, as H.264 MP4 that browsers play.

    Returns:
        Number of frames.

    Raises:
        InputError: no images.
    """
    av = import_av()
    frames = 0
    with atomic_path(path) as temporary, av.open(str(temporary), "w") as container:
        stream = None
        for image in images:
            # H.264 with 4:2:0 colours needs even sides.
            even = np.ascontiguousarray(image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2])
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
                stream.height, stream.width = even.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.options = {"crf": "20"}
            for packet in stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")):
                container.mux(packet)
            frames += 1
        if stream is None:
            raise InputError(f"{path}: there are no frames to write")
        for packet in stream.encode():
            container.mux(packet)
    return frames
