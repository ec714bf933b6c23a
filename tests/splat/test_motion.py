"""Gaussians that follow points: exact on rigid motion, still where nothing moves, safe where points say too little."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pointworld.errors import InputError
from pointworld.geometry import make_transform, quat_wxyz_to_matrix, transform_points
from splat.motion import MotionOptions, bind, move, move_steps
from splat.motion_rotate import fit_guarded, rotate_sh, smallest_rotation
from splat.raster import get_rasterizer
from splat.raster.projection import rotation_matrices
from splat.sh import sh_basis
from splat.types import GaussianScene, concatenate

Tensor = torch.Tensor
seeds = st.integers(0, 2**31)


def _random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _scene(
    g: torch.Generator, count: int, *, degree: int = 1, center: float = 0.0
) -> GaussianScene:
    return GaussianScene(
        means=0.1 * (torch.rand(count, 3, generator=g) - 0.5) + center,
        quats_wxyz=torch.randn(count, 4, generator=g),
        log_scales=0.3 * torch.randn(count, 3, generator=g) - 5.0,
        opacity_logits=torch.randn(count, generator=g),
        sh=0.3 * torch.randn(count, (degree + 1) ** 2, 3, generator=g),
    )


def _motion(g: torch.Generator) -> Tensor:
    """A random rigid motion (4, 4) float64, any angle, up to 0.5 m."""
    R = quat_wxyz_to_matrix(torch.randn(4, generator=g, dtype=torch.float64))
    return make_transform(R, torch.rand(3, generator=g, dtype=torch.float64) - 0.5)


def _shift(points: Tensor, T: Tensor) -> Tensor:
    return (transform_points(T, points.double()) - points.double()).to(points.dtype)


def _covariances(scene: GaussianScene) -> Tensor:
    M = rotation_matrices(scene.quats_wxyz.double()) * scene.scales.double()[:, None]
    return M @ M.transpose(-1, -2)


def _assert_moved_rigidly(after: GaussianScene, before: GaussianScene, T: Tensor) -> None:
    R = T[:3, :3]
    assert (after.means.double() - transform_points(T, before.means.double())).abs().max() <= 1e-5
    wanted = R @ _covariances(before) @ R.T
    # float32 displacements of half a metre over neighbours millimetres apart: directions to 1e-4 at worst.
    assert (_covariances(after) - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    directions = torch.nn.functional.normalize(
        torch.randn(20, 3, generator=_random(0)).double(), dim=-1
    )
    count = before.sh.shape[1]
    seen = torch.einsum("dk,nkc->ndc", sh_basis(directions, count), after.sh.double())
    wanted = torch.einsum("dk,nkc->ndc", sh_basis(directions @ R, count), before.sh.double())
    assert (seen - wanted).abs().max() <= 2e-4


@settings(max_examples=25, deadline=None)
@given(seed=seeds, degree=st.integers(0, 3), neighbors=st.integers(4, 8))
def test_rigid_motion_is_exact(seed: int, degree: int, neighbors: int) -> None:
    g = _random(seed)
    scene = _scene(g, 200, degree=degree)
    points = 0.1 * (torch.rand(150, 3, generator=g) - 0.5)
    T = _motion(g)
    binding = bind(scene, points, options=MotionOptions(neighbors=neighbors, reach=1.0))
    after = move(binding, _shift(points, T))
    assert after.moving is not None and bool(after.moving.all())
    _assert_moved_rigidly(after, scene, T)
    assert torch.equal(after.log_scales, scene.log_scales)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_flat_objects_move_exactly_too(seed: int) -> None:
    """Points of a sheet determine a rotation (the determinant guard picks the proper one)."""
    g = _random(seed)
    scene = _scene(g, 100)
    points = 0.1 * (torch.rand(200, 3, generator=g) - 0.5)
    points[:, 2] = 0.0
    T = _motion(g)
    after = move(bind(scene, points, options=MotionOptions(reach=1.0)), _shift(points, T))
    _assert_moved_rigidly(after, scene, T)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_points_on_a_line_turn_by_the_smallest_rotation(seed: int) -> None:
    g = _random(seed)
    line = torch.nn.functional.normalize(torch.randn(3, generator=g), dim=-1)
    points = torch.linspace(-0.05, 0.05, 40)[:, None] * line
    scene = _scene(g, 30)
    on_line = GaussianScene(
        means=points[:30] + 1e-3 * line,
        quats_wxyz=scene.quats_wxyz,
        log_scales=scene.log_scales,
        opacity_logits=scene.opacity_logits,
        sh=scene.sh,
    )
    T = _motion(g)
    after = move(bind(on_line, points), _shift(points, T))
    assert (after.means.double() - transform_points(T, on_line.means.double())).abs().max() <= 1e-5
    turned = _covariances(after)
    R = smallest_rotation(line.double()[None], (T[:3, :3] @ line.double())[None])[0]
    assert (turned - R @ _covariances(on_line) @ R.T).abs().max() <= 2e-3 * turned.abs().max()


def test_one_point_moves_without_turning() -> None:
    g = _random(3)
    scene = _scene(g, 10)
    step = torch.tensor([[0.1, -0.2, 0.3]])
    for points in (torch.zeros(1, 3), torch.zeros(6, 3)):
        after = move(
            bind(scene, points, options=MotionOptions(reach=1.0)), step.expand(len(points), 3)
        )
        assert (after.means - scene.means - step).abs().max() < 1e-6
        assert (_covariances(after) - _covariances(scene)).abs().max() < 1e-12


def test_points_that_fall_together_or_are_mirrored_give_proper_rotations() -> None:
    g = _random(4)
    source = torch.randn(50, 6, 3, generator=g, dtype=torch.float64)
    mirrored = source * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    weights = torch.rand(50, 6, generator=g, dtype=torch.float64) + 0.1
    for target in (mirrored, torch.zeros_like(source), source[:, :1].expand_as(source)):
        R = fit_guarded(source, target, weights)[:, :3, :3]
        assert torch.isfinite(R).all()
        assert (torch.linalg.det(R) - 1).abs().max() < 1e-9
        assert (R @ R.transpose(-1, -2) - torch.eye(3, dtype=torch.float64)).abs().max() < 1e-9


def test_smallest_rotation_of_any_pair() -> None:
    g = _random(5)
    a, b = torch.randn(2, 100, 3, generator=g, dtype=torch.float64)
    b[:10] = -a[:10]
    b[10:20] = a[10:20]
    R = smallest_rotation(a, b)
    unit = torch.nn.functional.normalize
    assert ((R @ unit(a, dim=-1)[..., None])[..., 0] - unit(b, dim=-1)).abs().max() < 1e-9
    angle = torch.acos(((R.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1))
    wanted = torch.acos((unit(a, dim=-1) * unit(b, dim=-1)).sum(-1).clamp(-1, 1))
    assert (angle - wanted).abs().max() < 1e-6
    assert (torch.linalg.det(R) - 1).abs().max() < 1e-9


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_no_motion_changes_no_bit(seed: int) -> None:
    g = _random(seed)
    scene = _scene(g, 60, degree=2)
    points = 0.1 * (torch.rand(50, 3, generator=g) - 0.5)
    after = move(bind(scene, points), torch.zeros(50, 3))
    for name in ("means", "quats_wxyz", "log_scales", "opacity_logits", "sh"):
        assert torch.equal(getattr(after, name), getattr(scene, name))
    assert after.moving is not None and not bool(after.moving.any())


def test_no_points_move_nothing() -> None:
    scene = _scene(_random(0), 5)
    binding = bind(scene, torch.zeros(0, 3))
    for after in move_steps(binding, torch.zeros(3, 0, 3)):
        assert torch.equal(after.means, scene.means)
    nothing = scene.select(torch.zeros(5, dtype=torch.bool))
    assert len(move(bind(nothing, torch.zeros(4, 3)), torch.ones(4, 3))) == 0


def test_what_is_far_from_every_moved_point_stays() -> None:
    g = _random(6)
    near, far = _scene(g, 50), _scene(g, 50, center=2.0)
    scene = concatenate([near, far])
    points = 0.1 * (torch.rand(80, 3, generator=g) - 0.5)
    T = _motion(g)
    after = move(bind(scene, points), _shift(points, T))
    assert torch.equal(after.means[50:], far.means) and torch.equal(after.sh[50:], far.sh)
    assert after.moving is not None and after.moving[:50].all() and not after.moving[50:].any()
    # Still points around them hold Gaussians too, however near the moved ones are in the list.
    everything = torch.cat([points, points + 2.0])
    shift = torch.cat([_shift(points, T), torch.zeros(80, 3)])
    again = move(bind(scene, everything), shift)
    assert torch.equal(again.means[50:], far.means)
    assert (again.means[:50] - after.means[:50]).abs().max() < 1e-6


def _touching(g: torch.Generator) -> tuple[GaussianScene, Tensor, Tensor, Tensor]:
    """Two boxes that share a face at x = 0: scene with ids, points, point ids, displacements (left one turns away)."""
    left, right = _scene(g, 150), _scene(g, 150)
    left.means[:, 0] = -left.means[:, 0].abs()
    right.means[:, 0] = right.means[:, 0].abs()
    scene = concatenate([left, right])
    points = 0.1 * (torch.rand(600, 3, generator=g) - 0.5)
    point_ids = (points[:, 0] > 0).long()
    T = _motion(g)
    shift = torch.where(point_ids[:, None] == 0, _shift(points, T), 0.0)
    ids = (scene.means[:, 0] > 0).long()
    features = torch.nn.functional.one_hot(ids, 3) + 0.05 * torch.randn(300, 3, generator=g)
    both = GaussianScene(
        means=scene.means,
        quats_wxyz=scene.quats_wxyz,
        log_scales=scene.log_scales,
        opacity_logits=scene.opacity_logits,
        sh=scene.sh,
        ids=ids,
        features=features,
    )
    return both, points, point_ids, shift


@settings(max_examples=10, deadline=None)
@given(seed=seeds, by=st.sampled_from(["ids", "features"]))
def test_touching_bodies_are_kept_apart(seed: int, by: str) -> None:
    g = _random(seed)
    scene, points, point_ids, shift = _touching(g)
    if by == "ids":
        binding = bind(scene, points, point_ids=point_ids)
    else:
        like = torch.nn.functional.one_hot(point_ids, 3) + 0.05 * torch.randn(600, 3, generator=g)
        binding = bind(
            scene, points, point_features=like, options=MotionOptions(min_similarity=0.6)
        )
    after = move(binding, shift)
    assert scene.ids is not None
    moved = (after.means - scene.means).abs().amax(-1) > 0
    assert torch.equal(after.means[scene.ids == 1], scene.means[scene.ids == 1])
    assert bool(moved[scene.ids == 0].all())
    assert (after.means.isfinite()).all()
    rigid = _rigid_of(points, shift, point_ids == 0)
    error = after.means.double() - transform_points(rigid, scene.means.double())
    assert error[scene.ids == 0].abs().max() <= 1e-5


def _rigid_of(points: Tensor, shift: Tensor, rows: Tensor) -> Tensor:
    source = points[rows].double()
    return fit_guarded(
        source[None], (source + shift[rows].double())[None], torch.ones(1, len(source)).double()
    )[0]


def test_without_ids_a_body_that_goes_away_takes_only_what_is_next_to_it() -> None:
    g = _random(8)
    scene, points, point_ids, _ = _touching(g)
    shift = torch.where(point_ids[:, None] == 0, torch.tensor([-0.1, 0.0, 0.05]), torch.zeros(3))
    after = move(bind(scene, points), shift)
    distance = torch.cdist(scene.means, points)
    nearest = point_ids[distance.argmin(dim=1)]
    wanted = scene.means + torch.where(
        nearest[:, None] == 0, torch.tensor([-0.1, 0.0, 0.05]), torch.zeros(3)
    )
    assert (after.means - wanted).abs().max() < 1e-5


def test_every_step_starts_from_time_0() -> None:
    g = _random(9)
    scene = _scene(g, 50)
    points = 0.1 * (torch.rand(60, 3, generator=g) - 0.5)
    motions = [_motion(g) for _ in range(3)]
    shifts = torch.stack([_shift(points, T) for T in motions])
    binding = bind(scene, points, options=MotionOptions(reach=1.0))
    for after, T, step in zip(move_steps(binding, shifts), motions, shifts, strict=True):
        _assert_moved_rigidly(after, scene, T)
        assert torch.equal(after.means, move(binding, step).means)


def test_scene_and_camera_moved_together_look_the_same() -> None:
    g = _random(10)
    scene = _scene(g, 80, degree=3)
    points = 0.1 * (torch.rand(100, 3, generator=g) - 0.5)
    T = _motion(g)
    after = move(bind(scene, points, options=MotionOptions(reach=1.0)), _shift(points, T))
    view = torch.eye(4)
    view[2, 3] = 0.3
    images = []
    for one, T_cam_world in ((scene, view), (after, (view.double() @ torch.linalg.inv(T)).float())):
        out = get_rasterizer("reference")(
            one.means, one.quats_wxyz, one.scales, one.opacities,
            one.colors_from(torch.linalg.inv(T_cam_world)[:3, 3]), T_cam_world[None],
            torch.tensor([[[60.0, 0, 24], [0, 60.0, 18], [0, 0, 1]]]), 48, 36,
        )  # fmt: skip
        images.append(out.colors)
    assert images[0].max() > 0.1
    # Gaussians at equal depth may swap; nearly every pixel agrees closely.
    difference = (images[0] - images[1]).abs().amax(-1)
    assert float((difference > 1e-3).float().mean()) < 0.005


def test_sh_rotations_compose_and_keep_degree_0() -> None:
    g = _random(11)
    sh = torch.randn(7, 16, 3, generator=g, dtype=torch.float64)
    A = quat_wxyz_to_matrix(torch.randn(7, 4, generator=g, dtype=torch.float64))
    B = quat_wxyz_to_matrix(torch.randn(7, 4, generator=g, dtype=torch.float64))
    assert (rotate_sh(rotate_sh(sh, A), B) - rotate_sh(sh, B @ A)).abs().max() < 1e-12
    assert (rotate_sh(sh, A)[:, 0] - sh[:, 0]).abs().max() < 1e-12
    assert rotate_sh(sh[:, :1], A) is not None and math.isclose(
        float(rotate_sh(sh[:, :1], A)[0, 0, 0]), float(sh[0, 0, 0])
    )


@pytest.mark.rejects_input
def test_unusable_input_is_refused() -> None:
    scene = _scene(_random(0), 5)
    points = torch.zeros(4, 3)
    with pytest.raises(InputError, match="expected 4 to 8"):
        MotionOptions(neighbors=9)
    with pytest.raises(InputError, match="flow points are"):
        bind(scene, torch.zeros(4, 2))
    with pytest.raises(InputError, match="NaN"):
        bind(scene, points * torch.nan)
    with pytest.raises(InputError, match="the scene has none"):
        bind(scene, points, point_ids=torch.zeros(4))
    with pytest.raises(InputError, match="one row per flow point"):
        bind(_touching(_random(0))[0], points, point_ids=torch.zeros(3))
    with pytest.raises(InputError, match="one per flow point"):
        move(bind(scene, points), torch.zeros(5, 3))
    with pytest.raises(InputError, match="NaN"):
        move(bind(scene, points), points + torch.inf)
