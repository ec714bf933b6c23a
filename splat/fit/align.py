"""A first guess of where the colour camera is, from neighbouring frames alone, before anything is fitted."""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.optimize import minimize

from pointworld.capture.hypotheses import Hypothesis, sample_pairs
from pointworld.types import Capture

#: Focal factors and sideways offsets [m] that the search starts from.
FOCALS = tuple(float(f) for f in np.exp(np.linspace(-0.2, 0.2, 9)))
OFFSETS = (-0.03, 0.0, 0.03)
#: The logarithm of the grey difference must fall by this much, or the cameras stay as they are given.
LEAST_GAIN = 0.03


def guess_color_camera(capture: Capture, *, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Focal factor and (x, y) translation [m] of the colour camera against depth that make neighbours agree best.

    Frames are re-projected into their neighbours by depth; the colours they meet should be the same. Returns
    (1, (0, 0)) where nothing better is found.
    """
    samples = sample_pairs(capture, seed=seed, samples=6000)
    if samples is None:
        return 1.0, (0.0, 0.0)

    def cost(values: np.ndarray) -> float:
        log_focal, x, y = values
        changed = Hypothesis(color_focal=float(np.exp(log_focal)), color_offset=(x, y, 0.0))
        return samples.cost(changed).log_photometric

    given = cost(np.zeros(3))
    starts = [np.array([np.log(f), x, 0.0]) for f, x in product(FOCALS, OFFSETS)]
    best = min(starts, key=cost)
    simplex = best + np.vstack([np.zeros(3), np.diag([0.03, 0.01, 0.01])])
    found = minimize(
        cost, best, method="Nelder-Mead", options={"maxfev": 80, "initial_simplex": simplex}
    )
    if given - found.fun < LEAST_GAIN:
        return 1.0, (0.0, 0.0)
    return float(np.exp(found.x[0])), (float(found.x[1]), float(found.x[2]))
