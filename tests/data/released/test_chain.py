"""The chain from clip to sample: order, random draws, masks, frames."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from pointworld.data.released import (
    ChainSettings,
    ReleasedClip,
    ReleasedSample,
    decode_clip,
    evaluation_sample,
    training_sample,
)
from pointworld.data.released.voxels import cap, key_seed, thin
from pointworld.encoders import load_encoder
from pointworld.errors import InputError
from pointworld.robot import RobotModel
from tests.data.released.conftest import Files

GRID = 0.015


@pytest.fixture(scope="module")
def clip(droid: Files) -> ReleasedClip:
    return decode_clip(droid.raw)


@pytest.fixture(scope="module")
def sample(clip: ReleasedClip, panda: RobotModel) -> ReleasedSample:
    return evaluation_sample(clip, panda)


def cells(points: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(int(np.floor(v / np.float32(GRID))) for v in p) for p in points}


def test_seed_of_a_clip() -> None:
    """`printf '42SYNTH-0:11cam' | md5sum` begins with fc49a5fe."""
    assert key_seed(42, "SYNTH-0:11", "cam") == 0xFEA549FC


def test_cameras_are_drawn_by_name_and_seed(clip: ReleasedClip, sample: ReleasedSample) -> None:
    digest = hashlib.md5(f"42{clip.key}cam".encode(), usedforsecurity=False).digest()
    draws = np.random.RandomState(int.from_bytes(digest[:4], "little"))
    assert draws.randint(2, 3) == 2
    wanted = draws.choice([c.name for c in clip.cameras], 2, replace=False)
    assert [f.camera for f in sample.frames] == list(wanted)
    assert [f.name for f in sample.frames] == ["cam0", "cam1"]


def test_evaluation_chain_step_by_step(
    clip: ReleasedClip, panda: RobotModel, sample: ReleasedSample
) -> None:
    """Centre, box, voxels of scene and robot apart, centre again: recomputed with sets and loops."""
    by_name = {c.name: c for c in clip.cameras}
    chosen = [by_name[f.camera] for f in sample.frames]
    positions = np.concatenate([c.positions for c in chosen], 1)
    robot = (
        panda.flow(
            panda.sample_surface_released(500, seed=42),
            torch.from_numpy(clip.joint_positions),
            step_dt=clip.step_dt,
        )
        .positions.float()
        .numpy()
    )
    first = np.concatenate([positions[0], robot[0]]).mean(0, dtype=np.float64).astype(np.float32)
    inside = (np.abs(positions - first) < 3).all((0, 2))
    points = (positions - first)[:, inside]
    # Every voxel has exactly one point, which is one of the input's.
    got = sample.base_points().float().numpy() - first
    assert len(got) == len(cells(points[0])) < points.shape[1]
    nearest = np.abs(points[0][None] - got[:, None]).max(-1)
    rows = nearest.argmin(1)
    assert nearest.min(1).max() < 2e-6
    assert cells(points[0][rows]) == cells(points[0])
    flow = sample.flow
    assert flow.robot.positions.shape[1] == len(cells(robot[0] - first)) < 500
    # The truth, masks and colours are those of the kept rows.
    want = points[:, rows] + first
    shift = torch.from_numpy(sample.to_base[:3, 3]).float()
    torch.testing.assert_close(flow.positions + shift, torch.from_numpy(want), atol=2e-6, rtol=0)
    seen = np.concatenate([c.supervised for c in chosen], 1)[:, inside][:, rows]
    np.testing.assert_array_equal(flow.supervised.numpy(), seen)
    colors = np.concatenate([c.colors for c in chosen])[inside][rows]
    np.testing.assert_array_equal(flow.scene.colors.numpy(), colors.astype(np.float32) / 255)
    # The second centring leaves the mean of all tokens at step 0 in the origin.
    mean = torch.cat([flow.scene.points, flow.robot.positions[0]]).mean(0)
    assert mean.abs().max() < 1e-5
    torch.testing.assert_close(flow.scene.points, flow.positions[0])


def test_masks_and_bodies(sample: ReleasedSample) -> None:
    flow = sample.flow
    assert not sample.valid[0].any()
    assert torch.equal(sample.valid[1:], flow.supervised[1:])
    for point in range(0, len(flow.scene), 50):
        moved = any(
            bool(flow.supervised[t, point])
            and float((flow.positions[t, point] - flow.positions[t - 1, point]).norm()) > 0.005
            for t in range(1, 11)
        )
        assert int(flow.body_ids[point]) == int(moved)
    assert flow.moving_bodies == (1,) and 0.005 < flow.on_moving_body.float().mean() < 0.2


def test_cap_and_box(clip: ReleasedClip, panda: RobotModel) -> None:
    few = evaluation_sample(clip, panda, ChainSettings(max_scene_points=300))
    all_points = evaluation_sample(clip, panda)
    assert len(few.flow.scene) == 300 < len(all_points.flow.scene)
    draws = np.random.RandomState(key_seed(42, clip.key, "scene"))
    index = np.sort(draws.choice(len(all_points.flow.scene), 300, replace=False))
    want = all_points.base_points()[torch.from_numpy(index)]
    torch.testing.assert_close(few.base_points(), want, atol=1e-6, rtol=0)
    # A point that leaves the box at one late step only is gone from the start.
    camera = clip.cameras[0]
    positions = camera.positions.copy()
    positions[9, :40, 0] += 4.0
    away = replace(clip, cameras=(replace(camera, positions=positions),))
    left = evaluation_sample(
        away, panda, ChainSettings(min_cameras=1, max_cameras=1, grid_size=1e-5)
    )
    assert len(left.flow.scene) <= positions.shape[1] - 40
    assert left.flow.positions.abs().max() < 3.1
    with pytest.raises(InputError, match="no scene point stays"):
        nowhere = replace(camera, positions=camera.positions + np.float32([90, 0, 0]))
        evaluation_sample(replace(clip, cameras=(nowhere, nowhere)), panda)


def test_thinning() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.1, 0.1, (4000, 3)).astype(np.float32)
    index = thin(points, GRID)
    assert len(index) == len(set(index.tolist())) == len(cells(points))
    first = {}
    for i, p in enumerate(points):
        first.setdefault(tuple(np.floor(p / np.float32(GRID)).astype(int)), i)
    assert set(first.values()) == set(index.tolist())
    one, two = (thin(points, GRID, np.random.default_rng(1)) for _ in range(2))
    other = thin(points, GRID, np.random.default_rng(2))
    assert (one == two).all() and (one != other).any() and (one != index).any()
    assert cells(points[one]) == cells(points[other]) == cells(points)
    assert thin(points[:0], GRID).shape == (0,)
    assert cap(5, 9, rng).tolist() == [0, 1, 2, 3, 4]


def test_thinned_order_is_that_of_the_hash() -> None:
    """64-bit FNV, multiply then xor, over cells counted from the least, in Python integers."""
    points = np.random.default_rng(3).uniform(-0.3, 0.3, (200, 3))
    low = np.floor(points / GRID).min(0).astype(int)

    def fnv(point: np.ndarray) -> int:
        value = 14695981039346656037
        for cell in np.floor(point / GRID).astype(int) - low:
            value = (value * 1099511628211) % (1 << 64) ^ int(cell)
        return value

    hashes = [fnv(p) for p in points[thin(points, GRID)]]
    assert hashes == sorted(hashes) and len(set(hashes)) == len(hashes)


def test_training_samples_lead_back_to_the_base_frame(
    clip: ReleasedClip, panda: RobotModel
) -> None:
    """Whatever turn, scale and mirror was drawn, `to_base` undoes it for scene and robot alike."""
    every = np.concatenate([c.positions[0] for c in clip.cameras])
    determinants, angles, counts = [], [], set()
    for seed in range(8):
        drawn = training_sample(clip, panda, np.random.default_rng(seed))
        back = drawn.base_points().numpy()
        for p in back[::199]:
            assert np.abs(every - p).max(-1).min() < 3e-6
        linear = drawn.to_base[:3, :3]
        scale = abs(np.linalg.det(linear)) ** (1 / 3)
        assert 1 / 1.1 - 1e-6 <= scale <= 1 / 0.9 + 1e-6
        np.testing.assert_allclose(linear @ linear.T, scale**2 * np.eye(3), atol=1e-6)
        np.testing.assert_allclose(linear[2], [0, 0, scale], atol=1e-9)  # gravity keeps its axis
        determinants.append(np.sign(np.linalg.det(linear)))
        angles.append(np.arctan2(linear[1, 0], linear[0, 0]))
        counts.add(len(drawn.frames))
        mean = torch.cat([drawn.flow.scene.points, drawn.flow.robot.positions[0]]).mean(0)
        assert mean.abs().max() < 1e-5
        base = drawn.in_base_frame()
        tool = panda.tool_pose(torch.from_numpy(clip.joint_positions))[:, None, :3, 3]
        assert (base.robot.positions - tool).norm(dim=-1).max() < 0.2
        torch.testing.assert_close(base.scene.points, drawn.base_points().float())
        up = torch.tensor([0.0, 0.0, 1.0]).expand_as(base.scene.normals)
        torch.testing.assert_close(base.scene.normals, up, atol=1e-5, rtol=0)
        norms = drawn.flow.robot.normals.norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms), atol=1e-5, rtol=0)
    assert len(set(determinants)) == 2 and np.std(angles) > 0.5 and len(counts) > 1


def test_image_features_survive_augmentation(clip: ReleasedClip, panda: RobotModel) -> None:
    """Points find their own pixels: colours read from the image are those that the points carry."""
    encoder = load_encoder("rgb")
    calm = evaluation_sample(clip, panda).with_features(encoder).flow.scene
    drawn = training_sample(clip, panda, np.random.default_rng(1)).with_features(encoder).flow.scene
    for scene in (calm, drawn):
        assert scene.features is not None and scene.view_count is not None
        assert (scene.view_count > 0).float().mean() > 0.9
    box = calm.colors[:, 0] > 0.6
    assert 20 < box.sum() < len(calm) / 4
    assert calm.features is not None
    assert (calm.features[box, 0] - calm.features[box, 2]).mean() > 0.5
    assert (calm.features[~box, 0] - calm.features[~box, 2]).abs().mean() < 0.3


def test_arms_and_settings(clip: ReleasedClip, panda: RobotModel, behavior: Files) -> None:
    two = evaluation_sample(clip, panda, ChainSettings(grippers=2)).flow.robot.gripper_open
    assert two.shape == (11, 2) and not two[:, 1].any()
    assert two[:, 0].tolist() == clip.gripper_open[:, 0].astype(float).tolist()
    with pytest.raises(InputError, match="1 <= min"):
        ChainSettings(min_cameras=3, max_cameras=2)
    with pytest.raises(InputError, match="need 'panda_robotiq'"):
        evaluation_sample(clip, RobotModel.load("fr3"))
    with pytest.raises(InputError, match="need 'panda_robotiq'"):
        evaluation_sample(decode_clip(behavior.raw), panda, ChainSettings(grippers=2))
