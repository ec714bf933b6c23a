"""Clips as samples: exact truth, the robot removed, captures from clips."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pointworld.data import (
    TABLETOP_WORKSPACE,
    Clip,
    ClipGenerator,
    FlowSample,
    clip_to_capture,
    clip_to_joint_path,
    clip_to_sample,
    moving_bodies,
    point_bodies,
    true_positions,
)
from pointworld.data.sample import clip_frames, tabletop_workspace
from pointworld.errors import InputError
from pointworld.geometry import voxel_indices
from pointworld.robot import RobotModel, joint_path_to_positions
from pointworld.scene import build_scene
from tests.data.conftest import SEED


@pytest.fixture(scope="module")
def clips(any_renderer: ClipGenerator) -> list[Clip]:
    return [any_renderer.make(SEED, i) for i in range(4)]


@pytest.fixture(scope="module")
def samples(clips: list[Clip], robot: RobotModel) -> list[FlowSample]:
    return [clip_to_sample(clip, robot) for clip in clips]


def test_sample_content(clips: list[Clip], samples: list[FlowSample]) -> None:
    for clip, sample in zip(clips, samples, strict=True):
        assert torch.equal(sample.positions[0], sample.scene.points)
        assert sample.robot.num_steps == 11 and sample.robot.step_dt == pytest.approx(0.1)
        assert bool(sample.supervised.all()) and sample.key == clip.key
        points = sample.scene.points.double().numpy()
        assert (points >= np.array(TABLETOP_WORKSPACE[0]) - 1e-6).all()
        assert (points <= np.array(TABLETOP_WORKSPACE[1]) + 1e-6).all()
        cells = voxel_indices(sample.scene.points, 0.015)
        assert len(torch.unique(cells, dim=0)) == len(cells)
        kinds = np.array(clip.body_kinds)[sample.body_ids.numpy()]
        assert (kinds == "robot").mean() < 0.002
        assert 800 < len(points) < 5000 and (kinds == "object").sum() > 5


def test_truth_is_rigid_per_body(clips: list[Clip], samples: list[FlowSample]) -> None:
    for clip, sample in zip(clips, samples, strict=True):
        kinds = np.array(clip.body_kinds)
        still = torch.from_numpy(kinds == "static")[sample.body_ids]
        assert float(sample.displacements[:, still].abs().max()) < 1e-6
        for body in clip.bodies_of_kind("object"):
            chosen = sample.positions[:, sample.body_ids == body].double()
            if chosen.shape[1] >= 2:
                distances = torch.cdist(chosen, chosen)
                assert float((distances - distances[:1]).abs().max()) < 2e-6
        moves = sample.displacements.norm(dim=-1).amax(0) > 2e-3
        assert bool(sample.on_moving_body[moves].all())


def test_point_bodies_finds_the_pixel_again(clips: list[Clip], samples: list[FlowSample]) -> None:
    clip, points = clips[0], samples[0].scene.points.double().numpy()
    shuffled = np.random.default_rng(0).permutation(len(points))
    np.testing.assert_array_equal(
        point_bodies(clip, points)[shuffled], point_bodies(clip, points[shuffled])
    )
    with pytest.raises(InputError, match="from every pixel"):
        point_bodies(clip, points + np.array([0.0, 0.0, 0.05]))


def test_true_positions_follow_poses() -> None:
    from tests.data.test_clip import make_clip

    clip = make_clip(1)
    T = clip.body_transforms()
    local = np.random.default_rng(2).normal(size=(20, 3))
    body = np.arange(20) % 5
    on_body = T[:, body]
    world = np.einsum("tnij,nj->tni", on_body[..., :3, :3], local) + on_body[..., :3, 3]
    np.testing.assert_allclose(true_positions(clip, world[0], body), world, atol=1e-12)


def test_the_robot_goes_and_little_else(clips: list[Clip], samples: list[FlowSample]) -> None:
    for clip, sample in zip(clips, samples, strict=True):
        kinds = np.array(clip.body_kinds)
        assert not (kinds[sample.body_ids.numpy()] == "robot").any()
        everything = build_scene(
            clip_frames(clip), T_world_base=np.eye(4), workspace=tabletop_workspace()
        )
        seen = everything.points.numpy().astype(np.float64)
        other = everything.points[kinds[point_bodies(clip, seen)] != "robot"]
        cells = [
            set(map(tuple, voxel_indices(points, 0.015).tolist()))
            for points in (other, sample.scene.points)
        ]
        assert len(cells[1]) > 0.95 * len(cells[0])


def test_robot_flow_is_the_recorded_motion(clips: list[Clip], samples: list[FlowSample]) -> None:
    """The simulated hand's pose moves as the flow's tool pose does."""
    for clip, sample in zip(clips, samples, strict=True):
        assert sample.robot.gripper_pose is not None
        tcp = clip.body_names.index("fr3_hand_tcp")
        difference = sample.robot.gripper_pose[:, :3, 3].numpy() - clip.body_poses[:, tcp, :3]
        assert np.abs(difference).max() < 1e-5


def test_moving_bodies_sees_rotation() -> None:
    from tests.data.test_clip import make_clip

    clip = make_clip(0)
    poses = np.repeat(clip.body_poses[:1], 11, axis=0)
    assert moving_bodies(replace(clip, body_poses=poses)) == ()
    turned = poses.copy()
    half = 0.5 * np.linspace(0, 0.3, 11)
    turned[:, 4, 3:] = np.stack([np.cos(half), 0 * half, 0 * half, np.sin(half)], -1)
    turned[:, 4, 3:] /= np.linalg.norm(turned[:, 4, 3:], axis=-1, keepdims=True)
    assert moving_bodies(replace(clip, body_poses=turned)) == (4,)


def test_clip_to_capture(clips: list[Clip]) -> None:
    capture = clip_to_capture(clips[0])
    assert capture.T_world_base is not None and np.array_equal(capture.T_world_base, np.eye(4))
    assert len(capture.frames) == len(clips[0].views) and capture.robot == "fr3"
    frame = capture.frames[0]
    assert frame.joint_positions is not None
    np.testing.assert_array_equal(frame.joint_positions, clips[0].joint_positions[0])
    assert (frame.depth[frame.valid] > 0).all() and frame.valid.mean() > 0.4


def test_clip_to_joint_path_gives_the_recorded_joints_back(
    clips: list[Clip], robot: RobotModel
) -> None:
    for clip in clips:
        path = clip_to_joint_path(clip)
        np.testing.assert_allclose(
            joint_path_to_positions(robot, path), clip.joint_positions, atol=1e-3
        )


@pytest.mark.rejects_input
def test_another_robots_joints_are_refused(clips: list[Clip], robot: RobotModel) -> None:
    names = tuple(f"other{i}" for i in range(8))
    with pytest.raises(InputError, match="was made with joints"):
        clip_to_sample(replace(clips[0], joint_names=names), robot)
