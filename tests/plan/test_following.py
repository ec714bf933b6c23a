"""Things that are followed from look to look, also when two that look the same come together."""

from __future__ import annotations

import numpy as np
import pytest

from pointworld.geometry import transform_points
from pointworld.plan.tasks.following import Follower

HIGH = np.array([0.3, 0.3, 0.5])


def cube(rng: np.random.Generator, size: float = 0.03) -> np.ndarray:
    """(samples, 3) of the sides and the top of a small cube on the table."""
    points = rng.uniform(-0.5, 0.5, (600, 3))
    side = rng.integers(0, 5, 600)
    axis = np.where(side < 4, side // 2, 2)
    points[np.arange(600), axis] = np.where(side == 4, 0.5, side % 2 - 0.5)
    return np.asarray(size * points + (0.0, 0.0, size / 2))


def shifted(x: float, y: float) -> np.ndarray:
    T = np.eye(4)
    T[:2, 3] = x, y
    return T


@pytest.mark.parametrize("seed", range(3))
def test_two_alike_that_touch_keep_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    surfaces = [cube(rng), cube(rng) + np.array([0.0, 0.10, 0.0])]
    follower = Follower(surfaces, rigid=[True, True])
    # Pushed together in steps of 2 cm, until 2 mm are left between them.
    for way in (0.02, 0.04, 0.06, 0.068):
        truth = [shifted(0.0, way), np.eye(4)]
        look(rng, follower, surfaces, truth)
    places = []
    for _ in range(8):
        look(rng, follower, surfaces, truth)
        places.append([T[:2, 3].copy() for T in follower.moves])
    wanted = np.array([T[:2, 3] for T in truth])
    assert np.abs(np.array(places) - wanted).max() < 0.008, "neither swapped, merged nor flickering"


def look(
    rng: np.random.Generator,
    follower: Follower,
    surfaces: list[np.ndarray],
    truth: list[np.ndarray],
) -> None:
    """One look at half of the points, with a millimetre of noise."""
    seen = np.concatenate([transform_points(T, s) for T, s in zip(truth, surfaces, strict=True)])
    seen = seen[rng.permutation(len(seen))[: len(seen) // 2]]
    seen = seen + rng.normal(0, 0.001, seen.shape)
    follower.update([seen, seen], HIGH)
