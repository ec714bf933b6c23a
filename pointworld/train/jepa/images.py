"""Pictures of simulated clips as one tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pointworld.data.library import list_clips, read_clip
from pointworld.errors import InputError


def read_images(
    folder: Path,
    *,
    limit: int = 0,
    seed: int = 0,
    on_clip: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """(images, 3, height, width) uint8: every view of the clips in `folder`.

    Args:
        limit: at most this many images, from randomly chosen clips; 0 = all.
        on_clip: called with 1 after every clip.

    Raises:
        InputError: no clips, or their images differ in size.
    """
    paths = list_clips(folder)
    order = np.random.default_rng(seed).permutation(len(paths))
    pictures: list[torch.Tensor] = []
    for index in order:
        if limit and len(pictures) >= limit:
            break
        clip = read_clip(paths[int(index)])
        pictures += [torch.from_numpy(view.rgb).permute(2, 0, 1) for view in clip.views]
        if on_clip is not None:
            on_clip(1)
    sizes = {tuple(picture.shape) for picture in pictures}
    if len(sizes) > 1:
        raise InputError(f"{folder}: the images have the sizes {sorted(sizes)}, expected one size")
    return torch.stack(pictures[: limit or None])
