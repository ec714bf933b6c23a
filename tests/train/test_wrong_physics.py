"""The simulator as a baseline that does not know friction and mass."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from pointworld.data import Clip, ClipGenerator, DatasetSpec, TabletopConfig, dataset_generator
from pointworld.data.shape_classes import TRAIN_SHAPES
from pointworld.data.tabletop import draw_object
from pointworld.errors import InputError
from pointworld.train.wrong_physics import (
    DENSITY,
    FRICTION,
    TOPPLE_FRICTION,
    Physics,
    Replay,
    draw_physics,
    nominal_physics,
    prepare_replay,
    set_physics,
)

pytest.importorskip(
    "mujoco", reason="the simulator is an extra: pip install 'pointworld-open[sim]'"
)


@pytest.fixture(scope="module")
def generator() -> ClipGenerator:
    config = TabletopConfig(
        families=("push=0.8", "topple=0.2"), height=90, width=160, max_objects=2
    )
    return dataset_generator(DatasetSpec(clips=1, seed=2, tabletop=config))


@pytest.fixture(scope="module")
def clip(generator: ClipGenerator) -> Clip:
    return generator.make(2, 0)


@pytest.fixture(scope="module")
def replay(generator: ClipGenerator, clip: Clip) -> Replay:
    found = prepare_replay(generator, clip)
    assert found is not None
    return found


def test_the_right_physics_repeats_the_clip(replay: Replay, clip: Clip) -> None:
    poses = replay.body_poses(replay.true_physics)
    assert poses.shape == clip.body_poses.shape
    assert np.abs(poses - clip.body_poses).max() < 1e-6


def test_wrong_physics_starts_alike_and_ends_elsewhere(replay: Replay, clip: Clip) -> None:
    true = replay.true_physics
    wrong = Physics(
        friction=tuple(0.15 for _ in true.friction), density=tuple(1400.0 for _ in true.density)
    )
    poses = replay.body_poses(wrong)
    assert np.abs(poses[0] - clip.body_poses[0]).max() < 1e-9
    body = clip.body_names.index("object0")
    assert np.linalg.norm(clip.body_poses[-1, body, :3] - clip.body_poses[0, body, :3]) > 0.02
    assert 1e-4 < np.abs(poses[-1, body, :3] - clip.body_poses[-1, body, :3]).max() < 0.5
    points = torch.tensor([[0.5, 0.0, 0.0], [0.5, 0.1, 0.0]])
    table = clip.body_names.index("table")
    moved = replay.displacements(points, torch.tensor([body, table]), wrong)
    assert moved.shape == (11, 2, 3) and not moved[0].any() and not moved[:, 1].any()
    assert moved[-1, 0].norm() > 0.01


def test_mass_inertia_and_friction_are_set(replay: Replay) -> None:
    true = replay.true_physics
    model = copy.deepcopy(replay.drawn.model)
    body = model.body("object0").id
    mass, inertia = model.body_mass[body].copy(), model.body_inertia[body].copy()
    double = Physics(
        friction=(0.77,) * len(true.friction), density=tuple(2 * d for d in true.density)
    )
    set_physics(model, true, double)
    assert model.body_mass[body] == pytest.approx(2 * mass)
    assert model.body_inertia[body] == pytest.approx(2 * inertia)
    geoms = np.flatnonzero(model.geom_bodyid == body)
    assert (model.geom_friction[geoms, 0] == 0.77).all()
    assert not (model.geom_friction[:, 0] == 0.77).all()


def test_guesses_lie_in_what_the_generator_draws(replay: Replay) -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_object(rng, TRAIN_SHAPES, None) for _ in range(300)]
    for values, (low, high) in (
        ([d.friction for d in drawn], FRICTION),
        ([d.density for d in drawn], DENSITY),
        ([draw_object(rng, TRAIN_SHAPES, "topple").friction for _ in range(200)], TOPPLE_FRICTION),
    ):
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
    nominal, guess = nominal_physics(replay), draw_physics(replay, rng)
    count = len(replay.drawn.scene.objects)
    assert len(nominal.friction) == len(guess.density) == count
    assert all(DENSITY[0] <= d <= DENSITY[1] for d in (*nominal.density, *guess.density))
    assert guess != draw_physics(replay, rng)
    true = replay.true_physics
    assert nominal_physics(replay, mass=False) == replace(nominal, density=true.density)
    assert nominal_physics(replay, friction=False) == replace(nominal, friction=true.friction)


def test_a_clip_of_another_generator_is_refused(generator: ClipGenerator, clip: Clip) -> None:
    with pytest.raises(InputError, match="drawn again"):
        prepare_replay(generator, replace(clip, index=1))
