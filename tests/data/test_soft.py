"""Soft bodies: their clips on disk, the exact motion of their surface, what refuses them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pointworld.data import (
    Clip,
    ClipGenerator,
    clip_to_sample,
    moving_bodies,
    read_clip,
    true_positions,
    write_clip,
)
from pointworld.data.episode import _burst
from pointworld.data.sample import motion_ids, nearest_triangles
from pointworld.errors import InputError
from pointworld.robot import RobotModel
from pointworld.train.cache import cache_clip
from pointworld.train.preparation import Preparation
from tests.data.conftest import SEED


@pytest.fixture(scope="module")
def soft_clip(any_renderer: ClipGenerator) -> Clip:
    config = replace(any_renderer.config, families=("scarf",))
    return replace(any_renderer, config=config, timings={}).make(SEED, 0)


def test_soft_clips_survive_the_disk(soft_clip: Clip, tmp_path: Path) -> None:
    write_clip(soft_clip, tmp_path / "a.npz")
    again = read_clip(tmp_path / "a.npz")
    assert np.array_equal(again.soft_vertices, soft_clip.soft_vertices)
    assert np.array_equal(again.soft_faces, soft_clip.soft_faces)
    assert np.array_equal(again.body_motions(), soft_clip.body_motions())
    assert again.body_kinds[-1] == "soft" and again.body_names[-1] == "object_scarf"
    assert (tmp_path / "a.npz").stat().st_size < 200_000
    rigid = replace(
        soft_clip,
        body_names=soft_clip.body_names[:-1],
        body_kinds=soft_clip.body_kinds[:-1],
        soft_vertices=np.zeros((0, 0, 3), np.float32),
        soft_faces=np.zeros((0, 3), np.int32),
        soft_bodies=np.zeros(0, np.int32),
    )
    write_clip(rigid, tmp_path / "b.npz")
    with np.load(tmp_path / "b.npz") as entries:
        # What clips had before there were soft bodies.
        assert not [name for name in entries.files if name.startswith("soft")]
    assert read_clip(tmp_path / "b.npz").body_motions().shape[1] == len(rigid.body_names)


def test_points_keep_their_barycentric_coordinates(soft_clip: Clip) -> None:
    rng = np.random.default_rng(1)
    faces = rng.integers(len(soft_clip.soft_faces), size=200)
    weights = rng.dirichlet(np.ones(3), 200)
    corners = soft_clip.soft_vertices.astype(float)[:, soft_clip.soft_faces[faces]]
    expected = np.einsum("tnkj,nk->tnj", corners, weights)
    body = np.full(200, len(soft_clip.body_names) - 1)
    by_body = true_positions(soft_clip, expected[0], body)
    by_motion = true_positions(soft_clip, expected[0], len(soft_clip.body_names) + faces)
    np.testing.assert_allclose(by_motion, expected, atol=1e-9)
    # The nearest triangle may be the neighbour where a point lies on its edge.
    assert np.quantile(np.abs(by_body - expected), 0.98) < 1e-9
    assert np.linalg.norm(expected[-1] - expected[0], axis=-1).max() > 0.02
    assert len(soft_clip.body_names) - 1 in moving_bodies(soft_clip)


def test_samples_and_cache_agree(soft_clip: Clip, robot: RobotModel) -> None:
    sample = clip_to_sample(soft_clip, robot)
    soft = sample.body_ids == len(soft_clip.body_names) - 1
    assert int(soft.sum()) > 20 and bool(sample.on_moving_body[soft].all())
    assert sample.motion_ids is not None
    assert int(sample.motion_ids[soft].min()) >= len(soft_clip.body_names)
    assert torch.equal(sample.motion_ids[~soft], sample.body_ids[~soft])
    tensors = cache_clip(soft_clip, robot, Preparation())
    motion = tensors["motions"][:, tensors["body_ids"]]
    moved = (motion[..., :3, :3] @ tensors["points"][None, :, :, None])[..., 0] + motion[..., :3, 3]
    assert float((moved - sample.positions).abs().max()) < 1e-5
    assert bool(tensors["moving"][tensors["body_ids"][soft]].all())


def test_nearest_triangle_is_the_nearest() -> None:
    rng = np.random.default_rng(4)
    triangles, points = rng.normal(size=(12, 3, 3)), rng.normal(size=(25, 3))
    grid = rng.dirichlet(np.ones(3), 2000)
    samples = np.einsum("sk,fkj->fsj", grid, triangles)
    distance = np.linalg.norm(samples[:, None] - points[None, :, None], axis=-1).min(-1)
    found = nearest_triangles(points, triangles)
    assert (distance[found, np.arange(25)] < distance.min(0) + 0.08).all()
    inside = np.einsum("fk,fkj->fj", rng.dirichlet(np.ones(3), 12), triangles)
    assert np.array_equal(nearest_triangles(inside, triangles), np.arange(12))


@pytest.mark.rejects_input
def test_inconsistent_soft_bodies_are_refused(soft_clip: Clip) -> None:
    spoilt = soft_clip.soft_vertices.copy()
    spoilt[3, 2, 1] = np.nan
    for change in (
        {"soft_vertices": spoilt},
        {"soft_faces": soft_clip.soft_faces + 10_000},
        {"soft_bodies": np.zeros_like(soft_clip.soft_bodies)},
        {"soft_vertices": soft_clip.soft_vertices[:5]},
        {"body_kinds": (*soft_clip.body_kinds[:-1], "object")},
    ):
        with pytest.raises(InputError):
            replace(soft_clip, **change)  # type: ignore[arg-type]


def test_bursting_flexes_are_rejected() -> None:
    calm = np.linspace(0, 0.5, 11)[:, None, None] * np.ones((1, 4, 3))
    fast, lost = calm.copy(), calm.copy()
    fast[5, 1] += 0.4
    lost[7, 0, 0] = np.inf
    assert not _burst(calm, 0.1) and _burst(fast, 0.1) and _burst(lost, 0.1)
    assert not _burst(np.zeros((11, 0, 3)), 0.1)


def test_rigid_points_keep_their_body(soft_clip: Clip) -> None:
    ids = np.arange(len(soft_clip.body_names) - 1)
    assert np.array_equal(motion_ids(soft_clip, np.zeros((len(ids), 3)), ids), ids)


@pytest.mark.parametrize("family", ["scarf", "pillow"])
def test_both_renderers_see_the_same_surface(
    rays: ClipGenerator, any_renderer: ClipGenerator, family: str
) -> None:
    if any_renderer.renderer.name != "gl":
        pytest.skip("no OpenGL here")
    config = replace(rays.config, families=(family,))
    drawn = [
        replace(generator, config=config, timings={}).make(SEED, 1)
        for generator in (rays, any_renderer)
    ]
    body, apart = drawn[0].body_names.index(f"object_{family}") + 1, []
    for one, other in zip(drawn[0].views, drawn[1].views, strict=True):
        both = (one.segmentation == body) & (other.segmentation == body)
        apart.append(np.abs(one.depth - other.depth)[both])
    difference = np.concatenate(apart)
    assert len(difference) > 100 and np.quantile(difference, 0.98) < 3e-4
