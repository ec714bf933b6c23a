"""Noisy cameras: bounded errors, the same for the same seed, and exact truth for noisy points."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pointworld.data import Clip, ClipGenerator, SensorConfig, clip_to_sample, observe
from pointworld.errors import InputError
from pointworld.robot import RobotModel
from tests.data.conftest import SEED

NOTHING = SensorConfig(
    depth_noise=0,
    edge_holes=0,
    speckle_holes=0,
    position_error=0,
    angle_error=0,
    min_cameras=3,
    partial_view=0,
)


@pytest.fixture(scope="module")
def clip(any_renderer: ClipGenerator) -> Clip:
    return any_renderer.make(SEED, 0)


def test_no_errors_change_nothing(clip: Clip) -> None:
    seen = observe(clip, NOTHING, 0)
    assert seen.views == tuple(range(len(clip.views)))
    for a, b in zip(clip.views, seen.clip.views, strict=True):
        np.testing.assert_array_equal(a.depth, b.depth)
        np.testing.assert_allclose(a.T_world_cam, b.T_world_cam, atol=1e-12)


def test_errors_stay_in_their_bounds_and_repeat(clip: Clip) -> None:
    config = SensorConfig()
    assert config.position_error <= 0.01 and config.angle_error <= np.radians(1.0)
    counts = set()
    for seed in range(12):
        seen = observe(clip, config, seed)
        again = observe(clip, config, seed)
        counts.add(len(seen.views))
        for k, view, same in zip(seen.views, seen.clip.views, again.clip.views, strict=True):
            np.testing.assert_array_equal(view.depth, same.depth)
            delta = np.linalg.inv(clip.views[k].T_world_cam) @ view.T_world_cam
            assert np.linalg.norm(delta[:3, 3]) <= config.position_error + 1e-12
            angle = np.arccos(np.clip((np.trace(delta[:3, :3]) - 1) / 2, -1, 1))
            assert angle <= config.angle_error + 1e-6
            clean = clip.views[k].depth
            both = (clean > 0) & (view.depth > 0)
            assert 0.3 * (clean > 0).sum() < both.sum() < (clean > 0).sum()
            scaled = (view.depth - clean)[both] / clean[both] ** 2
            assert 0.0008 < scaled.std() < 0.0022
            assert not (view.depth[clean == 0] > 0).any()
    assert counts == {1, 2} or counts == {1, 2, 3}


def test_noisy_points_keep_their_exact_displacement(clip: Clip, robot: RobotModel) -> None:
    """The truth is the displacement of the surface under the pixel, not of the mismeasured point."""
    config = replace(NOTHING, position_error=0.01, angle_error=0.0175, depth_noise=0.002)
    sample = clip_to_sample(clip, robot, sensor=config, seed=1)
    assert torch.equal(sample.positions[0], sample.scene.points)
    motions = clip.body_motions()[-1][sample.body_ids.numpy()]
    points = sample.scene.points.double().numpy()
    naive = np.einsum("nij,nj->ni", motions[:, :3, :3], points) + motions[:, :3, 3] - points
    truth = sample.displacements[-1].double().numpy()
    angles = (np.trace(motions[:, :3, :3], axis1=1, axis2=2) - 1) / 2
    # A point measured up to 1 cm + 1 degree of 1.2 m + noise away turns with the body about a shifted lever.
    bound = 0.045 * np.sqrt(2 - 2 * np.clip(angles, -1, 1)) + 1e-6
    assert (np.linalg.norm(naive - truth, axis=-1) <= bound).all()
    clean = clip_to_sample(clip, robot, sensor=NOTHING, seed=1)
    plain = clip_to_sample(clip, robot, seed=1)
    assert torch.equal(clean.body_ids, plain.body_ids)
    assert float((clean.positions - plain.positions).abs().max()) < 1e-6


@pytest.mark.rejects_input
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edge_holes": 1.5}, "from 0 to 1"),
        ({"position_error": -1.0}, "not negative"),
        ({"min_cameras": 3, "max_cameras": 2}, "cameras kept 3..2"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SensorConfig(**change)  # type: ignore[arg-type]
