"""Decoding against a slow, independent account of the documented rules."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from pointworld.data.released import decode_clip, synthetic
from pointworld.data.released.decode import decode_rgb
from pointworld.errors import InputError
from tests.data.released.conftest import Files


def test_droid_values(droid: Files) -> None:
    clip, raw = decode_clip(droid.raw), droid.raw
    assert clip.step_dt == pytest.approx(2 / 15) and clip.sides == ("right",)
    assert [c.name for c in clip.cameras] == ["camera_1_ext", "camera_2_ext", "camera_3_ext"]
    camera, stored = clip.cameras[1], raw.cameras["camera_2_ext"]
    for step, point in [(0, 0), (4, 17), (10, 2999)]:
        for axis in range(3):
            assert camera.positions[step, point, axis] == float(
                stored["scene_flows"][step, point, axis]
            )
    assert camera.positions.dtype == np.float32
    np.testing.assert_array_equal(camera.normals[:, 2], 1.0)
    seen = stored["scene_visibility"] & stored["scene_depth_valid_mask"]
    np.testing.assert_array_equal(camera.supervised, seen)
    assert 0.8 < seen.mean() < 0.99
    assert camera.depth[90, 160] == np.float32(stored["initial_depth"][90, 160] / 1000)
    np.testing.assert_array_equal(
        camera.rgb, np.array(Image.open(io.BytesIO(stored["initial_rgb"])))
    )
    np.testing.assert_allclose(camera.K - stored["intrinsic"], [[0, 0, 0.5], [0, 0, 0.5], [0] * 3])
    np.testing.assert_allclose(camera.T_base_cam @ stored["extrinsic"], np.eye(4), atol=1e-6)
    assert clip.joint_names[0] == "panda_joint1" and clip.joint_names[-1] == "finger_joint"
    np.testing.assert_allclose(clip.joint_positions[:, 7], raw.fields["gripper_positions"])
    assert clip.gripper_open[:, 0].tolist() == [v < 0.1 for v in raw.fields["gripper_positions"]]


def test_tool_frames(droid: Files, behavior: Files) -> None:
    """DROID: 15 cm along the wrist's z axis. BEHAVIOR: half a turn about z, right arm first."""
    raw = droid.raw.fields["gripper_pose"]
    raw = raw + np.array([0, 0, 0, 0.3, -0.2, 0.1, 0.5], np.float32)
    fields = {**droid.raw.fields, "gripper_pose": raw}
    got = decode_clip(type(droid.raw)(**{**vars(droid.raw), "fields": fields})).gripper_poses
    for step in range(11):
        turn = Rotation.from_quat(raw[step, 3:]).as_matrix()
        np.testing.assert_allclose(got[step, 0, :3, :3], turn, atol=1e-6)
        np.testing.assert_allclose(
            got[step, 0, :3, 3], raw[step, :3] + 0.15 * turn @ [0, 0, 1], atol=1e-6
        )
    clip = decode_clip(behavior.raw)
    for arm, side in enumerate(("right", "left")):
        stored = behavior.raw.fields[f"{side}_gripper_pose"]
        turn = Rotation.from_quat(stored[3, 3:]) * Rotation.from_euler("z", np.pi)
        np.testing.assert_allclose(clip.gripper_poses[3, arm, :3, :3], turn.as_matrix(), atol=1e-6)
        np.testing.assert_allclose(clip.gripper_poses[3, arm, :3, 3], stored[3, :3], atol=1e-6)


def test_behavior_flows_follow_their_meshes() -> None:
    """World point(t) = pose(t) * local point, normals turned, for a mesh that also rotates."""
    raw = synthetic.behavior_clip(np.random.default_rng(8))
    box = "__World__box__visuals"
    for camera in raw.cameras.values():
        path = camera["scene_mesh_trajectories"][box].copy()
        path[:, 3:] = Rotation.from_rotvec(
            np.linspace(0.2, 1, 11)[:, None] * [0, 0.6, 0.8]
        ).as_quat()
        camera["scene_mesh_trajectories"] = {**camera["scene_mesh_trajectories"], box: path}
    clip = decode_clip(raw)
    for camera in clip.cameras:
        stored = raw.cameras[camera.name]
        rows = np.flatnonzero(camera.bodies == camera.body_names.index(box))
        assert len(rows) == len(stored["local_scene_points"][box]) > 10
        for step in (0, 6):
            pose = stored["scene_mesh_trajectories"][box][step]
            turn = Rotation.from_quat(pose[3:])
            for local, row in list(zip(stored["local_scene_points"][box], rows, strict=True))[:20]:
                want = turn.apply(local.astype(float)) + pose[:3]
                np.testing.assert_allclose(camera.positions[step, row], want, atol=2e-6)
            if step == 0:
                np.testing.assert_allclose(
                    camera.normals[rows], np.tile(turn.apply([0, 0, 1]), (len(rows), 1)), atol=1e-6
                )
        assert camera.supervised.all()
        table = camera.positions[:, camera.bodies != camera.body_names.index(box)]
        np.testing.assert_array_equal(table[7], table[0])
    assert clip.base_poses is not None and clip.step_dt == 0.2


@pytest.mark.rejects_input
def test_images_of_another_size_or_kind() -> None:
    for image, kind in (
        (Image.new("RGB", (321, 180)), "JPEG"),
        (Image.new("RGB", (320, 180)), "PNG"),
    ):
        buffer = io.BytesIO()
        image.save(buffer, format=kind)
        with pytest.raises(InputError, match=r"321x180|no readable JPEG"):
            decode_rgb(buffer.getvalue(), "x")


@pytest.mark.rejects_input
def test_joint_names_must_fit(behavior: Files) -> None:
    for names in (("torso",), ("torso", "torso")):
        fields = {**behavior.raw.fields, "joint_names": names}
        with pytest.raises(InputError, match="joint names"):
            decode_clip(type(behavior.raw)(**{**vars(behavior.raw), "fields": fields}))
