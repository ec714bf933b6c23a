"""Physics without the solver: filling a skin, Gaussians that hang on particles, what pushes, the support's axes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pointworld.errors import InputError
from pointworld.geometry import make_transform, quat_wxyz_to_matrix, transform_points
from splat.physics_demo import FLOOR, jelly_cube, sand_column
from splat.physics_particles import (
    STRETCH,
    SupportFrame,
    above_support,
    bind_skin,
    deform_scene,
    fill_skin,
    filled_volume,
)
from splat.physics_types import MATERIALS, Energy, Material, PhysicsOptions, PushPath
from splat.query import Plane
from splat.raster.projection import rotation_matrices
from splat.types import GaussianScene, concatenate

Tensor = torch.Tensor
seeds = st.integers(0, 2**31)


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _scene(g: torch.Generator, count: int, degree: int = 1) -> GaussianScene:
    return GaussianScene(
        means=0.1 * torch.rand(count, 3, generator=g),
        quats_wxyz=torch.randn(count, 4, generator=g),
        log_scales=0.3 * torch.randn(count, 3, generator=g) - 5.0,
        opacity_logits=torch.full((count,), 3.0),
        sh=0.3 * torch.randn(count, (degree + 1) ** 2, 3, generator=g),
    )


def _covariances(scene: GaussianScene) -> Tensor:
    axes = rotation_matrices(scene.quats_wxyz.double()) * scene.scales.double()[:, None]
    return axes @ axes.transpose(-1, -2)


def _rotation(g: torch.Generator) -> Tensor:
    return quat_wxyz_to_matrix(torch.randn(4, generator=g, dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(seed=seeds, count=st.sampled_from([1, 4]))
def test_a_rigid_motion_of_the_particles_moves_gaussians_rigidly(seed: int, count: int) -> None:
    g = _random(seed)
    scene, rest = _scene(g, 30), 0.1 * torch.rand(50, 3, generator=g, dtype=torch.float64)
    R, t = _rotation(g), torch.rand(3, generator=g, dtype=torch.float64)
    T = make_transform(R, t)
    moved = deform_scene(
        scene,
        bind_skin(scene.means, rest, count),
        transform_points(T, rest),
        R.expand(50, 3, 3),
    )
    assert torch.allclose(
        moved.means.double(), transform_points(T, scene.means.double()), atol=1e-6
    )
    wanted = R @ _covariances(scene) @ R.T
    assert (_covariances(moved) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    direction = torch.nn.functional.normalize(torch.randn(3, generator=g), dim=0)
    seen = moved.colors_from(moved.means - (R.float() @ direction))
    assert torch.allclose(seen, scene.colors_from(scene.means - direction), atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_covariances_become_f_s_ft(seed: int) -> None:
    g = _random(seed)
    scene, rest = _scene(g, 20, degree=0), 0.1 * torch.rand(40, 3, generator=g, dtype=torch.float64)
    stretch = torch.exp(0.4 * torch.randn(3, generator=g, dtype=torch.float64).clamp(-2, 2))
    F = _rotation(g) @ torch.diag(stretch) @ _rotation(g)
    moved = deform_scene(scene, bind_skin(scene.means, rest, 4), rest @ F.T, F.expand(40, 3, 3))
    assert torch.allclose(moved.means.double(), scene.means.double() @ F.T, atol=1e-6)
    wanted = F @ _covariances(scene) @ F.T
    assert (_covariances(moved) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_wild_gradients_draw_no_needles() -> None:
    scene = _scene(_random(0), 5, degree=0)
    rest = scene.means.double()
    F = torch.diag(torch.tensor([50.0, 1.0, 1e-6], dtype=torch.float64)).expand(5, 3, 3)
    moved = deform_scene(scene, bind_skin(scene.means, rest, 1), rest, F)
    assert moved.scales.max() <= STRETCH * scene.scales.max() * (1 + 1e-5)
    assert moved.scales.min() >= scene.scales.min() / STRETCH * (1 - 1e-5)
    assert torch.isfinite(moved.quats_wxyz).all()


def _box_skin(size: tuple[float, float, float], gap: float, lift: float = 0.0) -> np.ndarray:
    """Top and sides of a box on the support, as a depth camera sees them."""
    lines = [np.arange(gap / 2, s, gap) for s in size]
    x, y, z = (a.ravel() for a in np.meshgrid(*lines, indexing="ij"))
    shell = (z > size[2] - 1.5 * gap) | (x < gap) | (y < gap)
    return np.stack([x, y, z + lift], 1)[shell]


def test_a_box_seen_from_above_is_filled_to_the_support() -> None:
    size = (0.06, 0.04, 0.05)
    points, spacing = fill_skin(_box_skin(size, 0.004), 2000)
    assert 1000 < len(points) <= 2000
    assert len(points) * spacing**3 == pytest.approx(np.prod(size), rel=0.15)
    assert points[:, 2].min() == pytest.approx(spacing / 2)
    assert np.all(points.min(0) > -spacing) and np.all(points.max(0) < np.array(size) + spacing)


def test_a_bowl_stays_open_and_what_hangs_is_not_filled_below() -> None:
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    wall = [
        np.stack([0.05 * np.cos(angle), 0.05 * np.sin(angle), np.full(120, z)], 1)
        for z in np.arange(0.002, 0.06, 0.0025)
    ]
    flat = np.mgrid[-0.05:0.05:0.0025, -0.05:0.05:0.0025].reshape(2, -1).T
    bottom = np.c_[
        flat[np.linalg.norm(flat, axis=1) < 0.05],
        np.full((np.linalg.norm(flat, axis=1) < 0.05).sum(), 0.004),
    ]
    points, _ = fill_skin(np.concatenate([*wall, bottom]), 6000)
    inside = points[np.linalg.norm(points[:, :2], axis=1) < 0.03]
    assert len(inside) and inside[:, 2].max() < 0.01
    assert points[:, 2].max() > 0.05
    cut, _ = fill_skin(_box_skin((0.04, 0.04, 0.04), 0.004, lift=0.02), 500, hanging=0.04)
    assert cut[:, 2].min() < 0.005, "the support's thickness hid its foot"
    hanging, spacing = fill_skin(_box_skin((0.04, 0.04, 0.04), 0.004, lift=0.1), 500)
    assert hanging[:, 2].min() > 0.09 and len(hanging) * spacing**3 == pytest.approx(
        6.4e-5, rel=0.2
    )


@pytest.mark.rejects_input
def test_skins_that_cannot_be_filled_are_refused() -> None:
    with pytest.raises(InputError, match="above the support"):
        fill_skin(-_box_skin((0.1, 0.1, 0.1), 0.01), 100)
    far = np.concatenate([np.random.default_rng(0).random((50, 3)) * 0.01, [[900.0, 900.0, 900.0]]])
    with pytest.raises(InputError, match="too much"):
        fill_skin(far, 4000)


@settings(max_examples=40, deadline=None)
@given(seed=seeds)
def test_the_supports_axes_are_rigid_and_put_it_at_zero(seed: int) -> None:
    g = _random(seed)
    normal = torch.nn.functional.normalize(torch.randn(3, generator=g, dtype=torch.float64), dim=0)
    plane = Plane(normal=normal.numpy(), offset=0.7, band=0.005)
    points = torch.randn(10, 3, generator=g, dtype=torch.float64)
    frame = SupportFrame.of(plane, points)
    inside = frame.inward(points.numpy())
    assert np.allclose(inside[:, 2], plane.height(points.numpy()), atol=1e-9)
    assert np.allclose(frame.outward(inside), points.numpy(), atol=1e-9)
    assert math.isclose(np.linalg.det(frame.R), 1.0, abs_tol=1e-9)


def test_everything_on_the_support_is_found_and_nothing_else() -> None:
    made = sand_column(count=1500)
    far = GaussianScene(
        means=torch.tensor([[2.0, 0.0, 0.1], [0.0, 0.0, 3.0], [0.1, 0.1, -0.3]]),
        quats_wxyz=torch.tensor([[1.0, 0, 0, 0]]).repeat(3, 1),
        log_scales=torch.full((3, 3), -5.0),
        opacity_logits=torch.full((3,), 4.0),
        sh=torch.zeros(3, 1, 3),
    )
    plane = Plane(normal=FLOOR.normal, offset=-0.004, band=0.003)
    found = above_support(concatenate([made.scene, far]), plane)
    assert torch.equal(found[:-3], made.mask) and not found[-3:].any()
    # A second, smaller table at the same height, with a thing on it.
    other = made.scene.select(made.scene.means[:, 0].abs() < 0.06)
    other = replace(other, means=other.means + torch.tensor([1.0, 0.0, 0.0]))
    both = concatenate([made.scene, other])
    first = torch.cat([made.mask, torch.zeros(len(other), dtype=torch.bool)])
    assert torch.equal(above_support(both, plane), first)
    second = above_support(both, plane, near=torch.tensor([1.0, 0.0, 0.05]))
    assert not second[: len(made.scene)].any()
    assert int(second.sum()) == int((other.means[:, 2] > 0).sum())


def test_pushing_points_follow_their_path() -> None:
    positions = torch.tensor([[[0.0, 0, 0]], [[0.1, 0, 0]], [[0.1, 0.2, 0]]])
    push = PushPath(positions=positions, step_dt=0.5)
    for time, place, speed in (
        (0.0, [0, 0, 0], [0.2, 0, 0]),
        (0.25, [0.05, 0, 0], [0.2, 0, 0]),
        (0.75, [0.1, 0.1, 0], [0, 0.4, 0]),
        (9.0, [0.1, 0.2, 0], [0, 0, 0]),
    ):
        got = push.at(time)
        assert np.allclose(got[0], [place]) and np.allclose(got[1], [speed])
    still = PushPath(positions=positions[:1], step_dt=1.0).at(0.3)
    assert np.allclose(still[0], 0) and np.allclose(still[1], 0)


def test_the_demo_scenes_stand_on_their_floor() -> None:
    for made in (jelly_cube(), sand_column(count=1500)):
        assert (
            made.scene.means[made.mask][:, 2].min() > 0 > made.scene.means[~made.mask][:, 2].max()
        )
    assert Energy(kinetic=1.0, height=2.0, elastic=3.5).total == 6.5


@pytest.mark.rejects_input
def test_bad_materials_options_and_paths_are_refused() -> None:
    for change in ({"density": 0.0}, {"poisson_ratio": 0.5}, {"friction": -1.0}):
        with pytest.raises(InputError):
            Material(**{"kind": "elastic", "density": 1e3, "young_modulus": 1e4, **change})  # type: ignore[arg-type]
    for bad in ({"particles": 1}, {"seconds": 0.01}, {"max_step": 0.0}, {"gravity": math.nan}):
        with pytest.raises(InputError):
            PhysicsOptions(**bad)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        PushPath(positions=torch.zeros(3, 3), step_dt=0.1)
    with pytest.raises(InputError):
        PushPath(positions=torch.full((2, 1, 3), math.nan), step_dt=0.1)
    assert set(MATERIALS) == {"elastic", "plastic", "granular"}


@pytest.mark.parametrize("layers", [1, 2, 6])
def test_the_volume_of_a_heap_is_that_of_its_cubes(layers: int) -> None:
    side = 0.004
    x, y, z = np.mgrid[0:20, 0:20, 0:layers]
    heap = (np.stack([x, y, z], -1).reshape(-1, 3) + 0.5) * side
    true = len(heap) * side**3
    assert filled_volume(heap, side) == pytest.approx(true, rel=0.08)
    # Grains that have really come apart take more room; a heap of two parts has the sum of them.
    if layers > 2:
        wider = heap * [1.1, 1.1, 1.0]
        assert filled_volume(wider, side) == pytest.approx(1.21 * true, rel=0.08)
    apart = np.concatenate([heap, heap + np.array([0.3, 0.0, 0.0])])
    assert filled_volume(apart, side) == pytest.approx(2 * filled_volume(heap, side), rel=0.02)
    # One grain that flew far away costs no memory.
    far = np.concatenate([heap, np.array([[30.0, -20.0, 5.0]])])
    assert filled_volume(far, side) < 2 * true
