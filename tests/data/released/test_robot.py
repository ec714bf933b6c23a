"""Which arm counts, and where the robot's points are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pointworld.data.released import ChainSettings, ReleasedClip, decode_clip, evaluation_sample
from pointworld.data.released.layout import require_attributes
from pointworld.data.released.robot import dropped_arm, first_arm, robot_cloud
from pointworld.errors import InputError
from pointworld.robot import RobotModel
from tests.data.released.conftest import Files


def with_arms(
    clip: ReleasedClip, right: tuple[bool, float], left: tuple[bool, float]
) -> ReleasedClip:
    """(finger touches, least distance to all objects) per arm."""
    attributes = dict(clip.attributes)
    for side, (touch, distance) in (("right", right), ("left", left)):
        attributes[f"has_{side}_gripper_finger_collision"] = touch
        attributes[f"{side}_min_distance_to_all_objects"] = distance
    return replace(clip, attributes=attributes)


@pytest.mark.parametrize(
    ("right", "left", "dropped"),
    [
        ((False, 0.1), (False, 0.2), None),
        ((False, 0.21), (False, 0.1), "right"),
        ((False, 0.1), (False, 0.21), "left"),
        ((True, 0.9), (False, 0.9), "left"),
        ((True, 0.9), (True, 0.9), None),
        ((False, -1.0), (False, -1.0), None),
        ((False, 0.9), (False, 0.9), "first"),
    ],
)
def test_an_arm_that_takes_no_part(
    right: tuple[bool, float], left: tuple[bool, float], dropped: str | None, behavior: Files
) -> None:
    clip = with_arms(decode_clip(behavior.raw), right, left)
    for first in ("left", "right"):
        assert dropped_arm(clip, first) == (first if dropped == "first" else dropped)


@pytest.mark.parametrize(
    ("touch", "distance"),
    [
        (np.False_, np.float32(0.5)),
        (0, 1),
        (np.array(False), np.array(0.5)),
        (np.array([False]), np.array([[0.5]], np.float16)),
    ],
)
def test_one_value_in_whatever_form(touch: Any, distance: Any, behavior: Files) -> None:
    """As H5 files and shards give them; the reader takes the same."""
    clip = with_arms(decode_clip(behavior.raw), (True, 0.0), (touch, distance))
    require_attributes(clip.attributes, "here")
    assert dropped_arm(clip, "right") == "left"
    unknown = with_arms(clip, (True, 0.0), (touch, np.nan))
    require_attributes(unknown.attributes, "here")
    assert dropped_arm(unknown, "right") is None


@pytest.mark.rejects_input
def test_an_arm_of_which_nothing_usable_is_known(behavior: Files) -> None:
    clip = decode_clip(behavior.raw)
    clip = replace(clip, attributes={**clip.attributes, "left_min_distance_to_all_objects": "near"})
    with pytest.raises(InputError, match="'left_min_distance_to_all_objects' is 'near'"):
        dropped_arm(clip, "right")


def test_the_first_arm_is_a_fair_draw_by_name() -> None:
    sides = [first_arm(42, f"task-0000_episode_{i:08d}-0:11") for i in range(200)]
    assert 70 < sides.count("left") < 130
    assert sides[0] == first_arm(42, "task-0000_episode_00000000-0:11")


def test_droid_never_drops(droid: Files) -> None:
    assert dropped_arm(decode_clip(droid.raw), "right") is None


def test_points_of_a_dropped_arm_are_gone(behavior: Files, two_arms: RobotModel) -> None:
    clip = decode_clip(behavior.raw)
    both = robot_cloud(clip, two_arms, count=400, surface_seed=42, drop=None)
    assert both.positions.shape == (11, 400, 3) and both.gripper_open.all()
    right = robot_cloud(clip, two_arms, count=400, surface_seed=42, drop="left")
    assert right.positions.shape == (11, 200, 3) and (right.positions[..., 1] < 0).all()
    assert right.gripper_open[:, 0].all() and not right.gripper_open[:, 1].any()
    sample = evaluation_sample(
        with_arms(clip, (True, 0.0), (False, 0.5)), two_arms, ChainSettings(grippers=2)
    )
    assert not sample.flow.robot.gripper_open[:, 1].any()
    base = sample.to_base[1, 3] + sample.flow.robot.positions[..., 1].numpy()
    assert (base < 0).all()
    assert set(sample.body_names) == {"__World__table__visuals", "__World__box__visuals"}
    assert [sample.body_names[i] for i in sample.flow.moving_bodies] == ["__World__box__visuals"]


def test_joints_by_name_and_a_base_that_drives(behavior: Files, two_arms: RobotModel) -> None:
    """`left_slide` moves the left box, the missing `right_slide` is 0, `torso` is ignored; then the base moves."""
    clip = decode_clip(behavior.raw)
    assert clip.base_poses is not None
    surface = two_arms.sample_surface_released(100, seed=7)
    cloud = robot_cloud(clip, two_arms, count=100, surface_seed=7, drop=None)
    left = two_arms.link_names.index("left_gripper_link")
    slide = clip.joint_positions[:, clip.joint_names.index("left_slide")]
    assert np.ptp(slide) > 0.1
    for point in range(0, 100, 9):
        local = surface.points[point].double().numpy()
        is_left = int(surface.link_index[point]) == left
        for step in (0, 5, 10):
            at = local + np.array(
                [0.4 + (slide[step] if is_left else 0.0), 0.5 if is_left else -0.5, 0.2]
            )
            want = clip.base_poses[step, :3, :3] @ at + clip.base_poses[step, :3, 3]
            np.testing.assert_allclose(cloud.positions[step, point], want, atol=1e-6)


def test_droid_gripper_has_500_points_near_the_tool(droid: Files, panda: RobotModel) -> None:
    """The same cloud for every clip: seed 42, nine meshes, all within 20 cm of the tool centre."""
    clip = decode_clip(droid.raw)
    one = robot_cloud(clip, panda, count=500, surface_seed=42, drop=None)
    assert one.positions.shape == (11, 500, 3)
    q = torch.from_numpy(clip.joint_positions)
    tool = panda.tool_pose(q)[:, None, :3, 3].numpy()
    assert np.linalg.norm(one.positions - tool, axis=-1).max() < 0.2
    surface = panda.sample_surface_released(500, seed=42)
    assert len(surface.link_index.unique()) == 9


@pytest.mark.rejects_input
def test_a_droid_clip_needs_all_its_joints(droid: Files, panda: RobotModel) -> None:
    clip = decode_clip(droid.raw)
    renamed = replace(clip, joint_names=("other", *clip.joint_names[1:]))
    with pytest.raises(InputError, match="'other'"):
        robot_cloud(renamed, panda, count=10, surface_seed=0, drop=None)
