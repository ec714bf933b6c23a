"""Find where the cameras really are from the frames themselves, before anything is fitted.

Points of one frame's depth image are moved into another frame; depth and brightness that they meet there should be
their own. What is corrected until they agree best: one rigid motion of all depth cameras in their own axes (a robot's
hand-eye calibration), one between depth and colour camera, the colour camera's focal length, and a small motion of
every frame. The motions of frames that see the scene from near places resemble each other, so that those of held-out
frames follow from the others without a look at their pixels.

Levenberg-Marquardt on a sample of pixels with Cauchy weights, from blurred images to sharp ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from splat.fit.rig import RIG, SIGMA_OWN, SIGMA_SHARED, Rig, likeness, view_distance
from splat.fit.rig_residuals import Problem
from splat.fit.views import FitView

Array = np.ndarray

#: Expected size of the depth cameras' and of colour's motion [rad, m], of the latter's part along the view, which looks
#: much like another focal length, and of the logarithmic focal length.
SIGMA_RIG, SIGMA_FORWARD, SIGMA_FOCAL = 0.05, 0.01, 0.1
#: Inverse variance of what may not change.
FIXED = 1e12
#: Pairs of frames that are compared differ by at most this much (see `view_distance`).
FARTHEST = 0.6
#: Blur (share of the width), largest depth disagreement that is the same surface (share of the distance), and steps.
ROUNDS = ((0.025, 0.08, 6), (0.0125, 0.08, 8), (0.006, 0.05, 8), (0.003, 0.04, 8))
#: A round ends when a step gains less than this share of the cost.
LEAST_STEP = 1e-3
#: The disagreement, with this much noise added, must fall by this share, or the cameras stay as they are given.
NOISE, LEAST_GAIN = 0.02, 0.03


def find_rig(
    views: Sequence[FitView],
    *,
    seed: int = 0,
    focal: bool = True,
    poses: bool = True,
    samples: int = 700,
    partners: int = 4,
) -> Rig:
    """The corrections under which the views agree best; none where that is hardly better than as given.

    Args:
        views: of one size. focal, poses: whether these may change.
        samples: pixels per pair. partners: frames that each frame is compared with.
    """
    given = Rig.none(len(views))
    pairs = choose_pairs(views, partners)
    if not len(pairs):
        return given
    problem = Problem.of(views, pairs, samples, np.random.default_rng(seed))
    prior = _prior_precision(views, focal=focal, poses=poses)
    rig, width = given, views[0].width
    for blur, same, steps in ROUNDS:
        rig = _descend(problem.blurred(blur * width), rig, prior, same, steps)
    sharp, same = problem.blurred(ROUNDS[-1][0] * width), ROUNDS[-1][1]
    before, cost = sharp.cost(given, same), sharp.cost(rig, same)
    if cost + NOISE > (1 - LEAST_GAIN) * (before + NOISE):
        return replace(given, before=before, cost=before)
    return replace(rig, before=before, cost=cost)


def choose_pairs(views: Sequence[FitView], partners: int) -> Array:
    """(pairs, 2) of different views: every one with its nearest, and with others spread up to FARTHEST."""
    pairs = []
    for index, row in enumerate(view_distance(views, views)):
        order = [int(j) for j in np.argsort(row, kind="stable") if j != index]
        within = [j for j in order if row[j] < FARTHEST] or order[:1]
        places = np.unique(np.round(np.linspace(0, 1, partners) ** 1.5 * (len(within) - 1)))
        pairs += [(index, within[int(place)]) for place in places] if within else []
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _prior_precision(views: Sequence[FitView], *, focal: bool, poses: bool) -> Array:
    """Inverse covariance of all parameters."""
    count = RIG + 6 * len(views)
    precision = np.zeros((count, count))
    rig = np.full(RIG, SIGMA_RIG**-2)
    rig[11] = SIGMA_FORWARD**-2
    rig[12] = SIGMA_FOCAL**-2 if focal else FIXED
    precision[range(RIG), range(RIG)] = rig
    own = np.eye(len(views))
    covariance = SIGMA_SHARED**2 * likeness(views, views) + SIGMA_OWN**2 * own
    between = np.linalg.inv(covariance) if poses else own * FIXED
    precision[RIG:, RIG:] = np.kron(between, np.eye(6))
    return precision


def _descend(problem: Problem, rig: Rig, prior: Array, same: float, steps: int) -> Rig:
    """Levenberg-Marquardt; which samples both frames see is decided anew at every step."""
    damping = 1e-3
    values = rig.parameters()
    cost, hessian, gradient = problem.linearised(rig, same)
    total = cost + 0.5 * values @ prior @ values
    for _ in range(steps):
        damped = hessian + prior + damping * np.diag(np.diag(hessian))
        step = -np.linalg.solve(damped, gradient + prior @ values)
        tried = rig.moved(step)
        tried_values = tried.parameters()
        new_cost, new_hessian, new_gradient = problem.linearised(tried, same)
        new_total = new_cost + 0.5 * tried_values @ prior @ tried_values
        if new_total >= total:
            damping *= 10
            continue
        gained = (total - new_total) / total
        rig, values, total = tried, tried_values, new_total
        hessian, gradient = new_hessian, new_gradient
        damping = max(damping / 10, 1e-6)
        if gained < LEAST_STEP:
            break
    return rig
