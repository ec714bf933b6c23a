"""Single points in the air, as depth cameras see them along the edges of an arm: nothing that stands in the way."""

from __future__ import annotations

import numpy as np

from pointworld.geometry import SUPPORT
from pointworld.types import ScenePoints

#: A cluster of fewer points than this, none of them within `_ABOVE` of the table [m], is no thing.
_LEAST, _ABOVE = 4, 0.05


def stray_points(scene: ScenePoints) -> np.ndarray:
    """(points,) bool: belongs to a few points that hang in the air. Small things that lie on the table do not.

    Args:
        scene: with clusters.
    """
    assert scene.clusters is not None
    clusters, height = scene.clusters.numpy(), scene.points[:, 2].double().numpy()
    stray = np.zeros(len(clusters), dtype=bool)
    free = np.flatnonzero(clusters != SUPPORT)
    if not len(free):
        return stray
    below = height[clusters == SUPPORT]
    table = float(np.median(below)) if len(below) else float(height.min())
    count = np.bincount(clusters[free])
    lowest = np.full(len(count), np.inf)
    np.minimum.at(lowest, clusters[free], height[free])
    stray[free] = ((count < _LEAST) & (lowest > table + _ABOVE))[clusters[free]]
    return stray
