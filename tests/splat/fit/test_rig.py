"""Where the cameras really are: wrong calibrations of a small room are found, right ones are left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pointworld.geometry import invert
from splat.fit import FitView, Rig, corrected_views, find_rig, split_views
from splat.fit.rig import exp_motion, likeness, log_motion, motions_between
from splat.fit.rig_residuals import Problem
from splat.fit.rig_solve import choose_pairs
from tests.splat.fit.room import room

FRAMES, WIDTH, HEIGHT = 16, 160, 120
SAMPLES = 250


@pytest.fixture(scope="module")
def views() -> list[FitView]:
    capture = room(frames=FRAMES, width=WIDTH, height=HEIGHT, focal=120.0)
    return split_views(capture, max_width=WIDTH, holdout=0)[0]


def moved(view: FitView, T: np.ndarray) -> FitView:
    return replace(view, viewmat=torch.from_numpy(T).float() @ view.viewmat)


def error(found: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Angle [rad] and distance [m] between two poses."""
    gap = found @ invert(true)
    return float(np.linalg.norm(Rotation.from_matrix(gap[:3, :3]).as_rotvec())), float(
        np.linalg.norm(gap[:3, 3])
    )


def test_motions_and_their_logarithms() -> None:
    rows = np.random.default_rng(0).normal(0, 0.3, (20, 6))
    assert np.allclose([log_motion(exp_motion(row)) for row in rows], rows, atol=1e-12)


def test_the_gauss_newton_step_is_the_slope_of_the_residuals(views: list[FitView]) -> None:
    """Derivatives of brightness and depth against differences, for every kind of parameter."""
    smooth = Problem.of(views, choose_pairs(views, 1)[:2], 300, np.random.default_rng(0)).blurred(
        2.0
    )
    rig = Rig.none(len(views)).moved(np.random.default_rng(1).normal(0, 2e-3, 13 + 6 * FRAMES))
    base = smooth._residuals(rig, 0, 0.05)
    assert base is not None
    i, j = smooth.pairs[0]
    columns = [*range(13), *(13 + 6 * i + np.arange(6)), *(13 + 6 * j + np.arange(6))]
    for place, column in enumerate(columns):
        step = np.zeros(13 + 6 * FRAMES)
        step[column] = 1e-6
        there, back = (smooth._residuals(rig.moved(s), 0, 0.05) for s in (step, -step))
        assert there is not None and back is not None and there.count == back.count
        for term, plus, minus in zip(base.terms, there.terms, back.terms, strict=True):
            slope = (plus.value - minus.value) / 2e-6
            ours = term.jacobian[:, place]
            if place in range(6, 13) and term is base.terms[0]:
                assert not ours.any() and not slope.any()
                continue
            # Brightness loses its median, which is the slope's mean only nearly; some samples lie on seams of pixels.
            # And the rig's own motion is taken for that of both frames, whose own motions hardly turn it.
            play = 0.3
            assert np.corrcoef(slope, ours)[0, 1] > 1 - play, (place, column)
            assert abs(np.polyfit(ours, slope, 1)[0] - 1) < play, (place, column)


@pytest.mark.parametrize(
    "vector", [(0.03, -0.02, 0.01, 0.006, -0.01, 0.008), (-0.01, 0.04, 0.0, 0.0, 0.0, -0.01)]
)
def test_a_wrong_hand_eye_calibration_is_found(
    views: list[FitView], vector: tuple[float, ...]
) -> None:
    wrong = exp_motion(np.array(vector))
    given = [moved(view, invert(wrong)) for view in views]
    found = find_rig(given, poses=False, focal=False)
    angle, distance = error(found.T_rig, wrong)
    assert angle < 5e-3 and distance < 5e-3, log_motion(found.T_rig)
    assert found.cost < 0.5 * found.before
    mended = corrected_views(found, given)
    assert error(mended[3].viewmat.double().numpy(), views[3].viewmat.double().numpy())[1] < 8e-3


def test_another_focal_length_of_colour_is_found() -> None:
    capture = room(frames=FRAMES, width=WIDTH, height=HEIGHT, focal=120.0, color_focal=0.92)
    given, _ = split_views(capture, max_width=WIDTH, holdout=0)
    found = find_rig(given, poses=False, samples=SAMPLES)
    assert found.focal == pytest.approx(0.92, abs=0.01)
    assert float(corrected_views(found, given)[0].K[0, 0]) == pytest.approx(
        120 * found.focal, rel=1e-5
    )


def test_motions_of_frames_and_of_those_between_them() -> None:
    """Poses that drift smoothly along an arc are mended; held-out ones too, without a look at them."""
    capture = room(frames=3 * FRAMES, width=WIDTH, height=HEIGHT, focal=120.0)
    true = split_views(capture, max_width=WIDTH, holdout=0)[0][:FRAMES]
    given = []
    for index, view in enumerate(true):
        a = 2 * np.pi * index / FRAMES
        drift = [0.006 * np.cos(a), 0.0, 0.006 * np.sin(a), 0.0, 0.008 * np.sin(a), 0.004]
        given.append(moved(view, exp_motion(np.array(drift))))
    held = (3, 8, 12)
    training = [v for k, v in enumerate(given) if k not in held]
    others = [given[k] for k in held]
    found = find_rig(training, focal=False, samples=SAMPLES)
    mended = corrected_views(found, others, of=training)
    blind = corrected_views(found, [replace(v, rgb=v.rgb * 0) for v in others], of=training)
    assert all(torch.equal(a.viewmat, b.viewmat) for a, b in zip(mended, blind, strict=True))

    def mean_error(some: list[FitView]) -> float:
        """Of poses relative to one another [rad]: where the whole lies is free."""
        wanted, got = (
            [v.viewmat.double().numpy() for v in views] for views in ([true[k] for k in held], some)
        )
        pairs = [(0, 1), (0, 2), (1, 2)]
        gaps = [error(got[a] @ invert(got[b]), wanted[a] @ invert(wanted[b]))[0] for a, b in pairs]
        return float(np.mean(gaps))

    assert mean_error(mended) < 0.5 * mean_error(others)
    assert motions_between(found, training, []).shape == (0, 4, 4)


def test_what_motions_have_in_common_is_a_covariance(views: list[FitView]) -> None:
    """For any poses, however near: else the best motions would be infinitely large."""
    generator = torch.Generator().manual_seed(0)
    crowd = []
    for vector in 1.5 * torch.rand(60, 6, generator=generator, dtype=torch.float64).numpy():
        crowd.append(moved(views[0], exp_motion(vector)))
    assert np.linalg.eigvalsh(likeness(crowd, crowd)).min() > -1e-6


def test_right_cameras_are_left_alone(views: list[FitView]) -> None:
    found = find_rig(views, samples=SAMPLES)
    worst = max(error(T @ found.T_rig, np.eye(4))[0] for T in found.Ts_frame)
    assert worst < 2e-3 and abs(found.focal - 1) < 5e-3
    assert find_rig(views[:1]).cost == 0.0
